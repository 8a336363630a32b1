//! Reactors: one pinned thread per core that polls everything it owns.
//!
//! A reactor owns its pollers, its buffer pool, its timers and its local `async` executor; nothing of
//! that is shared. Between reactors go [`Message`](crate::reactor)s through bounded rings.

mod clock;
mod context;
mod poller;

pub use clock::Tsc;
pub use context::{Context, WakeGuard};
pub use poller::{Activity, Poller, PollerId};
