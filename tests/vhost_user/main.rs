//! The vhost-user messages against an implementation of others, in both roles, and against peers without manners.

mod hostile;
mod their_backend;
mod their_frontend;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft::base::ByteCount;
use weft::memory::{
    HUGE_PAGE_SIZE, HugePages, PoolOptions, Region, RegionOptions, Registry, Sharing,
};
use weft::reactor::{Context, Readiness};
use weft::virtio::vhost_user::Frontend;

/// Far beyond what anything here takes: what hangs fails the test instead of the run.
const PATIENCE: Duration = Duration::from_secs(60);

fn context() -> (Context, Readiness) {
    let pool = PoolOptions {
        huge_pages: HugePages::Never,
        grow: ByteCount(2 << 20),
        max: ByteCount(8 << 20),
        ..PoolOptions::default()
    };
    let cx = Context::detached(Registry::new(), pool);
    let readiness = Readiness::new(&cx).unwrap();
    (cx, readiness)
}

/// A front end, and the socket of its back end.
fn front_end(cx: &Context, readiness: &Readiness, patience: Duration) -> (Frontend, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ours = OwnedFd::from(ours);
    (Frontend::over(cx, readiness, ours, "test".into(), patience).unwrap(), theirs)
}

/// Turns the reactor until `done`.
fn turn_until(cx: &Context, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} does not happen");
        cx.turn();
    }
}

/// Memory that other processes can be given.
fn shared_region() -> Arc<Region> {
    let options = RegionOptions {
        huge_pages: HugePages::Never,
        sharing: Sharing::Always,
        ..RegionOptions::default()
    };
    Arc::new(Region::allocate(HUGE_PAGE_SIZE, options).unwrap())
}
