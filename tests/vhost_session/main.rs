//! What a vhost-user-blk session owes a front end and its guest, in order and out of it, with every byte of the rings and
//! messages made by hand.

mod back;
mod guest;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use back::{BLOCKS, GateState, Running};
use guest::{BUFFERS, Guest, PATIENCE, SIZE};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use weft::bdev::{Opcode, RequestFlags};
use weft::vhost::Coalescing;
use weft::virtio::inflight::{InflightArea, InflightLayout};
use weft::virtio::spec::block::Config;
use weft::virtio::spec::{DeviceStatus, Features};
use weft::virtio::vhost_user::{Inflight, Request, SharedArea};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const SECURE_ERASE: u32 = 14;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Sectors of a block.
const SECTORS: u64 = 8;

fn wait_for(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// Ranges of a discard and its like.
fn ranges(list: &[(u64, u32, u32)]) -> Vec<u8> {
    let range = |&(sector, sectors, flags): &(u64, u32, u32)| {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    };
    list.iter().flat_map(range).collect()
}

#[test]
fn requests_end_as_the_specification_says() {
    let back = Running::start();
    let mut guest = Guest::running(&back.disk("disk", false), Features::NONE);
    let pattern = |seed: u8| (0..8192).map(|at| (at as u8).wrapping_mul(seed)).collect::<Vec<u8>>();
    assert_eq!(guest.request(OUT, 2 * SECTORS, Some((pattern(7), false))), OK);
    assert_eq!(guest.request(IN, 2 * SECTORS, Some((vec![0; 8192], true))), OK);
    assert_eq!(guest.get(BUFFERS + 0x1000, 8192), pattern(7));
    assert_eq!(guest.request(FLUSH, 0, None), OK);

    assert_eq!(guest.request(GET_ID, 0, Some((vec![0xff; 20], true))), OK);
    assert_eq!(guest.get(BUFFERS + 0x1000, 20), b"disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");

    // Several ranges in one request, one of them empty.
    let two = ranges(&[(2 * SECTORS, 8, 1), (0, 0, 0), (3 * SECTORS, 8, 0)]);
    assert_eq!(guest.request(WRITE_ZEROES, 0, Some((two, false))), OK);
    assert_eq!(guest.request(IN, 2 * SECTORS, Some((vec![1; 8192], true))), OK);
    assert_eq!(guest.get(BUFFERS + 0x1000, 8192), vec![0; 8192]);
    assert_eq!(guest.request(DISCARD, 0, Some((ranges(&[(0, 8, 0)]), false))), OK);
    assert_eq!(guest.request(SECURE_ERASE, 0, Some((ranges(&[(0, 8, 0)]), false))), OK);

    for (what, kind, sector, data, status) in [
        ("a type that there is not", 99, 0, None, UNSUPPORTED),
        ("a sector within a block", IN, 1, Some((vec![0; 4096], true)), IO_ERROR),
        ("half a block", IN, 0, Some((vec![0; 2048], true)), IO_ERROR),
        ("across the end", IN, (BLOCKS - 1) * SECTORS, Some((vec![0; 8192], true)), IO_ERROR),
        ("far beyond the end", OUT, u64::MAX - 7, Some((vec![0; 4096], false)), IO_ERROR),
        ("a discard with flags", DISCARD, 0, Some((ranges(&[(0, 8, 1)]), false)), UNSUPPORTED),
        ("unknown flags", WRITE_ZEROES, 0, Some((ranges(&[(0, 8, 4)]), false)), UNSUPPORTED),
        ("half a range", DISCARD, 0, Some((vec![0; 24], false)), IO_ERROR),
        ("a range within a block", DISCARD, 0, Some((ranges(&[(0, 3, 0)]), false)), IO_ERROR),
        ("too long a range", DISCARD, 0, Some((ranges(&[(0, 1 << 30, 0)]), false)), IO_ERROR),
        (
            "one range of two beyond the end",
            DISCARD,
            0,
            Some((ranges(&[(0, 8, 0), (BLOCKS * SECTORS, 8, 0)]), false)),
            IO_ERROR,
        ),
        ("a block, after all that", IN, 0, Some((vec![0; 4096], true)), OK),
    ] {
        assert_eq!(guest.request(kind, sector, data), status, "{what}");
    }
}

#[test]
fn a_chain_may_be_cut_anywhere() {
    let back = Running::start();
    let mut guest = Guest::running(&back.disk("disk", false), Features::NONE);
    let base = guest.base() + BUFFERS;
    let block: Vec<u8> = (0..4096).map(|at| (at / 16) as u8).collect();
    guest.put_header(BUFFERS, OUT, 0);
    guest.put(BUFFERS + 16, &block);
    // Header and data in pieces that end anywhere, one of them of no length.
    let pieces = [
        (base, 3, false),
        (base + 3, 0, false),
        (base + 3, 20, false),
        (base + 23, 4089, false),
        (base + 0x8000, 1, true),
    ];
    guest.push(&pieces);
    guest.wait();
    assert_eq!(guest.get(BUFFERS + 0x8000, 1), [OK]);
    // The status byte at the end of the data.
    guest.put_header(BUFFERS, IN, 0);
    guest.push(&[(base, 16, false), (base + 0x1000, 1000, true), (base + 0x2000, 3097, true)]);
    assert_eq!(guest.wait().1, 4097);
    assert_eq!(guest.get(BUFFERS + 0x1000, 1000), block[..1000]);
    assert_eq!(guest.get(BUFFERS + 0x2000, 3096), block[1000..]);
    assert_eq!(guest.get(BUFFERS + 0x2000 + 3096, 1), [OK]);
    // Data that overlap the header and each other are the guest's own affair.
    guest.put_header(BUFFERS, IN, 0);
    guest.push(&[
        (base, 16, false),
        (base, 2048, true),
        (base + 100, 2048, true),
        (base + 0x8000, 1, true),
    ]);
    guest.wait();
    assert_eq!(guest.get(BUFFERS + 0x8000, 1), [OK]);
}

#[test]
fn data_outside_the_guest_s_memory_are_an_error_of_that_request() {
    let back = Running::start();
    let mut guest = Guest::running(&back.disk("disk", false), Features::NONE);
    let base = guest.base() + BUFFERS;
    let end = guest.base() + guest.memory.len() as u64;
    for address in [0, 0x1000, end - 100, end, u64::MAX - 100, 1 << 63] {
        guest.put_header(BUFFERS, IN, 0);
        guest.put(BUFFERS + 0x100, &[0xaa]);
        guest.push(&[(base, 16, false), (address, 4096, true), (base + 0x100, 1, true)]);
        guest.wait();
        assert_eq!(guest.get(BUFFERS + 0x100, 1), [IO_ERROR], "{address:#x}");
    }
    assert_eq!(guest.request(IN, 0, Some((vec![0; 4096], true))), OK);
}

/// Breaks the ring of one guest of two. Each must be stopped alone, and come back after a reset.
#[test]
fn a_guest_that_breaks_its_ring_harms_nobody_else() {
    let back = Running::start();
    let other = back.disk("other", false);
    let socket = back.disk("disk", false);
    let mut healthy = Guest::running(&other, Features::NONE);
    type Breakage = fn(&mut Guest);
    let breakages: [(&str, Breakage); 7] = [
        ("an index that jumps", |guest| guest.set_available(SIZE + 2)),
        ("a head that there is not", |guest| guest.push_head(SIZE)),
        ("a loop", |guest| {
            let base = guest.base() + BUFFERS;
            guest.describe(0, (base, 16, false), Some(1));
            guest.describe(1, (base, 16, false), Some(0));
            guest.push_head(0);
        }),
        ("a next that there is not", |guest| {
            let base = guest.base() + BUFFERS;
            guest.describe(0, (base, 16, false), Some(SIZE));
            guest.push_head(0);
        }),
        ("a header nowhere", |guest| {
            let base = guest.base() + BUFFERS;
            guest.push(&[(16, 16, false), (base, 1, true)]);
        }),
        ("no status", |guest| {
            let base = guest.base() + BUFFERS;
            guest.push(&[(base, 16, false)]);
        }),
        ("a status nowhere", |guest| {
            let base = guest.base() + BUFFERS;
            guest.push(&[(base, 16, false), (16, 1, true)]);
        }),
    ];
    for (what, breakage) in breakages {
        let mut guest = Guest::running(&socket, Features::NONE);
        assert_eq!(guest.request(IN, 0, Some((vec![0; 4096], true))), OK, "{what}");
        breakage(&mut guest);
        wait_for(what, || guest.ask(Request::GetStatus) & 64 != 0);
        let fault = back.on(|back| {
            let info = back.controllers.list(Some("disk")).unwrap();
            info[0].sessions.iter().find_map(|session| session.fault.clone())
        });
        assert!(fault.is_some_and(|text| text.starts_with("virtqueue 0: ")), "{what}");
        assert_eq!(healthy.request(IN, 0, Some((vec![0; 4096], true))), OK, "{what}");
        assert!(guest.succeeds(Request::ResetDevice), "{what}");
        assert_eq!(guest.ask(Request::GetStatus) & 64, 0, "{what}");
        drop(guest);
        let mut again = Guest::running(&socket, Features::NONE);
        assert_eq!(again.request(IN, 0, Some((vec![0; 4096], true))), OK, "{what}");
    }
}

#[test]
fn messages_that_make_no_sense_end_the_session_only() {
    let back = Running::start();
    let socket = back.disk("disk", false);
    let mut healthy = Guest::running(&socket, Features::NONE);
    // Not acknowledged, so that there is no other way to tell.
    let bad: [fn(&Guest) -> Request; 4] = [
        |_| Request::SetFeatures(Features(1 << 60)),
        |guest| {
            let (mut region, file) = guest.region();
            region.size *= 2;
            Request::AddMemReg(region, file)
        },
        |_| Request::SetVringBase { index: 255, base: 0 },
        |guest| {
            Request::SetVringKick(weft::virtio::vhost_user::VringFile {
                index: 0,
                // A memory file is no eventfd.
                file: Some(guest.region().1),
            })
        },
    ];
    for (number, request) in bad.into_iter().enumerate() {
        let mut guest = Guest::connect(&socket, Features::NONE);
        guest.order(request(&guest));
        if number == 2 {
            // That one is in order: there are as many.
            assert_eq!(guest.ask(Request::GetQueueNum), 256);
            continue;
        }
        assert!(guest.is_cut_off(), "{number}");
    }
    // Asked for an acknowledgement, the session says no and goes on.
    let mut guest = Guest::connect(&socket, Features::NONE);
    assert!(!guest.succeeds(Request::SetFeatures(Features(1 << 60))));
    guest.share_memory();
    let mut addresses = guest.addresses();
    addresses.used = 0x1234;
    assert!(guest.succeeds(Request::SetVringAddr(addresses)));
    assert_eq!(guest.ask(Request::GetQueueNum), 256);
    assert_eq!(healthy.request(IN, 0, Some((vec![0; 4096], true))), OK);
}

#[test]
fn memory_that_is_cut_off_ends_the_session_only() {
    let back = Running::start();
    let socket = back.disk("disk", false);
    let mut healthy = Guest::running(&socket, Features::NONE);
    let mut guest = Guest::running(&socket, Features::NONE);
    assert_eq!(guest.request(IN, 0, Some((vec![0; 4096], true))), OK);
    guest.truncate_memory();
    assert!(guest.is_cut_off());
    assert_eq!(healthy.request(IN, 0, Some((vec![0; 4096], true))), OK);
}

#[test]
fn a_write_is_as_durable_as_the_guest_thinks() {
    let back = Running::start();
    let state = Arc::new(GateState::default());
    let socket = back.gate("gate", &state);
    let block = || Some((vec![0; 4096], false));
    let flags_of_last = || *state.seen.lock().unwrap().last().unwrap();
    // A driver that flushes: the cache is its affair.
    let flush = Features::BLOCK_FLUSH.with(Features::BLOCK_CONFIG_WCE);
    let mut guest = Guest::running(&socket, flush);
    assert_eq!(guest.request(OUT, 0, block()), OK);
    assert_eq!(flags_of_last(), (Opcode::Write, RequestFlags::NONE));
    // It switches the cache off.
    let offset = Config::WRITEBACK_OFFSET as u32;
    let off = Request::SetConfig { offset, flags: 0, bytes: vec![0] };
    assert!(guest.succeeds(off));
    assert_eq!(guest.request(OUT, 0, block()), OK);
    assert_eq!(flags_of_last(), (Opcode::Write, RequestFlags::FUA));
    let other = Request::SetConfig { offset: 0, flags: 0, bytes: vec![0; 8] };
    assert!(!guest.succeeds(other), "the capacity is not the driver's to set");
    drop(guest);
    // A driver that cannot flush.
    let mut guest = Guest::running(&socket, Features::NONE);
    assert_eq!(guest.request(OUT, 0, block()), OK);
    assert_eq!(flags_of_last(), (Opcode::Write, RequestFlags::FUA));
}

/// The guest does not hear of a connection that is lost and made again, so what it has said of the write cache must hold on.
#[test]
fn a_choice_of_the_write_cache_outlives_a_connection() {
    let back = Running::start();
    let state = Arc::new(GateState::default());
    let socket = back.gate("gate", &state);
    let flush = Features::BLOCK_FLUSH.with(Features::BLOCK_CONFIG_WCE);
    let flags_of_a_write = |guest: &mut Guest| {
        assert_eq!(guest.request(OUT, 0, Some((vec![0; 4096], false))), OK);
        state.seen.lock().unwrap().last().unwrap().1
    };
    let reconnect = || {
        let mut guest = Guest::connect(&socket, flush);
        let records = InflightArea::create(InflightLayout::Split, 1, SIZE).unwrap();
        let inflight = Inflight {
            size: records.length(),
            offset: records.offset(),
            queues: 1,
            queue_size: SIZE,
            padding: 0,
        };
        let file = records.file().try_clone_to_owned().unwrap();
        assert!(guest.succeeds(Request::SetInflightFd(inflight, file)));
        guest.share_memory();
        guest.start(0);
        guest
    };
    let choose = |guest: &mut Guest, writeback: u8| {
        let offset = Config::WRITEBACK_OFFSET as u32;
        let bytes = vec![writeback];
        assert!(guest.succeeds(Request::SetConfig { offset, flags: 0, bytes }));
    };
    // As after the death of the daemon that knew: on the safe side.
    let mut guest = reconnect();
    assert_eq!(flags_of_a_write(&mut guest), RequestFlags::FUA);
    choose(&mut guest, 1);
    assert_eq!(flags_of_a_write(&mut guest), RequestFlags::NONE);
    drop(guest);
    assert_eq!(flags_of_a_write(&mut reconnect()), RequestFlags::NONE);
    let mut guest = reconnect();
    choose(&mut guest, 0);
    // What a machine that is paused says.
    assert!(guest.succeeds(Request::SetStatus(DeviceStatus::RESET)));
    drop(guest);
    assert_eq!(flags_of_a_write(&mut reconnect()), RequestFlags::FUA);
    // Another machine.
    let mut other = Guest::running(&socket, flush);
    assert_eq!(flags_of_a_write(&mut other), RequestFlags::NONE);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let back = Running::start();
    let mut guest = Guest::running(&back.disk("disk", true), Features::BLOCK_READ_ONLY);
    assert_eq!(guest.request(IN, 0, Some((vec![0; 4096], true))), OK);
    assert_eq!(guest.request(OUT, 0, Some((vec![0; 4096], false))), IO_ERROR);
    for kind in [DISCARD, WRITE_ZEROES, SECURE_ERASE] {
        assert_eq!(guest.request(kind, 0, Some((ranges(&[(0, 8, 0)]), false))), IO_ERROR);
    }
    assert_eq!(guest.request(FLUSH, 0, None), OK);
}

/// A write that is under way when its front end goes must not come after one that the guest makes later, over a new
/// connection.
#[test]
fn a_new_session_waits_for_what_the_last_one_left_in_flight() {
    let back = Running::start();
    let state = Arc::new(GateState::default());
    let socket = back.gate("gate", &state);
    let mut guest = Guest::running(&socket, Features::NONE);
    state.closed.store(true, Ordering::SeqCst);
    let base = guest.base() + BUFFERS;
    guest.put_header(BUFFERS, OUT, 0);
    guest.push(&[(base, 16, false), (base + 0x1000, 4096, false), (base + 0x100, 1, true)]);
    wait_for("the write", || state.arrived.load(Ordering::SeqCst) == 1);
    // The connection breaks; the guest lives, and so does its memory.
    let again = Guest::connect(&socket, Features::NONE);
    guest.stream.shutdown(std::net::Shutdown::Both).unwrap();
    wait_for("the end of the connection", || {
        let sessions = back.on(|back| {
            back.controllers.list(None).unwrap()[0]
                .sessions
                .iter()
                .map(|s| s.started)
                .collect::<Vec<_>>()
        });
        sessions == [false, false]
    });
    let (region, file) = again.region();
    again.order(Request::AddMemReg(region, file));
    again.put_header(BUFFERS, OUT, 0);
    let starter = std::thread::spawn(move || {
        let mut again = again;
        again.start(0);
        assert_eq!(again.request(OUT, 0, Some((vec![0; 4096], false))), OK);
    });
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(state.arrived.load(Ordering::SeqCst), 1, "the new one does not start");
    }
    state.closed.store(false, Ordering::SeqCst);
    starter.join().unwrap();
    // The old write was answered where its guest looks.
    guest.wait();
    assert_eq!(guest.get(BUFFERS + 0x100, 1), [OK]);
    assert_eq!(state.arrived.load(Ordering::SeqCst), 2);
}

