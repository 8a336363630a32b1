//! Memory that a device reads and writes while we do: reached by atomic accesses only, each of a whole field.
//!
//! All `unsafe` of the driver's side is here. What is given out is checked once, where it is asked for; accesses
//! within it are at constant offsets or masked, so that they cost no check of their own.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::memory::{LINE, QueueMemory};

macro_rules! accesses {
    ($load:ident, $store:ident, $number:ty, $atomic:ty) => {
        /// # Safety
        /// `address` is that of a field that is aligned and stays mapped.
        #[inline(always)]
        unsafe fn $load(address: NonNull<u8>, ordering: Ordering) -> $number {
            // SAFETY: the caller's promise. The device may write the field meanwhile, as one access, which is what an
            // atomic allows.
            unsafe { <$atomic>::from_ptr(address.as_ptr().cast()) }.load(ordering)
        }

        /// # Safety
        /// As for the load.
        #[inline(always)]
        #[allow(dead_code, reason = "not every width is stored")]
        unsafe fn $store(address: NonNull<u8>, value: $number, ordering: Ordering) {
            // SAFETY: as in the load.
            unsafe { <$atomic>::from_ptr(address.as_ptr().cast()) }.store(value, ordering);
        }
    };
}

accesses!(load_u8, store_u8, u8, AtomicU8);
accesses!(load_u16, store_u16, u16, AtomicU16);
accesses!(load_u32, store_u32, u32, AtomicU32);
accesses!(load_u64, store_u64, u64, AtomicU64);

/// An address in a queue's memory, which moves between threads with the queue.
#[derive(Clone, Copy, Debug)]
struct Address(NonNull<u8>);

// SAFETY: an address of memory that is accessed atomically only (but for `fill`, when nobody uses it), and that stays
// mapped while the ring that holds the address lives.
unsafe impl Send for Address {}

impl Address {
    /// # Safety
    /// As for `NonNull::add`: within the part.
    #[inline(always)]
    unsafe fn add(self, offset: usize) -> NonNull<u8> {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// A part of a queue's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    start: Address,
    length: usize,
}

impl Part {
    /// `length` bytes at `offset`.
    ///
    /// # Panics
    /// When they are not within the memory: the layout is ours.
    pub(super) fn of(memory: &QueueMemory, offset: usize, length: usize) -> Part {
        let end = offset.checked_add(length).expect("a queue's layout");
        assert!(end <= memory.len() && offset.is_multiple_of(LINE), "a queue's layout");
        // SAFETY: `offset` is within the memory, as checked.
        Part { start: Address(unsafe { memory.start().add(offset) }), length }
    }

    /// Makes it all of this byte. Nobody uses it now.
    pub(super) fn fill(self, byte: u8) {
        // SAFETY: the part's own memory, mapped while the queue is there.
        unsafe { self.start.0.as_ptr().write_bytes(byte, self.length) };
    }

    /// It as cache lines.
    pub(super) fn lines(self) -> Lines {
        Lines { start: self.start, count: self.length / LINE }
    }

    /// It as bytes.
    pub(super) fn bytes(self) -> Bytes {
        Bytes(self)
    }

    /// It as words of 16 bytes.
    pub(super) fn pairs(self) -> Pairs {
        Pairs { start: self.start, count: self.length / 16 }
    }

    /// `count`, a power of two, numbers of `width` bytes from `offset` on.
    ///
    /// # Panics
    /// When they are not within the part.
    pub(super) fn ring<const WIDTH: usize>(self, offset: usize, count: u16) -> Ring<WIDTH> {
        let whole = offset + WIDTH * usize::from(count) <= self.length;
        let aligned = offset.is_multiple_of(WIDTH.min(4));
        assert!(count.is_power_of_two() && whole && aligned, "a ring");
        // SAFETY: within the part, as checked.
        Ring { start: Address(unsafe { self.start.add(offset) }), mask: usize::from(count) - 1 }
    }

    /// The number at `offset`, which is a multiple of its width.
    ///
    /// # Panics
    /// When it is not within the part.
    pub(super) fn field<const WIDTH: usize>(self, offset: usize) -> Field<WIDTH> {
        assert!(offset + WIDTH <= self.length && offset.is_multiple_of(WIDTH), "a field");
        // SAFETY: within the part, as checked.
        Field(Address(unsafe { self.start.add(offset) }))
    }
}

/// Cache lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    start: Address,
    count: usize,
}

impl Lines {
    /// Line `index`.
    ///
    /// # Panics
    /// When there is none.
    #[inline(always)]
    pub(super) fn line(self, index: usize) -> Line {
        assert!(index < self.count, "a line of a queue");
        // SAFETY: within the part, as checked.
        Line(unsafe { self.start.add(index * LINE) })
    }
}

/// A cache line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line(NonNull<u8>);

impl Line {
    /// Its address, which is also that for the device.
    #[inline(always)]
    pub(super) fn address(self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// Stores a number at an offset, which is a multiple of 8 within the line.
    #[inline(always)]
    pub(super) fn store<const OFFSET: usize>(self, value: u64) {
        const { assert!(OFFSET + 8 <= LINE && OFFSET.is_multiple_of(8)) };
        // SAFETY: within the line, and aligned, as checked.
        unsafe { store_u64(self.0.add(OFFSET), value, Ordering::Relaxed) };
    }
}

/// Words of 16 bytes: descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pairs {
    start: Address,
    count: usize,
}

