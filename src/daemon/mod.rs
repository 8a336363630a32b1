//! The daemon: options, configuration, the order of start and stop, and the wiring of all layers.
//!
//! Nothing imports this module but `weftd` itself, and tools that want the devices of a configuration
//! without the daemon.

mod config;
mod lifecycle;
mod log;
mod notify;
mod options;

pub use lifecycle::{Hardware, load_devices, local_services, remove_devices, run};
pub use log::start as start_log;
pub use options::{MemorySource, Options};
