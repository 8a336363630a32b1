//! Memory for the queues of one controller: rings, descriptor lists, shadow doorbells.

use std::ptr::NonNull;

use super::transport::Iova;
use crate::base::{Error, ErrorKind, Result};
use crate::memory::{HUGE_PAGE_SIZE, RegionView};

/// The controller's memory page: CC.MPS is always 0 (Base Specification, section 3.1.3.5).
pub(super) const PAGE_SIZE: usize = 4096;

/// One region, mapped for the controller, from which its queues get their memory.
///
/// Queues come and go with the controller only, so nothing is ever given back.
pub(super) struct QueueMemory {
    view: RegionView,
    iova: Iova,
    used: usize,
}

/// A piece of it: page-aligned zeros, contiguous for the device. It stays while the region is held.
#[derive(Clone)]
pub(super) struct Piece {
    address: NonNull<u8>,
    length: usize,
    iova: u64,
    /// Keeps the memory.
    _view: RegionView,
}

// SAFETY: a piece is an address range that has one owner at a time: the queue that it was cut for.
unsafe impl Send for Piece {}

impl QueueMemory {
    pub(super) fn new(view: RegionView, iova: Iova) -> QueueMemory {
        QueueMemory { view, iova, used: 0 }
    }

    /// The region and how the device finds it.
    pub(super) fn view(&self) -> &RegionView {
        &self.view
    }

    /// Cuts off `length` bytes, rounded up to whole pages. A piece never crosses a huge page, so that it
    /// is contiguous for the device whatever the mapping is like.
    ///
    /// # Errors
    /// `NoMemory` when the region is used up.
    pub(super) fn cut(&mut self, length: usize) -> Result<Piece> {
        let length = length.next_multiple_of(PAGE_SIZE);
        let mut start = self.used;
        if start / HUGE_PAGE_SIZE != (start + length - 1) / HUGE_PAGE_SIZE {
            start = start.next_multiple_of(HUGE_PAGE_SIZE);
        }
        if length > HUGE_PAGE_SIZE || start + length > self.view.region.len() {
            return Err(Error::new(
                ErrorKind::NoMemory,
                format!("{length} bytes of queue memory: the controller's region is used up"),
            ));
        }
        self.used = start + length;
        let iova = match &self.iova {
            Iova::Linear(first) => first + start as u64,
            Iova::Pages(pages) => {
                let page = pages.get(start / HUGE_PAGE_SIZE).copied().ok_or_else(|| {
                    Error::invalid("a transport that names fewer pages than the region has")
                })?;
                page + (start % HUGE_PAGE_SIZE) as u64
            }
        };
        // SAFETY: `start + length` is within the region, as checked above.
        let address = unsafe { self.view.region.start().add(start) };
        Ok(Piece { address, length, iova, _view: self.view.clone() })
    }

    /// How much memory pieces of these lengths take, at most.
    pub(super) fn size_for(lengths: impl IntoIterator<Item = usize>) -> usize {
        let sum: usize = lengths.into_iter().map(|length| length.next_multiple_of(PAGE_SIZE)).sum();
        // A piece of up to half a huge page wastes less than itself at a huge page's end.
        (2 * sum).next_multiple_of(HUGE_PAGE_SIZE)
    }
}

impl Piece {
    pub(super) fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub(super) fn iova(&self) -> u64 {
        self.iova
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Makes it all zeros again. The device does not use it now.
    pub(super) fn clear(&mut self) {
        // SAFETY: the piece's own memory; no reference to it exists.
        unsafe { self.address.as_ptr().write_bytes(0, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{HugePages, Region, RegionId};

    #[test]
    fn pieces_do_not_cross_a_huge_page() {
        let region = Arc::new(Region::allocate(2 * HUGE_PAGE_SIZE, HugePages::Never).unwrap());
        let view = RegionView { id: RegionId::NONE, region };
        let pages: Arc<[u64]> = Arc::new([0x8000_0000, 0x1000_0000]);
        let mut memory = QueueMemory::new(view, Iova::Pages(pages));
        let first = memory.cut(HUGE_PAGE_SIZE - PAGE_SIZE).unwrap();
        assert_eq!(first.iova(), 0x8000_0000);
        let second = memory.cut(PAGE_SIZE + 1).unwrap();
        assert_eq!((second.iova(), second.len()), (0x1000_0000, 2 * PAGE_SIZE));
        assert!(memory.cut(HUGE_PAGE_SIZE).is_err());
        assert!(memory.cut(2 * HUGE_PAGE_SIZE).is_err());
    }
}
