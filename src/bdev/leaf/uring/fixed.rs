//! A ring's table of registered ("fixed") buffers: payload memory whose pages the kernel has pinned
//! and looked up once, instead of for each request.
//!
//! The table follows the memory registry: regions come and go while requests run. A region is
//! registered in pieces, [`PIECE`] bytes long, since the kernel takes 1 GiB per buffer at most and
//! pinning takes time: a reactor must not stand still while a guest's memory is pinned, so a
//! poll round does a limited part of it. Memory that is not registered (yet) works all the same.
//!
//! Each registered piece counts against RLIMIT_MEMLOCK for users without CAP_IPC_LOCK. When
//! that is used up, the rest stays unregistered and one line in the log says so.

use std::collections::VecDeque;
use std::sync::Arc;

use libc::iovec;
use tracing::{debug, info, warn};

use super::ring::Ring;
use crate::memory::{RegionId, RegionView, Registry, Segment, Subscription};

/// Length of a piece of a region, and with it of an entry of the table.
const PIECE: usize = 1 << PIECE_SHIFT;
const PIECE_SHIFT: u32 = 26;

/// Entries of the kernel's table: the most that it takes (IORING_MAX_REG_BUFFERS), enough for
/// 1 TiB of memory. Empty ones cost it a pointer.
const TABLE_ENTRIES: u16 = 1 << 14;

/// How much a poll round pins at most.
const PINNED_PER_ROUND: usize = 1 << PIECE_SHIFT;

/// What the table has of one region.
#[derive(Clone, Copy)]
struct Entry {
    id: RegionId,
    start: usize,
    /// First of the region's entries in the kernel's table.
    first: u16,
    /// How many pieces are registered.
    pieces: u16,
}

const ABSENT: Entry = Entry { id: RegionId::NONE, start: 0, first: 0, pieces: 0 };

/// The table of one ring.
pub(super) struct FixedBuffers {
    subscription: Subscription,
    /// By [`RegionId::slot`].
    entries: Vec<Entry>,
    /// Regions that are not registered whole yet.
    pending: VecDeque<RegionView>,
    used: Vec<bool>,
    enabled: bool,
}

impl FixedBuffers {
    /// A table for `ring`, with the regions that are registered now (those of moderate size; the
    /// rest follows with [`FixedBuffers::follow`]).
    pub(super) fn new(ring: &Ring, registry: &Arc<Registry>) -> FixedBuffers {
        let enabled = match ring.submitter().register_buffers_sparse(u32::from(TABLE_ENTRIES)) {
            Ok(()) => true,
            Err(error) => {
                info!(%error, "no registered buffers on this kernel: plain reads and writes");
                false
            }
        };
        let mut buffers = FixedBuffers {
            subscription: registry.subscribe(),
            entries: Vec::new(),
            pending: VecDeque::new(),
            used: vec![false; usize::from(TABLE_ENTRIES)],
            enabled,
        };
        buffers.follow(ring);
        buffers
    }

    /// Whether [`FixedBuffers::follow`] has something to do.
    #[inline]
    pub(super) fn is_behind(&self) -> bool {
        self.subscription.is_behind() || !self.pending.is_empty()
    }

    /// The entry of the kernel's table that holds all of `segment`.
    #[inline]
    pub(super) fn index_of(&self, segment: Segment) -> Option<u16> {
        let entry = self.entries.get(segment.region().slot())?;
        if entry.id != segment.region() {
            return None;
        }
        let offset = (segment.address() as usize).wrapping_sub(entry.start);
        let last = offset.wrapping_add(segment.len().saturating_sub(1) as usize);
        let piece = offset >> PIECE_SHIFT;
        (piece == last >> PIECE_SHIFT && piece < usize::from(entry.pieces))
            .then(|| entry.first + piece as u16)
    }

