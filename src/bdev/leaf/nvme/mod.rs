//! NVMe namespaces as bdevs, and the controllers that they are on.

mod controllers;
mod hotplug;
mod namespace;
mod queue;

pub use controllers::{Attached, Controllers};
pub use hotplug::{Hotplug, PERIOD_DEFAULT, PERIOD_MAX};
pub use namespace::NvmeBdev;
