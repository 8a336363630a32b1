//! Records of what is in flight, in memory that outlives this process (vhost-user, "Inflight I/O tracking").
//!
//! The front end keeps the memory and hands it to our successor when we were killed. The successor finds which buffers
//! had been taken and not been given back, and takes them again. So the records must be right at every
//! instant: each step is one store, and the stores happen in program order, which is all that the memory of a process
//! that was killed needs (that of a machine that lost power would need more).
//!
//! The layout is the protocol's. The front end could write the memory while we use it; here it is only ever read while
//! a queue is opened, and what is read is bounded.

mod layout;
mod packed;
mod region;
mod split;

pub use layout::InflightLayout;
pub(in crate::virtio) use packed::PackedRecord;
pub use region::{InflightArea, InflightQueue};
pub(in crate::virtio) use split::SplitRecord;

#[cfg(test)]
mod tests;