#[test]
fn a_device_that_goes_leaves_errors_behind() {
    let back = Running::start();
    let mut guest = Guest::running(&back.disk("disk", false), Features::NONE);
    assert_eq!(guest.request(IN, 0, Some((vec![0; 4096], true))), OK);
    back.on(|back| {
        let registry = back.registry.clone();
        back.registry.context().spawn(async move { registry.unregister("disk").await.unwrap() });
    });
    wait_for("the end of the device", || back.on(|back| back.registry.find("disk").is_none()));
    assert_eq!(guest.request(IN, 0, Some((vec![0; 4096], true))), IO_ERROR);
    assert_eq!(guest.request(FLUSH, 0, None), IO_ERROR);
    assert_eq!(guest.request(GET_ID, 0, Some((vec![0; 20], true))), OK);
    assert!(!back.on(|back| back.controllers.list(None).unwrap()[0].has_device));
}

#[test]
fn memory_comes_and_goes_while_requests_are_in_flight() {
    let back = Running::start();
    let state = Arc::new(GateState::default());
    let mut guest = Guest::running(&back.gate("gate", &state), Features::NONE);
    let extra = Guest::connect(&back.disk("other", false), Features::NONE);
    let base = guest.base() + BUFFERS;
    let read = |guest: &mut Guest, address: u64| {
        guest.put_header(BUFFERS, IN, 0);
        guest.put(BUFFERS + 0x100, &[0xaa]);
        guest.push(&[(base, 16, false), (address, 4096, true), (base + 0x100, 1, true)]);
    };
    read(&mut guest, extra.base());
    guest.wait();
    assert_eq!(guest.get(BUFFERS + 0x100, 1), [IO_ERROR], "before");
    let (region, file) = extra.region();
    assert!(guest.succeeds(Request::AddMemReg(region, file)));
    state.closed.store(true, Ordering::SeqCst);
    read(&mut guest, extra.base());
    wait_for("the read", || state.arrived.load(Ordering::SeqCst) == 1);
    // Under the request: it keeps what it needs.
    assert!(guest.succeeds(Request::RemMemReg(region)));
    assert!(!guest.succeeds(Request::RemMemReg(region)), "twice");
    state.closed.store(false, Ordering::SeqCst);
    guest.wait();
    assert_eq!(guest.get(BUFFERS + 0x100, 1), [OK], "under it");
    read(&mut guest, extra.base());
    guest.wait();
    assert_eq!(guest.get(BUFFERS + 0x100, 1), [IO_ERROR], "after");
}

