//! Work that blocks in the kernel (pinning memory, resetting a function), done beside the reactor that waits for it.

use futures_channel::oneshot;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::base::{Error, ErrorKind, Result};

/// Starts `work` on a thread of its own, which may run on any core that the process may.
pub(super) fn start(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = std::thread::Builder::new().name("weft-vfio".into()).spawn(move || {
        // A thread inherits the mask of its creator, a reactor: it would take turns with it on its core.
        let mut everywhere = CpuSet::new();
        (0..CpuSet::MAX_CPU).for_each(|core| everywhere.set(core));
        // The kernel keeps to those that the process may use; where it refuses, the work is only slower.
        let _ = sched_setaffinity(None, &everywhere);
        work();
    });
    spawned.map(drop).map_err(|error| Error::os("cannot start a thread", error))
}

/// Does `work` on such a thread and waits for its result. It is done to the end even if nobody waits any more.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    start(move || {
        // Nobody waits for the result any more if this fails.
        let _ = sender.send(work());
    })?;
    receiver
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Canceled, "a thread of VFIO work died")))
}
