//! VIRTIO as both sides see it: the structures of the specification, virtqueues from the device's side and
//! from the driver's, the memory of a guest, and the messages of vhost-user.
//!
//! Nothing here knows of bdevs. The block device that stands on it is in [`vhost`](crate::vhost), the disk that a
//! driver makes of it in [`bdev::leaf`](crate::bdev::leaf).
//!
//! "VIRTIO" in comments is the Virtual I/O Device specification, version 1.3; "vhost-user" is QEMU's "Vhost-user
//! Protocol", which does not number its sections.

mod area;
pub mod dirty_log;
pub mod inflight;
pub mod memory;
pub mod ring;
pub mod spec;
pub mod vhost_user;