#[test]
fn what_a_migrating_guest_finds_written_is_in_the_log() {
    let back = Running::start();
    let mut guest = Guest::running(&back.disk("disk", false), Features::NONE);
    // A log from guest address 0 on would be as long as the address space of this process: so long a hole costs
    // nothing.
    let log = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
    let last = guest.base() + guest.memory.len() as u64;
    let length = (last >> 12) / 8 + 1;
    ftruncate(&log, length).unwrap();
    assert_eq!(guest.request(IN, 0, Some((vec![0; 4096], true))), OK);
    let first = guest.base() >> 12;
    let marked = |guest: &Guest| -> Vec<u64> {
        let mut bytes = vec![0; guest.memory.len() >> 15];
        rustix::io::pread(&log, &mut bytes, first / 8).unwrap();
        let pages = 0..(guest.memory.len() as u64 >> 12);
        pages.filter(|page| bytes[*page as usize / 8] >> (page % 8) & 1 != 0).collect()
    };
    assert!(marked(&guest).is_empty());
    let area = SharedArea { size: length, offset: 0 };
    let file = log.try_clone().unwrap();
    // The answer says that it was done.
    guest.ask(Request::SetLogBase(Some((area, file))));
    let features = Features::VERSION_1.with(Features::PROTOCOL_FEATURES);
    assert!(guest.succeeds(Request::SetFeatures(features.with(Features::LOG_ALL))));
    let addresses = guest.addresses();
    assert!(guest.succeeds(Request::SetVringAddr(addresses)));
    // A read over a page's edge: two pages of data (0x11, 0x12), one of the status (0x10), and the used ring (2).
    assert_eq!(guest.request(IN, 0, Some((vec![0; 4096], true))), OK);
    wait_for("the log", || marked(&guest) == [2, 0x10, 0x11]);
    let base = guest.base() + BUFFERS;
    guest.put_header(BUFFERS, IN, 0);
    guest.push(&[(base, 16, false), (base + 0x2800, 4096, true), (base + 0x100, 1, true)]);
    guest.wait();
    wait_for("the log", || marked(&guest) == [2, 0x10, 0x11, 0x12, 0x13]);
    // A write changes nothing of the data; without the feature, nothing is logged.
    assert!(guest.succeeds(Request::SetFeatures(features)));
    rustix::io::pwrite(&log, &vec![0; guest.memory.len() >> 15], first / 8).unwrap();
    assert_eq!(guest.request(IN, 0, Some((vec![0; 4096], true))), OK);
    assert!(marked(&guest).is_empty());
}

