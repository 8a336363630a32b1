//! Where a controller's socket is, and the poller that moves its bytes.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::connection::Connection;
use crate::base::Result;
use crate::reactor::{Activity, Context, PollerId, Tsc, WakeGuard};

/// The socket in a directory that stands for a controller, as SPDK's target makes it.
const SOCKET_NAME: &str = "cntrl";

/// How often a quiet connection is looked at, for requests of the server's and hang-ups.
const PERIOD: Duration = Duration::from_millis(1);

/// The socket that `path` stands for.
pub fn path_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(SOCKET_NAME) } else { path.to_owned() }
}

/// Moves the bytes of `connection` on the reactor of `cx`, until the connection fails or goes.
///
/// # Errors
/// When the process has no descriptors left.
pub fn watch(cx: &Context, connection: &Arc<Connection>) -> Result<()> {
    let wake = cx.wake_on(connection.socket().as_fd())?;
    let id = Rc::new(Cell::new(None));
    let mut watcher = Watcher {
        connection: Arc::downgrade(connection),
        next_look: cx.now(),
        period: Tsc::ticks(PERIOD),
        id: Rc::clone(&id),
        _wake: wake,
    };
    let poll = move |cx: &Context| watcher.poll(cx);
    id.set(Some(cx.add_poller("vfio_user", None, Box::new(poll))));
    Ok(())
}

struct Watcher {
    connection: Weak<Connection>,
    next_look: Tsc,
    /// In ticks.
    period: u64,
    id: Rc<Cell<Option<PollerId>>>,
    _wake: WakeGuard,
}

impl Watcher {
    fn poll(&mut self, cx: &Context) -> Activity {
        let Some(connection) = self.connection.upgrade() else { return self.end(cx) };
        if !connection.is_eager() && cx.now() < self.next_look {
            return Activity::Idle;
        }
        let moved = connection.look();
        if connection.has_failed() {
            return self.end(cx);
        }
        if moved {
            // Where one message was, the next one is likely soon.
            self.next_look = cx.now();
            Activity::Busy
        } else {
            self.next_look = cx.now().after(self.period);
            // Room in the socket for what is unsent wakes nobody; bytes that arrive do.
            if connection.is_eager() && connection.has_unsent() {
                Activity::Waiting
            } else {
                Activity::Idle
            }
        }
    }

    fn end(&self, cx: &Context) -> Activity {
        if let Some(id) = self.id.get() {
            cx.remove_poller(id);
        }
        Activity::Busy
    }
}
