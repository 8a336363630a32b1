//! The `uring` device on files, on a loop device and on a full file system, through a channel.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use weft::base::{BlockCount, ByteCount, ErrorKind, Lba, Status};
use weft::bdev::leaf::uring::{Method, Uring, UringOptions};
use weft::bdev::{
    Bdev, Channel, Claim, Completions, Device, Event, Opcode, Queue, Registry, Request,
    RequestFlags,
};
use weft::memory::{Buffer, HugePages, PoolOptions, Region, Registry as Regions, Segment};
use weft::reactor::Context;

const BLOCK: usize = 4096;
/// Far beyond what anything here takes: a request that hangs fails the test instead of the run.
const PATIENCE: Duration = Duration::from_secs(60);

fn context() -> Context {
    let pool = PoolOptions {
        huge_pages: HugePages::Never,
        grow: ByteCount(4 << 20),
        max: ByteCount(64 << 20),
        ..PoolOptions::default()
    };
    Context::detached(Regions::new(), pool)
}

/// A file of `size` bytes of zeros below the folder of cargo's temporary files, on a real file
/// system.
fn file(folder: &Path, size: u64) -> PathBuf {
    let path = folder.join("disk.img");
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn options(path: &Path) -> UringOptions {
    let mut options = UringOptions::new("disk", path.to_str().unwrap());
    options.block_size = Some(BLOCK as u32);
    options.lock_patience = Duration::ZERO;
    options
}

struct Drive {
    cx: Context,
    channel: Channel,
    completions: Completions,
}

impl Drive {
    fn open(options: UringOptions) -> Drive {
        Self::on(context(), Uring::create(options).unwrap())
    }

    fn on(cx: Context, uring: Arc<Uring>) -> Drive {
        let channel = Device::new(uring).open_channel(&cx, 32).unwrap();
        Drive { cx, channel, completions: Completions::with_capacity(64) }
    }

    /// Submits all, and returns the statuses by token (the index).
    fn run(&mut self, requests: &mut [Request]) -> Vec<Status> {
        let count = requests.len();
        for (token, request) in requests.iter_mut().enumerate() {
            request.ticket.token = token as u64;
        }
        let mut statuses = vec![None; count];
        let (mut taken, mut ended) = (0, 0);
        let start = Instant::now();
        while ended < count {
            taken += self.channel.submit(&mut requests[taken..]);
            self.cx.turn();
            self.completions.clear();
            self.channel.poll(&mut self.completions);
            for completion in &self.completions {
                let status = &mut statuses[completion.token as usize];
                assert!(status.is_none(), "completed twice");
                *status = Some(completion.status);
                ended += 1;
            }
            assert!(start.elapsed() < PATIENCE, "{ended} of {count} requests have completed");
        }
        statuses.into_iter().map(Option::unwrap).collect()
    }

    fn one(&mut self, request: Request) -> Status {
        self.run(&mut [request])[0]
    }

    fn buffer(&self, blocks: usize) -> Buffer {
        self.cx.pool().take(blocks * BLOCK).unwrap()
    }

    fn transfer(&mut self, opcode: Opcode, lba: u64, buffer: &Buffer, blocks: usize) -> Status {
        // SAFETY: `one` returns when the request has completed, and the buffer is borrowed until then.
        let segment = unsafe { buffer.segment((blocks * BLOCK) as u32) };
        self.one(Request::new(opcode, Lba(lba), blocks as u32, segment, 0))
    }
}

/// Small, with a seed: xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Random requests in batches that do not overlap, against a vector.
fn against_model(options: UringOptions, blocks: u64, rounds: usize, seed: u64) {
    let path = PathBuf::from(&options.filename);
    let mut drive = Drive::open(options);
    let native = drive.channel.device().info().native;
    let mut model = vec![0_u8; blocks as usize * BLOCK];
    File::open(&path).unwrap().read_exact_at(&mut model, 0).unwrap();
    let mut random = Random(seed);
    // Each request of a batch has its own part of the device and its own buffer.
    const BATCH: u64 = 8;
    let part = blocks / BATCH;
    let mut buffers: Vec<Buffer> = (0..BATCH).map(|_| drive.buffer(part as usize + 2)).collect();
    for round in 0..rounds {
        let mut requests = Vec::new();
        let mut expected = Vec::new();
        let mut segments: Vec<Vec<Segment>> = Vec::new();
        for (index, buffer) in buffers.iter_mut().enumerate() {
            let start = random.below(part);
            let count = 1 + random.below(part - start);
            let lba = index as u64 * part + start;
            let opcode = loop {
                let opcode = [
                    Opcode::Read,
                    Opcode::Write,
                    Opcode::Write,
                    Opcode::Unmap,
                    Opcode::WriteZeroes,
                    Opcode::Flush,
                ][random.below(6) as usize];
                if native.contains(opcode) {
                    break opcode;
                }
            };
            let range = lba as usize * BLOCK..(lba + count) as usize * BLOCK;
            let length = range.len();
            // Pieces of the buffer in turn forwards, so that neighbours may be merged, or with a
            // gap in between.
            let mut pieces = Vec::new();
            let (mut at, mut left) = (0, length);
            let gap = random.below(2) as usize * BLOCK;
            while left > 0 {
                let piece = match random.below(3) {
                    0 => left,
                    _ => (1 + random.below(4) as usize * 512).next_multiple_of(512).min(left),
                };
                pieces.push(at..at + piece);
                at += piece;
                if pieces.len() == 1 {
                    at += gap;
                }
                left -= piece;
            }
            let fua = random.below(4) == 0;
            match opcode {
                Opcode::Write => {
                    let pattern = (round as u64) << 8 | index as u64;
                    let mut offset = range.start;
                    for piece in &pieces {
                        for byte in &mut buffer.bytes_mut()[piece.clone()] {
                            *byte = (pattern ^ random.below(256)) as u8;
                        }
                        model[offset..offset + piece.len()]
                            .copy_from_slice(&buffer.bytes()[piece.clone()]);
                        offset += piece.len();
                    }
                }
                Opcode::Unmap | Opcode::WriteZeroes => model[range.clone()].fill(0),
                Opcode::Read => buffer.bytes_mut().fill(0xee),
                _ => {}
            }
            // SAFETY: `run` below returns when all requests have completed.
            let whole = unsafe { buffer.segment(buffer.len() as u32) };
            segments.push(
                pieces
                    .iter()
                    .map(|piece| whole.part(piece.start as u32, piece.len() as u32))
                    .collect(),
            );
            expected.push((opcode, range, pieces));
            let list = segments.last().unwrap();
            let mut request = match opcode {
                // SAFETY: the inner vectors do not move while `segments` grows, and live until
                // `run` has returned.
                Opcode::Read | Opcode::Write => unsafe {
                    Request::scattered(opcode, Lba(lba), count as u32, list, 0)
                },
                Opcode::Flush => Request::bare(opcode, Lba(0), 0, 0),
                _ => Request::bare(opcode, Lba(lba), count as u32, 0),
            };
            if fua && opcode != Opcode::Read && opcode != Opcode::Flush {
                request.ticket.flags = RequestFlags::FUA;
            }
            requests.push(request);
        }
        let statuses = drive.run(&mut requests);
        for (index, (opcode, range, pieces)) in expected.into_iter().enumerate() {
            assert_eq!(statuses[index], Status::SUCCESS, "round {round}: {opcode:?} {range:?}");
            if opcode == Opcode::Read {
                let mut offset = range.start;
                for piece in pieces {
                    let length = piece.len();
                    assert!(
                        buffers[index].bytes()[piece] == model[offset..offset + length],
                        "round {round}: what was read at {offset} differs"
                    );
                    offset += length;
                }
            }
        }
    }
    drop(drive);
    assert!(fs::read(&path).unwrap() == model, "the file differs from the model");
}

#[test]
fn random_requests_match_a_model() {
    for (seed, fixed, direct) in [(1, true, true), (2, false, true), (3, true, false)] {
        let folder = folder();
        let mut options = options(&file(folder.path(), 512 * BLOCK as u64));
        options.fixed_buffers = fixed;
        options.direct = direct;
        against_model(options, 512, 60, seed);
    }
}

#[test]
fn a_submission_thread_serves_too() {
    let folder = folder();
    let mut options = options(&file(folder.path(), 64 * BLOCK as u64));
    options.sqpoll = true;
    against_model(options, 64, 10, 4);
}

#[test]
fn polled_io_falls_back_where_the_device_has_no_poll_queues() {
    // Where it has, this tests the pair of rings.
    let folder = folder();
    let mut options = options(&file(folder.path(), 64 * BLOCK as u64));
    options.iopoll = true;
    against_model(options, 64, 10, 5);
}

#[test]
fn zeroed_and_unmapped_blocks_read_as_zeros_and_unmap_gives_space_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder();
    let path = file(folder.path(), 64 * BLOCK as u64);
    let mut drive = Drive::open(options(&path));
    let native = drive.channel.device().info().native;
    if !native.contains(Opcode::Unmap) || !native.contains(Opcode::WriteZeroes) {
        eprintln!("skipped: {} has no fallocate", path.display());
        return;
    }
    let mut buffer = drive.buffer(64);
    buffer.bytes_mut().fill(0x5a);
    assert_eq!(drive.transfer(Opcode::Write, 0, &buffer, 64), Status::SUCCESS);
    let allocated = fs::metadata(&path).unwrap().blocks();
    assert_eq!(drive.one(Request::bare(Opcode::WriteZeroes, Lba(3), 4, 0)), Status::SUCCESS);
    assert!(fs::metadata(&path).unwrap().blocks() >= allocated, "zeroed blocks stay allocated");
    assert_eq!(drive.one(Request::bare(Opcode::Unmap, Lba(16), 32, 0)), Status::SUCCESS);
    assert_eq!(drive.one(Request::bare(Opcode::Flush, Lba(0), 0, 0)), Status::SUCCESS);
    assert!(fs::metadata(&path).unwrap().blocks() < allocated, "unmapped blocks are given back");
    assert_eq!(drive.transfer(Opcode::Read, 0, &buffer, 64), Status::SUCCESS);
    for (index, block) in buffer.bytes().chunks(BLOCK).enumerate() {
        let zero = (3..7).contains(&index) || (16..48).contains(&index);
        assert!(block.iter().all(|&byte| byte == if zero { 0 } else { 0x5a }), "block {index}");
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 64 * BLOCK as u64);
}

