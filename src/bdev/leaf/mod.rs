//! Leaf bdevs: where the stack ends. One file each.

pub mod malloc;
pub mod null;
pub mod nvme;
pub mod uring;
pub mod virtio;
