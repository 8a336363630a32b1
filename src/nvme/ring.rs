//! The two rings of a queue pair (Base Specification, section 3.3.1): memory that the device reads
//! (submission) and writes (completion).

use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence, fence};

use zerocopy::IntoBytes;

use super::memory::Piece;
use super::spec::{CompletionEntry, SubmissionEntry};

/// A submission ring. Indices are kept without the wrap; the size is a power of two.
pub(super) struct SubmissionRing {
    entries: NonNull<SubmissionEntry>,
    mask: u32,
    tail: u32,
    /// The head that the controller has reported last.
    head: u32,
    piece: Piece,
}

// SAFETY: the ring owns its piece of memory; the entries are reached through `&mut self` only.
unsafe impl Send for SubmissionRing {}

impl SubmissionRing {
    /// Bytes that a ring of `size` entries takes.
    pub(super) const fn bytes(size: u32) -> usize {
        size as usize * size_of::<SubmissionEntry>()
    }

    /// A ring of `size` entries, a power of two, in `piece`.
    pub(super) fn new(piece: Piece, size: u32) -> SubmissionRing {
        assert!(size.is_power_of_two() && piece.len() >= Self::bytes(size));
        SubmissionRing { entries: piece.address().cast(), mask: size - 1, tail: 0, head: 0, piece }
    }

    pub(super) fn size(&self) -> u32 {
        self.mask + 1
    }

    pub(super) fn iova(&self) -> u64 {
        self.piece.iova()
    }

    /// The tail as the doorbell takes it.
    #[inline]
    pub(super) fn tail(&self) -> u32 {
        self.tail & self.mask
    }

    /// Puts a command at the tail.
    ///
    /// The caller keeps fewer than `size` commands outstanding, so that the place is free: the controller fetches
    /// in order, and has fetched every command that completed.
    #[inline]
    pub(super) fn push(&mut self, command: &SubmissionEntry) {
        // SAFETY: the index is within the ring, whose memory is this ring's own; the device only
        // reads it, and reads this place after the doorbell.
        unsafe { self.entries.add((self.tail & self.mask) as usize).write(*command) };
        self.tail = self.tail.wrapping_add(1);
    }

    /// Takes note of the head in a completion. `false` when the controller cannot have got there.
    #[inline]
    pub(super) fn advance_head(&mut self, reported: u16) -> bool {
        let moved = u32::from(reported).wrapping_sub(self.head) & self.mask;
        let possible = self.tail.wrapping_sub(self.head);
        if u32::from(reported) > self.mask || moved > possible {
            return false;
        }
        self.head = self.head.wrapping_add(moved);
        true
    }

    /// Starts over with an empty ring.
    pub(super) fn reset(&mut self) {
        self.tail = 0;
        self.head = 0;
        self.piece.clear();
    }
}

/// A completion ring.
pub(super) struct CompletionRing {
    entries: NonNull<CompletionEntry>,
    mask: u32,
    head: u32,
    piece: Piece,
}

// SAFETY: as for the submission ring.
unsafe impl Send for CompletionRing {}

impl CompletionRing {
    /// Bytes that a ring of `size` entries takes.
    pub(super) const fn bytes(size: u32) -> usize {
        size as usize * size_of::<CompletionEntry>()
    }

    /// A ring of `size` entries, a power of two, in `piece`.
    pub(super) fn new(piece: Piece, size: u32) -> CompletionRing {
        assert!(size.is_power_of_two() && piece.len() >= Self::bytes(size));
        CompletionRing { entries: piece.address().cast(), mask: size - 1, head: 0, piece }
    }

    pub(super) fn size(&self) -> u32 {
        self.mask + 1
    }

    pub(super) fn iova(&self) -> u64 {
        self.piece.iova()
    }

    /// The head without the wrap: how many entries were taken since the start.
    #[inline]
    pub(super) fn taken(&self) -> u32 {
        self.head
    }

    /// The head as the doorbell takes it.
    #[inline]
    pub(super) fn head(&self) -> u32 {
        self.head & self.mask
    }

    /// Takes the entry at the head, if the controller has written it.
    ///
    /// The last eight bytes (head, queue, command, phase and status) come in one load, which the processor does
    /// not tear: whoever sees the new phase sees the rest. Until the phase flips nothing else is read.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<CompletionEntry> {
        let index = (self.head & self.mask) as usize;
        // SAFETY: the index is within the ring's own memory, aligned to 16. The device writes there, so
        // the load is volatile and any bytes are a valid value.
        let word = unsafe { self.entries.add(index).cast::<u64>().add(1).read_volatile() };
        let flipped = self.head & (self.mask + 1) != 0;
        // The phase is 1 in the first pass over the ring, and changes with each (section 4.2.3.1... phase tag).
        if (word >> 48 & 1 != 0) == flipped {
            return None;
        }
        if cfg!(target_arch = "x86_64") {
            compiler_fence(Ordering::Acquire);
        } else {
            fence(Ordering::Acquire);
        }
        // SAFETY: as above.
        let result = unsafe { self.entries.add(index).cast::<u64>().read_volatile() };
        let mut entry = CompletionEntry::default();
        entry.as_mut_bytes()[..8].copy_from_slice(&result.to_ne_bytes());
        entry.as_mut_bytes()[8..].copy_from_slice(&word.to_ne_bytes());
        self.head = self.head.wrapping_add(1);
        Some(entry)
    }

    /// Starts over with an empty ring.
    pub(super) fn reset(&mut self) {
        self.head = 0;
        self.piece.clear();
    }
}
