//! What the generic layer costs: batches through a channel on the null device, in ns and (under callgrind)
//! instructions per I/O.
//!
//! `cargo bench --bench channel [-- ROUNDS [DEPTH [LAYER]]]`, where LAYER is `queue` or `channel`; for
//! instructions, run the built binary with all three under
//! `valgrind --tool=callgrind --toggle-collect='*timed_loop*'` and divide by 32 * ROUNDS.

use std::ptr::NonNull;
use std::time::Instant;

use weft::base::{BlockCount, BlockSize, Geometry, Lba};
use weft::bdev::leaf::null::Null;
use weft::bdev::{Completions, Device, Opcode, Queue, Request};
use weft::memory::{PoolOptions, RegionId, Registry, Segment};
use weft::reactor::Context;

const BLOCKS: u64 = 1 << 28;

#[inline(never)]
fn timed_loop(
    queue: &mut dyn Queue,
    cx: &Context,
    requests: &mut [Request],
    completions: &mut Completions,
    rounds: u64,
) -> u64 {
    let mut done = 0;
    let mut lba = 0u64;
    for _ in 0..rounds {
        for request in requests.iter_mut() {
            lba =
                lba.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *request = Request::new(
                Opcode::Read,
                Lba((lba >> 16) & (BLOCKS - 1)),
                1,
                request.first_segment(),
                done,
            );
        }
        let taken = queue.submit(requests);
        assert_eq!(taken, requests.len());
        queue.poll(completions);
        done += completions.len() as u64;
        completions.clear();
        std::hint::black_box(cx);
    }
    done
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |index: usize| arguments.get(index).and_then(|a| a.parse::<u64>().ok());
    let ios = number(0).unwrap_or(1_000_000) * 32;
    let only = number(1);
    let layer = arguments.get(2);
    let repetitions = if layer.is_some() { 1 } else { 5 };
    let geometry = Geometry::new(BlockSize::B4096, BlockCount(BLOCKS)).expect("a valid geometry");
    let device = Device::new(Null::create("null", None, geometry));
    let cx = Context::detached(Registry::new(), PoolOptions::default());
    let mut channel = device.open_channel(&cx, 256).expect("a channel");
    let mut bare = device.bdev().open_queue(&cx, 256).expect("a queue");
    let mut memory = vec![0u8; 8192];
    let start = memory.as_mut_ptr();
    let address = NonNull::new(start.wrapping_add(start.align_offset(4096))).expect("not null");
    // SAFETY: `memory` outlives the requests, and the null device does not touch it.
    let segment = unsafe { Segment::new(address, 4096, RegionId::NONE) };
    let mut completions = Completions::with_capacity(256);
    for depth in [1usize, 32, 128] {
        if only.is_some_and(|only| only != depth as u64) {
            continue;
        }
        let mut requests = vec![Request::new(Opcode::Read, Lba(0), 1, segment, 0); depth];
        let rounds = ios / depth as u64;
        for (name, queue) in [("queue", &mut *bare), ("channel", &mut channel as &mut dyn Queue)] {
            if layer.is_some_and(|layer| layer != name) {
                continue;
            }
            let mut best = f64::MAX;
            for _ in 0..repetitions {
                let begin = Instant::now();
                let done =
                    timed_loop(queue, &cx, &mut requests, &mut completions, rounds / repetitions);
                best = best.min(begin.elapsed().as_secs_f64() * 1e9 / done as f64);
            }
            println!("null, {name:7}, QD {depth:3}: {best:6.2} ns/IO");
        }
    }
}
