//! What a vfio-user server may send: any bytes, cut in any way, give the same messages, and no panic; areas that
//! are accepted for mapping lie inside of their region.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft::nvme::vfio_user::capabilities;
use weft::nvme::vfio_user::inbox::Inbox;
use weft::nvme::vfio_user::region_info::{RegionReply, parse_region_info};
use weft::nvme::vfio_user::wire::{DeviceInfo, DmaAccess, Header, RegionAccess, TRANSFER_MAX};
use zerocopy::FromBytes;

/// All messages of a stream in pieces of `size` bytes.
fn messages(stream: &[u8], size: usize) -> Vec<(Header, Vec<u8>)> {
    let mut inbox = Inbox::<()>::new(0);
    let mut found = Vec::new();
    for mut piece in stream.chunks(size) {
        while !piece.is_empty() {
            let space = inbox.space();
            let count = space.len().min(piece.len());
            space[..count].copy_from_slice(&piece[..count]);
            match inbox.filled(count) {
                Ok(message) => {
                    found.extend(message.map(|message| (message.header, message.payload)))
                }
                Err(_) => return found,
            }
            piece = &piece[count..];
        }
    }
    found
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, stream)) = input.split_first() else { return };
    let whole = messages(stream, stream.len().max(1));
    assert_eq!(whole, messages(stream, usize::from(size).max(1)));
    for payload in whole.iter().map(|(_, payload)| &payload[..]).chain([stream]) {
        let _ = capabilities::parse(payload);
        let _ = DeviceInfo::parse(payload);
        if let Ok(RegionReply::Whole(info, areas)) =
            parse_region_info(payload, 0, u32::from(size) * 16)
        {
            for area in areas {
                assert!(area.offset.checked_add(area.size).unwrap() <= info.size);
            }
        }
        if let Ok((access, data)) = DmaAccess::parse_write(payload) {
            assert!(access.count == data.len() as u64 && access.count <= u64::from(TRANSFER_MAX));
        }
        if let Ok(access) = DmaAccess::parse_read(payload) {
            assert!(access.count <= u64::from(TRANSFER_MAX));
        }
        if let Ok((asked, _)) = RegionAccess::read_from_prefix(payload)
            && let Ok(data) = asked.read_data(payload)
        {
            assert_eq!(data.len(), asked.count as usize);
        }
    }
});
