//! What a ring writes is logged.

use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{dup, pread, pwrite};

use super::model::{Driver, Machine, features, written};
use super::packed_driver::PackedDriver;
use super::split_driver::SplitDriver;
use crate::virtio::dirty_log::DirtyLog;
use crate::virtio::ring::device::{DeviceRing, RingLog};

/// Completes 600 buffers of a queue of 512 with a log, after 100 without. Gives the pages that were marked when there was a
/// log, by the buffers, and by arming. The descriptor area is at page 0x10, the device area at page 0x100.
fn marks<D: Driver>() -> [Vec<u64>; 3] {
    let mut machine = Machine::<D>::new(512, features(true, true), false);
    let mut ring = machine.open();
    let log_file = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&log_file, 64).unwrap();
    let log = Arc::new(DirtyLog::map(dup(&log_file).unwrap(), 0, 64).unwrap());
    let marked = || -> Vec<u64> {
        let mut bytes = [0u8; 64];
        pread(&log_file, &mut bytes[..], 0).unwrap();
        pwrite(&log_file, &[0; 64], 0).unwrap();
        (0..512).filter(|page| bytes[*page as usize / 8] & 1 << (page % 8) != 0).collect()
    };
    let mut at_once = Vec::new();
    for round in 0..7 {
        if round == 1 {
            assert!(marked().is_empty());
            ring.set_log(Some(RingLog {
                log: log.clone(),
                descriptors: 0x1_0000,
                device: 0x10_0000,
            }));
            at_once = marked();
        }
        for _ in 0..100 {
            assert!(machine.add(1, 1, true));
        }
        let mut ids = [0; 100];
        assert_eq!(ring.fetch(&mut ids).unwrap(), 100);
        for (at, id) in ids.into_iter().enumerate() {
            ring.complete(id, written(100 * round + at as u64));
        }
        ring.publish();
        assert_eq!(machine.take_used().len(), 100);
    }
    let later = marked();
    ring.arm();
    let armed = marked();
    ring.disarm();
    assert_eq!(marked(), armed);
    ring.set_log(None);
    ring.arm();
    assert!(marked().is_empty());
    [at_once, later, armed]
}

#[test]
fn a_split_ring_logs_its_used_ring() {
    // 4 + 8 * 512 + 2 bytes.
    let all = vec![0x100, 0x101];
    assert_eq!(marks::<SplitDriver>(), [all.clone(), all.clone(), all]);
}

#[test]
fn a_packed_ring_logs_descriptors_and_event_suppression() {
    // 16 * 512 bytes, and 4.
    let ring = vec![0x10, 0x11];
    assert_eq!(marks::<PackedDriver>(), [vec![0x10, 0x11, 0x100], ring, vec![0x100]]);
}
