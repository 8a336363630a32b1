//! The benchmark tool.

mod core;
mod empty;
mod load;
mod measure;
mod payload;
mod plan;
mod verify;
mod worker;

use std::sync::Arc;
use weft::base::*;
use weft::bdev::{leaf::null::Null, Device};
use weft::memory::*;
use weft::reactor::*;
use crate::worker::*;
use crate::load::*;

fn run<Q: weft::bdev::Queue + 'static>(cx: &Context, what: &str, depth: u32, workload: plan::Workload, queue: Q, tsc: f64) {
    let geometry = Geometry::new(BlockSize::B4096, BlockCount(1<<18)).unwrap();
    let mut job = plan::JobPlan { name: "x".into(), workload, depth, sizes: parse_size_mix("4K").unwrap(), read_percent: 50, rate: None,
      offsets: if std::env::args().nth(1).as_deref() == Some("zipf") {plan::Offsets::Zipf(0.99)} else {plan::Offsets::Uniform}, range: None, seed: 1, count: None, fua: false, devices: vec![],
      verify: plan::VerifyPlan{only:false,generation:1,passes:plan::Passes::Count(1)} };
    job.depth = depth;
    let extent = job.extent_on("n", geometry).unwrap();
    let load = Generator::new(&job, BlockSize::B4096, extent, (0,1), 0);
    let payloads = payload::Payloads::take(cx.pool(), depth as usize, 4096, 12, &mut random::Random::new(1,1)).unwrap();
    let worker = Worker::new(WorkerParts { queue, load, payloads, depth, block_shift: 12, pacing: None, count: None, progress: Arc::default(), drain_ticks: 1<<33 });
    let signals = Arc::new(core::Signals::default());
    let outcome = Arc::new(core::Outcome::default());
    let timing = core::Timing { warmup: (0.1*tsc) as u64, duration: (0.4*tsc) as u64, period: (0.1*tsc) as u64 };
    let mut core = core::Core::new(vec![Box::new(worker)], signals.clone(), outcome.clone(), timing);
    signals.start();
    let result = loop {
        for _ in 0..1000 { cx.turn(); core.poll(cx); }
        if let Some(r) = outcome.take() { break r; }
    };
    let w = &result.workers[0];
    let secs = w.ticks as f64 / tsc;
    println!("{what} {:?} qd {depth}: {:.1} M IOPS, {:.2} ns/IO, busy {:.1} cycles/IO", workload, w.measure.ops() as f64 / secs / 1e6, secs*1e9 / w.measure.ops() as f64, w.busy_ticks as f64 / w.measure.ops() as f64);
}

fn main() {
    let t0 = (std::time::Instant::now(), Tsc::read());
    std::thread::sleep(std::time::Duration::from_millis(50));
    let tsc = (Tsc::read().0 - t0.1.0) as f64 / t0.0.elapsed().as_secs_f64();
    let cx = Context::detached(Registry::new(), PoolOptions::default());
    for workload in [plan::Workload::RandRead, plan::Workload::RandRw] {
    for depth in [1, 32, 128] {
        run(&cx, "empty", depth, workload, empty::EmptyQueue::new(depth), tsc);
        let geometry = Geometry::new(BlockSize::B4096, BlockCount(1<<18)).unwrap();
        let device = Device::new(Null::create("n", None, geometry));
        let channel = device.open_channel(&cx, depth).unwrap();
        run(&cx, "null", depth, workload, channel, tsc);
    } }
}
