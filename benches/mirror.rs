//! What a mirror adds: 4 KiB requests at several depths on a mirror over two null devices, beside one null
//! device, in ns per request. `cargo bench --bench mirror`.

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use weft::base::{BlockCount, BlockSize, Geometry, Lba, Uuid};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::leaf::null::Null;
use weft::bdev::vbdev::Raids;
use weft::bdev::vbdev::mirror::MirrorKind;
use weft::bdev::vbdev::raid::{RaidLevel, RaidSpec};
use weft::bdev::{Completions, Device, Opcode, Queue, Registry, Request};
use weft::memory::{HugePages, PoolOptions, RegionId, Registry as Regions, Segment};
use weft::reactor::Context;

const BLOCKS: u64 = 1 << 16;
const REQUESTS: usize = 4_000_000;

fn measure(cx: &Context, device: &Arc<Device>, opcode: Opcode, depth: usize) -> f64 {
    let mut channel = device.open_channel(cx, depth as u32).expect("a channel");
    let mut completions = Completions::with_capacity(depth);
    let mut memory = vec![0_u8; 8192];
    let start = memory.as_mut_ptr();
    let address = NonNull::new(start.wrapping_add(start.align_offset(4096))).expect("not null");
    // SAFETY: `memory` outlives the requests, and nothing looks at it meanwhile.
    let segment = unsafe { Segment::new(address, 4096, RegionId::NONE) };
    let blocks = device.geometry().blocks.0;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut batch: Vec<Request> = Vec::with_capacity(depth);
    let mut run = |requests: usize| {
        let (mut done, mut idle, mut next) = (0, depth, 0);
        let begun = Instant::now();
        while done < requests {
            cx.turn();
            for _ in 0..idle {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                batch.push(Request::new(opcode, Lba(random % blocks), 1, segment, next));
                next += 1;
            }
            let taken = channel.submit(&mut batch);
            batch.drain(..taken);
            completions.clear();
            channel.poll(&mut completions);
            idle = completions.len();
            done += idle;
            for completion in black_box(&completions) {
                assert!(completion.status.is_success());
            }
        }
        begun.elapsed().as_nanos() as f64 / done as f64
    };
    // The intent map is warm after this.
    run(REQUESTS / 10);
    (0..5).map(|_| run(REQUESTS / 5)).fold(f64::MAX, f64::min)
}

fn main() {
    let cx = Context::detached(Regions::new(), PoolOptions::default());
    let registry = Registry::new(&cx);
    let raids = Raids::new(&registry);
    raids.add_kind(MirrorKind::new(&registry, &raids));
    let geometry = Geometry::new(BlockSize::B4096, BlockCount(BLOCKS)).expect("a geometry");
    for name in ["Null0", "Null1", "Null2"] {
        registry.register(Null::create(name, None, geometry), Vec::new()).expect("a null device");
    }
    let mut names = vec!["Null0".to_owned()];
    let labelled = std::env::args().any(|argument| argument == "--label");
    let mut make = |name: &str, bases: [&str; 2], superblock: bool| {
        let spec = RaidSpec {
            name: name.into(),
            uuid: Uuid::new_v4(),
            level: RaidLevel::Raid1,
            strip_size_kb: 0,
            base_bdevs: bases.iter().map(ToString::to_string).collect(),
            superblock,
        };
        cx.block_on(raids.create(spec)).expect("a mirror");
        names.push(name.into());
    };
    make("Mirror", ["Null1", "Null2"], false);
    if labelled {
        for name in ["Malloc0", "Malloc1"] {
            let device = Malloc::create(name, None, geometry, HugePages::Try).expect("memory");
            registry.register(device, Vec::new()).expect("a malloc device");
        }
        make("Labelled", ["Malloc0", "Malloc1"], true);
    }
    for depth in [1, 32, 128] {
        for opcode in [Opcode::Read, Opcode::Write] {
            print!("QD {depth:3} {:5}:", opcode.name());
            for name in &names {
                let device = registry.get(name).expect("a device");
                print!("  {name} {:6.1}", measure(&cx, &device, opcode, depth));
            }
            println!();
        }
    }
    cx.close();
}