#[test]
fn a_queue_stops_with_nothing_in_flight_and_starts_where_it_stopped() {
    let back = Running::start();
    let state = Arc::new(GateState::default());
    let mut guest = Guest::running(&back.gate("gate", &state), Features::NONE);
    for turn in 0..40 {
        assert_eq!(guest.request(FLUSH, 0, None), OK);
        let base = guest.stop();
        assert_eq!(base, turn + 1);
        assert_eq!(guest.used(), turn as u16 + 1);
        guest.start(base);
    }
    assert!(guest.succeeds(Request::SetVringEnable { index: 0, enable: false }));
    let base = guest.base() + BUFFERS;
    guest.put_header(BUFFERS, FLUSH, 0);
    guest.push(&[(base, 16, false), (base + 0x100, 1, true)]);
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(guest.used(), 40, "a disabled queue takes nothing");
    }
    assert!(guest.succeeds(Request::SetVringEnable { index: 0, enable: true }));
    wait_for("the flush", || guest.used() == 41);
    // It does not say where it stands while anything is under way.
    state.closed.store(true, Ordering::SeqCst);
    let arrived = state.arrived.load(Ordering::SeqCst);
    guest.push(&[(base, 16, false), (base + 0x100, 1, true)]);
    wait_for("another", || state.arrived.load(Ordering::SeqCst) == arrived + 1);
    let stopper = std::thread::spawn(move || (guest.stop(), guest.used()));
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(!stopper.is_finished(), "stopped with a request in flight");
    }
    state.closed.store(false, Ordering::SeqCst);
    assert_eq!(stopper.join().unwrap(), (42, 42));
}

