//! Memory that is shared with another party, field by field.
//!
//! Every access is one atomic load or store of one field, so that what was checked is what is used, and no Rust
//! reference to the memory ever exists. All that rings and in-flight records store goes through here, in program
//! order: stores are never weaker than `Release`, which on the processors in question costs nothing or next to it and keeps the
//! compiler from moving them. Whoever takes over the memory of a process that was killed relies on that order.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A run of shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    start: NonNull<u8>,
    length: usize,
}

macro_rules! load {
    ($name:ident, $type:ty, $atomic:ty, $ordering:ident, $doc:literal) => {
        #[doc = $doc]
        ///
        /// # Safety
        /// The field lies within the area and is aligned.
        #[inline(always)]
        pub(super) unsafe fn $name(self, offset: usize) -> $type {
            let field = self.at::<$type>(offset).cast::<$atomic>();
            // SAFETY: within the area by the caller's word, mapped by `new`'s.
            <$type>::from_le(unsafe { (*field).load(Ordering::$ordering) })
        }
    };
}

macro_rules! store {
    ($name:ident, $type:ty, $atomic:ty) => {
        /// Writes a field, after everything that was written before.
        ///
        /// # Safety
        /// The field lies within the area and is aligned.
        #[inline(always)]
        pub(super) unsafe fn $name(self, offset: usize, value: $type) {
            let field = self.at::<$type>(offset).cast::<$atomic>();
            // SAFETY: within the area by the caller's word, mapped by `new`'s.
            unsafe { (*field).store(value.to_le(), Ordering::Release) };
            #[cfg(test)]
            step::stored();
        }
    };
}

impl Area {
    /// The area of `length` bytes from `start` on.
    ///
    /// # Safety
    /// It is mapped, readable and writable, as long as this or a copy is used.
    pub(super) const unsafe fn new(start: NonNull<u8>, length: usize) -> Area {
        Area { start, length }
    }

    /// Length in bytes.
    #[inline(always)]
    pub(super) fn len(self) -> usize {
        self.length
    }

    #[inline(always)]
    fn at<T>(self, offset: usize) -> *mut T {
        debug_assert!(
            offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.length),
            "{offset} + {} in an area of {}",
            size_of::<T>(),
            self.length
        );
        let field = self.start.as_ptr().wrapping_add(offset).cast::<T>();
        debug_assert!(field.is_aligned());
        field
    }

    /// Where a byte is.
    #[cfg(test)]
    pub(super) fn pointer(self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.length);
        // SAFETY: within the area.
        unsafe { self.start.add(offset) }
    }

    /// Asks the cache for the line at `offset`, which need not be within the area.
    #[inline(always)]
    pub(super) fn prefetch(self, offset: usize) {
        prefetch(self.start.as_ptr().wrapping_add(offset));
    }

    load!(load_u8, u8, AtomicU8, Relaxed, "Reads a field.");
    load!(load_u16, u16, AtomicU16, Relaxed, "Reads a field.");
    load!(load_u32, u32, AtomicU32, Relaxed, "Reads a field.");
    load!(load_u64, u64, AtomicU64, Relaxed, "Reads a field.");
    load!(
        acquire_u16,
        u16,
        AtomicU16,
        Acquire,
        "Reads a field; what was written before it is seen too."
    );
    load!(
        acquire_u64,
        u64,
        AtomicU64,
        Acquire,
        "Reads a field; what was written before it is seen too."
    );

    store!(store_u8, u8, AtomicU8);
    store!(store_u16, u16, AtomicU16);
    store!(store_u32, u32, AtomicU32);
    store!(store_u64, u64, AtomicU64);
}

/// Asks the cache for the line that holds `address`.
#[inline(always)]
pub(super) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<{ _MM_HINT_T0 }>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Death at a chosen store, for tests of what a successor finds.
#[cfg(test)]
pub(super) mod step {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// What the unwinding carries.
    pub struct Killed;

    /// Runs `life`, which dies with the `stores`-th store to shared memory; `None` when it did not live to see that many.
    pub fn kill_after<R>(stores: u64, life: impl FnOnce() -> R) -> Option<R> {
        LEFT.set(Some(stores));
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(life));
        LEFT.set(None);
        match end {
            Ok(result) => Some(result),
            Err(payload) if payload.is::<Killed>() => None,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    pub(in crate::virtio) fn stored() {
        if let Some(left) = LEFT.get() {
            if left == 1 {
                // Not `panic!`: nobody is to be told.
                LEFT.set(None);
                std::panic::resume_unwind(Box::new(Killed));
            }
            LEFT.set(Some(left - 1));
        }
    }
}
