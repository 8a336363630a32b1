//! One NVMe controller, used from several reactors at once, through resets: what only shows between threads.

use std::sync::Arc;
use std::time::Duration;

use weft::base::Lba;
use weft::bdev::leaf::nvme::Controllers;
use weft::bdev::{Completions, ConfigEntry, Device, Opcode, Queue, Registry, Request};
use weft::memory::{Buffer, HugePages, PoolOptions};
use weft::nvme::ControllerOptions;
use weft::nvme::model::{Model, ModelOptions, NamespaceOptions};
use weft::nvme::vfio::VfioOptions;
use weft::reactor::{self, Context, CoreList, IdlePolicy, ReactorOptions, Reactors};

/// Requests in flight on each reactor.
const DEPTH: usize = 16;
/// Blocks that each reactor writes and reads: its own.
const BLOCKS: u64 = 512;
const BLOCK: usize = 512;
const PASSES: u8 = 20;

/// Fills the blocks of `reactor` and reads them back, pass after pass. Returns how many requests it made.
async fn exercise(cx: Context, device: Arc<Device>, reactor: u64) -> u64 {
    let mut channel = device.open_channel(&cx, DEPTH as u32).expect("a queue for each reactor");
    let mut buffers: Vec<Buffer> =
        (0..DEPTH).map(|_| cx.pool().take(BLOCK).expect("buffer")).collect();
    let mut completions = Completions::with_capacity(DEPTH);
    let mut requests = 0;
    for pass in 0..PASSES {
        for opcode in [Opcode::Write, Opcode::Read] {
            let mut next = 0;
            let mut idle: Vec<usize> = (0..DEPTH).collect();
            let mut lbas = [0; DEPTH];
            while next < BLOCKS || idle.len() < DEPTH {
                while next < BLOCKS
                    && let Some(slot) = idle.pop()
                {
                    let fill = if opcode == Opcode::Write { mark(pass, reactor, next) } else { 0 };
                    buffers[slot].bytes_mut()[..BLOCK].fill(fill);
                    // SAFETY: the buffer is not looked at before the request has completed.
                    let segment = unsafe { buffers[slot].segment(BLOCK as u32) };
                    let lba = Lba(reactor * BLOCKS + next);
                    let request = Request::new(opcode, lba, 1, segment, slot as u64);
                    if channel.submit(&mut [request]) == 0 {
                        idle.push(slot);
                        break;
                    }
                    lbas[slot] = next;
                    next += 1;
                    requests += 1;
                }
                completions.clear();
                channel.poll(&mut completions);
                for completion in &completions {
                    let slot = completion.token as usize;
                    assert!(completion.status.is_success(), "{}", completion.status);
                    if opcode == Opcode::Read {
                        let wanted = mark(pass, reactor, lbas[slot]);
                        assert!(buffers[slot].bytes()[..BLOCK].iter().all(|byte| *byte == wanted));
                    }
                    idle.push(slot);
                }
                cx.yield_now().await;
            }
        }
    }
    requests
}

fn mark(pass: u8, reactor: u64, block: u64) -> u8 {
    (u64::from(pass) * 31 + reactor * 7 + block) as u8
}

async fn body(cx: Context, reactors: Reactors) {
    let namespace =
        NamespaceOptions { blocks: BLOCKS * reactors.len() as u64, ..NamespaceOptions::default() };
    let options = ModelOptions { namespaces: vec![namespace], ..ModelOptions::default() };
    let model = Model::new(options);
    let _running = model.run();
    let registry = Registry::new(&cx);
    let controllers = Controllers::new(&registry, Some(reactors.clone()), VfioOptions::default());
    // Each reset sends again what it found outstanding.
    let options = ControllerOptions { retries: u8::MAX, ..ControllerOptions::default() };
    let config = ConfigEntry { method: "", params: serde_json::json!({}) };
    let names = controllers
        .attach_transport("Nvme0", model.transport(), options, config)
        .await
        .expect("attach");
    let device = registry.get(&names[0]).expect("bdev");
    let controller = controllers.get("Nvme0").expect("attached").controller;
    assert_eq!(controller.io_queues(), reactors.len());
    let mut exercises = Vec::new();
    for reactor in 0..reactors.len() {
        let device = Arc::clone(&device);
        exercises.push(reactors.call_async(reactor, async move |cx: Context| {
            exercise(cx, device, reactor as u64).await
        }));
    }
    let resets = async {
        for _ in 0..10 {
            controller.request_reset().await.expect("reset");
            cx.sleep(Duration::from_millis(2)).await;
        }
    };
    resets.await;
    for exercise in exercises {
        assert_eq!(exercise.await.expect("reactor"), 2 * BLOCKS * u64::from(PASSES));
    }
    // Each pair was used, and has come back.
    let stats = controller.stats().await;
    assert_eq!(stats.len(), reactors.len());
    assert!(stats.iter().all(|(_, stats)| stats.completions > 0), "{stats:?}");
    drop(device);
    controllers.detach("Nvme0").await.expect("detach");
    assert_eq!(model.faults(), []);
}

#[test]
fn reactors_share_a_controller_through_resets() {
    let Ok(cores) = "0-1".parse::<CoreList>() else {
        println!("skipped: this process may not use cores 0 and 1");
        return;
    };
    let pool = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
    let options = ReactorOptions { idle: IdlePolicy::Adaptive, pool, ..ReactorOptions::new(cores) };
    reactor::run(options, body).expect("reactors");
}
