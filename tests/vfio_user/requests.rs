//! What is asked of an honest server, and answered to it.

use std::sync::mpsc;

use futures_lite::future;
use weft::base::ErrorKind;
use weft::memory::{HUGE_PAGE_SIZE, HugePages, Region, Registry};
use weft::nvme::Iova;
use weft::nvme::vfio_user::region_info::REGION_CONFIG;
use weft::nvme::vfio_user::wire::{Command, DmaAccess, DmaMap, DmaUnmap, Header, TRANSFER_MAX};
use weft::nvme::vfio_user::{self, ConnectOptions};
use zerocopy::{FromBytes, IntoBytes};

use crate::peer::{Act, Peer, Request, Server, WINDOW};
use crate::{connect, context, load, options, shared_memory, store, turn_until};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

fn honest(_: &mut Peer, _: &Request) -> Act {
    Act::Honest
}

#[test]
fn the_server_learns_who_asks_and_may_use_memory() {
    let (tell, told) = mpsc::channel();
    let server = Server::honest_but(move |_, request| {
        if request.is(Command::Version) {
            tell.send(request.payload.clone()).unwrap();
        }
        if request.is(Command::RegionWrite) && request.access().region == REGION_CONFIG {
            assert_eq!(request.access().offset, 4);
            tell.send(request.payload[16..].to_vec()).unwrap();
        }
        Act::Honest
    });
    let cx = context();
    let device = connect(&cx, &server.path()).unwrap();
    let version = told.recv().unwrap();
    assert_eq!(version[..4], [0, 0, 1, 0]);
    let json = std::str::from_utf8(&version[4..]).unwrap().strip_suffix('\0').unwrap();
    let capabilities: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(capabilities["capabilities"]["max_msg_fds"], 16);
    assert_eq!(capabilities["capabilities"]["max_data_xfer_size"], TRANSFER_MAX);
    // The register reads as its offset, 4: bus master and the others are set beside it.
    assert_eq!(told.recv().unwrap(), [0x06, 0x04]);
    assert_eq!((device.kind(), device.window()), ("VFIOUSER", WINDOW));
    assert_eq!(device.address(), server.path().to_str().unwrap());
}

#[test]
fn registers_are_read_and_written_by_messages() {
    let (tell, told) = mpsc::channel();
    let server = Server::honest_but(move |_, request| {
        if request.is(Command::RegionWrite) && request.access().region == 0 {
            let access = request.access();
            tell.send((access.offset, request.payload[16..].to_vec())).unwrap();
        }
        Act::Honest
    });
    let cx = context();
    // The socket itself does as well as its directory.
    let device = connect(&cx, &server.path().join("cntrl")).unwrap();
    cx.block_on(async {
        assert_eq!(device.read32(&cx, 0x1c).await.unwrap(), 0x1c);
        assert_eq!(device.read64(&cx, 0).await.unwrap(), 4 << 32);
        device.write32(&cx, 0x14, 0x46_0001).await.unwrap();
        device.write64(&cx, 0x28, 0x1122_3344_5566_7788).await.unwrap();
        for offset in [WINDOW as u32, WINDOW as u32 - 2, u32::MAX] {
            let error = device.read32(&cx, offset).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(device.write32(&cx, offset, 0).await.is_err());
            assert!(std::sync::Arc::clone(&device).doorbell(offset).is_err());
        }
    });
    assert_eq!(told.recv().unwrap(), (0x14, vec![1, 0, 0x46, 0]));
    assert_eq!(told.recv().unwrap(), (0x28, vec![0x88, 0x77, 0x66, 0x55]));
    assert_eq!(told.recv().unwrap(), (0x2c, vec![0x44, 0x33, 0x22, 0x11]));
    assert!(!device.is_gone());
}

