//! One test for each thing that a chain or a place must not be, and for what it may be though no driver does it.

use super::model::{
    DESCRIPTORS, DEVICE, DRIVER, Driver, GUEST_ADDRESS, Machine, Memory, features, written,
};
use super::packed_driver::PackedDriver;
use super::split_driver::SplitDriver;
use crate::virtio::ring::device::{CHAIN_MAX, DeviceRing, Piece, RingFault};
use crate::virtio::spec::ring::descriptor_flags::{AVAILABLE, INDIRECT, NEXT, WRITE};
use crate::virtio::spec::ring::{PackedDescriptor, SplitDescriptor};

const SIZE: u16 = 8;

fn split(address: u64, length: u32, flags: u16, next: u16) -> SplitDescriptor {
    SplitDescriptor { address, length, flags, next }
}

fn packed(address: u64, length: u32, flags: u16, id: u16) -> PackedDescriptor {
    PackedDescriptor { address, length, id, flags: flags | AVAILABLE }
}

/// What becomes of a chain that starts with descriptor 0.
fn split_chain(
    table: &[(usize, SplitDescriptor)],
    indirect: bool,
) -> Result<Vec<Piece>, RingFault> {
    let machine = Machine::<SplitDriver>::new(SIZE, features(false, indirect), false);
    for &(offset, descriptor) in table {
        machine.memory.put(offset, descriptor);
    }
    machine.memory.put(DRIVER + 2, 1u16);
    chain_of(&machine)
}

fn packed_chain(
    table: &[(usize, PackedDescriptor)],
    indirect: bool,
) -> Result<Vec<Piece>, RingFault> {
    let machine = Machine::<PackedDriver>::new(SIZE, features(false, indirect), false);
    for &(offset, descriptor) in table {
        machine.memory.put(offset, descriptor);
    }
    chain_of(&machine)
}

fn chain_of<D: Driver>(machine: &Machine<D>) -> Result<Vec<Piece>, RingFault> {
    let mut ring = machine.open();
    let mut ids = [0; 1];
    assert_eq!(ring.fetch(&mut ids)?, 1);
    let mut chain = Vec::with_capacity(CHAIN_MAX);
    ring.chain(ids[0], &machine.memory.guest, &mut chain)?;
    assert_eq!(chain.capacity(), CHAIN_MAX);
    Ok(chain)
}

const fn slot(index: usize) -> usize {
    DESCRIPTORS + 16 * index
}

const TABLE: usize = super::model::TABLES;

#[test]
fn chains_that_do_not_end() {
    let endless = [(slot(0), split(1, 1, NEXT, 1)), (slot(1), split(2, 1, NEXT, 0))];
    assert_eq!(split_chain(&endless, false), Err(RingFault::ChainTooLong(0)));
    let itself = [(slot(0), split(1, 1, NEXT, 0))];
    assert_eq!(split_chain(&itself, false), Err(RingFault::ChainTooLong(0)));
    let outside = [(slot(0), split(1, 1, NEXT, SIZE))];
    assert_eq!(split_chain(&outside, false), Err(RingFault::DescriptorIndex(SIZE)));
    let full: Vec<_> =
        (0..usize::from(SIZE)).map(|index| (slot(index), packed(1, 1, NEXT, 0))).collect();
    assert_eq!(packed_chain(&full, false), Err(RingFault::ChainTooLong(0)));
}

#[test]
fn a_readable_piece_behind_a_writable_one() {
    let chain = [(slot(0), split(1, 1, WRITE | NEXT, 1)), (slot(1), split(2, 1, 0, 0))];
    assert_eq!(split_chain(&chain, false), Err(RingFault::Order(0)));
    let chain = [(slot(0), packed(1, 1, WRITE | NEXT, 1)), (slot(1), packed(2, 1, 0, 0))];
    assert_eq!(packed_chain(&chain, false), Err(RingFault::Order(0)));
}

