//! The vfio-user client against servers in other threads: honest ones, and ones that are not.

mod hostile;
mod model;
mod peer;
mod published;
mod requests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft::base::{ByteCount, Result};
use weft::memory::{
    HUGE_PAGE_SIZE, HugePages, PoolOptions, Region, RegionOptions, RegionView, Registry, Sharing,
};
use weft::nvme::Transport;
use weft::nvme::vfio_user::{self, ConnectOptions};
use weft::reactor::Context;

/// Far beyond what anything here takes: what hangs fails the test instead of the run.
const PATIENCE: Duration = Duration::from_secs(60);

fn context() -> Context {
    let pool = PoolOptions {
        huge_pages: HugePages::Never,
        grow: ByteCount(2 << 20),
        max: ByteCount(8 << 20),
        ..PoolOptions::default()
    };
    Context::detached(Registry::new(), pool)
}

fn options() -> ConnectOptions {
    ConnectOptions { message_timeout: PATIENCE, ..ConnectOptions::default() }
}

fn connect(cx: &Context, path: &Path) -> Result<Arc<dyn Transport>> {
    cx.block_on(vfio_user::connect(cx, path, &options()))
}

/// Turns the reactor until `done`.
fn turn_until(cx: &Context, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} does not happen");
        cx.turn();
    }
}

/// Two megabytes that other processes can be given.
fn shared_memory(registry: &Registry) -> RegionView {
    let region = Region::allocate(
        HUGE_PAGE_SIZE,
        RegionOptions {
            huge_pages: HugePages::Never,
            sharing: Sharing::Always,
            ..RegionOptions::default()
        },
    );
    registry.add(Arc::new(region.unwrap())).unwrap()
}

fn store(region: &RegionView, at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= region.region.len());
    // SAFETY: inside of the region, which only this test uses.
    unsafe {
        let to = region.region.start().as_ptr().add(at);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
    }
}

fn load(region: &RegionView, at: usize, length: usize) -> Vec<u8> {
    assert!(at + length <= region.region.len());
    // SAFETY: as in `store`.
    unsafe { std::slice::from_raw_parts(region.region.start().as_ptr().add(at), length).to_vec() }
}
