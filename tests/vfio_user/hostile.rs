//! Servers that do not keep to the protocol: each gives an error that says what happened, never a hang.

use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use weft::base::{Error, ErrorKind};
use weft::nvme::vfio_user::region_info::{REGION_BAR0, RegionInfo};
use weft::nvme::vfio_user::wire::{Command, DeviceInfo, Header, MESSAGE_MAX, VERSION, Version};
use weft::nvme::vfio_user::{self, ConnectOptions};
use zerocopy::{FromBytes, IntoBytes};

use crate::peer::{Act, Peer, Request, Server};
use crate::{connect, context, turn_until};

/// How a server deviates.
type Script = fn(&mut Peer, &Request) -> Act;

/// What connecting to a server says that answers one command in its own way.
fn refusal(command: Command, script: Script) -> Error {
    let server =
        Server::honest_but(
            move |peer, request| {
                if request.is(command) { script(peer, request) } else { Act::Honest }
            },
        );
    let cx = context();
    let error = connect(&cx, &server.path()).err().expect("a refusal");
    assert!(error.to_string().starts_with(&format!("vfio-user {}", server.path().display())));
    // The client has hung up, or the server would wait for more.
    server.thread.join().unwrap();
    error
}

fn answer(peer: &mut Peer, request: &Request, payload: &[u8]) -> Act {
    peer.reply(request, payload);
    Act::Done
}

fn device_info(flags: u32, regions: u32) -> DeviceInfo {
    DeviceInfo { argsz: 16, flags, regions, interrupts: 5 }
}

fn bar0(peer: &mut Peer, request: &Request, change: fn(&mut RegionInfo)) -> Act {
    let mut info = RegionInfo::read_from_bytes(&request.payload).unwrap();
    if info.index != REGION_BAR0 {
        return Act::Honest;
    }
    info.argsz = 32;
    info.flags = RegionInfo::READ | RegionInfo::WRITE;
    info.size = 0x2000;
    change(&mut info);
    answer(peer, request, info.as_bytes())
}