#[test]
fn doorbells_that_are_not_shared_are_posted() {
    let (tell, told) = mpsc::channel();
    let server = Server::honest_but(move |_, request| {
        if request.is(Command::RegionWrite) && request.access().offset >= 0x1000 {
            assert!(!request.header.wants_reply());
            let value = u32::from_ne_bytes(request.payload[16..].try_into().unwrap());
            tell.send((request.access().offset, value)).unwrap();
        }
        Act::Honest
    });
    let cx = context();
    let device = connect(&cx, &server.path()).unwrap();
    let doorbells =
        [0x1000, 0x1008].map(|offset| std::sync::Arc::clone(&device).doorbell(offset).unwrap());
    for value in 0..100 {
        doorbells[value as usize % 2].ring(value);
    }
    // The answer comes after all of them.
    cx.block_on(device.read32(&cx, 0)).unwrap();
    let all: Vec<_> = told.try_iter().collect();
    assert_eq!(all.len(), 100);
    assert_eq!(all[98..], [(0x1000, 98), (0x1008, 99)]);
}

#[test]
fn a_server_that_reads_nothing_holds_up_no_doorbell() {
    let (go, wait) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let server = Server::honest_but(move |_, request| {
        if request.is(Command::RegionWrite) && request.access().offset == 0x1000 {
            let value = u32::from_ne_bytes(request.payload[16..].try_into().unwrap());
            if value == 0 {
                let _ = wait.recv();
            }
            tell.send(value).unwrap();
        }
        Act::Honest
    });
    let cx = context();
    let device = connect(&cx, &server.path()).unwrap();
    let doorbell = std::sync::Arc::clone(&device).doorbell(0x1000).unwrap();
    // Far more than the socket holds.
    let last = 100_000;
    (0..=last).for_each(|value| doorbell.ring(value));
    go.send(()).unwrap();
    let mut seen = Vec::new();
    turn_until(&cx, "the last write", || {
        seen.extend(told.try_iter());
        seen.last() == Some(&last)
    });
    assert!(seen.is_sorted() && seen.len() < last as usize, "{} of them", seen.len());
    assert!(!device.is_gone());
}

#[test]
fn shared_doorbells_are_written_where_the_server_looks() {
    let file = memfd_create("doorbells", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, WINDOW).unwrap();
    let servers = file.try_clone().unwrap();
    let start = |servers: std::os::fd::OwnedFd| {
        Server::start(move |mut peer| {
            peer.doorbells = Some(servers);
            peer.serve(&mut honest);
        })
    };
    let cx = context();
    let server = start(servers.try_clone().unwrap());
    let device = connect(&cx, &server.path()).unwrap();
    let doorbell = std::sync::Arc::clone(&device).doorbell(0x100c).unwrap();
    doorbell.ring(77);
    let mut bytes = [0; 4];
    rustix::io::pread(&file, &mut bytes, 0x100c).unwrap();
    assert_eq!(u32::from_ne_bytes(bytes), 77);
    // A register there is read without a message: an honest server would have answered 0x100c.
    assert_eq!(cx.block_on(device.read32(&cx, 0x100c)).unwrap(), 77);
    // The doorbell keeps the mapping, and the connection.
    drop(device);
    doorbell.ring(78);
    drop(doorbell);
    server.thread.join().unwrap();

    // And without mapping, by message.
    let server = start(servers);
    let unmapped = ConnectOptions { map_registers: false, ..options() };
    let device = cx.block_on(vfio_user::connect(&cx, &server.path(), &unmapped)).unwrap();
    assert_eq!(cx.block_on(device.read32(&cx, 0x100c)).unwrap(), 0x100c);
}

#[test]
fn memory_is_given_with_its_file_and_taken_back() {
    let (tell, told) = mpsc::channel();
    let server = Server::honest_but(move |_, request| {
        if request.is(Command::DmaMap) {
            let map = DmaMap::read_from_bytes(&request.payload).unwrap();
            assert_eq!((map.argsz, map.flags, request.files.len()), (32, 3, 1));
            let mut bytes = [0; 5];
            rustix::io::pread(&request.files[0], &mut bytes, map.offset + 100).unwrap();
            tell.send((map.address, map.size, bytes)).unwrap();
        }
        if request.is(Command::DmaUnmap) {
            let unmap = DmaUnmap::read_from_bytes(&request.payload).unwrap();
            assert!(request.files.is_empty());
            tell.send((unmap.address, unmap.size, *b"unmap")).unwrap();
        }
        Act::Honest
    });
    let cx = context();
    let device = connect(&cx, &server.path()).unwrap();
    let region = shared_memory(&Registry::new());
    store(&region, 100, b"bytes");
    let address = region.region.start().as_ptr() as u64;
    cx.block_on(async {
        assert_eq!(device.map(&cx, &region).await.unwrap(), Iova::Linear(address));
        assert_eq!(told.recv().unwrap(), (address, HUGE_PAGE_SIZE as u64, *b"bytes"));
        let again = device.map(&cx, &region).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Exists);
        device.unmap(&cx, &region).await;
        assert_eq!(told.recv().unwrap(), (address, HUGE_PAGE_SIZE as u64, *b"unmap"));
        // Not known any more: nothing is sent.
        device.unmap(&cx, &region).await;
        device.map(&cx, &region).await.unwrap();
        assert_eq!(told.recv().unwrap().2, *b"bytes");
    });
}

