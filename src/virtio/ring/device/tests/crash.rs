//! Death after any store, and what the successor makes of it.

use super::model::{Driver, Machine, features, written};
use super::packed_driver::PackedDriver;
use super::split_driver::SplitDriver;
use crate::virtio::area::step;
use crate::virtio::ring::device::{CHAIN_MAX, DeviceRing};

/// A device's life: takes what is there, completes it out of order in batches of several sizes, while the driver goes on.
/// Gives the serial numbers that it took, in order.
fn live<D: Driver>(machine: &mut Machine<D>, batches: &[usize], taken: &mut Vec<u64>) {
    let mut ring = machine.open();
    let mut in_flight = Vec::new();
    for &batch in batches {
        while machine.add(1, machine.added as u16 % 3 + 1, machine.added.is_multiple_of(3)) {}
        fetch(machine, &mut ring, 3, &mut in_flight, taken);
        fetch(machine, &mut ring, 2, &mut in_flight, taken);
        for turn in 0..batch.min(in_flight.len()) {
            let place = (turn * 5 + 1) % in_flight.len();
            let (id, serial) = in_flight.remove(place);
            ring.complete(id, written(serial));
            // Between completion and publication, too, the driver's buffers are taken.
            if turn == 1 {
                fetch(machine, &mut ring, 1, &mut in_flight, taken);
            }
        }
        ring.publish();
        ring.take_interrupt();
        machine.take_used();
    }
}

fn fetch<D: Driver>(
    machine: &Machine<D>,
    ring: &mut D::Ring,
    most: usize,
    in_flight: &mut Vec<(u16, u64)>,
    taken: &mut Vec<u64>,
) {
    let mut ids = [0; 8];
    let mut chain = Vec::with_capacity(CHAIN_MAX);
    let count = ring.fetch(&mut ids[..most]).unwrap();
    for &id in &ids[..count] {
        ring.chain(id, &machine.memory.guest, &mut chain).unwrap();
        let serial = machine.serial_of(&chain);
        taken.push(serial);
        in_flight.push((id, serial));
    }
}

/// What the driver does while nobody serves it: it takes what is used, and uses the room.
fn meanwhile<D: Driver>(machine: &mut Machine<D>) {
    machine.take_used();
    while machine.add(1, machine.added as u16 % 3 + 1, machine.added.is_multiple_of(3)) {}
}

/// The last life: completes everything there is, and the driver gets each buffer once.
fn bury<D: Driver>(machine: &mut Machine<D>, taken_before: &[u64]) {
    let mut ring = machine.open();
    assert!(ring.take_interrupt());
    machine.take_used();
    let mut taken = Vec::new();
    let mut in_flight = Vec::new();
    loop {
        let before = taken.len();
        fetch(machine, &mut ring, 4, &mut in_flight, &mut taken);
        if before == taken.len() {
            break;
        }
    }
    // What was taken before comes again first; and all in the order in which it was made available.
    assert!(taken.is_sorted(), "{taken:?}");
    for serial in &taken {
        assert!(!machine.returned.contains(serial));
    }
    for serial in taken_before {
        assert!(taken.contains(serial) || machine.returned.contains(serial), "{serial} is lost");
    }
    // One alone in its batch first, in case something of the predecessor's is still behind it.
    while let Some((id, serial)) = in_flight.pop() {
        ring.complete(id, written(serial));
        ring.publish();
        assert_eq!(machine.take_used(), [serial]);
    }
    assert!(machine.outstanding.is_empty());
    let mut returned = machine.returned.clone();
    returned.sort_unstable();
    assert_eq!(returned, Vec::from_iter(0..machine.added));
}

/// Kills a life after each of its stores in turn, and with `again`, its successor too.
fn kill_everywhere<D: Driver>(size: u16, batches: &[usize], again: bool, busy: bool) {
    let mut stores = 0;
    loop {
        stores += 1;
        let mut second = 0;
        let lived = loop {
            let mut machine = Machine::<D>::new(size, features(true, true), true);
            let mut taken = Vec::new();
            let lived =
                step::kill_after(stores, || live(&mut machine, batches, &mut taken)).is_some();
            if busy {
                meanwhile(&mut machine);
            }
            let mut second_lived = true;
            if again {
                second += 1;
                second_lived =
                    step::kill_after(second, || live(&mut machine, &batches[..1], &mut taken))
                        .is_some();
                if busy {
                    meanwhile(&mut machine);
                }
            }
            bury(&mut machine, &taken);
            if second_lived {
                break lived;
            }
        };
        if lived {
            break;
        }
    }
    assert!(stores > 20);
}

const BATCHES: [usize; 6] = [1, 3, 0, 4, 2, 5];

#[test]
fn nothing_is_lost_or_doubled_in_a_split_queue() {
    for (size, busy) in [(8, false), (8, true), (16, false), (16, true)] {
        kill_everywhere::<SplitDriver>(size, &BATCHES, false, busy);
    }
}

#[test]
fn nothing_is_lost_or_doubled_in_a_packed_queue() {
    for (size, busy) in [(7, false), (7, true), (8, false), (8, true), (16, false), (16, true)] {
        kill_everywhere::<PackedDriver>(size, &BATCHES, false, busy);
    }
}

#[test]
fn nothing_is_lost_when_the_successor_dies_too() {
    for busy in [false, true] {
        kill_everywhere::<SplitDriver>(8, &BATCHES[..4], true, busy);
        kill_everywhere::<PackedDriver>(7, &BATCHES[..4], true, busy);
    }
}

/// A batch that fills the ring moves the used index by a whole round: only its wrap counter tells.
#[test]
fn a_batch_may_be_as_long_as_the_ring() {
    let life = |machine: &mut Machine<PackedDriver>| {
        let mut ring = machine.open();
        let mut ids = [0; 4];
        assert_eq!(ring.fetch(&mut ids).unwrap(), 4);
        for id in ids {
            ring.complete(id, written(u64::from(id)));
        }
        ring.publish();
    };
    for busy in [false, true] {
        for stores in 1.. {
            let mut machine = Machine::<PackedDriver>::new(4, features(true, true), true);
            for _ in 0..4 {
                assert!(machine.add(1, 1, true));
            }
            let lived = step::kill_after(stores, || life(&mut machine)).is_some();
            if busy {
                meanwhile(&mut machine);
            }
            bury(&mut machine, &[]);
            if lived {
                break;
            }
        }
    }
}
