//! The driver of a packed queue.

use std::sync::Arc;

use super::model::{DESCRIPTORS, DEVICE, DRIVER, Driver, Memory};
use crate::virtio::inflight::InflightLayout;
use crate::virtio::ring::device::Piece;
use crate::virtio::ring::device::packed::PackedRing;
use crate::virtio::spec::Features;
use crate::virtio::spec::ring::PackedDescriptor;
use crate::virtio::spec::ring::descriptor_flags::{AVAILABLE, INDIRECT, NEXT, USED, WRITE};

pub struct PackedDriver {
    memory: Arc<Memory>,
    size: u16,
    event_index: bool,
    room: u16,
    /// Buffer ids that are free, and how many descriptors those that are not have.
    names: Vec<u16>,
    counts: Vec<u16>,
    available: u32,
    asked: u32,
    used: u32,
}

/// Buffer ids are the driver's choice: these are odd, and larger than any queue.
const NAME_STEP: u16 = 7;
const FIRST_NAME: u16 = 0x8001;

impl PackedDriver {
    /// Positions count on for ever here; the wrap counter is true in even rounds.
    fn slot(&self, position: u32) -> usize {
        DESCRIPTORS + 16 * (position % u32::from(self.size)) as usize
    }

    fn wrap(&self, position: u32) -> bool {
        (position / u32::from(self.size)).is_multiple_of(2)
    }

    fn bits(&self, position: u32) -> u16 {
        (position % u32::from(self.size)) as u16 | u16::from(self.wrap(position)) << 15
    }
}

impl Driver for PackedDriver {
    type Ring = PackedRing;
    const LAYOUT: InflightLayout = InflightLayout::Packed;
    const BASE: u32 = 0x8000_8000;

    fn new(memory: Arc<Memory>, size: u16, features: Features) -> PackedDriver {
        PackedDriver {
            memory,
            size,
            event_index: features.has(Features::EVENT_IDX),
            room: size,
            names: (0..size).rev().map(|index| FIRST_NAME + NAME_STEP * index).collect(),
            counts: vec![0; usize::from(size)],
            available: 0,
            asked: 0,
            used: 0,
        }
    }

    fn add(&mut self, pieces: &[Piece], indirect: bool) -> Option<u16> {
        let needed = if indirect { 1 } else { pieces.len() as u16 };
        if self.room < needed {
            return None;
        }
        let name = self.names.pop().unwrap();
        let index = (name - FIRST_NAME) / NAME_STEP;
        let descriptor = |piece: &Piece, id: u16, next: bool| PackedDescriptor {
            address: piece.address,
            length: piece.length,
            id,
            flags: if piece.writable { WRITE } else { 0 } | if next { NEXT } else { 0 },
        };
        let chain: Vec<PackedDescriptor> = if indirect {
            let table = Memory::table(index);
            for (index, piece) in pieces.iter().enumerate() {
                // Ids have no meaning in a table.
                self.memory.put(table + 16 * index, descriptor(piece, 0xbeef, false));
            }
            let address = Memory::address(table);
            vec![PackedDescriptor {
                address,
                length: 16 * pieces.len() as u32,
                id: name,
                flags: INDIRECT,
            }]
        } else {
            let last = pieces.len() - 1;
            // Only the last one's id counts.
            pieces
                .iter()
                .enumerate()
                .map(|(at, piece)| descriptor(piece, if at == last { name } else { 0 }, at < last))
                .collect()
        };
        // The first one's flags last.
        for (at, mut descriptor) in chain.into_iter().enumerate().rev() {
            let position = self.available + at as u32;
            descriptor.flags |= if self.wrap(position) { AVAILABLE } else { USED };
            self.memory.put(self.slot(position), descriptor);
        }
        self.available += u32::from(needed);
        self.room -= needed;
        self.counts[usize::from(index)] = needed;
        Some(name)
    }

    fn take_used(&mut self) -> Option<(u16, u32)> {
        let descriptor = self.memory.get::<PackedDescriptor>(self.slot(self.used));
        let wrap = if self.wrap(self.used) { AVAILABLE | USED } else { 0 };
        if descriptor.flags & (AVAILABLE | USED) != wrap {
            return None;
        }
        assert!(self.used < self.available, "a descriptor was used that was not available");
        let index = (descriptor.id.wrapping_sub(FIRST_NAME)) / NAME_STEP;
        let count = self.counts[usize::from(index)];
        self.names.push(descriptor.id);
        self.used += u32::from(count);
        self.room += count;
        assert_eq!(descriptor.flags & WRITE != 0, descriptor.length > 0);
        Some((descriptor.id, descriptor.length))
    }

    fn want_interrupt(&mut self, ahead: Option<u16>) {
        let event: [u16; 2] = match ahead {
            None => [0, 1],
            Some(ahead) if self.event_index => {
                let ahead = u32::from(ahead.min(self.size - 1));
                [self.bits(self.used + ahead), 2]
            }
            Some(_) => [0, 0],
        };
        self.memory.put(DRIVER, event);
    }

    fn must_notify(&mut self) -> bool {
        let old = std::mem::replace(&mut self.asked, self.available);
        if self.available == old {
            return false;
        }
        let [bits, flags] = self.memory.get::<[u16; 2]>(DEVICE);
        match flags {
            0 => true,
            1 => false,
            2 => {
                assert!(self.event_index);
                // Which of the positions that were added is it?
                (old..self.available).any(|position| self.bits(position) == bits)
            }
            _ => panic!("flags {flags}"),
        }
    }
}
