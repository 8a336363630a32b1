//! Drivers and front ends that write whatever and wherever they like.

use proptest::prelude::*;

use super::model::{DESCRIPTORS, DEVICE, DRIVER, Driver, Machine, TABLES, features};
use super::packed_driver::PackedDriver;
use super::split_driver::SplitDriver;
use crate::virtio::ring::device::{CHAIN_MAX, DeviceRing};

#[derive(Clone, Debug)]
enum Step {
    Add { pieces: u16, indirect: bool },
    Fetch(usize),
    Complete(prop::sample::Index, u32),
    Publish,
    Ask,
    Arm,
    Write { area: Area, offset: usize, value: Value },
    Restart { base: u32 },
}

#[derive(Clone, Copy, Debug)]
enum Area {
    Descriptors,
    Driver,
    Device,
    Table,
    Records,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Byte(u8),
    Word(u16),
    Long(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let area = prop::sample::select(vec![
        Area::Descriptors,
        Area::Descriptors,
        Area::Driver,
        Area::Device,
        Area::Table,
        Area::Records,
    ]);
    let value = prop_oneof![
        any::<u8>().prop_map(Value::Byte),
        prop_oneof![0..9u16, any::<u16>(), (0..9u16).prop_map(|low| low | 0x8080)]
            .prop_map(Value::Word),
        prop_oneof![any::<u64>(), (0..4u64).prop_map(|n| 0x4004_0000 + 16 * n)]
            .prop_map(Value::Long),
    ];
    prop_oneof![
        4 => (1..5u16, any::<bool>())
            .prop_map(|(pieces, indirect)| Step::Add { pieces, indirect }),
        4 => (1..9usize).prop_map(Step::Fetch),
        4 => (any::<prop::sample::Index>(), any::<u32>())
            .prop_map(|(which, written)| Step::Complete(which, written)),
        2 => Just(Step::Publish),
        1 => Just(Step::Ask),
        1 => Just(Step::Arm),
        6 => (area, 0..160usize, value)
            .prop_map(|(area, offset, value)| Step::Write { area, offset, value }),
        1 => any::<u32>().prop_map(|base| Step::Restart { base }),
    ]
}

fn run<D: Driver>(event_index: bool, indirect: bool, on_record: bool, steps: Vec<Step>) {
    const SIZE: u16 = 8;
    let mut machine = Machine::<D>::new(SIZE, features(event_index, indirect), on_record);
    let mut ring = machine.open();
    let mut in_flight: Vec<u16> = Vec::new();
    let mut chain = Vec::with_capacity(CHAIN_MAX);
    for step in steps {
        match step {
            Step::Add { pieces, indirect } => {
                // The model keeps account of names, which have lost their meaning here.
                machine.outstanding.clear();
                machine.add(1, pieces - 1, indirect);
            }
            Step::Fetch(most) => {
                let mut ids = vec![0; most];
                let Ok(count) = ring.fetch(&mut ids) else { continue };
                for &id in &ids[..count] {
                    assert!(id < SIZE);
                    assert!(!in_flight.contains(&id));
                    ring.prefetch(id, &machine.memory.guest);
                    if ring.chain(id, &machine.memory.guest, &mut chain).is_ok() {
                        assert!(!chain.is_empty() && chain.len() <= CHAIN_MAX);
                        assert!(chain.is_sorted_by_key(|piece| piece.writable));
                    }
                    in_flight.push(id);
                }
                assert_eq!(usize::from(ring.in_flight()), in_flight.len());
            }
            Step::Complete(which, written) => {
                if !in_flight.is_empty() {
                    let id = in_flight.swap_remove(which.index(in_flight.len()));
                    ring.complete(id, written);
                }
            }
            Step::Publish => ring.publish(),
            Step::Ask => {
                ring.take_interrupt();
            }
            Step::Arm => {
                ring.arm();
                ring.disarm();
            }
            Step::Write { area, offset, value } => {
                let place = match area {
                    Area::Descriptors => machine.memory.at(DESCRIPTORS + offset),
                    Area::Driver => machine.memory.at(DRIVER + offset),
                    Area::Device => machine.memory.at(DEVICE + offset),
                    Area::Table => machine.memory.at(TABLES + offset),
                    Area::Records => match &machine.area {
                        Some(area) => area.queue(1).unwrap().at(2 * offset),
                        None => continue,
                    },
                };
                // SAFETY: within the guest's memory, or the records of a queue of that size, and eight bytes more.
                unsafe {
                    match value {
                        Value::Byte(value) => place.cast::<u8>().write_unaligned(value),
                        Value::Word(value) => {
                            place.byte_sub(offset & 1).cast::<u16>().write_unaligned(value);
                        }
                        Value::Long(value) => {
                            place.byte_sub(offset & 7).cast::<u64>().write_unaligned(value);
                        }
                    }
                }
            }
            Step::Restart { base } => {
                machine.base = base;
                let Ok(next) = machine.try_open() else {
                    machine.base = D::BASE;
                    continue;
                };
                ring = next;
                in_flight.clear();
                let left = ring.in_flight();
                let mut ids = [0; SIZE as usize];
                if left > 0 {
                    let count = ring.fetch(&mut ids).unwrap();
                    assert_eq!(count, usize::from(left));
                    in_flight.extend(&ids[..count]);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_hostile_driver_of_a_split_queue_harms_itself_only(
        variant in any::<(bool, bool, bool)>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        run::<SplitDriver>(variant.0, variant.1, variant.2, steps);
    }

    #[test]
    fn a_hostile_driver_of_a_packed_queue_harms_itself_only(
        variant in any::<(bool, bool, bool)>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        run::<PackedDriver>(variant.0, variant.1, variant.2, steps);
    }
}