#[test]
fn probing_leaves_the_file_as_it_was() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder();
    let path = folder.path().join("disk.img");
    let contents: Vec<u8> = (0..10 * BLOCK + 777).map(|index| index as u8 | 1).collect();
    fs::write(&path, &contents).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    let before = fs::metadata(&path).unwrap();
    let uring = Uring::create(options(&path)).unwrap();
    assert_eq!(uring.info().geometry.blocks, BlockCount(10), "the end is rounded down");
    drop(uring);
    let after = fs::metadata(&path).unwrap();
    assert_eq!((before.len(), before.blocks()), (after.len(), after.blocks()));
    assert!(fs::read(&path).unwrap() == contents);
}

#[test]
fn the_size_follows_a_rescan() {
    let folder = folder();
    let path = file(folder.path(), 16 * BLOCK as u64);
    let cx = context();
    let registry = Registry::new(&cx);
    let device = registry.register(Uring::create(options(&path)).unwrap(), Vec::new()).unwrap();
    let events = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&events);
    let descriptor = registry
        .open("disk", Claim::Write, move |event| seen.borrow_mut().push(event.clone()))
        .unwrap();
    let channel = device.open_channel(&cx, 32).unwrap();
    let mut drive = Drive { cx, channel, completions: Completions::with_capacity(64) };
    let buffer = drive.buffer(1);
    assert_eq!(drive.transfer(Opcode::Write, 20, &buffer, 1), Status::LBA_OUT_OF_RANGE);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(32 * BLOCK as u64 + 5).unwrap();
    assert_eq!(Uring::rescan(&registry, "disk").unwrap(), BlockCount(32));
    assert_eq!(*events.borrow(), [Event::Resized(BlockCount(32))]);
    assert_eq!(device.geometry().blocks, BlockCount(32));
    assert_eq!(drive.transfer(Opcode::Write, 20, &buffer, 1), Status::SUCCESS);
    assert_eq!(Uring::rescan(&registry, "disk").unwrap(), BlockCount(32));
    assert_eq!(events.borrow().len(), 1, "nobody is told of what did not change");
    OpenOptions::new().write(true).open(&path).unwrap().set_len(5).unwrap();
    assert_eq!(Uring::rescan(&registry, "disk").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(Uring::rescan(&registry, "other").unwrap_err().kind(), ErrorKind::NoDevice);
    drop(descriptor);
}

