//! The area: what it is like, and front ends that say what is not so. What is in it is tested with the rings.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::dup;

use super::{InflightArea, InflightLayout};
use InflightLayout::{Packed, Split};

#[test]
fn an_area_is_as_long_as_the_protocol_says() {
    // Sixteen bytes, and sixteen for each descriptor; thirty-two and thirty-two; in lines of 64.
    for (layout, queues, size, length) in [
        (Split, 1, 1, 64),
        (Split, 1, 128, 64 * 33),
        (Split, 3, 128, 3 * 64 * 33),
        (Packed, 1, 1, 64),
        (Packed, 2, 128, 2 * 64 * 65),
        (Split, 1024, 32_768, 1024 * (16 * 32_768 + 64)),
    ] {
        let area = InflightArea::create(layout, queues, size).unwrap();
        assert_eq!((area.length(), area.offset()), (length, 0));
        assert!(area.queue(queues - 1).is_some());
        assert!(area.queue(queues).is_none());
        assert!(rustix::fs::fstat(area.file()).unwrap().st_size as u64 >= length);
    }
}

#[test]
fn numbers_that_no_device_has() {
    for (queues, size) in [(0, 1), (1, 0), (1025, 1), (1, 32_769)] {
        assert!(InflightArea::create(Split, queues, size).is_err());
    }
}

#[test]
fn an_area_comes_back() {
    let area = InflightArea::create(Packed, 2, 8).unwrap();
    let place = area.queue(1).unwrap().at(40);
    // SAFETY: within the area.
    unsafe { place.write(7) };
    let file = dup(area.file()).unwrap();
    let again = InflightArea::adopt(file, 0, area.length(), Packed, 2, 8).unwrap();
    drop(area);
    // SAFETY: within the area.
    assert_eq!(unsafe { again.queue(1).unwrap().at(40).read() }, 7);
}

#[test]
fn an_area_that_is_not_in_its_file() {
    let needed = 2 * 64 * 3;
    for (offset, length, fits) in [
        (0, needed, true),
        (64, needed, true),
        (0, 4096, true),
        (0, needed - 1, false),
        (4096 - needed + 8, needed, false),
        (4, needed, false),
        (u64::MAX - 7, needed, false),
        (1 << 62, u64::MAX, false),
    ] {
        let file = memfd_create("area", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        let area = InflightArea::adopt(file, offset, length, Split, 2, 8);
        assert_eq!(area.is_ok(), fits, "{offset} {length}");
    }
}

#[test]
fn nobody_can_take_the_memory_away() {
    let area = InflightArea::create(Split, 1, 8).unwrap();
    assert!(ftruncate(area.file(), 0).is_err());
}

#[test]
fn a_queue_goes_to_other_threads() {
    fn is_send<T: Send>() {}
    is_send::<super::InflightQueue>();
}
