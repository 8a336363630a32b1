//! Tables of descriptors in the guest's memory (VIRTIO 2.7.5.3 and 2.8.7).

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::RingFault;
use crate::virtio::area;
use crate::virtio::memory::GuestMemory;

const LENGTH: u32 = 16;

/// A table of descriptors, each of which is read as two words.
pub(super) struct IndirectTable {
    start: NonNull<u8>,
    count: u32,
}

impl IndirectTable {
    /// The table of `length` bytes at guest address `address`, which buffer `id` refers to. Usable while
    /// `memory` lives.
    #[inline]
    pub(super) fn find(
        memory: &GuestMemory,
        address: u64,
        length: u32,
        id: u16,
    ) -> Result<IndirectTable, RingFault> {
        if length == 0 || !length.is_multiple_of(LENGTH) {
            return Err(RingFault::IndirectTable(id));
        }
        let start =
            memory.translate(address, u64::from(length)).ok_or(RingFault::TableAddress(address))?;
        Ok(IndirectTable { start, count: length / LENGTH })
    }

    /// How many descriptors it has.
    #[inline(always)]
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The two words of a descriptor; `None` when there is none of this index.
    #[inline(always)]
    pub(super) fn get(&self, index: u32) -> Option<[u64; 2]> {
        if index >= self.count {
            return None;
        }
        let descriptor = self.start.as_ptr().wrapping_add((index * LENGTH) as usize);
        if descriptor.cast::<u64>().is_aligned() {
            let words = descriptor.cast::<AtomicU64>();
            // SAFETY: within the table, which the guest's memory keeps mapped, and aligned.
            let (first, second) = unsafe {
                ((*words).load(Ordering::Relaxed), (*words.add(1)).load(Ordering::Relaxed))
            };
            return Some([u64::from_le(first), u64::from_le(second)]);
        }
        Some(unaligned(descriptor))
    }
}

/// Asks the cache for the start of a table.
#[inline]
pub(super) fn prefetch(memory: &GuestMemory, address: u64) {
    if let Some(start) = memory.translate(address, u64::from(LENGTH)) {
        area::prefetch(start.as_ptr());
    }
}

/// A descriptor that a driver placed where no driver places it, though no rule forbids it.
#[cold]
fn unaligned(descriptor: *const u8) -> [u64; 2] {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: within a descriptor that lies in its table.
            *byte = unsafe { descriptor.add(at + index).read_volatile() };
        }
        u64::from_le_bytes(bytes)
    };
    [word(0), word(8)]
}
