//! Virtual bdevs one by one: what an operator sees of them, and what random stacks seldom meet.

#[path = "support/bench.rs"]
mod bench;

use std::sync::Arc;

use bench::{Bench, Io, segment, spec};
use serde_json::json;
use weft::base::{BlockCount, BlockSize, Error, ErrorKind, Geometry, Lba, Result, Status, Uuid};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::vbdev::error::{self, Fault, Injection, Target};
use weft::bdev::vbdev::raid::RaidLevel;
use weft::bdev::vbdev::split::{self, SplitSpec};
use weft::bdev::vbdev::{delay, linear, passthru, stripe};
use weft::bdev::{Bdev, Info, OpClass, Opcode, Queue, Request};
use weft::memory::HugePages;
use weft::reactor::{Activity, Context};

/// The error of what must not succeed.
fn refused<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error,
    }
}

#[test]
fn more_pieces_than_a_scatter_list_holds_are_several_requests() {
    let bench = Bench::new();
    bench.malloc("a", 8192);
    bench.malloc("b", 8192);
    stripe::create(&bench.registry, spec("s", RaidLevel::Raid0, 1, &["a", "b"])).unwrap();
    let mut io = bench.open("s");
    // 4 MiB in strips of 1 KiB: 2048 pieces on each of two children.
    let mut data: Vec<u8> = (0..4 << 20).map(|i| (i / 512 * 7 + i % 251) as u8).collect();
    assert!(io.run(Opcode::Write, 3, &mut data).is_success());
    let mut read = vec![0; data.len()];
    assert!(io.run(Opcode::Read, 3, &mut read).is_success());
    assert!(read == data);
    let writes = bench.registry.get("a").unwrap().iostat();
    let writes = writes.class(OpClass::Write).ops;
    assert!((8..16).contains(&writes), "{writes} writes to a base for one of the stripe");
}

#[test]
fn contiguous_pieces_are_one_request_per_child() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.malloc(name, 4096);
    }
    stripe::create(&bench.registry, spec("s", RaidLevel::Raid0, 4, &["a", "b", "c"])).unwrap();
    let mut io = bench.open("s");
    // 20 strips, beginning and ending within one.
    let mut data = vec![7; 80 << 10];
    assert!(io.run(Opcode::Write, 5, &mut data).is_success());
    // A small one within a strip.
    assert!(io.run(Opcode::Write, 8, &mut data[..512]).is_success());
    let ops = |name| {
        let iostat = bench.registry.get(name).unwrap().iostat();
        iostat.class(OpClass::Write).ops
    };
    assert_eq!([ops("a"), ops("b"), ops("c")], [1, 2, 1]);
}

#[test]
fn facts_come_from_the_bases_and_must_agree() {
    let bench = Bench::new();
    bench.malloc("a", 1000);
    bench.malloc("b", 500);
    let geometry = Geometry::new(BlockSize::B4096, BlockCount(100)).unwrap();
    let c = Malloc::create("c", None, geometry, HugePages::Never).unwrap();
    bench.registry.register(c, Vec::new()).unwrap();
    let stripe = |strip, bases: &[&str]| {
        stripe::create(&bench.registry, spec("s", RaidLevel::Raid0, strip, bases))
    };
    let error = refused(stripe(4, &["a", "c"]));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("'a' has 512 bytes, 'c' has 4096"), "{error}");
    for (strip, bases) in [(0, &["a", "b"][..]), (3, &["a", "b"]), (2, &["c"]), (512, &["a"])] {
        assert_eq!(refused(stripe(strip, bases)).kind(), ErrorKind::Invalid, "{strip}");
    }
    assert_eq!(refused(stripe(4, &["a", "nowhere"])).kind(), ErrorKind::NoDevice);
    // Nothing of all that has left a claim behind.
    let s = stripe(4, &["a", "b"]).unwrap();
    // 500 blocks are 62 strips of 8.
    assert_eq!(s.geometry().blocks, BlockCount(2 * 62 * 8));
    assert_eq!(bench.registry.claimed_by("a"), Some("raid"));
    let error = refused(passthru::create(&bench.registry, "p", "a", None));
    assert_eq!(error.kind(), ErrorKind::NotPermitted);
    let l = linear::create(&bench.registry, spec("l", RaidLevel::Concat, 0, &["s"])).unwrap();
    assert_eq!(l.geometry().blocks, s.geometry().blocks);
}

