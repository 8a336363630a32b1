//! A small device for tests, written from the specification alone: it reads the ring byte by byte, holds what it finds, and
//! uses it in any order.

use crate::virtio::ring::driver::RingAddresses;
use crate::virtio::spec::ring::{descriptor_flags as flags, event_flags};

fn read<T: Copy>(address: u64) -> T {
    // SAFETY: tests give it addresses of a ring's memory, in this thread.
    unsafe { (address as *const T).read_unaligned() }
}

pub(super) fn write<T>(address: u64, value: T) {
    // SAFETY: as above.
    unsafe { (address as *mut T).write_unaligned(value) }
}

/// A buffer that the device has.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: u16,
    /// Places that it takes in a packed ring.
    places: u16,
    /// Address, length, whether the device writes it.
    pub(super) pieces: Vec<(u64, u32, bool)>,
}

pub(super) struct TestDevice {
    pub(super) at: RingAddresses,
    size: u16,
    packed: bool,
    available: u16,
    available_wrap: bool,
    pub(super) used: u16,
    used_wrap: bool,
    pub(super) held: Vec<Held>,
}

impl TestDevice {
    pub(super) fn new(at: RingAddresses, size: u16, packed: bool) -> TestDevice {
        TestDevice {
            at,
            size,
            packed,
            available: 0,
            available_wrap: true,
            used: 0,
            used_wrap: true,
            held: Vec::new(),
        }
    }

    /// Takes all that is available.
    pub(super) fn fetch(&mut self) {
        while let Some(held) = if self.packed { self.fetch_packed() } else { self.fetch_split() } {
            self.held.push(held);
        }
    }

    fn fetch_split(&mut self) -> Option<Held> {
        if read::<u16>(self.at.driver + 2) == self.available {
            return None;
        }
        let place = u64::from(self.available % self.size);
        let id: u16 = read(self.at.driver + 4 + 2 * place);
        self.available = self.available.wrapping_add(1);
        let mut pieces = Vec::new();
        let (mut table, mut index) = (self.at.descriptors, id);
        loop {
            let descriptor = table + 16 * u64::from(index);
            let (address, length) = (read::<u64>(descriptor), read::<u32>(descriptor + 8));
            let (flag, next) = (read::<u16>(descriptor + 12), read::<u16>(descriptor + 14));
            if flag & flags::INDIRECT != 0 {
                assert!(table == self.at.descriptors && flag == flags::INDIRECT && length >= 32);
                (table, index) = (address, 0);
                continue;
            }
            pieces.push((address, length, flag & flags::WRITE != 0));
            if flag & flags::NEXT == 0 {
                break;
            }
            index = next;
        }
        Some(Held { id, places: 1, pieces })
    }

    fn fetch_packed(&mut self) -> Option<Held> {
        let mut pieces = Vec::new();
        let mut places = 0;
        loop {
            let descriptor = self.at.descriptors + 16 * u64::from(self.available);
            let flag: u16 = read(descriptor + 14);
            let (a, u) = (flag & flags::AVAILABLE != 0, flag & flags::USED != 0);
            if a == u || a != self.available_wrap {
                assert_eq!(places, 0, "a chain that is available in part");
                return None;
            }
            let (address, length) = (read::<u64>(descriptor), read::<u32>(descriptor + 8));
            let id: u16 = read(descriptor + 12);
            places += 1;
            self.available += 1;
            if self.available == self.size {
                (self.available, self.available_wrap) = (0, !self.available_wrap);
            }
            if flag & flags::INDIRECT != 0 {
                assert_eq!(flag & (flags::WRITE | flags::NEXT), 0);
                for entry in 0..length / 16 {
                    let at = address + 16 * u64::from(entry);
                    let writes = read::<u16>(at + 14) & flags::WRITE != 0;
                    pieces.push((read(at), read(at + 8), writes));
                }
                return Some(Held { id, places, pieces });
            }
            pieces.push((address, length, flag & flags::WRITE != 0));
            if flag & flags::NEXT == 0 {
                return Some(Held { id, places, pieces });
            }
        }
    }

    /// Serves the buffer at `index` of those held: reads and writes `disk`, and answers with `status`.
    pub(super) fn serve(&mut self, index: usize, disk: &mut [u8], status: u8) -> Held {
        let held = self.held.swap_remove(index);
        let writable: u32 = held.pieces.iter().filter(|piece| piece.2).map(|piece| piece.1).sum();
        let kind: u32 = read(held.pieces[0].0);
        let sector: u64 = read(held.pieces[0].0 + 8);
        let mut offset = sector as usize * 512;
        let (last, data) = held.pieces[1..].split_last().unwrap();
        assert_eq!((last.1, last.2), (1, true));
        for &(address, length, writes) in data {
            let length = length as usize;
            match (kind, writes) {
                (0, true) => {
                    (0..length).for_each(|i| write(address + i as u64, disk[offset + i]));
                }
                (1, false) => {
                    (0..length).for_each(|i| disk[offset + i] = read(address + i as u64));
                }
                (13, false) => {
                    let first = read::<u64>(address) as usize * 512;
                    let count = read::<u32>(address + 8) as usize * 512;
                    disk[first..first + count].fill(0);
                }
                other => panic!("{other:?}"),
            }
            offset += length;
        }
        write(last.0, status);
        self.put_used(held.id, held.places, writable);
        held
    }

    /// Says that a buffer was used.
    pub(super) fn put_used(&mut self, id: u16, places: u16, written: u32) {
        if !self.packed {
            let element = self.at.device + 4 + 8 * u64::from(self.used % self.size);
            write(element, u32::from(id));
            write(element + 4, written);
            self.used = self.used.wrapping_add(1);
            write(self.at.device + 2, self.used);
            return;
        }
        let descriptor = self.at.descriptors + 16 * u64::from(self.used);
        write(descriptor + 8, written);
        write(descriptor + 12, id);
        let flag = if self.used_wrap { flags::AVAILABLE | flags::USED } else { 0 };
        write(descriptor + 14, flag);
        self.used += places;
        if self.used >= self.size {
            (self.used, self.used_wrap) = (self.used - self.size, !self.used_wrap);
        }
    }

    /// Wants a notification for what comes next, or none.
    pub(super) fn arm(&mut self, event_index: bool, armed: bool) {
        let at = self.at.device;
        match (self.packed, event_index, armed) {
            (false, true, true) => write(at + 4 + 8 * u64::from(self.size), self.available),
            // As far away as can be.
            (false, true, false) => {
                write(at + 4 + 8 * u64::from(self.size), self.available.wrapping_sub(1));
            }
            (false, false, _) => write(at, u16::from(!armed)),
            (true, true, true) => {
                write(at, self.available | u16::from(self.available_wrap) << 15);
                write(at + 2, event_flags::DESCRIPTOR);
            }
            (true, _, true) => write(at + 2, event_flags::ENABLE),
            (true, _, false) => write(at + 2, event_flags::DISABLE),
        }
    }
}