    /// Takes up changes of the registry, as many as fit in a poll round.
    #[cold]
    pub(super) fn follow(&mut self, ring: &Ring) {
        if self.subscription.is_behind() {
            let (mut removed, mut added) = (Vec::new(), Vec::new());
            self.subscription
                .catch_up(|view| removed.push(view.id), |view| added.push(view.clone()));
            for id in removed {
                self.remove(ring, id);
            }
            if self.enabled {
                self.pending.extend(added);
            }
        }
        let mut budget = PINNED_PER_ROUND;
        while budget > 0
            && let Some(view) = self.pending.pop_front()
        {
            let (pinned, whole) = self.register_some(ring, &view, budget);
            budget = budget.saturating_sub(pinned);
            if !whole {
                self.pending.push_front(view);
            }
        }
    }

    /// Registers up to `budget` bytes of a region; returns how many, and whether it is done with.
    fn register_some(&mut self, ring: &Ring, view: &RegionView, budget: usize) -> (usize, bool) {
        let (start, length) = (view.region.start().as_ptr() as usize, view.region.len());
        let pieces = length.div_ceil(PIECE);
        let slot = view.id.slot();
        if pieces == 0 {
            return (0, true);
        }
        if self.entries.len() <= slot {
            self.entries.resize(slot + 1, ABSENT);
        }
        if self.entries[slot].id != view.id {
            let Some(first) = self.find_room(pieces) else {
                debug!(pieces, "the table of registered buffers is full");
                return (0, true);
            };
            self.used[first..first + pieces].fill(true);
            self.entries[slot] = Entry { id: view.id, start, first: first as u16, pieces: 0 };
        }
        let mut pinned = 0;
        while pinned < budget && usize::from(self.entries[slot].pieces) < pieces {
            let entry = &mut self.entries[slot];
            let offset = usize::from(entry.pieces) << PIECE_SHIFT;
            let piece = PIECE.min(length - offset);
            let buffer = iovec { iov_base: (start + offset) as *mut _, iov_len: piece };
            let index = u32::from(entry.first + entry.pieces);
            // SAFETY: the region is mapped for as long as the registry or we hold it; the kernel pins
            // its pages, so that a request in flight never touches memory that was given back.
            let outcome =
                unsafe { ring.submitter().register_buffers_update(index, &[buffer], None) };
            if let Err(error) = outcome {
                self.refused(&error, piece);
                return (pinned, true);
            }
            self.entries[slot].pieces += 1;
            pinned += piece;
        }
        (pinned, usize::from(self.entries[slot].pieces) == pieces)
    }

    fn find_room(&self, pieces: usize) -> Option<usize> {
        let mut run = 0;
        for (index, used) in self.used.iter().enumerate() {
            run = if *used { 0 } else { run + 1 };
            if run == pieces {
                return Some(index + 1 - pieces);
            }
        }
        None
    }

    fn refused(&mut self, error: &std::io::Error, bytes: usize) {
        if error.raw_os_error() == Some(libc::ENOMEM) {
            warn!(
                bytes,
                "RLIMIT_MEMLOCK leaves no room to register buffers with io_uring (raise it, or give \
                 CAP_IPC_LOCK): plain reads and writes, which cost more processor time"
            );
            self.enabled = false;
            self.pending.clear();
        } else {
            debug!(%error, bytes, "memory that io_uring cannot register");
        }
    }

    fn remove(&mut self, ring: &Ring, id: RegionId) {
        self.pending.retain(|view| view.id != id);
        let Some(entry) = self.entries.get_mut(id.slot()).filter(|entry| entry.id == id) else {
            return;
        };
        let gone = std::mem::replace(entry, ABSENT);
        let pieces = self.used.len().min(usize::from(gone.pieces));
        for index in 0..pieces {
            let empty = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
            let index = u32::from(gone.first) + index as u32;
            // SAFETY: an empty buffer clears the entry; a request in flight keeps its own pages.
            let outcome =
                unsafe { ring.submitter().register_buffers_update(index, &[empty], None) };
            if let Err(error) = outcome {
                warn!(%error, "cannot take back a registered buffer");
            }
        }
        self.rebuild_used();
    }

