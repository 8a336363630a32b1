//! NVMe namespaces as bdevs, and the controllers that they are on.

mod controllers;
mod namespace;
mod queue;

pub use controllers::{Attached, Controllers};
pub use namespace::NvmeBdev;