/// A memory device that says that it keeps old data somewhere.
struct Keeps {
    info: Info,
    memory: Arc<Malloc>,
}

impl Bdev for Keeps {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        self.memory.open_queue(cx, depth)
    }
}

#[test]
fn a_device_erases_if_all_its_bases_do() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.malloc(name, 1000);
    }
    let geometry = Geometry::new(BlockSize::B512, BlockCount(1000)).unwrap();
    let memory = Malloc::create("k", None, geometry, HugePages::Never).unwrap();
    let info = Info { erases: false, ..memory.info().clone() };
    bench.registry.register(Arc::new(Keeps { info, memory }), Vec::new()).unwrap();
    let raid = |name, bases| {
        linear::create(&bench.registry, spec(name, RaidLevel::Concat, 0, bases)).unwrap()
    };
    let over = |base| passthru::create(&bench.registry, &format!("{base}p"), base, None).unwrap();
    assert!(raid("all", &["a", "b"]).info().erases);
    assert!(over("all").info().erases);
    assert!(!raid("some", &["k", "c"]).info().erases);
    assert!(!over("some").info().erases);
}

#[test]
fn configuration_and_reports_are_those_of_spdk() {
    let bench = Bench::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        bench.malloc(name, 4096);
    }
    let registry = &bench.registry;
    let uuid: Uuid = "11111111-2222-4333-8444-555555555555".parse().unwrap();
    let mut raid = spec("s", RaidLevel::Raid0, 4, &["a", "b"]);
    raid.uuid = uuid;
    let stripe = stripe::create(registry, raid).unwrap();
    let text = uuid.to_string();
    let base = |name| {
        let uuid = registry.get(name).unwrap().info().uuid.to_string();
        json!({"name": name, "uuid": uuid, "is_configured": true, "data_offset": 0,
            "data_size": 4096})
    };
    let driver = stripe.bdev().driver_specific();
    assert_eq!(
        driver,
        json!({"raid": {
            "uuid": text, "strip_size_kb": 4, "state": "online", "raid_level": "raid0",
            "superblock": false, "num_base_bdevs": 2, "num_base_bdevs_discovered": 2,
            "num_base_bdevs_operational": 2, "base_bdevs_list": [base("a"), base("b")],
        }})
    );
    let config = stripe.bdev().config();
    assert_eq!(config[0].method, "bdev_raid_create");
    assert_eq!(
        config[0].params,
        json!({"name": "s", "uuid": text, "strip_size_kb": 4, "raid_level": "raid0",
            "base_bdevs": ["a", "b"]})
    );
    let parts = SplitSpec { base: "c".into(), count: 2, size_mib: 1 };
    let parts = split::create(registry, &parts).unwrap();
    assert_eq!(
        parts[1].bdev().driver_specific(),
        json!({"split": {"base_bdev": "c", "offset_blocks": 2048}})
    );
    assert_eq!(parts.iter().map(|part| part.bdev().config().len()).sum::<usize>(), 1);
    assert_eq!(
        parts[0].bdev().config()[0].params,
        json!({"base_bdev": "c", "split_count": 2, "split_size_mb": 1})
    );
    let passthru = passthru::create(registry, "p", "d", Some(uuid_of(1))).unwrap();
    assert_eq!(
        passthru.bdev().config()[0].params,
        json!({"base_bdev_name": "d", "name": "p", "uuid": uuid_of(1).to_string()})
    );
    let error = error::create(registry, "e", None).unwrap();
    assert_eq!(error.name(), "EE_e");
    assert_eq!(error.bdev().driver_specific(), json!({"error_disk": {"base_bdev": "e"}}));
    let delay = delay::create(registry, "l", "f", Some(uuid_of(2)), [1, 2, 3, 4]).unwrap();
    let properties = json!({"name": "l", "base_bdev_name": "f", "uuid": uuid_of(2).to_string(),
        "avg_read_latency": 1, "p99_read_latency": 2, "avg_write_latency": 3,
        "p99_write_latency": 4});
    assert_eq!(delay.bdev().driver_specific(), json!({ "delay": properties }));
    assert_eq!(delay.bdev().config()[0].params, properties);
    delay::update_latency(registry, "l", delay::LatencyKind::P99Write, 70).unwrap();
    assert_eq!(delay.bdev().config()[0].params["p99_write_latency"], 70);
    assert!(delay::update_latency(registry, "p", delay::LatencyKind::P99Write, 70).is_err());
}