#[test]
fn a_truncated_file_fails_reads_and_does_not_hang() {
    let folder = folder();
    let path = file(folder.path(), 16 * BLOCK as u64);
    let mut drive = Drive::open(options(&path));
    let buffer = drive.buffer(16);
    // In the middle of a block, so that short reads of every kind come up.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(4 * BLOCK as u64 + 700).unwrap();
    assert_eq!(drive.transfer(Opcode::Read, 0, &buffer, 4), Status::SUCCESS);
    for (lba, blocks) in [(0, 16), (3, 2), (4, 1), (5, 1), (10, 6)] {
        let status = drive.transfer(Opcode::Read, lba, &buffer, blocks);
        assert_eq!(status, Status::UNRECOVERED_READ_ERROR, "{blocks} blocks at {lba}");
    }
    // SAFETY: `one` returns when the request has completed.
    let whole = unsafe { buffer.segment(16 * BLOCK as u32) };
    let pieces = [whole.part(8192, 4096), whole.part(0, 8192), whole.part(16384, 12288)];
    // SAFETY: as above.
    let request = unsafe { Request::scattered(Opcode::Read, Lba(2), 6, &pieces, 0) };
    assert_eq!(drive.one(request), Status::UNRECOVERED_READ_ERROR);
    assert_eq!(drive.transfer(Opcode::Write, 12, &buffer, 1), Status::SUCCESS);
    assert_eq!(drive.transfer(Opcode::Read, 0, &buffer, 13), Status::SUCCESS);
}

