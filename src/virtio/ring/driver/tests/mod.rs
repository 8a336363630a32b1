//! The rings against a device that is written from the specification, honest and not.

mod device;

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Arc;

use device::{TestDevice, write};
use proptest::prelude::*;

use super::memory::{Layout, QueueMemory};
use super::packed::PackedRing;
use super::split::SplitRing;
use super::*;
use crate::memory::{HugePages, Region, RegionId};

const SECTOR: usize = 512;
const SECTORS: usize = 64;

fn options(packed: bool, size: u16, indirect: bool, tables: bool, event: bool) -> RingOptions {
    let features = Features::NONE
        .with_if(packed, Features::RING_PACKED)
        .with_if(indirect, Features::INDIRECT_DESC)
        .with_if(event, Features::EVENT_IDX);
    RingOptions { size, features, tables, segments_max: 4 }
}

fn memory(options: &RingOptions) -> QueueMemory {
    let length = Layout::new(options).unwrap().length();
    let region = Arc::new(Region::allocate(length + 4096, HugePages::Never).unwrap());
    QueueMemory::new(&region, 4096, length).unwrap()
}

fn segment(bytes: &mut [u8]) -> Segment {
    let address = NonNull::new(bytes.as_mut_ptr()).unwrap();
    // SAFETY: the test keeps the bytes, and looks at them when the request has ended.
    unsafe { Segment::new(address, bytes.len() as u32, RegionId::NONE) }
}

fn sender(number: u64) -> Sender {
    Sender { tag: [number, !number, 7], owner: number as u16 % 3, mark: number as u16 }
}

/// A request that the test has outstanding.
enum Pending {
    Read { sector: usize, buffers: Vec<Box<[u8]>>, failed: bool },
    Other,
}