    /// Entries are in use from a region's first to its last piece, registered or not.
    fn rebuild_used(&mut self) {
        self.used.fill(false);
        for entry in self.entries.iter().filter(|entry| entry.id != RegionId::NONE) {
            let first = usize::from(entry.first);
            let end = (first + usize::from(entry.pieces)).min(self.used.len());
            self.used[first..end].fill(true);
        }
        for view in &self.pending {
            if let Some(entry) = self.entries.get(view.id.slot())
                && entry.id == view.id
            {
                let first = usize::from(entry.first);
                let end = (first + view.region.len().div_ceil(PIECE)).min(self.used.len());
                self.used[first..end].fill(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::medium::{Medium, OpenMode};
    use super::super::ring::RingOptions;
    use super::*;
    use crate::memory::{HugePages, Region};

    fn ring() -> (tempfile::NamedTempFile, Ring) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mode = OpenMode { readonly: false, direct: false, lock_patience: Duration::ZERO };
        let medium = Medium::open(file.path(), mode).unwrap();
        let ring = Ring::open(&medium, 4, RingOptions::default()).unwrap();
        (file, ring)
    }

    fn segment(view: &RegionView, offset: usize, length: u32) -> Segment {
        // SAFETY: never given to a device.
        unsafe { Segment::new(view.region.start().add(offset), length, view.id) }
    }

    #[test]
    fn the_table_follows_the_registry() {
        let (_file, ring) = ring();
        let registry = Registry::new();
        let region = || Arc::new(Region::allocate(1 << 20, HugePages::Never).unwrap());
        let first = registry.add(region()).unwrap();
        let mut fixed = FixedBuffers::new(&ring, &registry);
        let Some(index) = fixed.index_of(segment(&first, 4096, 8192)) else {
            eprintln!("skipped: RLIMIT_MEMLOCK leaves no room for a buffer of 2 MiB");
            return;
        };
        assert!(!fixed.is_behind());
        let second = registry.add(region()).unwrap();
        assert!(fixed.is_behind());
        assert_eq!(fixed.index_of(segment(&second, 0, 512)), None, "not taken up yet");
        fixed.follow(&ring);
        let other = fixed.index_of(segment(&second, 0, 512));
        assert!(other.is_some_and(|other| other != index));
        registry.remove(first.id);
        fixed.follow(&ring);
        assert_eq!(fixed.index_of(segment(&first, 0, 512)), None);
        // Both the registry's slot and the table's entry are used again, and the old id stays dead.
        let third = registry.add(region()).unwrap();
        assert_eq!(third.id.slot(), first.id.slot());
        fixed.follow(&ring);
        assert_eq!(fixed.index_of(segment(&third, 0, 512)), Some(index));
        assert_eq!(fixed.index_of(segment(&first, 0, 512)), None);
        assert_eq!(fixed.index_of(segment(&second, 0, 512)), other);
    }

    #[test]
    fn large_regions_are_taken_up_in_pieces() {
        let (_file, ring) = ring();
        let registry = Registry::new();
        let mut fixed = FixedBuffers::new(&ring, &registry);
        let region = Region::allocate(PIECE + (2 << 20), HugePages::Never).unwrap();
        let view = registry.add(Arc::new(region)).unwrap();
        fixed.follow(&ring);
        let Some(first) = fixed.index_of(segment(&view, PIECE - 4096, 4096)) else {
            eprintln!("skipped: RLIMIT_MEMLOCK leaves no room for a buffer of 64 MiB");
            return;
        };
        assert_eq!(fixed.index_of(segment(&view, PIECE, 4096)), None, "a round pins so much only");
        assert!(fixed.is_behind());
        fixed.follow(&ring);
        assert!(!fixed.is_behind());
        assert_eq!(fixed.index_of(segment(&view, PIECE, 4096)), Some(first + 1));
        assert_eq!(
            fixed.index_of(segment(&view, PIECE - 512, 1024)),
            None,
            "it lies in two pieces"
        );
    }
}
