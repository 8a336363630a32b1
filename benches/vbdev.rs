//! What virtual bdevs cost: nanoseconds per 4 KiB read, over null devices.
//!
//! `cargo bench --bench vbdev`. Every path is measured several times, in turn with the others, and the
//! best round counts: on a shared machine the others measure the neighbours.

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use weft::base::{BlockCount, BlockSize, Geometry, Lba, Uuid};
use weft::bdev::leaf::null::Null;
use weft::bdev::vbdev::raid::{RaidLevel, RaidSpec};
use weft::bdev::vbdev::split::{self, SplitSpec};
use weft::bdev::vbdev::{delay, error, linear, passthru, stripe};
use weft::bdev::{Completions, Device, Opcode, Queue, Registry, Request};
use weft::memory::{PoolOptions, RegionId, Registry as Regions, Segment};
use weft::reactor::Context;

const BLOCK: u32 = 4096;
const BLOCKS: u64 = 1 << 20;
const ROUNDS: usize = 7;
const DEPTHS: [usize; 3] = [1, 32, 128];

struct Bench {
    cx: Context,
    registry: Registry,
    count: usize,
}

impl Bench {
    fn null(&mut self) -> String {
        self.count += 1;
        let name = format!("Null{}", self.count);
        let geometry = Geometry::new(BlockSize::B4096, BlockCount(BLOCKS)).unwrap();
        self.registry.register(Null::create(&name, None, geometry), Vec::new()).unwrap();
        name
    }

    fn raid(&mut self, name: &str, level: RaidLevel, count: usize) -> Arc<Device> {
        let spec = RaidSpec {
            name: name.into(),
            uuid: Uuid::new_v4(),
            level,
            strip_size_kb: 64,
            base_bdevs: (0..count).map(|_| self.null()).collect(),
            superblock: false,
        };
        match level {
            RaidLevel::Concat => linear::create(&self.registry, spec).unwrap(),
            _ => stripe::create(&self.registry, spec).unwrap(),
        }
    }
}

/// Nanoseconds per request of `blocks` blocks at queue depth `depth`.
fn measure(cx: &Context, device: &Arc<Device>, depth: usize, blocks: u32, total: usize) -> f64 {
    let mut channel = device.open_channel(cx, depth as u32).unwrap();
    let mut completions = Completions::with_capacity(depth);
    let mut payload = vec![0_u8; (blocks * BLOCK) as usize];
    // SAFETY: null devices do not touch the payload, and it outlives the channel's last completion.
    let segment = unsafe {
        Segment::new(NonNull::new(payload.as_mut_ptr()).unwrap(), blocks * BLOCK, RegionId::NONE)
    };
    // Offsets that look random, drawn beforehand: the benchmark's own cost stays small.
    let span = device.geometry().blocks.0 - u64::from(blocks);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let offsets: Vec<u64> = (0..4096)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % span
        })
        .collect();
    let mut batch: Vec<Request> = Vec::with_capacity(depth);
    let (mut next, mut done) = (0, 0);
    let mut idle = depth;
    let start = Instant::now();
    while done < total {
        cx.turn();
        for _ in 0..idle {
            let lba = Lba(offsets[next % offsets.len()]);
            batch.push(Request::new(Opcode::Read, lba, blocks, segment, next as u64));
            next += 1;
        }
        let taken = channel.submit(&mut batch);
        assert_eq!(taken, batch.len());
        batch.clear();
        completions.clear();
        channel.poll(&mut completions);
        idle = completions.len();
        done += idle;
        for completion in black_box(&completions) {
            assert!(completion.status.is_success());
        }
    }
    start.elapsed().as_nanos() as f64 / done as f64
}

fn main() {
    let cx = Context::detached(Regions::new(), PoolOptions::default());
    let registry = Registry::new(&cx);
    let mut bench = Bench { cx, registry, count: 0 };
    let null = bench.null();
    let null = bench.registry.get(&null).unwrap();
    let over = |bench: &mut Bench| bench.null();
    let base = over(&mut bench);
    let passthru = passthru::create(&bench.registry, "Passthru", &base, None).unwrap();
    let base = over(&mut bench);
    let part = split::create(&bench.registry, &SplitSpec { base, count: 1, size_mib: 0 })
        .unwrap()
        .remove(0);
    let base = over(&mut bench);
    let error = error::create(&bench.registry, &base, None).unwrap();
    let base = over(&mut bench);
    let delay = std::env::var_os("WEFT_BENCH_DELAY")
        .map(|_| delay::create(&bench.registry, "Delay", &base, None, [0; 4]).unwrap());
    let mut paths: Vec<(&str, Arc<Device>, u32)> = vec![
        ("null", Arc::clone(&null), 1),
        ("passthru", passthru, 1),
        ("split", part, 1),
        ("error, nothing injected", error, 1),
        ("linear over 4", bench.raid("Linear", RaidLevel::Concat, 4), 1),
        ("stripe over 1", bench.raid("Stripe1", RaidLevel::Raid0, 1), 1),
        ("stripe over 3", bench.raid("Stripe3", RaidLevel::Raid0, 3), 1),
        ("stripe over 4", bench.raid("Stripe4", RaidLevel::Raid0, 4), 1),
        ("null, 128 KiB", null, 32),
        ("stripe over 4, 128 KiB, any alignment", bench.raid("Wide", RaidLevel::Raid0, 4), 32),
    ];
    paths.extend(delay.map(|delay| ("delay of 0", delay, 1)));
    let mut best = vec![[f64::INFINITY; DEPTHS.len()]; paths.len()];
    for _ in 0..ROUNDS {
        for (path, best) in paths.iter().zip(&mut best) {
            for (depth, best) in DEPTHS.iter().zip(best) {
                let total = if *depth == 1 { 300_000 } else { 1_000_000 };
                *best = best.min(measure(&bench.cx, &path.1, *depth, path.2, total));
            }
        }
    }
    println!("{:40} {:>9} {:>9} {:>9}", "ns per I/O", "QD 1", "QD 32", "QD 128");
    for (path, best) in paths.iter().zip(&best) {
        println!("{:40} {:9.1} {:9.1} {:9.1}", path.0, best[0], best[1], best[2]);
    }
}
