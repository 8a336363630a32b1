//! Numbers and structures of the VIRTIO specification. Everything is little-endian, as the specification has it
//! for devices that are not "legacy".

pub mod block;
mod features;
pub mod ring;
mod status;

pub use features::Features;
pub use status::DeviceStatus;
