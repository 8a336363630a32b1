//! What is known of a machine: the same from every source.

use std::collections::BTreeMap;

/// Where a core is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Core {
    /// The system's number of it.
    pub id: usize,
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// Processor package (socket).
    pub package: Option<u32>,
    /// Cores that run on the same physical core (hyper-threads), this one included.
    pub siblings: Vec<usize>,
    /// Cores that share the last level of cache with it, this one included.
    pub cache_sharers: Vec<usize>,
    /// Size of that cache, in bytes.
    pub cache_bytes: Option<u64>,
}

/// What is near a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// Cores, in order; all of them where the machine does not tell.
    pub cores: Vec<usize>,
}

/// All that a source tells at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// The cores that are online.
    pub(super) cores: BTreeMap<usize, Core>,
    /// The NUMA nodes, and how far each is from each, as firmware has it (the system locality information table of ACPI):
    /// 10 for itself, 20 for twice as far.
    pub(super) nodes: BTreeMap<u32, BTreeMap<u32, u32>>,
    /// PCI functions by address, if the source knows them from the start.
    pub(super) functions: BTreeMap<String, Locality>,
}
