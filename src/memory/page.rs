//! Pages: what memory is made of, and what lies behind it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Size of a huge page, in bytes (x86-64 and the usual arm64 configuration).
pub const HUGE_PAGE_SIZE: usize = 2 << 20;

/// When to take huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HugePages {
    /// Reserved huge pages where the system has enough free, else ordinary memory that asks the
    /// kernel for transparent huge pages.
    #[default]
    Try,
    /// Reserved huge pages or an error.
    Require,
    /// Ordinary memory.
    Never,
}

/// What a region is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Reserved huge pages: never swapped, never moved.
    Huge,
    /// Ordinary pages; the kernel may back them by transparent huge pages.
    Ordinary,
    /// Somebody else's: mapped here by another part of the program, or from a file that another process gave.
    Foreign,
}

/// The file behind memory that can be shared with another process.
#[derive(Clone, Debug)]
pub struct Backing {
    file: Arc<OwnedFd>,
    offset: u64,
}

impl Backing {
    /// The memory of a region that lies in `file` from `offset` bytes on.
    pub fn new(file: Arc<OwnedFd>, offset: u64) -> Backing {
        Backing { file, offset }
    }

    /// The file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where in the file the region starts, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// Where devices find memory, where its source says so. (For other memory, that is between a driver and
/// the system.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceAddresses {
    /// At the addresses that it has in this process: an IOMMU is to be told so.
    Virtual,
    /// At physical addresses: of each [`HUGE_PAGE_SIZE`] of it, in order.
    Physical(Arc<[u64]>),
}
