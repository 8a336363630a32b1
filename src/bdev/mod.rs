//! Block devices: everything is a queue pair.
//!
//! A [`Bdev`] is a shared description that can open a [`Queue`] for one reactor. The layer in
//! between is the same for all: a [`Device`] is a registered bdev with its claims, limits and
//! counters, and a [`Channel`] is one reactor's queue on it, which checks, counts, limits, and
//! splits or emulates what the driver below cannot take. A virtual bdev's queue owns channels of
//! its base bdevs.

mod channel;
mod detour;
mod device;
mod fit;
mod histogram;
mod qos;
mod queue;
mod range_lock;
mod registry;
mod request;
mod stats;
#[cfg(test)]
mod testing;

pub mod intent;
pub mod label;
pub mod leaf;
pub mod vbdev;

pub use channel::Channel;
pub use device::{Bdev, ConfigEntry, Device, DeviceState, Info, IoLimits};
pub use histogram::{HistogramData, HistogramLayout, HistogramOptions};
pub use qos::QosLimits;
pub use queue::Queue;
pub use range_lock::{Access, Level, RangeLock, RangeLocks};
pub use registry::{Claim, Descriptor, Event, Registry, WeakRegistry};
pub use request::{Completion, Completions, Opcode, OpcodeSet, Request, RequestFlags, Ticket};
pub use stats::{ChannelStats, ClassStat, IoStat, OpClass, ResetMode};
