//! A buffer of a pool.

use std::ptr::NonNull;
use std::rc::Rc;

use super::pool::Inner;
use super::registry::RegionId;
use super::segment::Segment;

/// A run of DMA-able memory, owned; goes back to its pool when dropped.
///
/// While a request that carries a [`Segment`] of it is outstanding the owner neither drops it nor
/// looks at it: [`Buffer::segment`] is `unsafe` for this reason.
#[derive(Debug)]
pub struct Buffer {
    pool: Rc<Inner>,
    address: NonNull<u8>,
    length: u32,
    region: RegionId,
    class: u8,
}

impl Buffer {
    pub(super) fn new(
        pool: Rc<Inner>,
        address: NonNull<u8>,
        length: u32,
        region: RegionId,
        class: u8,
    ) -> Buffer {
        Buffer { pool, address, length, region, class }
    }

    /// Where it starts; aligned to 4 KiB at least.
    #[inline]
    pub fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Length in bytes: that of its size class.
    #[inline]
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Never: a buffer holds at least 4 KiB.
    #[inline]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The first `length` bytes as a segment for a request.
    ///
    /// # Safety
    /// The buffer is neither dropped nor looked at between the submission and the completion of
    /// a request that carries the segment (an opcode that only reads it allows looking).
    ///
    /// # Panics
    /// When the buffer is shorter than `length`.
    #[inline]
    pub unsafe fn segment(&self, length: u32) -> Segment {
        assert!(length <= self.length);
        // SAFETY: the memory is ours until drop; the rest is the caller's promise.
        unsafe { Segment::new(self.address, length, self.region) }
    }

    /// The bytes. Initially whatever the last user left, zeros at first.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: pool memory is zeroed at mmap and never unmapped before the buffer is dropped; by the
        // contract of `segment` no device writes to it now.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len()) }
    }

    /// The bytes, to change.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; and the buffer is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(self.address, self.region, self.class);
    }
}