#[test]
fn interrupts_come_when_they_are_wanted_and_are_held_back_when_told() {
    let back = Running::start();
    let mut guest = Guest::running(&back.disk("disk", false), Features::NONE);
    wait_for("the first one, for what a predecessor may have left", || guest.interrupts() > 0);
    assert_eq!(guest.request(FLUSH, 0, None), OK);
    wait_for("an interrupt", || guest.interrupts() > 0);
    // The driver does not want any.
    guest.put(0x1000, &1_u16.to_le_bytes());
    for _ in 0..10 {
        assert_eq!(guest.request(FLUSH, 0, None), OK);
    }
    assert_eq!(guest.interrupts(), 0);
    guest.put(0x1000, &0_u16.to_le_bytes());
    back.on(|back| {
        let coalescing = Coalescing { delay_base_us: 200_000, iops_threshold: 1 };
        back.controllers.set_coalescing("disk", coalescing).unwrap();
        let absurd = Coalescing { delay_base_us: u32::MAX, iops_threshold: 1 };
        assert!(back.controllers.set_coalescing("disk", absurd).is_err());
    });
    let mut interrupts = 0;
    for _ in 0..2000 {
        assert_eq!(guest.request(FLUSH, 0, None), OK);
        interrupts += guest.interrupts();
    }
    assert!(interrupts < 1500, "{interrupts}");
    wait_for("the last one", || {
        interrupts += guest.interrupts();
        interrupts > 0
    });
}