impl Pairs {
    #[inline(always)]
    fn at(self, index: usize) -> NonNull<u8> {
        assert!(index < self.count, "a descriptor of a queue");
        // SAFETY: within the part, as checked.
        unsafe { self.start.add(index * 16) }
    }

    /// The address of word `index`, which is also that for the device.
    #[inline(always)]
    pub(super) fn address(self, index: usize) -> u64 {
        self.at(index).as_ptr() as u64
    }

    /// Stores both halves of word `index`.
    #[inline(always)]
    pub(super) fn store(self, index: usize, first: u64, second: u64) {
        let at = self.at(index);
        // SAFETY: two aligned halves of a word within the part.
        unsafe {
            store_u64(at, first, Ordering::Relaxed);
            // The second half of a packed descriptor says that it is available.
            store_u64(at.add(8), second, Ordering::Release);
        }
    }

    /// Stores the first half of word `index` alone.
    #[inline(always)]
    pub(super) fn store_first(self, index: usize, first: u64) {
        // SAFETY: an aligned half of a word within the part.
        unsafe { store_u64(self.at(index), first, Ordering::Relaxed) };
    }

    /// Stores the second half of word `index`, visible not before all that was stored earlier.
    #[inline(always)]
    pub(super) fn store_second(self, index: usize, second: u64) {
        // SAFETY: as above.
        unsafe { store_u64(self.at(index).add(8), second, Ordering::Release) };
    }

    /// The second half of word `index`; what the device stored before it is visible.
    #[inline(always)]
    pub(super) fn load_second(self, index: usize) -> u64 {
        // SAFETY: as above.
        unsafe { load_u64(self.at(index).add(8), Ordering::Acquire) }
    }
}

/// Bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes(Part);

impl Bytes {
    #[inline(always)]
    fn at(self, index: usize) -> NonNull<u8> {
        assert!(index < self.0.length, "a byte of a queue");
        // SAFETY: within the part, as checked.
        unsafe { self.0.start.add(index) }
    }

    /// The address of byte `index`, which is also that for the device.
    #[inline(always)]
    pub(super) fn address(self, index: usize) -> u64 {
        self.at(index).as_ptr() as u64
    }

    /// Byte `index`.
    #[inline(always)]
    pub(super) fn load(self, index: usize) -> u8 {
        // SAFETY: within the part.
        unsafe { load_u8(self.at(index), Ordering::Relaxed) }
    }
}

/// Numbers of `WIDTH` bytes, as many as a power of two, that follow each other in a circle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<const WIDTH: usize> {
    start: Address,
    mask: usize,
}

impl<const WIDTH: usize> Ring<WIDTH> {
    #[inline(always)]
    fn at(self, index: u16) -> NonNull<u8> {
        // SAFETY: the mask keeps it within the part.
        unsafe { self.start.add((usize::from(index) & self.mask) * WIDTH) }
    }
}

impl Ring<2> {
    /// Stores number `index`, modulo their count.
    #[inline(always)]
    pub(super) fn store(self, index: u16, value: u16) {
        // SAFETY: within the part, and aligned, since the offset was.
        unsafe { store_u16(self.at(index), value, Ordering::Relaxed) };
    }
}

impl Ring<8> {
    /// Number `index`, modulo their count, as two halves that need not be of one moment.
    #[inline(always)]
    pub(super) fn load_halves(self, index: u16) -> (u32, u32) {
        let at = self.at(index);
        // SAFETY: within the part. The used ring begins 4 bytes behind a line, so its elements are aligned to 4.
        unsafe { (load_u32(at, Ordering::Relaxed), load_u32(at.add(4), Ordering::Relaxed)) }
    }
}

/// One number of `WIDTH` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<const WIDTH: usize>(Address);

impl Field<2> {
    #[inline(always)]
    pub(super) fn load(self) -> u16 {
        // SAFETY: within the part, and aligned.
        unsafe { load_u16(self.0.0, Ordering::Relaxed) }
    }

    /// Loads it; what the device stored before is visible.
    #[inline(always)]
    pub(super) fn load_acquire(self) -> u16 {
        // SAFETY: as above.
        unsafe { load_u16(self.0.0, Ordering::Acquire) }
    }

    /// Stores it, visible not before all that was stored earlier.
    #[inline(always)]
    pub(super) fn store_release(self, value: u16) {
        // SAFETY: as above.
        unsafe { store_u16(self.0.0, value, Ordering::Release) };
    }
}

impl Field<4> {
    #[inline(always)]
    pub(super) fn load(self) -> u32 {
        // SAFETY: as above.
        unsafe { load_u32(self.0.0, Ordering::Relaxed) }
    }

    #[inline(always)]
    pub(super) fn store(self, value: u32) {
        // SAFETY: as above.
        unsafe { store_u32(self.0.0, value, Ordering::Relaxed) };
    }
}