/// Drives a ring with random requests and a device that takes and uses them in random order.
fn exercise<R: DriverRing>(mut ring: R, options: &RingOptions, script: &[(u8, u8, u8)]) {
    let packed = options.features.has(Features::RING_PACKED);
    let mut device = TestDevice::new(ring.addresses(), options.size, packed);
    let mut disk = vec![0u8; SECTOR * SECTORS];
    let mut expected = disk.clone();
    let mut pending: HashMap<u64, Pending> = HashMap::new();
    // Buffers of writes stay until all has ended.
    let mut kept: Vec<Box<[u8]>> = Vec::new();
    let mut busy = [false; SECTORS];
    let mut place: HashMap<u64, (usize, usize)> = HashMap::new();
    let mut number = 0;
    let segments_max = usize::from(Layout::new(options).unwrap().segments_max());
    for &(what, x, y) in script {
        let sector = usize::from(x) % (SECTORS - 4);
        let pieces = 1 + usize::from(y) % segments_max;
        let free = !busy[sector..sector + pieces].iter().any(|&busy| busy);
        let id = number;
        let header = |kind| Header { kind, sector: sector as u64 };
        match what % 8 {
            kind @ 0..=1 if free => {
                let to_memory = kind == 0;
                let fill = number as u8 | 1;
                let mut buffers: Vec<Box<[u8]>> =
                    (0..pieces).map(|_| vec![fill; SECTOR].into()).collect();
                let segments: Vec<Segment> = buffers.iter_mut().map(|b| segment(b)).collect();
                let kind = if to_memory { RequestType::In } else { RequestType::Out };
                let room = ring.room() > 0;
                let taken = match pieces {
                    1 => ring.push(sender(id), header(kind), segments[0], to_memory),
                    _ => {
                        let segments = segments.into_iter();
                        ring.push_scattered(sender(id), header(kind), segments, to_memory)
                    }
                };
                assert_eq!(taken, room);
                if taken {
                    number += 1;
                    busy[sector..sector + pieces].fill(true);
                    place.insert(id, (sector, pieces));
                    if to_memory {
                        pending.insert(id, Pending::Read { sector, buffers, failed: false });
                    } else {
                        expected[sector * SECTOR..(sector + pieces) * SECTOR].fill(fill);
                        kept.extend(buffers);
                        pending.insert(id, Pending::Other);
                    }
                }
            }
            2 if free => {
                let range = RangeDescriptor { sector: sector as u64, sectors: 1, flags: 1 };
                let header = Header { kind: RequestType::WriteZeroes, sector: 0 };
                if ring.push_range(sender(id), header, range) {
                    number += 1;
                    busy[sector] = true;
                    place.insert(id, (sector, 1));
                    expected[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
                    pending.insert(id, Pending::Other);
                }
            }
            3 if ring.push_bare(sender(id), FLUSH) => {
                number += 1;
                pending.insert(id, Pending::Other);
            }
            4 => {
                ring.publish();
                device.fetch();
            }
            5..=6 => {
                for _ in 0..=y % 8 {
                    if !device.held.is_empty() {
                        let index = usize::from(x) % device.held.len();
                        device.serve(index, &mut disk, 0);
                    }
                }
                let room = usize::from(x) % 5;
                let reaped = ring.reap(room, |done| {
                    finish(done, &mut pending, &expected, &mut busy, &mut place);
                });
                assert!(reaped.unwrap() <= room);
            }
            7 if y % 16 == 0 => {
                // The device dies with what it has; all that it used is seen first. Its successor starts afresh.
                ring.publish();
                while ring
                    .reap(9, |done| finish(done, &mut pending, &expected, &mut busy, &mut place))
                    .unwrap()
                    > 0
                {}
                assert_eq!(ring.outstanding(), pending.len());
                ring.restart();
                device = TestDevice::new(ring.addresses(), options.size, packed);
                device.fetch();
                assert_eq!(device.held.len(), pending.len());
            }
            _ => {}
        }
        assert_eq!(ring.outstanding(), pending.len());
    }
    ring.publish();
    device.fetch();
    while !device.held.is_empty() {
        device.serve(device.held.len() / 2, &mut disk, 0);
    }
    while !pending.is_empty() {
        let reaped = ring.reap(3, |done| {
            finish(done, &mut pending, &expected, &mut busy, &mut place);
        });
        assert!(reaped.unwrap() > 0, "{} requests are lost", pending.len());
    }
    assert!(disk == expected);
    assert_eq!(ring.reap(10, |_| panic!("one too many")), Ok(0));
}

fn finish(
    done: Done,
    pending: &mut HashMap<u64, Pending>,
    expected: &[u8],
    busy: &mut [bool; SECTORS],
    place: &mut HashMap<u64, (usize, usize)>,
) {
    let id = done.sender.tag[0];
    assert_eq!(done.sender, sender(id));
    assert_eq!(done.status, 0);
    if let Some((sector, count)) = place.remove(&id) {
        busy[sector..sector + count].fill(false);
    }
    match pending.remove(&id).expect("a request comes back once") {
        Pending::Read { sector, buffers, failed } => {
            let read: Vec<u8> = buffers.iter().flat_map(|b| b.iter().copied()).collect();
            let at = sector * SECTOR;
            assert!(failed || read == expected[at..at + read.len()], "sector {sector}");
        }
        Pending::Other => {}
    }
}

fn both(options: RingOptions, script: &[(u8, u8, u8)]) {
    if options.features.has(Features::RING_PACKED) {
        exercise(PackedRing::new(memory(&options), &options).unwrap(), &options, script);
    } else {
        exercise(SplitRing::new(memory(&options), &options).unwrap(), &options, script);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Every request reaches the device as it was meant and comes back once, in every layout, whatever the order, and
    /// with a new device after the old one died.
    #[test]
    fn requests_come_back_once(
        script in prop::collection::vec(any::<(u8, u8, u8)>(), 1..400),
        packed: bool, indirect: bool, tables: bool, event: bool,
        size in prop::sample::select(vec![4u16, 8, 16, 64]),
        odd in 0u16..3,
    ) {
        let size = if packed { size + odd } else { size };
        both(options(packed, size, indirect, tables, event), &script);
    }
}

/// Calls `$test` with a ring of each kind: its name, the ring, its device.
macro_rules! each_ring {
    ($event:expr, |$packed:ident, $ring:ident, $device:ident| $test:block) => {
        for tables in [false, true] {
            {
                let $packed = false;
                let options = options($packed, 16, true, tables, $event);
                #[allow(unused_mut)]
                let mut $ring = SplitRing::new(memory(&options), &options).unwrap();
                #[allow(unused_mut)]
                let mut $device = TestDevice::new($ring.addresses(), 16, $packed);
                $test
            }
            {
                let $packed = true;
                let options = options($packed, 16, true, tables, $event);
                #[allow(unused_mut)]
                let mut $ring = PackedRing::new(memory(&options), &options).unwrap();
                #[allow(unused_mut)]
                let mut $device = TestDevice::new($ring.addresses(), 16, $packed);
                $test
            }
        }
    };
}

const FLUSH: Header = Header { kind: RequestType::Flush, sector: 0 };

#[test]
fn the_device_is_told_when_it_asks() {
    for event in [false, true] {
        each_ring!(event, |packed, ring, device| {
            for round in 0..100 {
                device.arm(event, false);
                ring.push_bare(sender(1), FLUSH);
                assert!(!ring.publish(), "{packed} {event} {round}");
                assert!(!ring.recheck());
                device.fetch();
                device.arm(event, true);
                assert!(!ring.recheck(), "nothing new");
                ring.push_bare(sender(2), FLUSH);
                assert!(ring.publish(), "{packed} {event} {round}");
                assert!(!ring.publish() && !ring.recheck(), "once");
                device.fetch();
                // It goes to sleep when we have looked already, but before it sees what was published.
                device.arm(event, false);
                let (available, held) = (device.held.len(), device.held.clone());
                ring.push_bare(sender(3), FLUSH);
                assert!(!ring.publish());
                device.arm(event, true);
                assert!(ring.recheck(), "{packed} {event} {round}");
                assert!(!ring.recheck(), "once");
                assert_eq!(held.len(), available);
                device.fetch();
                while !device.held.is_empty() {
                    device.serve(0, &mut [], 0);
                }
                assert_eq!(ring.reap(10, |_| ()), Ok(3));
            }
        });
    }
}

#[test]
fn a_device_that_lies_is_found_out() {
    let out = Header { kind: RequestType::Out, sector: 0 };
    each_ring!(false, |packed, ring, device| {
        let mut bytes = [0u8; 512];
        // A buffer that is not outstanding: a free slot, a slot beyond all, one between two.
        ring.push(sender(5), out, segment(&mut bytes), false);
        ring.publish();
        device.fetch();
        let id = device.held[0].id;
        for wrong in [id.wrapping_add(1), id.wrapping_add(4), u16::MAX, 0x8000] {
            let (used, start) = (device.used, device.at.device + 2);
            device.put_used(wrong, 3, 1);
            let reaped = ring.reap(10, |_| panic!("nothing ended"));
            assert_eq!(reaped, Err(DeviceFault::NotOutstanding(u32::from(wrong))));
            device = TestDevice::new(ring.addresses(), 16, packed);
            ring.restart();
            device.fetch();
            assert!(packed || (used, start) != (0, 0));
        }
        // More written than there was to write.
        device.put_used(id, 3, 2);
        assert_eq!(ring.reap(10, |_| ()), Err(DeviceFault::Length(2)));
        assert_eq!(ring.outstanding(), 1);
        ring.restart();
        device = TestDevice::new(ring.addresses(), 16, packed);
        device.fetch();
        // Used twice.
        let places = if device.held[0].pieces.len() == 3 && packed { 3 } else { 1 };
        device.put_used(id, places, 1);
        assert_eq!(ring.reap(10, |_| ()), Ok(1));
        device.put_used(id, places, 1);
        if !packed {
            assert_eq!(ring.reap(10, |_| ()), Err(DeviceFault::UsedIndex(2)));
            write(device.at.device + 2, 0x4321u16);
            assert_eq!(ring.reap(10, |_| ()), Err(DeviceFault::UsedIndex(0x4321)));
        } else {
            // Nothing is outstanding, so nothing is looked at.
            assert_eq!(ring.reap(10, |_| ()), Ok(0));
            ring.push(sender(6), out, segment(&mut bytes), false);
            ring.push(sender(7), out, segment(&mut bytes), false);
        }
        while ring.give_up().is_some() {}
        assert_eq!(ring.outstanding(), 0);
    });
}

#[test]
fn nothing_is_lost_when_all_is_given_up() {
    each_ring!(true, |_packed, ring, _device| {
        let mut bytes = [0u8; 512];
        for number in 0..3 {
            let header = Header { kind: RequestType::In, sector: 0 };
            assert!(ring.push(sender(number), header, segment(&mut bytes), true));
        }
        assert!(ring.owes(1) && !ring.owes(9));
        let mut tags: Vec<u64> = std::iter::from_fn(|| ring.give_up()).map(|s| s.tag[0]).collect();
        tags.sort_unstable();
        assert_eq!(tags, [0, 1, 2]);
        assert!(!ring.owes(1));
    });
}

#[test]
fn too_many_segments_are_refused_and_cost_nothing() {
    each_ring!(false, |_packed, ring, device| {
        let mut bytes = [0u8; 512];
        let header = Header { kind: RequestType::In, sector: 0 };
        let many = vec![segment(&mut bytes); 5];
        assert!(!ring.push_scattered(sender(1), header, many.into_iter(), true));
        assert!(!ring.push_scattered(sender(1), header, std::iter::empty(), true));
        assert_eq!(ring.outstanding(), 0);
        ring.publish();
        device.fetch();
        assert!(device.held.is_empty());
    });
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    for (packed, size, fits) in [
        (false, 0, false),
        (false, 3, false),
        (false, 12, false),
        (false, 32768, true),
        (false, 32769, false),
        (true, 3, false),
        (true, 7, true),
        (true, 32768, true),
    ] {
        let layout = Layout::new(&options(packed, size, true, true, true));
        assert_eq!(layout.is_ok(), fits, "{packed} {size}");
    }
    let layout = Layout::new(&options(false, 256, false, true, true)).unwrap();
    assert_eq!((layout.slots(), layout.segments_max()), (64, 1));
    let layout = Layout::new(&options(true, 256, true, false, true)).unwrap();
    assert_eq!((layout.slots(), layout.segments_max()), (85, 4));
}
