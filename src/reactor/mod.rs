//! Reactors: one pinned thread per core that polls everything it owns.
//!
//! A reactor owns its pollers, its buffer pool, its timers and its local `async` executor; nothing of
//! that is shared. [`run`] starts one per core and runs the main task on the first; code that runs on a
//! reactor asks things of its [`Context`]. Between reactors go [`Message`]s through bounded rings (data),
//! and calls through [`Reactors`] (control, from any thread).
//!
//! Invariants: what belongs to a reactor is touched by its thread only, and dropped there; nothing that is
//! sent is dropped silently while both ends run (a full ring or mailbox gives it back); a reactor that
//! sleeps is woken by everything that brings it work, without a lost wake-up.
//!
//! It does no I/O of its own and knows nothing of devices.

mod account;
mod calibration;
mod clock;
mod context;
mod cores;
mod doorbell;
mod group;
mod idle;
mod links;
mod mailbox;
mod poller;
mod pollers;
mod reactors;
mod readiness;
mod remote;
mod ring;
mod round;
mod signals;
mod sleep;
mod stats;
mod sync;
mod tasks;
mod timer;
mod topology;

#[cfg(all(test, not(weft_loom)))]
mod tests;

pub use clock::Tsc;
pub use context::{Context, Message, MessageFunction, Poller};
pub use cores::CoreList;
pub use group::{ReactorOptions, run};
pub use idle::IdlePolicy;
pub use poller::{Activity, PollerId};
pub use reactors::Reactors;
pub use readiness::{Readiness, Watched};
pub use signals::ShutdownSignals;
pub use sleep::WakeGuard;
pub use stats::{CpuTimes, PollerStats, ReactorStats};
pub use topology::{Core, Locality, Topology};
