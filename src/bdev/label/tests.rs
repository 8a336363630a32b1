//! Tests of the label.

use proptest::prelude::*;

use super::*;
use crate::base::{BlockCount, BlockSize, ErrorKind};

fn label(event: u64) -> Label {
    let member = |index: u128, state| Member {
        uuid: Uuid::from_u128(index),
        state,
        last_event: event,
        name: format!("Nvme{index}n1"),
    };
    Label {
        set: Uuid::from_u128(1),
        name: "Mirror0".into(),
        kind: 1,
        event,
        geometry: Geometry::new(BlockSize::B4096, BlockCount(1 << 20)).unwrap(),
        places: Places { data: 1 << 20, map: LABELS_END, map_page: 4096, region_shift: 20 },
        own: 1,
        members: vec![
            member(5, MemberState::InSync),
            member(6, MemberState::SyncingDelta),
            Member::absent(),
        ],
    }
}

#[test]
fn the_newer_intact_copy_counts() {
    let (one, two) = (encode(&label(8)), encode(&label(9)));
    assert_eq!(newest([&one, &two]).unwrap(), (label(9), 1));
    assert_eq!(newest([&two, &one]).unwrap(), (label(9), 0));
    let mut torn = two;
    torn[512..].copy_from_slice(&one[512..]);
    torn[384 + 16] ^= 1;
    assert_eq!(newest([&one, &torn]).unwrap(), (label(8), 0));
    let none = [0; LABEL_BYTES];
    assert_eq!(newest([&none, &one]).unwrap(), (label(8), 1));
    assert_eq!(newest([&none, &none]).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(newest([&none, &torn]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_long_name_is_cut_between_characters() {
    let mut long = label(1);
    long.name = "ß".repeat(200);
    assert_eq!(decode(&encode(&long)).unwrap().name, "ß".repeat(127));
}

/// A label whose checksum is right and whose contents are nonsense.
fn forged(change: impl FnOnce(&mut [u8; LABEL_BYTES])) -> [u8; LABEL_BYTES] {
    let mut bytes = encode(&label(3));
    change(&mut bytes);
    bytes[8..12].fill(0);
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes) as u32;
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn nonsense_with_a_right_checksum_is_refused() {
    assert!(decode(&forged(|_| ())).is_ok());
    let cases: [fn(&mut [u8; LABEL_BYTES]); 10] = [
        |bytes| bytes[12] = 9,
        |bytes| bytes[40..48].fill(0xff),
        |bytes| bytes[48] = 3,
        |bytes| bytes[56..64].fill(0x7f),
        |bytes| bytes[64..72].fill(0),
        |bytes| bytes[80] = 3,
        |bytes| bytes[81] = 9,
        |bytes| bytes[81] = 0,
        |bytes| bytes[128] = 0xff,
        |bytes| bytes[384 + 24] = 77,
    ];
    for (index, case) in cases.into_iter().enumerate() {
        assert!(decode(&forged(case)).is_err(), "case {index}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), LABEL_BYTES), head in any::<bool>()) {
        let mut bytes: [u8; LABEL_BYTES] = bytes.try_into().unwrap();
        if head {
            bytes[..8].copy_from_slice(b"WEFTLABL");
        }
        prop_assert!(decode(&bytes).is_err());
    }

    /// With a right checksum, any contents give a label that reads back as itself, or an error.
    #[test]
    fn any_contents_are_a_label_or_an_error(changes in proptest::collection::vec((12_usize..700, any::<u8>()), 0..6)) {
        let bytes = forged(|bytes| changes.iter().for_each(|&(at, byte)| bytes[at] = byte));
        if let Ok(label) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&label)).unwrap(), label);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed(bit in 0_usize..LABEL_BYTES * 8) {
        let mut bytes = encode(&label(3));
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes).is_err());
    }
}
