//! Labels and pages of the intent map from any bytes: an error or a value that makes sense, and no panic. The
//! checksum is put right first, so that what lies behind it is reached; what is read must survive
//! being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft::base::Uuid;
use weft::bdev::intent::{MapLayout, page};
use weft::bdev::label::{self, LABEL_BYTES};

/// CRC-32C of the bytes with the sum's own place, at 8, zero: what both formats use.
fn put_sum_right(bytes: &mut [u8]) {
    bytes[8..12].fill(0);
    let sum = bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 }
        })
    });
    bytes[8..12].copy_from_slice(&(!sum).to_le_bytes());
}

fn fuzz_label(input: &[u8]) {
    let mut bytes = [0; LABEL_BYTES];
    let length = input.len().min(LABEL_BYTES);
    bytes[..length].copy_from_slice(&input[..length]);
    // As it came, then with its sum put right.
    label::decode(&bytes).ok();
    put_sum_right(&mut bytes);
    let Ok(label) = label::decode(&bytes) else { return };
    let again = label::decode(&label::encode(&label)).expect("what was written can be read");
    assert_eq!(label, again);
    // What a label says of its map is what a map can be, or a clear error.
    let places = label.places;
    if let Ok(layout) = MapLayout::with_shift(label.geometry, places.region_shift, places.map_page)
    {
        fuzz_page(&layout, label.set, &input[length..]);
    }
}

fn fuzz_page(layout: &MapLayout, set: Uuid, input: &[u8]) {
    let mut bytes = vec![0; layout.page_bytes() as usize];
    let length = input.len().min(bytes.len());
    bytes[..length].copy_from_slice(&input[..length]);
    page::decode(layout, set, 0, &mut bytes).ok();
    put_sum_right(&mut bytes);
    page::decode(layout, set, 0, &mut bytes).ok();
}

fuzz_target!(|input: &[u8]| fuzz_label(input));