/// A guest whose every word is random: chains of random pieces, headers of random bytes, indices that jump. Whatever comes of
/// it, the daemon serves others, and this one after a reset.
#[test]
fn random_guests_harm_nobody() {
    let back = Running::start();
    let socket = back.disk("disk", false);
    let mut healthy = Guest::running(&back.disk("other", false), Features::NONE);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 9) % bound
    };
    for round in 0..60 {
        let mut guest = Guest::running(&socket, Features::INDIRECT_DESC);
        for _ in 0..40 {
            for index in 0..SIZE {
                let address = match random(8) {
                    0 => random(u64::MAX),
                    1 => guest.base() + guest.memory.len() as u64 - random(64),
                    _ => guest.base() + BUFFERS + random(0x4000),
                };
                let length = match random(6) {
                    0 => 16,
                    1 => 1,
                    2 => 512 * random(32) as u32,
                    3 => random(1 << 32) as u32,
                    _ => random(5000) as u32,
                };
                let next = (random(2) == 0).then_some(random(u64::from(SIZE) + 1) as u16);
                guest.describe(index, (address, length, random(2) == 0), next);
            }
            for place in 0..0x40 {
                let kind = [IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 99][random(7) as usize];
                guest.put_header(BUFFERS + place * 0x100, kind, random(4 * BLOCKS * SECTORS));
            }
            let head = random(u64::from(SIZE)) as u16;
            guest.push_head(if random(50) == 0 { random(1 << 16) as u16 } else { head });
            if random(50) == 0 {
                guest.set_available(random(1 << 16) as u16);
            }
        }
        assert_eq!(healthy.request(IN, 0, Some((vec![0; 4096], true))), OK, "round {round}");
        guest.stop();
    }
    let mut again = Guest::running(&socket, Features::NONE);
    assert_eq!(again.request(IN, 0, Some((vec![0; 4096], true))), OK);
}