#[test]
fn a_reset_completes_after_all_before_it() {
    let folder = folder();
    let mut drive = Drive::open(options(&file(folder.path(), 256 * BLOCK as u64)));
    let buffers: Vec<Buffer> = (0..24).map(|_| drive.buffer(4)).collect();
    let mut requests: Vec<Request> = buffers
        .iter()
        .enumerate()
        .map(|(index, buffer)| {
            // SAFETY: the loop below ends when all requests have completed.
            let segment = unsafe { buffer.segment(4 * BLOCK as u32) };
            Request::new(Opcode::Write, Lba(index as u64 * 4), 4, segment, index as u64)
        })
        .collect();
    requests.insert(16, Request::bare(Opcode::Reset, Lba(0), 0, 101));
    requests.insert(8, Request::bare(Opcode::Reset, Lba(0), 0, 100));
    requests.insert(0, Request::bare(Opcode::Reset, Lba(0), 0, 99));
    let count = requests.len();
    assert_eq!(drive.channel.submit(&mut requests), count);
    let mut order = Vec::new();
    let start = Instant::now();
    while order.len() < count {
        drive.cx.turn();
        drive.completions.clear();
        drive.channel.poll(&mut drive.completions);
        order.extend(drive.completions.as_slice().iter().map(|completion| completion.token));
        assert!(start.elapsed() < PATIENCE);
    }
    let position = |token| order.iter().position(|&other| other == token).unwrap();
    assert!((0..8).all(|token| position(token) < position(100)), "{order:?}");
    assert!((0..16).all(|token| position(token) < position(101)), "{order:?}");
}