#[test]
fn tables_that_are_none() {
    let table = Memory::address(TABLE);
    let malformed = Err(RingFault::IndirectTable(0));
    let nested = (TABLE, split(table, 16, INDIRECT, 0));
    for (descriptor, agreed, expected) in [
        (split(table, 16, INDIRECT, 0), false, malformed.clone()),
        (split(table, 0, INDIRECT, 0), true, malformed.clone()),
        (split(table, 24, INDIRECT, 0), true, malformed.clone()),
        (split(table, 16, INDIRECT | NEXT, 1), true, malformed.clone()),
        (split(table, 16, INDIRECT, 0), true, malformed.clone()),
        (split(8, 16, INDIRECT, 0), true, Err(RingFault::TableAddress(8))),
        (
            split(GUEST_ADDRESS - 16, 32, INDIRECT, 0),
            true,
            Err(RingFault::TableAddress(GUEST_ADDRESS - 16)),
        ),
    ] {
        assert_eq!(split_chain(&[(slot(0), descriptor), nested], agreed), expected);
        let flags = descriptor.flags;
        let chain = [
            (slot(0), packed(descriptor.address, descriptor.length, flags, 0)),
            (slot(1), packed(1, 1, 0, 0)),
            (TABLE, packed(table, 16, INDIRECT, 0)),
        ];
        assert_eq!(packed_chain(&chain, agreed), expected);
    }
    let outside = [(slot(0), split(table, 16, INDIRECT, 0)), (TABLE, split(1, 1, NEXT, 1))];
    assert_eq!(split_chain(&outside, true), Err(RingFault::DescriptorIndex(1)));
    // In a packed queue, a table is all of its buffer.
    let last = [
        (slot(0), packed(1, 1, NEXT, 0)),
        (slot(1), packed(table, 16, INDIRECT, 0)),
        (TABLE, packed(2, 2, 0, 0)),
    ];
    assert_eq!(packed_chain(&last, true), malformed);
}

#[test]
fn tables_may_be_longer_than_the_queue_but_not_endless() {
    let table = Memory::address(TABLE);
    for (count, fits) in [(CHAIN_MAX, true), (CHAIN_MAX + 1, false)] {
        let last = count - 1;
        let length = 16 * count as u32;
        let mut chain = vec![(slot(0), split(table, length, INDIRECT, 0))];
        for index in 0..count {
            let flags = if index < last { NEXT } else { 0 };
            chain.push((TABLE + 16 * index, split(1, 1, flags, index as u16 + 1)));
        }
        let result = split_chain(&chain, true);
        assert_eq!(result.as_ref().map(Vec::len).ok(), fits.then_some(count));
        assert!(fits || result == Err(RingFault::ChainTooLong(0)));

        let mut chain = vec![(slot(0), packed(table, length, INDIRECT, 0))];
        chain.extend((0..count).map(|index| (TABLE + 16 * index, packed(1, 1, 0, 0))));
        let result = packed_chain(&chain, true);
        assert_eq!(result.as_ref().map(Vec::len).ok(), fits.then_some(count));
        assert!(fits || result == Err(RingFault::ChainTooLong(0)));
    }
    let circle = [
        (slot(0), split(table, 32, INDIRECT, 0)),
        (TABLE, split(1, 1, NEXT, 1)),
        (TABLE + 16, split(1, 1, NEXT, 0)),
    ];
    assert_eq!(split_chain(&circle, true), Err(RingFault::ChainTooLong(0)));
}

#[test]
fn a_table_may_end_a_split_chain_and_be_anywhere() {
    // Not even aligned.
    let place = TABLE + 3;
    let chain = [
        (slot(0), split(1, 10, NEXT, 1)),
        (slot(1), split(Memory::address(place), 32, INDIRECT | WRITE, 0)),
        (place, split(2, 20, NEXT, 1)),
        (place + 16, split(3, 30, WRITE, 0)),
    ];
    let piece = |address, length, writable| Piece { address, length, writable };
    let expected = vec![piece(1, 10, false), piece(2, 20, false), piece(3, 30, true)];
    assert_eq!(split_chain(&chain, true), Ok(expected));
}

#[test]
fn heads_that_cannot_be() {
    let machine = Machine::<SplitDriver>::new(SIZE, features(false, false), false);
    let mut ring = machine.open();
    let mut ids = [0; 8];
    machine.memory.put(DRIVER + 4, [3u16, 2, 3, 9]);
    machine.memory.put(DRIVER + 2, 4u16);
    // What comes before the fault is good.
    assert_eq!(ring.fetch(&mut ids), Ok(2));
    assert_eq!(ring.fetch(&mut ids), Err(RingFault::InFlight(3)));
    ring.complete(3, 0);
    ring.publish();
    assert_eq!(ring.fetch(&mut ids), Ok(1));
    assert_eq!(ring.fetch(&mut ids), Err(RingFault::DescriptorIndex(9)));
    assert_eq!(ring.in_flight(), 2);
    machine.memory.put(DRIVER + 2, 10u16);
    assert_eq!(ring.fetch(&mut ids), Err(RingFault::AvailableIndex(10)));
}

#[test]
fn buffer_ids_that_are_there_twice() {
    let machine = Machine::<PackedDriver>::new(SIZE, features(false, false), false);
    let mut ring = machine.open();
    for index in 0..3 {
        machine.memory.put(slot(index), packed(1, 1, 0, 0x7000 + index as u16 % 2));
    }
    let mut ids = [0; 8];
    assert_eq!(ring.fetch(&mut ids), Ok(2));
    assert_eq!(ring.fetch(&mut ids), Err(RingFault::InFlight(0x7000)));
    ring.complete(ids[0], 0);
    assert_eq!(ring.fetch(&mut ids), Ok(1));
}

