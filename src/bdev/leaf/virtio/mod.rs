//! Block devices that vhost-user back ends serve: SPDK's vhost target, qemu-storage-daemon, another Weft.
//!
//! A [`Controllers`] holds the devices by name. Each has a session on the control reactor, which speaks with the back
//! end, and virtqueues, each of which one reactor polls.

mod any_queue;
mod controllers;
mod device;
mod facts;
mod handshake;
mod link;
mod options;
mod queue;
mod queues;
mod session;
mod told;
mod trouble;
mod virtqueue;

pub use controllers::Controllers;
pub use device::VirtioBdev;
pub use options::{QUEUES_MAX, VirtioOptions};