#[test]
fn a_readonly_device_takes_no_writes() {
    let folder = folder();
    let path = file(folder.path(), 16 * BLOCK as u64);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    let mut options = options(&path);
    options.readonly = true;
    let second = Uring::create(options.clone()).unwrap();
    let mut drive = Drive::open(options.clone());
    drop(second);
    let buffer = drive.buffer(1);
    for opcode in [Opcode::Write, Opcode::Unmap, Opcode::WriteZeroes] {
        assert!(!drive.channel.device().info().native.contains(opcode), "{opcode:?}");
    }
    assert_eq!(drive.transfer(Opcode::Read, 0, &buffer, 1), Status::SUCCESS);
    assert_eq!(drive.one(Request::bare(Opcode::Flush, Lba(0), 0, 0)), Status::SUCCESS);
    let bdev = Arc::clone(drive.channel.device().bdev());
    assert_eq!(bdev.driver_specific()["uring"]["readonly"], json!(true));
    assert_eq!(bdev.config()[0].params["readonly"], json!(true));
}

#[test]
fn a_file_has_one_writer() {
    let folder = folder();
    let path = file(folder.path(), 16 * BLOCK as u64);
    let mut readonly = options(&path);
    readonly.readonly = true;
    let writer = Uring::create(options(&path)).unwrap();
    for other in [options(&path), readonly.clone()] {
        let error = Uring::create(other).err().expect("locked");
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains("locked"), "{error}");
    }
    // The lock goes with the device, also when a ring had the file.
    let drive = Drive::on(context(), writer);
    drop(drive);
    let reader = Uring::create(readonly.clone()).unwrap();
    assert_eq!(Uring::create(options(&path)).err().unwrap().kind(), ErrorKind::Busy);
    assert!(Uring::create(readonly).is_ok(), "readers share");
    drop(reader);
    assert!(Uring::create(options(&path)).is_ok());
}

#[test]
fn what_cannot_be_opened_is_refused_with_a_reason() {
    let folder = folder();
    let path = file(folder.path(), 16 * BLOCK as u64);
    let refused = |path: &Path, block_size: Option<u32>| {
        let mut options = options(path);
        options.block_size = block_size;
        let error = Uring::create(options).err().expect("must be refused");
        (error.kind(), error.to_string())
    };
    let (kind, text) = refused(&folder.path().join("missing"), None);
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains("'disk'") && text.contains("missing"), "{text}");
    let (kind, text) = refused(folder.path(), None);
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("directory"), "{text}");
    let (kind, text) = refused(Path::new("/dev/zero"), None);
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("character device"), "{text}");
    for bad in [1, 100, 520, 3000, 1 << 20] {
        let (kind, text) = refused(&path, Some(bad));
        assert_eq!(kind, ErrorKind::Invalid);
        assert!(text.contains(&bad.to_string()), "{text}");
    }
    File::create(&path).unwrap().set_len(700).unwrap();
    let (kind, text) = refused(&path, None);
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("truncate"), "{text}");
}

#[test]
fn the_aio_method_keeps_its_words() {
    let folder = folder();
    let path = file(folder.path(), 16 * BLOCK as u64);
    let mut options = options(&path);
    options.method = Method::Aio { fallocate: false };
    let uring = Uring::create(options).unwrap();
    assert_eq!(uring.info().product_name, "AIO disk");
    assert!(!uring.info().native.contains(Opcode::Unmap));
    let config = &uring.config()[0];
    assert_eq!(config.method, "bdev_aio_create");
    let filename = path.to_str().unwrap();
    assert_eq!(
        config.params,
        json!({
            "name": "disk", "block_size": 4096, "filename": filename, "readonly": false,
            "fallocate": false, "uuid": uring.info().uuid.to_string(), "nowait": false,
        })
    );
    let specific = uring.driver_specific();
    for (field, value) in [
        ("filename", json!(filename)),
        ("block_size_override", json!(true)),
        ("readonly", json!(false)),
        ("fallocate", json!(false)),
        ("nowait", json!(false)),
    ] {
        assert_eq!(specific["aio"][field], value, "{field}");
    }
}

