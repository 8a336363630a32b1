//! What the methods work on. The daemon fills it in; it lives on the control reactor.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};

use super::framework::Framework;
use crate::base::Result;
use crate::bdev;
use crate::bdev::leaf::nvme::{Controllers, Hotplug};
use crate::bdev::leaf::virtio;
use crate::bdev::vbdev::mirror::MirrorKind;
use crate::bdev::vbdev::{Raids, WaitingList};
use crate::load::Loads;
use crate::memory::RegionOptions;
use crate::reactor::{Context, Reactors};
use crate::vhost;

/// Severity of a log record, by SPDK's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Something worth knowing happened; the default.
    Notice,
    /// What is being done.
    Info,
    /// Details.
    Debug,
}

/// Control over the log of the process.
pub trait LogControl {
    /// Least severe records that are kept.
    fn level(&self) -> LogLevel;
    /// Changes it.
    fn set_level(&self, level: LogLevel);
    /// Least severe records that go to the console.
    fn print_level(&self) -> LogLevel;
    /// Changes it.
    fn set_print_level(&self, level: LogLevel);
    /// The parts of the daemon whose details can be logged one by one, and whether they are.
    fn flags(&self) -> Vec<(&'static str, bool)>;
    /// Switches one part, or `all`.
    ///
    /// # Errors
    /// `NotFound` for a part that there is not.
    fn set_flag(&self, flag: &str, on: bool) -> Result<()>;
    /// Switches time stamps.
    fn set_timestamps(&self, on: bool);
}

/// Options of the bdev layer, set before initialization.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BdevOptions {
    /// As set, for the saved configuration; a queue brings its own memory for requests.
    pub io_pool_size: Option<u32>,
    /// As set, for the saved configuration.
    pub io_cache_size: Option<u32>,
    /// Whether new devices are looked at for labels.
    pub auto_examine: Option<bool>,
    /// As set, for the saved configuration.
    pub iobuf_small_cache_size: Option<u32>,
    /// As set, for the saved configuration.
    pub iobuf_large_cache_size: Option<u32>,
}

impl BdevOptions {
    /// What was set, as parameters of `bdev_set_options`.
    pub fn params(&self) -> Value {
        json!({
            "bdev_io_pool_size": self.io_pool_size,
            "bdev_io_cache_size": self.io_cache_size,
            "bdev_auto_examine": self.auto_examine,
            "iobuf_small_cache_size": self.iobuf_small_cache_size,
            "iobuf_large_cache_size": self.iobuf_large_cache_size,
        })
    }
}

/// Everything that methods reach.
pub struct Services {
    /// The control reactor.
    pub cx: Context,
    /// All reactors.
    pub reactors: Reactors,
    /// The devices.
    pub bdevs: bdev::Registry,
    /// The raids, whether they are devices or not.
    pub raids: Raids,
    /// The mirrors: options of their background work.
    pub mirrors: Rc<MirrorKind>,
    /// Virtual devices whose bases are not there yet.
    pub waiting: WaitingList,
    /// The NVMe controllers.
    pub nvme: Controllers,
    /// The virtio devices of other processes.
    pub virtio: virtio::Controllers,
    /// Drives that are attached by themselves.
    pub hotplug: Hotplug,
    /// The vhost-user-blk controllers.
    pub vhost: vhost::Controllers,
    /// Exercises on devices.
    pub loads: Loads,
    /// Where initialization is.
    pub framework: Framework,
    /// The log.
    pub log: Box<dyn LogControl>,
    /// The names of methods: all, or those that can be called in a state.
    pub method_names: fn(running: Option<bool>) -> Vec<&'static str>,
    /// What the memory of new devices is like.
    pub memory: RegionOptions,
    /// Options of the bdev layer.
    pub bdev_options: RefCell<BdevOptions>,
}
