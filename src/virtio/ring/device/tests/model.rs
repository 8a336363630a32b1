//! A guest: memory, and a driver in it that knows what it gave to the device.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory::{HugePages, Region, Registry};
use crate::virtio::inflight::{InflightArea, InflightLayout};
use crate::virtio::memory::{GuestMemory, GuestRegion};
use crate::virtio::ring::device::{DeviceRing, Piece, RingPlace};
use crate::virtio::spec::Features;

/// Where the guest's memory is in the guest.
pub const GUEST_ADDRESS: u64 = 0x4000_0000;
/// Offsets of the areas in it.
pub const DESCRIPTORS: usize = 0x1_0000;
pub const DRIVER: usize = 0x2_0000;
pub const DEVICE: usize = 0x3_0000;
/// Tables are from here on, as many as descriptors.
pub const TABLES: usize = 0x4_0000;
const TABLE_LENGTH: usize = 0x1000;

/// The guest's memory, bytes that anybody can write.
pub struct Memory {
    pub guest: GuestMemory,
    region: Arc<Region>,
}

impl Memory {
    pub fn new() -> Memory {
        let region = Arc::new(Region::allocate(1, HugePages::Never).unwrap());
        let registry = Arc::new(Registry::default());
        let registered =
            GuestRegion::register(&registry, region.clone(), GUEST_ADDRESS, GUEST_ADDRESS);
        let guest = GuestMemory::new(vec![registered.unwrap()]).unwrap();
        Memory { guest, region }
    }

    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.region.len());
        // SAFETY: within the region.
        unsafe { self.region.start().add(offset) }
    }

    pub fn put<T: Copy>(&self, offset: usize, value: T) {
        // SAFETY: within the region (all offsets here are), by one thread.
        unsafe { self.at(offset).cast::<T>().write_unaligned(value) }
    }

    pub fn get<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: within the region (all offsets here are), by one thread.
        unsafe { self.at(offset).cast::<T>().read_unaligned() }
    }

    pub fn place(&self, size: u16, features: Features, base: u32) -> RingPlace {
        RingPlace {
            size,
            descriptors: self.at(DESCRIPTORS),
            driver: self.at(DRIVER),
            device: self.at(DEVICE),
            features,
            base,
        }
    }

    /// Guest address of what is at an offset.
    pub fn address(offset: usize) -> u64 {
        GUEST_ADDRESS + offset as u64
    }

    /// Where the table for a buffer of this name is.
    pub fn table(id: u16) -> usize {
        TABLES + TABLE_LENGTH * usize::from(id % 256)
    }
}

/// What the driver's side of either layout does.
pub trait Driver {
    type Ring: DeviceRing;
    const LAYOUT: InflightLayout;
    /// Where a new ring starts.
    const BASE: u32;

    fn new(memory: Arc<Memory>, size: u16, features: Features) -> Self;
    /// Makes a buffer available; gives its name, or `None` when there is no room.
    fn add(&mut self, pieces: &[Piece], indirect: bool) -> Option<u16>;
    /// Takes a used buffer: its name, and how much was written.
    fn take_used(&mut self) -> Option<(u16, u32)>;
    /// Wants an interrupt when the `ahead`-th from the next used buffer on is used (0: the next); `None`: no interrupt.
    fn want_interrupt(&mut self, ahead: Option<u16>);
    /// Whether the device wants a notification of what was made available since this was last asked.
    fn must_notify(&mut self) -> bool;
}

/// A guest and the device's side of its one queue.
pub struct Machine<D: Driver> {
    pub memory: Arc<Memory>,
    pub driver: D,
    pub size: u16,
    pub features: Features,
    pub area: Option<InflightArea>,
    pub base: u32,
    /// What the driver has outstanding: by its name, its pieces and serial number.
    pub outstanding: HashMap<u16, (u64, Vec<Piece>)>,
    pub added: u64,
    /// Serial numbers of what came back.
    pub returned: Vec<u64>,
}

pub fn features(event_index: bool, indirect: bool) -> Features {
    Features::VERSION_1
        .with_if(event_index, Features::EVENT_IDX)
        .with_if(indirect, Features::INDIRECT_DESC)
}

impl<D: Driver> Machine<D> {
    pub fn new(size: u16, features: Features, on_record: bool) -> Machine<D> {
        let memory = Arc::new(Memory::new());
        let driver = D::new(memory.clone(), size, features);
        let area = on_record.then(|| InflightArea::create(D::LAYOUT, 2, size).unwrap());
        Machine {
            memory,
            driver,
            size,
            features,
            area,
            base: D::BASE,
            outstanding: HashMap::new(),
            added: 0,
            returned: Vec::new(),
        }
    }

    pub fn open(&self) -> D::Ring {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<D::Ring, crate::virtio::ring::device::RingFault> {
        let place = self.memory.place(self.size, self.features, self.base);
        let queue = self.area.as_ref().map(|area| area.queue(1).unwrap());
        // SAFETY: the areas are in the memory, each with room for the largest queue of these tests, and the machine
        // outlives the ring.
        unsafe { D::Ring::open(place, queue) }
    }

    /// Makes a buffer available that has `readable` and then `writable` pieces, at addresses that tell it from all others.
    pub fn add(&mut self, readable: u16, writable: u16, indirect: bool) -> bool {
        let serial = self.added;
        let pieces: Vec<Piece> = (0..readable + writable)
            .map(|index| Piece {
                address: serial << 16 | u64::from(index) << 8,
                length: 100 + serial as u32 % 1000 + u32::from(index),
                writable: index >= readable,
            })
            .collect();
        let Some(name) = self.driver.add(&pieces, indirect) else { return false };
        assert!(self.outstanding.insert(name, (serial, pieces)).is_none());
        self.added += 1;
        true
    }

    /// The serial number of the buffer that consists of these pieces.
    pub fn serial_of(&self, chain: &[Piece]) -> u64 {
        let serial = chain[0].address >> 16;
        let (_, pieces) = self
            .outstanding
            .values()
            .find(|(number, _)| *number == serial)
            .unwrap_or_else(|| panic!("{serial} is not outstanding"));
        assert_eq!(pieces, chain);
        serial
    }

    /// Lets the driver take all that is used; gives the serial numbers. Whoever completes says how much was
    /// written by [`written`].
    pub fn take_used(&mut self) -> Vec<u64> {
        let mut serials = Vec::new();
        while let Some((name, count)) = self.driver.take_used() {
            let (serial, _) = self
                .outstanding
                .remove(&name)
                .unwrap_or_else(|| panic!("{name} came back and was not outstanding"));
            assert_eq!(count, written(serial));
            serials.push(serial);
        }
        self.returned.extend(&serials);
        serials
    }
}

/// How much the device says to have written.
pub fn written(serial: u64) -> u32 {
    serial as u32 % 3 * 512
}
