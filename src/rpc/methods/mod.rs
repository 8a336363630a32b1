//! The method table: one file of methods per subsystem.

mod application;
mod bdev;
#[cfg(feature = "dpdk")]
mod dpdk;
mod file;
mod framework;
mod iobuf;
mod load;
mod log;
mod malloc;
mod notify;
mod null;
mod nvme;
mod nvme_commands;
mod pci;
mod qos;
mod raid;
mod reactor;
mod statistics;
mod vhost;
mod virtio;
mod virtual_bdev;

use super::method::Method;

/// The rows of all subsystems, in the order of the reference page.
const TABLE: &[&[Method]] = &[
    application::METHODS,
    framework::METHODS,
    pci::METHODS,
    reactor::METHODS,
    iobuf::METHODS,
    log::METHODS,
    notify::METHODS,
    bdev::METHODS,
    statistics::METHODS,
    qos::METHODS,
    null::METHODS,
    malloc::METHODS,
    file::METHODS,
    nvme::METHODS,
    nvme_commands::METHODS,
    virtio::METHODS,
    raid::METHODS,
    virtual_bdev::METHODS,
    vhost::METHODS,
    load::METHODS,
];

/// The rows that cargo features add. The reference page, which is the same for every build, has none of them.
const OF_FEATURES: &[&[Method]] = &[
    #[cfg(feature = "dpdk")]
    dpdk::METHODS,
];

/// All methods.
pub fn all() -> impl Iterator<Item = &'static Method> {
    always().chain(OF_FEATURES.iter().copied().flatten())
}

/// Those of every build.
pub(super) fn always() -> impl Iterator<Item = &'static Method> {
    TABLE.iter().copied().flatten()
}

/// The method of this name.
pub fn find(name: &str) -> Option<&'static Method> {
    all().find(|method| method.name == name)
}

/// The names of all methods, or of those that can be called while the daemon is in this state.
pub fn names(running: Option<bool>) -> Vec<&'static str> {
    let admitted = |method: &&Method| running.is_none_or(|running| method.states.admit(running));
    all().filter(admitted).map(|method| method.name).collect()
}