#[test]
fn nonsense_while_connecting_is_named() {
    use Command::{DeviceGetInfo, DeviceGetRegionInfo, RegionRead, RegionWrite, Version as Hello};
    let cases: &[(&str, Command, Script)] = &[
        ("hung up", Hello, |_, _| Act::HangUp),
        ("in the middle of a message", Hello, |peer, _| {
            peer.send(&[&[0; 7]]);
            Act::HangUp
        }),
        ("in the middle of a message", Hello, |peer, request| {
            peer.send(&[request.header.reply(100).as_bytes(), &[0; 99]]);
            Act::HangUp
        }),
        ("15 bytes long", Hello, |peer, request| {
            peer.send(&[Header { size: 15, ..request.header.reply(0) }.as_bytes()]);
            Act::Done
        }),
        ("claims to be", Hello, |peer, request| {
            peer.send(&[Header { size: MESSAGE_MAX + 1, ..request.header.reply(0) }.as_bytes()]);
            Act::Done
        }),
        ("type 5", Hello, |peer, request| {
            peer.send(&[Header { flags: 5, ..request.header.reply(0) }.as_bytes()]);
            Act::Done
        }),
        ("asked for nothing", Hello, |peer, request| {
            peer.send(
                &[Header { id: request.header.id + 1, ..request.header.reply(0) }.as_bytes()],
            );
            Act::Done
        }),
        ("reply to command 9", Hello, |peer, request| {
            peer.send(&[Header { command: 9, ..request.header.reply(0) }.as_bytes()]);
            Act::Done
        }),
        ("refused VERSION", Hello, |peer, request| {
            peer.send(&[request.header.failure(22).as_bytes()]);
            Act::Done
        }),
        ("version message of 0 bytes", Hello, |peer, request| answer(peer, request, &[])),
        ("speaks version 7.1", Hello, |peer, request| {
            answer(peer, request, Version { major: 7, minor: 1 }.as_bytes())
        }),
        ("capabilities are no JSON", Hello, |peer, request| {
            answer(peer, request, &[VERSION.as_bytes(), b"{]\0"].concat())
        }),
        ("takes 3 bytes of data", Hello, |peer, _| {
            peer.capabilities = r#"{"capabilities":{"max_data_xfer_size":3}}"#;
            Act::Honest
        }),
        ("device information of 15 bytes", DeviceGetInfo, |peer, request| {
            answer(peer, request, &[0; 15])
        }),
        ("no PCI function", DeviceGetInfo, |peer, request| {
            answer(peer, request, device_info(0, 9).as_bytes())
        }),
        ("no PCI function", DeviceGetInfo, |peer, request| {
            answer(peer, request, device_info(DeviceInfo::PCI, 7).as_bytes())
        }),
        ("region information of 31", DeviceGetRegionInfo, |peer, request| {
            answer(peer, request, &[0; 31])
        }),
        ("region 3 in answer", DeviceGetRegionInfo, |peer, request| {
            bar0(peer, request, |info| info.index = 3)
        }),
        ("grows with every request", DeviceGetRegionInfo, |peer, request| {
            let mut info = RegionInfo::read_from_bytes(&request.payload).unwrap();
            info.argsz += 1;
            answer(peer, request, info.as_bytes())
        }),
        ("no NVMe controller has so few", DeviceGetRegionInfo, |peer, request| {
            bar0(peer, request, |info| info.size = 0x1000)
        }),
        ("no NVMe controller has so few", DeviceGetRegionInfo, |peer, request| {
            bar0(peer, request, |info| info.flags = RegionInfo::READ)
        }),
        ("capability of region 0", DeviceGetRegionInfo, |peer, request| {
            bar0(peer, request, |info| {
                info.flags |= RegionInfo::MMAP | RegionInfo::CAPS;
                info.cap_offset = 4096;
            })
        }),
        ("class code is 000000", RegionRead, |peer, request| {
            let access = request.access();
            answer(peer, request, &[access.as_bytes(), &[0; 4]].concat())
        }),
        ("a reply to a register read of 0 bytes", RegionRead, |peer, request| {
            answer(peer, request, &[])
        }),
        ("2 bytes as 4", RegionRead, |peer, request| {
            let access = request.access();
            answer(peer, request, &[access.as_bytes(), &[0; 2]].concat())
        }),
        ("0 bytes of region 7", RegionWrite, |peer, request| {
            let mut access = request.access();
            access.count = 0;
            answer(peer, request, access.as_bytes())
        }),
    ];
    for (expected, command, script) in cases {
        let error = refusal(*command, *script);
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_file_that_is_too_short_is_not_mapped() {
    let server = Server::start(|mut peer| {
        peer.doorbells = Some(memfd_create("short", MemfdFlags::CLOEXEC).unwrap());
        peer.serve(&mut |_, _| Act::Honest);
    });
    let error = connect(&context(), &server.path()).err().unwrap();
    assert!(error.to_string().contains("has only 0 bytes"), "{error}");
    server.thread.join().unwrap();
}

#[test]
fn descriptors_are_closed_and_limited() {
    for (count, expected) in
        [(1, None), (17, Some("more than 16 descriptors")), (30, Some("more than 16 descriptors"))]
    {
        let (mut read, write) = std::io::pipe().unwrap();
        let server = Server::honest_but(move |peer, request| {
            if !request.reads(0x100) {
                return Act::Honest;
            }
            let access = request.access();
            let header = request.header.reply(20);
            let bytes = [header.as_bytes(), access.as_bytes(), &[0; 4]].concat();
            peer.send_with(&bytes, &vec![write.as_fd(); count]);
            // The server keeps none itself once it hangs up.
            Act::HangUp
        });
        let cx = context();
        let device = connect(&cx, &server.path()).unwrap();
        let result = cx.block_on(device.read32(&cx, 0x100));
        match expected {
            None => assert_eq!(result.unwrap(), 0),
            Some(expected) => {
                let error = result.unwrap_err();
                assert!(error.to_string().contains(expected), "{error}");
                assert!(device.is_gone());
            }
        }
        server.thread.join().unwrap();
        // Ends when nobody has the other end: neither the server nor the client.
        assert_eq!(read.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_device_that_fails_under_way_is_gone_for_good() {
    let cases: &[(&str, ErrorKind, Script)] = &[
        ("hung up", ErrorKind::NoDevice, |_, _| Act::HangUp),
        ("in the middle", ErrorKind::NoDevice, |peer, request| {
            peer.send(&[request.header.reply(20).as_bytes(), &[1; 5]]);
            Act::HangUp
        }),
        ("twice", ErrorKind::Io, |peer, request| {
            peer.send(&[request.header.reply(0).as_bytes(), request.header.reply(0).as_bytes()]);
            Act::Done
        }),
        ("refused a doorbell write", ErrorKind::Io, |peer, request| {
            let refused = Header { id: u16::MAX, ..request.header.failure(22) };
            peer.send(&[refused.as_bytes()]);
            Act::Done
        }),
        ("a reply to a register read of 0 bytes", ErrorKind::Io, |peer, request| {
            answer(peer, request, &[])
        }),
    ];
    for (expected, kind, script) in cases {
        let script = *script;
        let server = Server::honest_but(move |peer, request| {
            if request.reads(0x100) { script(peer, request) } else { Act::Honest }
        });
        let cx = context();
        let device = connect(&cx, &server.path()).unwrap();
        let doorbell = Arc::clone(&device).doorbell(0x1000).unwrap();
        let error = cx.block_on(device.read32(&cx, 0x100)).unwrap_err();
        let text = error.to_string();
        // Which of the two replies is noticed first decides about the text of this one.
        let also = *expected == "twice" && text.contains("of 0 bytes");
        assert!(text.contains(expected) || also, "{expected}: {text}");
        assert_eq!(error.kind(), *kind, "{text}");
        assert!(device.is_gone());
        // Whatever is asked later gets the same reason, at once.
        let later = cx.block_on(device.write32(&cx, 0x14, 0)).unwrap_err();
        assert_eq!(later.to_string(), text);
        doorbell.ring(1);
        drop((device, doorbell));
        server.thread.join().unwrap();
    }
}

#[test]
fn a_hang_up_is_noticed_by_a_reactor_that_asks_nothing() {
    let server = Server::honest_but(|_, request| {
        let last = request.is(Command::RegionWrite) && request.access().offset == 0x14;
        if last { Act::HangUp } else { Act::Honest }
    });
    let cx = context();
    let device = connect(&cx, &server.path()).unwrap();
    let doorbell = Arc::clone(&device).doorbell(0x14).unwrap();
    assert!(!device.is_gone());
    doorbell.ring(1);
    turn_until(&cx, "the notice", || device.is_gone());
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let options =
        ConnectOptions { message_timeout: Duration::from_millis(50), ..ConnectOptions::default() };
    let cx = context();
    let server =
        Server::honest_but(|_, request| if request.reads(0x100) { Act::Done } else { Act::Honest });
    let device = cx.block_on(vfio_user::connect(&cx, &server.path(), &options)).unwrap();
    let error = cx.block_on(device.read32(&cx, 0x100)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("no reply to REGION_READ within 50ms"), "{error}");
    assert!(device.is_gone());
    server.thread.join().unwrap();

    // One that is busy with another client has not accepted yet.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = cx.block_on(vfio_user::connect(&cx, &path, &options)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("one client at a time"), "{error}");
}

#[test]
fn nobody_there() {
    let cx = context();
    let folder = tempfile::tempdir().unwrap();
    let error = connect(&cx, folder.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("cntrl: no such socket"), "{error}");
    let path = folder.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(connect(&cx, &path).err().unwrap().kind(), ErrorKind::NoDevice);
    let long = folder.path().join("x".repeat(120));
    assert!(connect(&cx, &long).err().unwrap().to_string().contains("107 bytes"));
}