#[test]
fn memory_regions_come_and_go() {
    let folder = folder();
    let mut drive = Drive::open(options(&file(folder.path(), 64 * BLOCK as u64)));
    let regions = Arc::clone(drive.cx.pool().registry());
    let mut gone = Vec::new();
    for round in 0..5_u8 {
        let view =
            regions.add(Arc::new(Region::allocate(1 << 20, HugePages::Never).unwrap())).unwrap();
        let start = view.region.start();
        // SAFETY: the region is ours alone and as long.
        unsafe { start.write_bytes(round + 1, BLOCK) };
        // SAFETY: `one` returns when the request has completed; the region lives until then.
        let segment = unsafe { Segment::new(start, BLOCK as u32, view.id) };
        for _ in 0..3 {
            let write = Request::new(Opcode::Write, Lba(u64::from(round)), 1, segment, 0);
            assert_eq!(drive.one(write), Status::SUCCESS);
            drive.completions.clear();
            drive.channel.poll(&mut drive.completions);
        }
        // The registry's, ours, and the queue's.
        assert_eq!(Arc::strong_count(&view.region), 3, "the queue has taken it up");
        regions.remove(view.id);
        gone.push(Arc::downgrade(&view.region));
    }
    drive.completions.clear();
    drive.channel.poll(&mut drive.completions);
    assert!(gone.iter().all(|region| region.upgrade().is_none()), "the queue has let go");
    let buffer = drive.buffer(5);
    assert_eq!(drive.transfer(Opcode::Read, 0, &buffer, 5), Status::SUCCESS);
    for (index, block) in buffer.bytes()[..5 * BLOCK].chunks(BLOCK).enumerate() {
        assert!(block.iter().all(|&byte| byte == index as u8 + 1), "block {index}");
    }
}

#[test]
fn closing_under_load_waits_for_the_kernel() {
    let folder = folder();
    let path = folder.path().join("disk.img");
    // Data, since holes are read without the device.
    fs::write(&path, vec![0x11; 2048 * BLOCK]).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    // The kernel lets go of a ring's files some time after the ring was closed, on a busy machine more than a moment.
    let mut options = options(&path);
    options.lock_patience = Duration::from_secs(10);
    for polls in [0, 1, 1, 1, 3] {
        let mut drive = Drive::open(options.clone());
        let mut buffers: Vec<Buffer> = (0..24).map(|_| drive.buffer(64)).collect();
        let mut requests: Vec<Request> = buffers
            .iter()
            .enumerate()
            .map(|(index, buffer)| {
                // SAFETY: the drop of the channel below returns only when no device uses the buffer.
                let segment = unsafe { buffer.segment(64 * BLOCK as u32) };
                Request::new(Opcode::Read, Lba(index as u64 * 64), 64, segment, 0)
            })
            .collect();
        requests.push(Request::bare(Opcode::Flush, Lba(0), 0, 0));
        requests.push(Request::bare(Opcode::Unmap, Lba(2000), 8, 0));
        assert_eq!(drive.channel.submit(&mut requests), requests.len());
        for _ in 0..polls {
            drive.channel.poll(&mut drive.completions);
        }
        drop(drive);
        for buffer in &mut buffers {
            buffer.bytes_mut().fill(0xaa);
        }
        // What was still under way would arrive while the same is read once more.
        let mut again = Drive::open(options.clone());
        let buffer = again.buffer(64);
        for lba in (0..24 * 64).step_by(64) {
            assert_eq!(again.transfer(Opcode::Read, lba, &buffer, 64), Status::SUCCESS);
        }
        assert!(buffers.iter().all(|buffer| buffer.bytes().iter().all(|&byte| byte == 0xaa)));
    }
}