fn uuid_of(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

#[test]
fn a_split_shares_one_claim_and_goes_as_a_whole() {
    let bench = Bench::new();
    bench.malloc("m", 4096);
    let spec = SplitSpec { base: "m".into(), count: 3, size_mib: 0 };
    let parts = split::create(&bench.registry, &spec).unwrap();
    assert_eq!(bench.registry.claimed_by("m"), Some("split"));
    assert_eq!(refused(split::create(&bench.registry, &spec)).kind(), ErrorKind::Exists);
    drop(parts);
    // A part cannot be written beyond its end, nor into its neighbour.
    let mut io = bench.open("mp1");
    let mut block = [1; 512];
    assert_eq!(io.run(Opcode::Write, 1365, &mut block), Status::LBA_OUT_OF_RANGE);
    assert!(io.run(Opcode::Write, 1364, &mut block).is_success());
    drop(io);
    assert!(bench.open("mp2").run(Opcode::Read, 0, &mut block).is_success());
    assert_eq!(block, [0; 512]);
    assert!(bench.open("mp1").run(Opcode::Read, 1364, &mut block).is_success());
    assert_eq!(block, [1; 512]);
    bench.cx.block_on(split::delete(&bench.registry, "m")).unwrap();
    assert_eq!(bench.names(), ["m"]);
    assert_eq!(bench.registry.claimed_by("m"), None);
    let error = bench.cx.block_on(split::delete(&bench.registry, "m")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoDevice);
    // Fewer parts when there is no room for more.
    let spec = SplitSpec { base: "m".into(), count: 9, size_mib: 1 };
    assert_eq!(split::create(&bench.registry, &spec).unwrap().len(), 2);
    // And all of them go with the base.
    bench.unregister("m");
    assert!(bench.names().is_empty());
    for (count, size_mib) in [(0, 0), (1, 3), (5000, 0), (1, u64::MAX)] {
        bench.malloc("m", 4096);
        let spec = SplitSpec { base: "m".into(), count, size_mib };
        let error = refused(split::create(&bench.registry, &spec));
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        bench.unregister("m");
    }
}

#[test]
fn followers_follow_a_resize_and_the_others_keep_their_size() {
    let bench = Bench::new();
    for name in ["a", "b", "c", "d", "e"] {
        bench.malloc(name, 4096);
    }
    let registry = &bench.registry;
    passthru::create(registry, "p", "a", None).unwrap();
    // Also over each other.
    error::create(registry, "p", None).unwrap();
    delay::create(registry, "l", "b", None, [0; 4]).unwrap();
    stripe::create(registry, spec("s", RaidLevel::Raid0, 4, &["c"])).unwrap();
    linear::create(registry, spec("n", RaidLevel::Concat, 0, &["d"])).unwrap();
    split::create(registry, &SplitSpec { base: "e".into(), count: 1, size_mib: 0 }).unwrap();
    for base in ["a", "b", "c", "d", "e"] {
        registry.resize(base, BlockCount(2048)).unwrap();
    }
    let blocks = |name: &str| registry.get(name).unwrap().geometry().blocks.0;
    assert_eq!(["p", "EE_p", "l"].map(blocks), [2048; 3]);
    assert_eq!(["s", "n", "ep0"].map(blocks), [4096; 3]);
    let mut block = [0; 512];
    // What has gone is out of range, through a device that kept its size too.
    assert_eq!(bench.open("EE_p").run(Opcode::Read, 2048, &mut block), Status::LBA_OUT_OF_RANGE);
    assert_eq!(bench.open("s").run(Opcode::Read, 2048, &mut block), Status::LBA_OUT_OF_RANGE);
    assert!(bench.open("s").run(Opcode::Read, 2047, &mut block).is_success());
}

#[test]
fn faults_hit_as_many_requests_as_asked() {
    let bench = Bench::new();
    bench.malloc("m", 4096);
    error::create(&bench.registry, "m", None).unwrap();
    let mut io = bench.open("EE_m");
    let mut other = bench.open("EE_m");
    let inject = |target, fault, count| {
        let injection = Injection { fault, count, queue_depth: 0 };
        error::inject(&bench.registry, "EE_m", target, injection)
    };
    let mut block = [3; 512];
    inject(Target::Opcode(Opcode::Write), Fault::Failure, 2).unwrap();
    assert!(io.run(Opcode::Read, 0, &mut block).is_success());
    block = [3; 512];
    // One count for all queues.
    assert_eq!(io.run(Opcode::Write, 0, &mut block), Status::INTERNAL_ERROR);
    assert_eq!(other.run(Opcode::Write, 0, &mut block), Status::INTERNAL_ERROR);
    assert!(io.run(Opcode::Write, 0, &mut block).is_success());
    inject(Target::All, Fault::NvmeFailure(Status::WRITE_FAULT), 100).unwrap();
    assert_eq!(other.run(Opcode::Read, 0, &mut block), Status::WRITE_FAULT);
    error::clear(&bench.registry, "EE_m").unwrap();
    assert!(other.run(Opcode::Read, 0, &mut block).is_success());
    // One that found no resources is tried again until the count is used up.
    inject(Target::All, Fault::NoMemory, 3).unwrap();
    assert!(io.run(Opcode::Read, 0, &mut block).is_success());
    assert_eq!(block, [3; 512]);
    for (target, fault) in [
        (Target::Opcode(Opcode::Compare), Fault::Failure),
        (Target::All, Fault::CorruptData { offset: 0, value: 0 }),
    ] {
        assert_eq!(inject(target, fault, 1).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(error::clear(&bench.registry, "m").unwrap_err().kind(), ErrorKind::NoDevice);
}

#[test]
fn corruption_changes_one_byte_and_leaves_the_submitters_memory() {
    let bench = Bench::new();
    bench.malloc("m", 16384);
    error::create(&bench.registry, "m", None).unwrap();
    let mut io = bench.open("EE_m");
    let inject = |opcode, offset| {
        let fault = Fault::CorruptData { offset, value: 0x81 };
        let injection = Injection { fault, count: 1, queue_depth: 0 };
        error::inject(&bench.registry, "EE_m", Target::Opcode(opcode), injection).unwrap();
    };
    // Longer than one buffer of the pool.
    let data: Vec<u8> = (0..5 << 20).map(|i| (i % 253) as u8).collect();
    let mut written = data.clone();
    inject(Opcode::Write, (4 << 20) + 17);
    assert!(io.run(Opcode::Write, 1, &mut written).is_success());
    assert!(written == data);
    let mut read = vec![0; data.len()];
    assert!(io.run(Opcode::Read, 1, &mut read).is_success());
    let mut expected = data.clone();
    expected[(4 << 20) + 17] ^= 0x81;
    assert!(read == expected);
    inject(Opcode::Read, 5);
    assert!(io.run(Opcode::Read, 1, &mut read).is_success());
    expected[5] ^= 0x81;
    assert!(read == expected);
    // Only what was read was damaged, not what is stored. Beyond the payload nothing happens.
    inject(Opcode::Read, 1 << 30);
    assert!(io.run(Opcode::Read, 1, &mut read).is_success());
    expected[5] ^= 0x81;
    assert!(read == expected);
}

#[test]
fn what_hangs_goes_on_or_ends() {
    let bench = Bench::new();
    bench.malloc("m", 4096);
    error::create(&bench.registry, "m", None).unwrap();
    let pending = |count| {
        let injection = Injection { fault: Fault::Pending, count, queue_depth: 0 };
        error::inject(&bench.registry, "EE_m", Target::All, injection).unwrap();
    };
    let mut block = [3; 512];
    let write = Request::new(Opcode::Write, Lba(0), 1, segment(&mut block), 1);
    let mut io = bench.open("EE_m");
    let hang = |io: &mut Io| {
        io.submit(write);
        for _ in 0..10 {
            assert_eq!(io.poll(), (Activity::Waiting, None));
        }
    };
    pending(1);
    hang(&mut io);
    error::resume_pending(&bench.registry, "EE_m").unwrap();
    assert_eq!(io.wait(), Status::SUCCESS);
    // A reset on any queue of the device ends what hangs.
    pending(1);
    hang(&mut io);
    let mut other = bench.open("EE_m");
    other.submit(Request::bare(Opcode::Reset, Lba(0), 0, 2));
    assert_eq!(other.wait(), Status::SUCCESS);
    assert_eq!(io.wait(), Status::ABORTED_BY_REQUEST);
    drop(other);
    // So does the removal of the device, whoever removes it.
    pending(1);
    hang(&mut io);
    let registry = bench.registry.clone();
    bench.cx.spawn(async move { registry.unregister("EE_m").await.unwrap() });
    assert_eq!(io.wait(), Status::ABORTED_BY_REQUEST);
    drop(io);
    while bench.registry.find("EE_m").is_some() {
        bench.cx.turn();
    }
}

#[test]
fn a_delay_lasts_as_long_as_it_says_and_no_longer_than_the_device() {
    let bench = Bench::new();
    bench.malloc("m", 4096);
    let hour = 3_600_000_000;
    let slow = delay::create(&bench.registry, "l", "m", None, [0, 0, hour, hour]).unwrap();
    let mut io = bench.open("l");
    let mut block = [3; 512];
    let write = Request::new(Opcode::Write, Lba(0), 1, segment(&mut block), 1);
    let mut target = [0; 512];
    assert!(io.run(Opcode::Read, 0, &mut target).is_success());
    let wait = |io: &mut Io| {
        io.submit(write);
        while io.poll().0 == Activity::Busy {}
        for _ in 0..10 {
            assert_eq!(io.poll(), (Activity::Waiting, None));
        }
    };
    wait(&mut io);
    // A reset on the same queue ends the wait: first the write, then the reset.
    io.submit(Request::bare(Opcode::Reset, Lba(0), 0, 2));
    for _ in 0..1000 {
        io.cx.turn();
        io.completions.clear();
        io.channel.poll(&mut io.completions);
        if !io.completions.is_empty() {
            break;
        }
    }
    let done: Vec<_> = io.completions.as_slice().iter().map(|c| (c.token, c.status)).collect();
    assert_eq!(done, [(1, Status::SUCCESS), (2, Status::SUCCESS)]);
    // A change at run time is for requests that come after it.
    for kind in [delay::LatencyKind::AverageWrite, delay::LatencyKind::P99Write] {
        delay::update_latency(&bench.registry, "l", kind, 300).unwrap();
    }
    let before = std::time::Instant::now();
    io.submit(write);
    assert_eq!(io.wait(), Status::SUCCESS);
    assert!(before.elapsed() >= std::time::Duration::from_micros(300));
    for kind in [delay::LatencyKind::AverageWrite, delay::LatencyKind::P99Write] {
        delay::update_latency(&bench.registry, "l", kind, hour).unwrap();
    }
    wait(&mut io);
    let registry = bench.registry.clone();
    bench.cx.spawn(async move { registry.unregister("m").await.unwrap() });
    assert_eq!(io.wait(), Status::SUCCESS);
    drop((io, slow));
    while !bench.names().is_empty() {
        bench.cx.turn();
    }
}
