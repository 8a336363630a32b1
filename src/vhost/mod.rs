//! vhost-user-blk: bdevs as virtio-blk disks of virtual machines.
//!
//! A [`Controllers`] holds the controllers of the process, each a socket and the bdev behind it. Control work (the
//! messages of front ends) is done on the control reactor; each virtqueue is polled by a reactor of its own.

mod controllers;

pub use controllers::{
    Coalescing, ControllerInfo, ControllerOptions, Controllers, QueueInfo, SessionInfo,
};