#[test]
fn a_file_system_without_direct_io_is_served_through_the_cache() {
    // sysfs refuses O_DIRECT, and has one file of a few megabytes.
    let path = Path::new("/sys/kernel/btf/vmlinux");
    if fs::metadata(path).map_or(0, |metadata| metadata.len()) < 2 * BLOCK as u64 {
        eprintln!("skipped: no {}", path.display());
        return;
    }
    let mut options = options(path);
    options.readonly = true;
    let uring = Uring::create(options).unwrap();
    assert!(!uring.is_direct());
    assert_eq!(uring.driver_specific()["uring"]["direct"], json!(false));
    let mut drive = Drive::on(context(), uring);
    let buffer = drive.buffer(2);
    assert_eq!(drive.transfer(Opcode::Read, 0, &buffer, 2), Status::SUCCESS);
    assert_eq!(buffer.bytes()[..2 * BLOCK], fs::read(path).unwrap()[..2 * BLOCK]);
}

/// Undoes a mount or a loop device.
struct Undo(Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(&self.0[0]).args(&self.0[1..]).status();
    }
}

#[test]
fn a_full_file_system_is_reported_as_such() {
    let folder = folder();
    let at = folder.path().to_str().unwrap().to_string();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "weft-test", &at])
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    }
    let _undo = Undo(vec!["umount".into(), "-l".into(), at]);
    let mut drive = Drive::open(options(&file(folder.path(), 1 << 20)));
    let buffer = drive.buffer(64);
    let mut statuses = Vec::new();
    for lba in [0, 64, 128] {
        statuses.push(drive.transfer(Opcode::Write, lba, &buffer, 64));
    }
    assert!(statuses.contains(&Status::CAPACITY_EXCEEDED), "{statuses:?}");
    assert!(statuses.iter().all(|status| !status.is_success()), "{statuses:?}");
    // The device goes on.
    assert_eq!(drive.transfer(Opcode::Read, 0, &buffer, 1), Status::SUCCESS);
    if drive.channel.device().info().native.contains(Opcode::Unmap) {
        assert_eq!(drive.one(Request::bare(Opcode::Unmap, Lba(0), 256, 0)), Status::SUCCESS);
        assert_eq!(drive.transfer(Opcode::Write, 0, &buffer, 1), Status::SUCCESS);
    }
}

#[test]
fn a_block_device_serves_and_has_one_writer() {
    let folder = folder();
    let image = file(folder.path(), 512 * BLOCK as u64);
    let output = Command::new("losetup").args(["-f", "--show"]).arg(&image).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        eprintln!("skipped: a loop device needs root");
        return;
    };
    let device = String::from_utf8(output.stdout).unwrap().trim().to_string();
    let _undo = Undo(vec!["losetup".into(), "-d".into(), device.clone()]);
    let path = PathBuf::from(&device);
    let mut chosen = options(&path);
    chosen.block_size = None;
    // Whoever looks at new devices (udev) may have it open for a moment.
    chosen.lock_patience = Duration::from_secs(5);
    let uring = Uring::create(chosen.clone()).unwrap();
    assert_eq!(uring.info().geometry.block_size.bytes(), 512);
    assert_eq!(uring.info().geometry.blocks, BlockCount(512 * 8));
    chosen.lock_patience = Duration::ZERO;
    let error = Uring::create(chosen.clone()).err().expect("held");
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    drop(uring);
    chosen.block_size = Some(256);
    assert_eq!(Uring::create(chosen.clone()).err().unwrap().kind(), ErrorKind::Invalid);
    chosen.block_size = Some(BLOCK as u32);
    against_model(chosen, 512, 20, 6);
}