/// More than the ring has at once, by descriptors that are available again before they were used.
#[test]
fn more_than_a_round() {
    let machine = Machine::<PackedDriver>::new(4, features(false, false), false);
    let mut ring = machine.open();
    for index in 0..4u16 {
        machine.memory.put(slot(index.into()), packed(1, 1, 0, index));
    }
    let mut ids = [0; 8];
    assert_eq!(ring.fetch(&mut ids), Ok(4));
    let mut descriptor = packed(1, 1, 0, 9);
    descriptor.flags = crate::virtio::spec::ring::descriptor_flags::USED;
    machine.memory.put(slot(0), descriptor);
    assert_eq!(ring.fetch(&mut ids), Err(RingFault::AvailableIndex(0)));
}

#[test]
fn places_that_cannot_be() {
    fn fault<D: Driver>(change: impl Fn(&mut crate::virtio::ring::device::RingPlace)) -> RingFault {
        let machine = Machine::<D>::new(SIZE, features(false, false), false);
        let mut place = machine.memory.place(SIZE, machine.features, D::BASE);
        change(&mut place);
        // SAFETY: within the memory whatever the change, and the machine outlives the ring.
        unsafe { D::Ring::open(place, None) }.err().unwrap()
    }
    for size in [0, 6, 65_535] {
        assert_eq!(fault::<SplitDriver>(|place| place.size = size), RingFault::Size(size));
    }
    for size in [0, 32_769] {
        assert_eq!(fault::<PackedDriver>(|place| place.size = size), RingFault::Size(size));
    }
    let memory = Memory::new();
    let odd = memory.at(DESCRIPTORS + 8);
    assert_eq!(
        fault::<SplitDriver>(|place| place.descriptors = odd),
        RingFault::Alignment("descriptor")
    );
    let odd = memory.at(DEVICE + 2);
    assert_eq!(fault::<SplitDriver>(|place| place.device = odd), RingFault::Alignment("device"));
    assert_eq!(fault::<PackedDriver>(|place| place.driver = odd), RingFault::Alignment("driver"));
    assert_eq!(fault::<SplitDriver>(|place| place.base = 1 << 16), RingFault::Base(1 << 16));
    for base in [0x8000_8008, 0x8008_8000, 0x8002_8001, 0x8001_0002] {
        assert_eq!(fault::<PackedDriver>(|place| place.base = base), RingFault::Base(base));
    }
}

/// Some front ends leave the used index out.
#[test]
fn a_base_without_a_used_index() {
    let mut machine = Machine::<PackedDriver>::new(SIZE, features(false, false), false);
    machine.base = 0x8000;
    assert_eq!(machine.open().base(), 0x8000_8000);
    machine.base = 0x8003;
    assert_eq!(machine.open().base(), 0x8003_8003);
    machine.base = 0x0003_0003;
    assert_eq!(machine.open().base(), 0x0003_0003);
}

/// Others leave the wrap counters out, with which a ring starts. The same base is that of a ring whose second round starts, so
/// the ring tells which it is.
#[test]
fn a_base_of_zero() {
    for outstanding in [0, 1, SIZE] {
        let mut machine = Machine::<PackedDriver>::new(SIZE, features(false, true), false);
        for _ in 0..outstanding {
            assert!(machine.add(1, 1, true));
        }
        machine.base = 0;
        let mut ring = machine.open();
        let mut ids = [0; SIZE as usize];
        assert_eq!(ring.fetch(&mut ids), Ok(outstanding.into()));
    }
    for outstanding in [0, 1, SIZE] {
        // The first round ends with a chain whose last descriptors are never overwritten.
        let mut machine = Machine::<PackedDriver>::new(SIZE, features(false, true), false);
        let mut ring = machine.open();
        let mut ids = [0; SIZE as usize];
        for _ in 0..2 {
            assert!(machine.add(1, 3, false));
        }
        assert_eq!(ring.fetch(&mut ids), Ok(2));
        ring.complete(ids[0], written(0));
        ring.complete(ids[1], written(1));
        ring.publish();
        assert_eq!(machine.take_used(), [0, 1]);
        assert_eq!(ring.base(), 0);
        for _ in 0..outstanding {
            assert!(machine.add(1, 1, true));
        }
        machine.base = ring.base();
        let mut ring = machine.open();
        assert_eq!(ring.fetch(&mut ids), Ok(outstanding.into()));
    }
}