#[test]
fn memory_that_the_server_cannot_have_is_refused() {
    let private = Region::allocate(HUGE_PAGE_SIZE, HugePages::Never).unwrap();
    let registry = Registry::new();
    let private = registry.add(std::sync::Arc::new(private)).unwrap();
    let (first, second) = (shared_memory(&registry), shared_memory(&registry));
    let cx = context();
    let attach = |capabilities| {
        let server = Server::start(move |mut peer| {
            peer.capabilities = capabilities;
            peer.serve(&mut honest);
        });
        connect(&cx, &server.path()).unwrap()
    };
    cx.block_on(async {
        let device = attach("");
        let error = device.map(&cx, &private).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("--shared-memory"), "{error}");
        assert!(error.to_string().contains("huge pages"), "{error}");
    });
    for (capabilities, expected) in [
        (r#"{"capabilities":{"pgsizes":1073741824}}"#, "whole pages"),
        (r#"{"capabilities":{"pgsizes":0}}"#, "whole pages"),
        (r#"{"capabilities":{"max_msg_fds":0}}"#, "no file descriptors"),
        (r#"{"capabilities":{"max_dma_maps":0}}"#, "takes 0 pieces"),
    ] {
        let device = attach(capabilities);
        let error = cx.block_on(device.map(&cx, &first)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!device.is_gone());
    }
    let device = attach(r#"{"capabilities":{"max_dma_maps":1}}"#);
    cx.block_on(async {
        device.map(&cx, &first).await.unwrap();
        let error = device.map(&cx, &second).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        device.unmap(&cx, &first).await;
        device.map(&cx, &second).await.unwrap();
    });
}

#[test]
fn replies_find_who_asked_in_any_order() {
    let mut held: Option<Request> = None;
    let server = Server::honest_but(move |peer, request| {
        if request.reads(0x100) {
            held = Some(Request {
                header: request.header,
                payload: request.payload.clone(),
                files: vec![],
            });
            return Act::Done;
        }
        peer.answer(request);
        if request.reads(0x200) {
            peer.answer(held.as_ref().unwrap());
        }
        Act::Done
    });
    let cx = context();
    let device = connect(&cx, &server.path()).unwrap();
    let both = future::zip(device.read32(&cx, 0x100), device.read32(&cx, 0x200));
    let (first, second) = cx.block_on(both);
    assert_eq!((first.unwrap(), second.unwrap()), (0x100, 0x200));
    // Whoever loses interest harms nobody.
    cx.block_on(async {
        let mut lost = device.read32(&cx, 0x100);
        assert!(future::poll_once(&mut lost).await.is_none());
        drop(lost);
        assert_eq!(device.read32(&cx, 0x200).await.unwrap(), 0x200);
        assert_eq!(device.read32(&cx, 0x204).await.unwrap(), 0x204);
    });
    assert!(!device.is_gone());
}

#[test]
fn a_refusal_is_an_error_and_no_more() {
    let server = Server::honest_but(move |peer, request| {
        let errno = match request {
            request if request.is(Command::DmaMap) => 28,
            request if request.reads(0x100) => 0,
            _ => return Act::Honest,
        };
        peer.send(&[request.header.failure(errno).as_bytes()]);
        Act::Done
    });
    let cx = context();
    let device = connect(&cx, &server.path()).unwrap();
    let region = shared_memory(&Registry::new());
    cx.block_on(async {
        let error = device.map(&cx, &region).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("refused DMA_MAP"), "{error}");
        let error = device.read32(&cx, 0x100).await.unwrap_err();
        assert!(error.to_string().contains("does not say why"), "{error}");
        assert_eq!(device.read32(&cx, 0x104).await.unwrap(), 0x104);
    });
    assert!(!device.is_gone());
}

#[test]
fn the_server_reaches_mapped_memory_by_messages_and_nothing_else() {
    let (tell, told) = mpsc::channel();
    let mut mapped = 0;
    let server = Server::honest_but(move |peer, request| {
        if request.is(Command::DmaMap) {
            mapped = DmaMap::read_from_bytes(&request.payload).unwrap().address;
        }
        if !request.reads(0x100) {
            return Act::Honest;
        }
        let mut id = 40_000;
        let mut ask = |peer: &mut Peer, number: u16, payload: &[u8]| {
            id += 1;
            let header =
                Header { command: number, ..Header::command(id, Command::DmaRead, payload.len()) };
            peer.send(&[header.as_bytes(), payload]);
            let reply = peer.next().unwrap();
            assert!(reply.header.is_reply());
            assert_eq!((reply.header.id, reply.header.command), (id, number));
            tell.send((reply.header.failed(), reply.payload)).unwrap();
        };
        let (read, write) = (Command::DmaRead as u16, Command::DmaWrite as u16);
        let access = |address, count| DmaAccess { address, count };
        ask(peer, read, access(mapped + 100, 5).as_bytes());
        ask(peer, write, &[access(mapped + 200, 3).as_bytes(), b"new"].concat());
        let end = mapped + HUGE_PAGE_SIZE as u64;
        ask(peer, read, access(end - 2, 3).as_bytes());
        ask(peer, write, &[access(mapped - 1, 3).as_bytes(), b"bad"].concat());
        ask(peer, read, access(0, 8).as_bytes());
        ask(peer, read, access(mapped, u64::from(TRANSFER_MAX) + 1).as_bytes());
        ask(peer, write, &[access(mapped, 4).as_bytes(), b"bad"].concat());
        ask(peer, read, &[0; 3]);
        ask(peer, 99, &[1, 2, 3]);
        ask(peer, Command::DmaMap as u16, &[]);
        // One that is not to be answered is not.
        let payload = [access(mapped + 300, 3).as_bytes(), b"too"].concat();
        let header = Header::command(1, Command::DmaWrite, payload.len()).without_reply();
        peer.send(&[header.as_bytes(), &payload]);
        Act::Honest
    });
    let cx = context();
    let device = connect(&cx, &server.path()).unwrap();
    let region = shared_memory(&Registry::new());
    store(&region, 100, b"bytes");
    cx.block_on(async {
        device.map(&cx, &region).await.unwrap();
        assert_eq!(device.read32(&cx, 0x100).await.unwrap(), 0x100);
    });
    assert_eq!(load(&region, 200, 4), b"new\0");
    assert_eq!(load(&region, 300, 4), b"too\0");
    assert_eq!(load(&region, 0, 2), [0, 0]);
    let (failed, payload) = told.recv().unwrap();
    assert_eq!((failed, &payload[16..]), (None, &b"bytes"[..]));
    let (failed, payload) = told.recv().unwrap();
    assert_eq!((failed, payload.len()), (None, 16));
    let refusals: Vec<_> = told.try_iter().collect();
    let errnos: Vec<_> = refusals.iter().map(|(failed, _)| failed.unwrap()).collect();
    assert_eq!(errnos, [14, 14, 14, 22, 22, 22, 95, 95]);
    assert!(refusals.iter().all(|(_, payload)| payload.is_empty()));
    assert!(!device.is_gone());
}

#[test]
fn the_device_is_reset_at_the_end() {
    let (tell, told) = mpsc::channel();
    let server = Server::honest_but(move |_, request| {
        tell.send((request.header.command, request.header.wants_reply())).unwrap();
        Act::Honest
    });
    let cx = context();
    drop(connect(&cx, &server.path()).unwrap());
    server.thread.join().unwrap();
    assert_eq!(told.try_iter().last().unwrap(), (Command::DeviceReset as u16, false));
}
