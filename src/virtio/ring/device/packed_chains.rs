//! Copies of the descriptors of a packed queue that are in flight.
//!
//! The ring cannot keep them: used descriptors go where the next chain of the oldest round was, whoever's that is. So each chain is
//! copied when it is fetched, into entries of a table that has as many as the ring. Free entries form a list; a chain
//! takes its entries from the list's start, where they stay linked, and is named by the first one. In-flight records
//! have the same entries and links.

use crate::virtio::spec::ring::PackedDescriptor;

/// A chain of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::virtio) struct Links {
    /// How many.
    pub(in crate::virtio) count: u16,
    /// The last one.
    pub(in crate::virtio) last: u16,
    /// The driver's name for the buffer.
    pub(in crate::virtio) buffer: u16,
}

/// The table.
#[derive(Debug)]
pub(in crate::virtio) struct PackedChains {
    descriptors: Box<[PackedDescriptor]>,
    next: Box<[u16]>,
    /// By first entry.
    links: Box<[Links]>,
    free: u16,
}

impl PackedChains {
    /// A table of `size` entries, all free and in order.
    pub(in crate::virtio) fn new(size: u16) -> PackedChains {
        let length = usize::from(size);
        PackedChains {
            descriptors: vec![PackedDescriptor::default(); length].into_boxed_slice(),
            next: (1..=size).collect(),
            links: vec![Links::default(); length].into_boxed_slice(),
            free: 0,
        }
    }

    /// The first free entry; beyond the table when there is none.
    #[inline(always)]
    pub(in crate::virtio) fn free(&self) -> u16 {
        self.free
    }

    /// Says which entry is the first free one.
    #[inline(always)]
    pub(in crate::virtio) fn set_free(&mut self, entry: u16) {
        self.free = entry;
    }

    /// The entry behind one.
    #[inline(always)]
    pub(in crate::virtio) fn next(&self, entry: u16) -> u16 {
        self.next[usize::from(entry)]
    }

    /// Says which entry is behind one.
    #[inline(always)]
    pub(in crate::virtio) fn set_next(&mut self, entry: u16, next: u16) {
        self.next[usize::from(entry)] = next;
    }

    /// What an entry holds.
    #[inline(always)]
    pub(in crate::virtio) fn descriptor(&self, entry: u16) -> PackedDescriptor {
        self.descriptors[usize::from(entry)]
    }

    /// Fills an entry.
    #[inline(always)]
    pub(in crate::virtio) fn set_descriptor(&mut self, entry: u16, descriptor: PackedDescriptor) {
        self.descriptors[usize::from(entry)] = descriptor;
    }

    /// The chain that starts with an entry.
    #[inline(always)]
    pub(in crate::virtio) fn links(&self, first: u16) -> Links {
        self.links[usize::from(first)]
    }

    /// Says which chain starts with an entry.
    #[inline(always)]
    pub(in crate::virtio) fn set_links(&mut self, first: u16, links: Links) {
        self.links[usize::from(first)] = links;
    }

    /// Puts a chain's entries back.
    #[inline(always)]
    pub(in crate::virtio) fn release(&mut self, first: u16) {
        let last = self.links(first).last;
        self.set_next(last, self.free);
        self.free = first;
    }
}
