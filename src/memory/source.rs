//! Where regions come from: the system, or (feature `dpdk`) DPDK.

#[cfg(feature = "dpdk")]
use super::dpdk::Environment;
use super::page::HugePages;
use crate::base::Result;

/// Who gives memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Source {
    /// The system: files in memory, and anonymous memory.
    #[default]
    System,
    /// DPDK's heap.
    #[cfg(feature = "dpdk")]
    Dpdk(&'static Environment),
}

impl Source {
    /// DPDK, which is started unless it runs: to be called before threads are pinned. `arguments` are for its
    /// environment abstraction layer (EAL), as on a command line.
    ///
    /// # Errors
    /// `Unsupported` without the feature `dpdk`; otherwise why the EAL does not start.
    pub fn dpdk(arguments: &str) -> Result<Source> {
        #[cfg(feature = "dpdk")]
        {
            Environment::start(arguments).map(Source::Dpdk)
        }
        #[cfg(not(feature = "dpdk"))]
        {
            let _ = arguments;
            Err(crate::base::Error::new(
                crate::base::ErrorKind::Unsupported,
                "memory from DPDK: this program was built without it (cargo build --features dpdk)",
            ))
        }
    }
}

/// Whether another process can be given the memory: a device that is emulated by another process
/// reaches payload memory only through the file behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Huge pages can be shared, since that costs nothing; ordinary memory cannot, since the kernel
    /// gives transparent huge pages to private memory more readily.
    #[default]
    WhereFree,
    /// All of it.
    Always,
}

/// What a region is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RegionOptions {
    /// Huge pages or not.
    pub huge_pages: HugePages,
    /// Whether other processes can be given the memory.
    pub sharing: Sharing,
    /// NUMA node that it should lie on. A wish: where the node is short of memory, or the system does not
    /// let a process choose (containers), it lies elsewhere.
    pub numa_node: Option<u32>,
    /// Where it comes from.
    pub source: Source,
}

impl From<HugePages> for RegionOptions {
    fn from(huge_pages: HugePages) -> RegionOptions {
        RegionOptions { huge_pages, ..RegionOptions::default() }
    }
}
