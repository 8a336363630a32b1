//! Tests of the intent map.

use proptest::prelude::*;

use super::page::{self, newest};
use super::*;
use crate::base::{BlockCount, BlockSize, ErrorKind, Geometry, Lba, Uuid};

fn layout(mib: u64) -> MapLayout {
    let geometry = Geometry::new(BlockSize::B4096, BlockCount(mib * 256)).unwrap();
    MapLayout::new(geometry).unwrap()
}

fn set() -> Uuid {
    Uuid::from_u128(7)
}

#[test]
fn blocks_regions_and_pages() {
    let map = layout(40_000);
    assert_eq!((map.regions(), map.region_blocks(), map.page_bytes()), (40_000, 256, 4096));
    assert_eq!(map.regions_of(Lba(255), 2), (0, 1));
    assert_eq!(map.words(), 625);
    assert_eq!(map.pages(), 3);
    assert_eq!((map.page_of(0), map.page_of(39_999)), (0, 2));
    assert_eq!(map.words_of(2), 504..625);
    let large = Geometry::new(BlockSize::B4096, BlockCount(1 << 40)).unwrap();
    let large = MapLayout::new(large).unwrap();
    assert_eq!((large.regions(), large.region_shift()), (1 << 24, 28));
    assert!(MapLayout::new(Geometry::new(BlockSize::B512, BlockCount(0)).unwrap()).is_err());
}

#[test]
fn a_bit_is_durable_when_a_page_that_has_it_was_written() {
    let mut map = IntentMap::new(layout(1000), set(), true);
    let mut bytes = vec![0; 4096];
    assert!(!map.set(3, 3));
    let first = map.next_write(&mut bytes).unwrap();
    assert!(!map.set(5, 5), "comes while the page is being written");
    assert!(map.next_write(&mut bytes.clone()).is_none(), "one at a time");
    let mut durable = 0;
    map.finish_write(first, true, |_, bits| durable |= bits);
    assert_eq!(durable, 1 << 3);
    let second = map.next_write(&mut bytes).unwrap();
    assert_ne!(first.copy, second.copy, "the newest is never overwritten");
    map.clear(0, 1 << 3);
    durable = 0;
    map.finish_write(second, true, |_, bits| durable |= bits);
    assert_eq!(durable, 1 << 5, "what is no longer wanted is not durable");
    let third = map.next_write(&mut bytes).unwrap();
    map.finish_write(third, false, |_, _| panic!("it failed"));
    let again = map.next_write(&mut bytes).unwrap();
    assert_eq!(third, again, "the same place");
    let page = page::decode(map.layout(), set(), 0, &mut bytes).unwrap();
    assert_eq!((page.intent[0], page.written[0]), (1 << 5, 1 << 3 | 1 << 5));
    map.finish_write(again, true, |_, _| ());
    assert!(map.is_clean() && map.next_write(&mut bytes).is_none());
}

#[test]
fn pages_that_say_nothing_count_as_set() {
    let map_layout = layout(70);
    let mut one = vec![0; 4096];
    let mut two = vec![0; 4096];
    let empty = newest(&map_layout, set(), 0, [&mut one, &mut two]).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::NotFound);
    page::encode(&map_layout, set(), 0, 4, &[1, 0], &[3, 0], &mut one);
    page::encode(&map_layout, set(), 0, 5, &[2, 0], &[3, 0], &mut two);
    assert_eq!(newest(&map_layout, set(), 0, [&mut one, &mut two]).unwrap().generation, 5);
    two[100] ^= 1;
    let older = newest(&map_layout, set(), 0, [&mut one, &mut two]).unwrap();
    assert_eq!((older.generation, older.intent[0]), (4, 1));
    one[4000] ^= 1;
    let damaged = newest(&map_layout, set(), 0, [&mut one, &mut two]).unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Corrupt);
    let mut map = IntentMap::new(map_layout, set(), true);
    map.merge(0, None);
    assert_eq!(map.intent(), [u64::MAX, (1 << 6) - 1]);
    let other = page::decode(&map_layout, Uuid::from_u128(8), 0, &mut vec![0; 4096]);
    assert!(other.is_err());
}

#[test]
fn what_is_used_is_not_cleared() {
    let tracker = Tracker::new(layout(1000));
    tracker.publish_range(0, 10);
    let mut one = tracker.join();
    let mut two = tracker.join();
    let unused = |tracker: &Tracker| tracker.unused().iter().fold(0, |all, (_, bits)| all | bits);
    tracker.advance();
    let (long, durable) = one.begin(1, 1);
    assert!(durable);
    let (short, _) = two.begin(2, 2);
    two.end(short);
    assert_eq!(unused(&tracker), 0x7ff & !0b110);
    tracker.advance();
    assert_eq!(unused(&tracker), 0x7ff & !0b110, "the epoch before counts");
    tracker.advance();
    assert_eq!(unused(&tracker), 0, "a write is in flight from before");
    let (next, _) = one.begin(3, 3);
    one.end(long);
    let mut bits = tracker.unused();
    assert_eq!(bits, [(0, 0x7ff & !0b1000)], "only what is in flight now");
    let (late, durable) = two.begin(4, 5);
    assert!(durable, "not withdrawn yet");
    tracker.withdraw(&mut bits);
    assert_eq!(bits, [(0, 0x7ff & !0b11_1000)]);
    assert!(tracker.is_durable(3, 5) && !tracker.is_durable(2, 2));
    let (_, durable) = one.begin(5, 6);
    assert!(!durable);
    one.end(next);
    two.end(late);
}

proptest! {
    /// No bytes are read as anything but a page that was written, or an error.
    #[test]
    fn any_bytes_are_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 4096), head in any::<bool>()) {
        if head {
            bytes[..8].copy_from_slice(b"WEFTMAP\0");
        }
        prop_assert!(page::decode(&layout(1000), set(), 0, &mut bytes).is_err());
    }

    #[test]
    fn pages_read_back(
        intent in proptest::collection::vec(any::<u64>(), 16),
        written in proptest::collection::vec(any::<u64>(), 16),
        generation in any::<u64>(),
        flip in 0_usize..4096 * 8,
    ) {
        let layout = layout(1000);
        let mut bytes = vec![0; 4096];
        page::encode(&layout, set(), 0, generation, &intent, &written, &mut bytes);
        let page = page::decode(&layout, set(), 0, &mut bytes).unwrap();
        prop_assert_eq!(page.generation, generation);
        for word in 0..16 {
            let valid = layout.valid_bits(word);
            prop_assert_eq!((page.intent[word], page.written[word]), (intent[word] & valid, written[word] & valid));
        }
        bytes[flip / 8] ^= 1 << (flip % 8);
        prop_assert!(page::decode(&layout, set(), 0, &mut bytes).is_err());
    }
}
