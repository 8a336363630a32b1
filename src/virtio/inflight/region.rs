//! The shared memory that the records are in: made here and given to the front end, or got back from it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use tracing::debug;

use super::layout::InflightLayout;
use crate::base::{Error, Result};
use crate::memory::Region;
use crate::virtio::area::Area;
use crate::virtio::spec::ring::QUEUE_SIZE_MAX;

/// Most queues that records are kept for.
const QUEUES_MAX: u16 = 1024;

/// Records of all queues of a device.
#[derive(Clone, Debug)]
pub struct InflightArea {
    memory: Arc<Region>,
    layout: InflightLayout,
    queues: u16,
    size: u16,
}

impl InflightArea {
    /// New memory for the records of `queues` queues of `size` descriptors at most.
    ///
    /// # Errors
    /// `Invalid` for numbers that no device has; what the system says when it has no memory.
    pub fn create(layout: InflightLayout, queues: u16, size: u16) -> Result<InflightArea> {
        let length = area_length(layout, queues, size)?;
        let doing = || format!("making {length} bytes of memory for requests in flight");
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file =
            memfd_create("weft-inflight", flags).map_err(|errno| Error::os(doing(), errno))?;
        ftruncate(&file, length as u64).map_err(|errno| Error::os(doing(), errno))?;
        // Whoever has the file next cannot take the memory away from under its holders.
        if let Err(error) = fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW) {
            debug!(%error, "the in-flight memory is not sealed");
        }
        InflightArea::adopt(file, 0, length as u64, layout, queues, size)
    }

    /// The memory that a front end kept: `length` bytes of `file` from `offset` on, with records of `queues` queues of `size`
    /// descriptors at most, all as its message says.
    ///
    /// # Errors
    /// `Invalid` when the file is shorter than that, or that is too little for the records.
    pub fn adopt(
        file: OwnedFd,
        offset: u64,
        length: u64,
        layout: InflightLayout,
        queues: u16,
        size: u16,
    ) -> Result<InflightArea> {
        let needed = area_length(layout, queues, size)?;
        if length < needed as u64 {
            return Err(Error::invalid(format!(
                "records of requests in flight in {queues} queues of {size} descriptors take {needed} bytes; the front end gave {length}"
            )));
        }
        if !offset.is_multiple_of(align_of::<u64>() as u64) {
            return Err(Error::invalid(format!(
                "records of requests in flight at offset {offset} of a file, which is not aligned"
            )));
        }
        let memory = Arc::new(Region::map(file, offset, needed)?);
        Ok(InflightArea { memory, layout, queues, size })
    }

    /// The file, for the front end.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.memory.backing().expect("mapped from a file").file()
    }

    /// Length of the area in the file.
    pub fn length(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Where in the file the area starts.
    pub fn offset(&self) -> u64 {
        self.memory.backing().expect("mapped from a file").offset()
    }

    /// What kind of queues the records are of.
    pub fn layout(&self) -> InflightLayout {
        self.layout
    }

    /// How many queues there are records of.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// How many descriptors a queue can have.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The records of one queue, if there are any of it. Only one ring at a time may use them.
    pub fn queue(&self, index: u16) -> Option<InflightQueue> {
        if index >= self.queues {
            return None;
        }
        let length = self.layout.queue_length(self.size);
        let offset = usize::from(index) * length;
        // SAFETY: the area was mapped for all of the queues, and the handle keeps it mapped.
        let area = unsafe { Area::new(self.memory.start().add(offset), length) };
        Some(InflightQueue {
            area,
            layout: self.layout,
            size: self.size,
            _memory: self.memory.clone(),
        })
    }
}

/// Length of the records of all queues.
fn area_length(layout: InflightLayout, queues: u16, size: u16) -> Result<usize> {
    if queues == 0 || queues > QUEUES_MAX || size == 0 || size > QUEUE_SIZE_MAX {
        return Err(Error::invalid(format!(
            "records of requests in flight in {queues} queues of {size} descriptors: at most {QUEUES_MAX} of {QUEUE_SIZE_MAX}, and at least one"
        )));
    }
    Ok(usize::from(queues) * layout.queue_length(size))
}

/// The records of one queue, for its ring, on whatever reactor that is.
#[derive(Debug)]
pub struct InflightQueue {
    area: Area,
    layout: InflightLayout,
    size: u16,
    _memory: Arc<Region>,
}

// SAFETY: it is an address range that the region keeps mapped, and accessed by atomic operations only.
unsafe impl Send for InflightQueue {}

impl InflightQueue {
    /// The memory, which has as many bytes as the layout needs.
    #[inline(always)]
    pub(super) fn area(&self) -> Area {
        self.area
    }

    /// Where a word of the records is (modulo their length), for tests that spoil it.
    #[cfg(test)]
    pub(in crate::virtio) fn at(&self, offset: usize) -> std::ptr::NonNull<u8> {
        self.area.pointer(offset % (self.area.len() - 8))
    }

    /// What kind of queue the records are of.
    #[inline]
    pub fn layout(&self) -> InflightLayout {
        self.layout
    }

    /// How many descriptors the queue can have.
    #[inline]
    pub fn size(&self) -> u16 {
        self.size
    }
}
