//! NVMe controllers: the specification's structures, the ways to reach a controller, and the driver.

pub mod pci;
pub mod spec;
mod transport;

pub use transport::{ControlFuture, Doorbell, Iova, Post, Transport};
