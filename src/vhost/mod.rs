//! vhost-user-blk: bdevs as virtio-blk disks of virtual machines.
//!
//! A [`Controllers`] holds the controllers of the process, each a socket and the bdev behind it. Control work (the
//! messages of front ends) is done on the control reactor; each virtqueue is polled by a reactor of its own.

mod controller;
mod controllers;
mod disk;
mod info;
mod queue;
mod session;
mod shared;

pub use controllers::Controllers;
pub use info::{Coalescing, ControllerInfo, ControllerOptions, QueueInfo, SessionInfo};
