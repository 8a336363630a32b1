//! The driver of a split queue.

use std::sync::Arc;

use super::model::{DESCRIPTORS, DEVICE, DRIVER, Driver, Memory};
use crate::virtio::inflight::InflightLayout;
use crate::virtio::ring::device::Piece;
use crate::virtio::ring::device::split::SplitRing;
use crate::virtio::spec::Features;
use crate::virtio::spec::ring::SplitDescriptor;
use crate::virtio::spec::ring::descriptor_flags::{INDIRECT, NEXT, WRITE};

pub struct SplitDriver {
    memory: Arc<Memory>,
    size: u16,
    event_index: bool,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    available: u16,
    asked: u16,
    used: u16,
}

/// The descriptors of a chain that has the places `next` leads to.
fn descriptors(pieces: &[Piece], next: impl Fn(usize) -> u16) -> Vec<SplitDescriptor> {
    let last = pieces.len() - 1;
    pieces
        .iter()
        .enumerate()
        .map(|(index, piece)| SplitDescriptor {
            address: piece.address,
            length: piece.length,
            flags: if index < last { NEXT } else { 0 } | if piece.writable { WRITE } else { 0 },
            next: if index < last { next(index + 1) } else { 0xdead },
        })
        .collect()
}

impl Driver for SplitDriver {
    type Ring = SplitRing;
    const LAYOUT: InflightLayout = InflightLayout::Split;
    const BASE: u32 = 0;

    fn new(memory: Arc<Memory>, size: u16, features: Features) -> SplitDriver {
        SplitDriver {
            memory,
            size,
            event_index: features.has(Features::EVENT_IDX),
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); usize::from(size)],
            available: 0,
            asked: 0,
            used: 0,
        }
    }

    fn add(&mut self, pieces: &[Piece], indirect: bool) -> Option<u16> {
        let needed = if indirect { 1 } else { pieces.len() };
        if self.free.len() < needed {
            return None;
        }
        let places = self.free.split_off(self.free.len() - needed);
        let head = places[0];
        let chain = if indirect {
            let table = Memory::table(head);
            for (index, descriptor) in
                descriptors(pieces, |index| index as u16).into_iter().enumerate()
            {
                self.memory.put(table + 16 * index, descriptor);
            }
            vec![SplitDescriptor {
                address: Memory::address(table),
                length: 16 * pieces.len() as u32,
                flags: INDIRECT,
                next: 0,
            }]
        } else {
            descriptors(pieces, |index| places[index])
        };
        for (&place, descriptor) in places.iter().zip(chain) {
            self.memory.put(DESCRIPTORS + 16 * usize::from(place), descriptor);
        }
        self.chains[usize::from(head)] = places;
        self.memory.put(DRIVER + 4 + 2 * usize::from(self.available % self.size), head);
        self.available = self.available.wrapping_add(1);
        self.memory.put(DRIVER + 2, self.available);
        Some(head)
    }

    fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.memory.get::<u16>(DEVICE + 2) == self.used {
            return None;
        }
        let element = DEVICE + 4 + 8 * usize::from(self.used % self.size);
        self.used = self.used.wrapping_add(1);
        let head = self.memory.get::<u32>(element) as u16;
        self.free.append(&mut self.chains[usize::from(head)]);
        Some((head, self.memory.get(element + 4)))
    }

    fn want_interrupt(&mut self, ahead: Option<u16>) {
        if self.event_index {
            // "No" is far behind.
            let event =
                ahead.map_or(self.used.wrapping_sub(1), |ahead| self.used.wrapping_add(ahead));
            self.memory.put(DRIVER + 4 + 2 * usize::from(self.size), event);
        } else {
            self.memory.put(DRIVER, u16::from(ahead.is_none()));
        }
    }

    fn must_notify(&mut self) -> bool {
        let old = std::mem::replace(&mut self.asked, self.available);
        if self.event_index {
            assert_eq!(self.memory.get::<u16>(DEVICE), 0);
            let event = self.memory.get::<u16>(DEVICE + 4 + 8 * usize::from(self.size));
            self.available.wrapping_sub(event).wrapping_sub(1) < self.available.wrapping_sub(old)
        } else {
            self.available != old && self.memory.get::<u16>(DEVICE) == 0
        }
    }
}
