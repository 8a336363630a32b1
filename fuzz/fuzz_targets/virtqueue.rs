//! Virtqueues whose memory, and whose in-flight records, are whatever anybody writes there at any time. No panic, no
//! loop; a buffer is named within the queue and by one name at a time, and its chain is no longer than chains
//! may be and in order.
#![no_main]

use std::ptr::NonNull;
use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rustix::io::pwrite;
use weft::memory::{HugePages, Region, Registry};
use weft::virtio::inflight::{InflightArea, InflightLayout};
use weft::virtio::memory::{GuestMemory, GuestRegion};
use weft::virtio::ring::device::packed::PackedRing;
use weft::virtio::ring::device::split::SplitRing;
use weft::virtio::ring::device::{CHAIN_MAX, DeviceRing, RingPlace};
use weft::virtio::spec::Features;

const GUEST_ADDRESS: u64 = 0x1_0000;
/// Where the areas are in the guest's memory. With few descriptors, each has a page; what is behind serves as tables.
const AREAS: [usize; 4] = [0, 0x1000, 0x2000, 0x3000];
const SIZE_MAX: u16 = 64;

#[derive(Arbitrary, Debug)]
struct Input {
    packed: bool,
    event_index: bool,
    indirect: bool,
    on_record: bool,
    size: u8,
    base: u32,
    /// What the areas and the records start with.
    contents: [Vec<u8>; 4],
    records: Vec<u8>,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Fetch(u8),
    Complete(u8, u32),
    Publish,
    Interrupt,
    Arm,
    Disarm,
    Byte { area: u8, offset: u16, value: u8 },
    Word { area: u8, offset: u8, value: u16 },
    Descriptor { area: u8, index: u8, table: u8, length: u8, flags: u16, next: u16 },
    Record { offset: u16, value: u8 },
    Restart(u32),
}

struct Guest {
    region: Arc<Region>,
    memory: GuestMemory,
}

impl Guest {
    fn new() -> Guest {
        let region = Arc::new(Region::allocate(1, HugePages::Never).expect("memory"));
        let registry = Arc::new(Registry::default());
        let registered = GuestRegion::register(&registry, region.clone(), GUEST_ADDRESS, 0);
        let memory = GuestMemory::new(vec![registered.expect("room in the registry")]);
        Guest { region, memory: memory.expect("one region") }
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.region.len());
        // SAFETY: within the region.
        unsafe { self.region.start().add(offset) }
    }

    fn write(&self, area: u8, offset: usize, bytes: &[u8]) {
        let start = AREAS[usize::from(area) % AREAS.len()] + offset % 0x1000;
        for (index, &byte) in bytes.iter().enumerate() {
            // SAFETY: the region is far longer than the areas, and no reference to its bytes exists.
            unsafe { self.at(start + index).write_volatile(byte) };
        }
    }
}

fn spoil(area: Option<&InflightArea>, offset: u64, bytes: &[u8]) {
    if let Some(area) = area {
        let room = (area.length() - offset % area.length()) as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        let _ = pwrite(area.file(), bytes, offset % area.length());
    }
}

fn run<R: DeviceRing>(input: &Input, layout: InflightLayout, size: u16) {
    let guest = Guest::new();
    for (area, contents) in (0..).zip(&input.contents) {
        guest.write(area, 0, &contents[..contents.len().min(0x1000)]);
    }
    let records = input.on_record.then(|| InflightArea::create(layout, 1, size).expect("memory"));
    spoil(records.as_ref(), 0, &input.records);
    let open = |base: u32| {
        let place = RingPlace {
            size,
            descriptors: guest.at(AREAS[0]),
            driver: guest.at(AREAS[1]),
            device: guest.at(AREAS[2]),
            features: Features::VERSION_1
                .with_if(input.event_index, Features::EVENT_IDX)
                .with_if(input.indirect, Features::INDIRECT_DESC),
            base,
        };
        let queue = records.as_ref().and_then(|records| records.queue(0));
        // SAFETY: each area is a page, which is enough for that size, and the guest outlives the ring.
        unsafe { R::open(place, queue) }
    };
    let Ok(mut ring) = open(input.base) else { return };
    let mut in_flight: Vec<u16> = Vec::new();
    let mut chain = Vec::with_capacity(CHAIN_MAX);
    let left = ring.in_flight();
    let mut left = usize::from(left);
    for step in &input.steps {
        match *step {
            Step::Fetch(most) => {
                let mut ids = [0; 256];
                let Ok(count) = ring.fetch(&mut ids[..usize::from(most)]) else { continue };
                for &id in &ids[..count] {
                    assert!(id < size, "{id}");
                    assert!(!in_flight.contains(&id), "{id}");
                    ring.prefetch(id, &guest.memory);
                    if ring.chain(id, &guest.memory, &mut chain).is_ok() {
                        assert!(!chain.is_empty() && chain.len() <= CHAIN_MAX);
                        assert!(chain.is_sorted_by_key(|piece| piece.writable));
                    }
                    assert_eq!(chain.capacity(), CHAIN_MAX);
                    in_flight.push(id);
                }
                left = left.saturating_sub(count);
                assert_eq!(usize::from(ring.in_flight()), in_flight.len() + left);
                assert!(in_flight.len() <= usize::from(size));
            }
            Step::Complete(which, written) => {
                if !in_flight.is_empty() {
                    ring.complete(in_flight.remove(usize::from(which) % in_flight.len()), written);
                }
            }
            Step::Publish => ring.publish(),
            Step::Interrupt => {
                ring.take_interrupt();
            }
            Step::Arm => {
                ring.arm();
            }
            Step::Disarm => ring.disarm(),
            Step::Byte { area, offset, value } => guest.write(area, offset.into(), &[value]),
            Step::Word { area, offset, value } => {
                guest.write(area, 2 * usize::from(offset), &value.to_le_bytes());
            }
            Step::Descriptor { area, index, table, length, flags, next } => {
                let address = GUEST_ADDRESS + AREAS[3] as u64 + u64::from(table);
                let rest = u64::from(length)
                    | u64::from(if input.packed { next } else { flags }) << 32
                    | u64::from(if input.packed { flags } else { next }) << 48;
                let place = 16 * usize::from(index);
                guest.write(area, place, &address.to_le_bytes());
                guest.write(area, place + 8, &rest.to_le_bytes());
            }
            Step::Record { offset, value } => spoil(records.as_ref(), offset.into(), &[value]),
            Step::Restart(base) => {
                let Ok(next) = open(base) else { return };
                ring = next;
                in_flight.clear();
                left = usize::from(ring.in_flight());
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let size = u16::from(input.size) % SIZE_MAX + 1;
    if input.packed {
        run::<PackedRing>(&input, InflightLayout::Packed, size);
    } else {
        run::<SplitRing>(&input, InflightLayout::Split, size.next_power_of_two());
    }
});
