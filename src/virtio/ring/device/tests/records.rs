//! In-flight records that contradict themselves or the ring.

use super::model::{Driver, Machine, features, written};
use super::packed_driver::PackedDriver;
use super::split_driver::SplitDriver;
use crate::virtio::inflight::{InflightArea, InflightLayout};
use crate::virtio::ring::device::{DeviceRing, RingFault};

const SIZE: u16 = 16;

/// What becomes of a queue that gave one buffer back and has two in flight, each of three pieces, when these fields
/// of its records are overwritten.
fn spoiled<D: Driver>(fields: &[(usize, u16)]) -> Result<u16, RingFault> {
    let mut machine = Machine::<D>::new(SIZE, features(true, true), true);
    let mut ring = machine.open();
    let mut ids = [0; 3];
    for _ in 0..3 {
        assert!(machine.add(1, 2, false));
    }
    assert_eq!(ring.fetch(&mut ids), Ok(3));
    ring.complete(ids[0], written(0));
    ring.publish();
    drop(ring);
    let queue = machine.area.as_ref().unwrap().queue(1).unwrap();
    for &(offset, value) in fields {
        // SAFETY: within the records.
        unsafe { queue.at(offset).cast::<u16>().write(value) };
    }
    machine.try_open().map(|ring| ring.in_flight())
}

fn is_refused<D: Driver>(fields: &[(usize, u16)]) {
    let result = spoiled::<D>(fields);
    assert!(matches!(result, Err(RingFault::Inflight(_))), "{fields:?}: {result:?}");
}

#[test]
fn records_of_a_split_queue() {
    assert_eq!(spoiled::<SplitDriver>(&[]), Ok(2));
    let entry = |index: usize| 16 + 16 * index;
    for fields in [
        &[(8, 2)][..],
        &[(10, SIZE - 1)],
        // The used index is 1.
        &[(14, 2)],
        &[(14, 1 + 0x8000)],
        &[(14, 0), (12, SIZE)],
        &[(14, 0xffff), (12, 0), (entry(0) + 6, 0xffff)],
        // A third and a fourth in flight, where the driver has two outstanding.
        &[(entry(9), 1)],
        &[(entry(8), 1), (entry(9), 1)],
    ] {
        is_refused::<SplitDriver>(fields);
    }
    // One that names nobody is as good as none.
    assert_eq!(spoiled::<SplitDriver>(&[(8, 0)]), Ok(0));
}

#[test]
fn records_of_a_packed_queue() {
    assert_eq!(spoiled::<PackedDriver>(&[]), Ok(2));
    // The chains in flight are in entries 3 to 5 and 6 to 8.
    let entry = |index: usize| 32 + 32 * index;
    for fields in [
        &[(8, 2)][..],
        &[(10, SIZE - 1)],
        &[(16, SIZE)],
        &[(18, SIZE)],
        &[(14, 4)],
        &[(14, SIZE)],
        &[(entry(0) + 2, 0)],
        &[(entry(2) + 2, 1)],
        &[(entry(3) + 2, 3)],
        &[(entry(3) + 2, 9)],
        &[(entry(4) + 2, SIZE)],
        &[(entry(3) + 4, 4)],
        &[(entry(3) + 6, 0)],
        &[(entry(3) + 6, 2), (entry(3) + 4, 4)],
        &[(entry(3) + 6, 0xffff)],
        &[(entry(3), 0)],
    ] {
        is_refused::<PackedDriver>(fields);
    }
    // The same buffer twice.
    let result = spoiled::<PackedDriver>(&[(entry(5) + 16, 0x8001), (entry(8) + 16, 0x8001)]);
    assert_eq!(result, Err(RingFault::InFlight(0x8001)));
    // Nothing in flight: how the entries are linked does not matter.
    assert_eq!(spoiled::<PackedDriver>(&[(entry(3), 0), (entry(6), 0)]), Ok(0));
}

#[test]
fn records_of_another_queue() {
    fn open<D: Driver>(layout: InflightLayout, size: u16) -> Result<(), RingFault> {
        let mut machine = Machine::<D>::new(SIZE, features(false, false), false);
        machine.area = Some(InflightArea::create(layout, 2, size).unwrap());
        machine.try_open().map(drop)
    }
    use InflightLayout::{Packed, Split};
    for (layout, size, split, packed) in [
        (Split, SIZE, true, false),
        (Packed, SIZE, false, true),
        (Split, SIZE - 1, false, false),
        (Packed, SIZE - 1, false, false),
        (Split, 2 * SIZE, true, false),
        (Packed, 2 * SIZE, false, true),
    ] {
        assert_eq!(open::<SplitDriver>(layout, size).is_ok(), split);
        assert_eq!(open::<PackedDriver>(layout, size).is_ok(), packed);
    }
}

/// A queue may have fewer descriptors than there are records, and the next time more.
#[test]
fn a_queue_of_another_size() {
    let mut machine = Machine::<PackedDriver>::new(4, features(true, true), false);
    machine.area = Some(InflightArea::create(InflightLayout::Packed, 2, SIZE).unwrap());
    let mut ring = machine.open();
    let mut ids = [0; SIZE as usize];
    for round in 0..4 {
        assert!(machine.add(1, 1, true));
        assert_eq!(ring.fetch(&mut ids), Ok(1));
        ring.complete(ids[0], written(round));
        ring.publish();
    }
    let area = machine.area.take();
    let mut machine = Machine::<PackedDriver>::new(SIZE, features(true, true), false);
    machine.area = area;
    // The used index goes on; the driver of this test does not.
    let ring = machine.open();
    assert_eq!((ring.in_flight(), ring.base()), (0, 0));
}
