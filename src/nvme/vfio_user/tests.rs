//! The parsers, with what no honest server sends.

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::inbox::{Inbox, Message};
use super::region_info::*;
use super::wire::*;

const BOTH: u32 = RegionInfo::MMAP | RegionInfo::CAPS;

/// Region information with a list of capabilities of the given ids behind it, each (id, next, body).
fn region(info: RegionInfo, capabilities: &[(u16, u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = info.as_bytes().to_vec();
    for (id, next, body) in capabilities {
        let header = CapabilityHeader { id: *id, version: 1, next: *next };
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(body);
    }
    bytes
}

fn sparse(count: u32, areas: &[Area]) -> Vec<u8> {
    let mut body = SparseMmap { areas: count, reserved: 0 }.as_bytes().to_vec();
    areas.iter().for_each(|area| body.extend_from_slice(area.as_bytes()));
    body
}

fn info(flags: u32, cap_offset: u32) -> RegionInfo {
    RegionInfo { argsz: 32, flags, index: 0, cap_offset, size: 0x2000, offset: 0 }
}

fn areas(payload: &[u8]) -> Vec<Area> {
    match parse_region_info(payload, 0, 4096).unwrap() {
        RegionReply::Whole(_, areas) => areas,
        RegionReply::Longer(length) => panic!("longer: {length}"),
    }
}

fn refused(payload: &[u8]) -> String {
    parse_region_info(payload, 0, 4096).unwrap_err().to_string()
}

const DOORBELLS: Area = Area { offset: 0x1000, size: 0x1000 };

#[test]
fn mappable_areas_are_found() {
    let whole = Area { offset: 0, size: 0x2000 };
    assert_eq!(areas(&region(info(0, 0), &[])), []);
    assert_eq!(areas(&region(info(RegionInfo::CAPS, 0), &[])), []);
    assert_eq!(areas(&region(info(RegionInfo::MMAP, 0), &[])), [whole]);
    assert_eq!(areas(&region(info(BOTH, 0), &[])), [whole], "an empty list");
    let list = [(CAPABILITY_SPARSE_MMAP, 0, sparse(1, &[DOORBELLS]))];
    assert_eq!(areas(&region(info(BOTH, 32), &list)), [DOORBELLS]);
    let behind = [(9, 40, vec![]), (CAPABILITY_SPARSE_MMAP, 0, sparse(1, &[DOORBELLS]))];
    assert_eq!(areas(&region(info(BOTH, 32), &behind)), [DOORBELLS]);
    let other = [(9, 0, vec![])];
    assert_eq!(areas(&region(info(BOTH, 32), &other)), [whole], "no such capability");
}

#[test]
fn absurd_regions_are_refused() {
    let list = |count, areas: &[Area]| {
        region(info(BOTH, 32), &[(CAPABILITY_SPARSE_MMAP, 0, sparse(count, areas))])
    };
    assert!(refused(&[0; 31]).contains("31 bytes"));
    assert!(refused(&region(RegionInfo { index: 1, ..info(0, 0) }, &[])).contains("region 1"));
    for at in [1, 31, 33, 4096, u32::MAX] {
        assert!(refused(&region(info(BOTH, at), &[])).contains("capability"), "{at}");
    }
    let circle = [(9, 40, vec![]), (9, 32, vec![])];
    assert!(refused(&region(info(BOTH, 32), &circle)).contains("no end"));
    assert!(refused(&list(2, &[DOORBELLS])).contains("2 mappable areas in 16 bytes"));
    assert!(refused(&list(u32::MAX, &[DOORBELLS])).contains("4294967295 mappable areas"));
    for area in [
        Area { size: 0x1001, ..DOORBELLS },
        Area { offset: u64::MAX, ..DOORBELLS },
        Area { offset: 0x2001, size: 0 },
    ] {
        assert!(refused(&list(1, &[area])).contains("beyond its end"), "{area:?}");
    }
    let longer = |argsz| parse_region_info(info(0, 0).with_argsz(argsz).as_bytes(), 0, 4096);
    assert!(matches!(longer(4097), Ok(RegionReply::Longer(4097))));
    assert!(longer(u32::MAX).is_err());
}

impl RegionInfo {
    fn with_argsz(self, argsz: u32) -> RegionInfo {
        RegionInfo { argsz, ..self }
    }
}

#[test]
fn headers_are_checked() {
    let parse = |size, flags| {
        let header = Header { id: 7, command: 1, size, flags, error: 0 };
        Header::parse(&header.as_bytes().try_into().unwrap())
    };
    assert_eq!(parse(16, 1).unwrap().payload(), 0);
    assert_eq!(parse(MESSAGE_MAX, 0).unwrap().payload(), MESSAGE_MAX as usize - 16);
    for (size, flags) in [(0, 0), (15, 1), (MESSAGE_MAX + 1, 1), (u32::MAX, 0), (16, 2), (16, 0xf)]
    {
        assert!(parse(size, flags).is_err(), "{size} {flags}");
    }
    let asked = Header::command(3, Command::DmaRead, 16);
    assert_eq!((asked.size, asked.is_reply(), asked.wants_reply()), (32, false, true));
    let refused = asked.failure(14);
    assert_eq!((refused.id, refused.size, refused.failed()), (3, 16, Some(14)));
    assert!(refused.is_reply() && asked.reply(0).failed().is_none());
    assert!(!asked.without_reply().wants_reply());
}

#[test]
fn register_replies_answer_what_was_asked() {
    let asked = RegionAccess { offset: 0x14, region: 0, count: 4 };
    let reply = |access: RegionAccess, data: &[u8]| [access.as_bytes(), data].concat();
    assert_eq!(asked.read_data(&reply(asked, &[1, 2, 3, 4])).unwrap(), [1, 2, 3, 4]);
    assert!(asked.check_written(&reply(asked, &[])).is_ok());
    for (other, data) in [
        (RegionAccess { offset: 0x18, ..asked }, 4),
        (RegionAccess { region: 1, ..asked }, 4),
        (RegionAccess { count: 2, ..asked }, 2),
        (asked, 3),
        (asked, 5),
    ] {
        assert!(asked.read_data(&reply(other, &vec![0; data])).is_err(), "{other:?} {data}");
        assert_eq!(asked.check_written(other.as_bytes()).is_ok(), other == asked);
    }
    assert!(asked.read_data(&[0; 15]).is_err() && asked.check_written(&[]).is_err());
}

#[test]
fn memory_requests_are_bounded() {
    let write = |count: u64, data: usize| {
        let bytes = [DmaAccess { address: 0, count }.as_bytes(), &vec![0; data]].concat();
        DmaAccess::parse_write(&bytes).map(|(_, data)| data.len())
    };
    assert_eq!(write(3, 3).unwrap(), 3);
    assert!(write(3, 2).is_err() && write(2, 3).is_err() && write(u64::MAX, 0).is_err());
    let read = |count: u64| DmaAccess::parse_read(DmaAccess { address: 0, count }.as_bytes());
    assert!(read(TRANSFER_MAX.into()).is_ok());
    assert!(read(u64::from(TRANSFER_MAX) + 1).is_err() && read(u64::MAX).is_err());
    assert!(DmaAccess::parse_read(&[0; 15]).is_err());
}

/// The messages of a stream that arrives in pieces of `size` bytes, and whether it broke.
fn messages(stream: &[u8], size: usize) -> (Vec<(Header, Vec<u8>)>, bool) {
    let mut inbox = Inbox::<()>::new(1);
    let mut found = Vec::new();
    for mut piece in stream.chunks(size) {
        while !piece.is_empty() {
            let space = inbox.space();
            assert!(!space.is_empty());
            let count = space.len().min(piece.len());
            space[..count].copy_from_slice(&piece[..count]);
            match inbox.filled(count) {
                Ok(Some(Message { header, payload, .. })) => found.push((header, payload)),
                Ok(None) => {}
                Err(_) => return (found, true),
            }
            piece = &piece[count..];
        }
    }
    (found, false)
}

#[test]
fn descriptors_belong_to_the_message_that_they_came_with() {
    let mut inbox = Inbox::new(2);
    let header = Header::command(1, Command::DmaRead, 4);
    let mut taken = Vec::new();
    for (name, piece) in [("a", header.as_bytes()), ("b", &[0; 4][..]), ("c", header.as_bytes())] {
        inbox.space()[..piece.len()].copy_from_slice(piece);
        inbox.add_descriptor(name).unwrap();
        taken.extend(inbox.filled(piece.len()).unwrap());
    }
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].descriptors, ["a", "b"]);
    assert!(!inbox.is_between_messages());
    inbox.add_descriptor("d").unwrap();
    assert!(inbox.add_descriptor("e").is_err(), "too many");
}

#[test]
fn an_announced_length_costs_no_memory() {
    let mut inbox = Inbox::<()>::new(0);
    let header = Header { size: MESSAGE_MAX, ..Header::command(1, Command::Version, 0) };
    inbox.space().copy_from_slice(header.as_bytes());
    assert!(inbox.filled(HEADER_SIZE).unwrap().is_none());
    assert!(inbox.space().len() <= 64 << 10);
}

proptest! {
    #[test]
    fn any_pieces_give_the_same_messages(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        size in 1_usize..200,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut stream = Vec::new();
        let mut sent = Vec::new();
        for (id, payload) in payloads.into_iter().enumerate() {
            let header = Header::command(id as u16, Command::DmaWrite, payload.len());
            stream.extend_from_slice(header.as_bytes());
            stream.extend_from_slice(&payload);
            sent.push((header, payload));
        }
        prop_assert_eq!(messages(&stream, size), (sent.clone(), false));
        // A stream that ends early gives the messages up to there.
        let (some, broken) = messages(&stream[..cut.index(stream.len() + 1)], size);
        prop_assert!(!broken && sent.starts_with(&some));
    }

    #[test]
    fn any_bytes_are_survived(stream in prop::collection::vec(any::<u8>(), 0..200), size in 1_usize..64) {
        prop_assert_eq!(messages(&stream, size), messages(&stream, 1));
        let _ = parse_region_info(&stream, 0, 4096);
        let _ = DeviceInfo::parse(&stream);
        let _ = super::capabilities::parse(&stream);
    }

    #[test]
    fn areas_that_are_accepted_lie_in_the_region(
        flags in 0_u32..16, cap_offset in 0_u32..100, size in any::<u64>(), next in 0_u32..100,
        area in any::<(u64, u64)>(), id in 0_u16..3,
    ) {
        let info = RegionInfo { size, ..info(flags, cap_offset) };
        let area = Area { offset: area.0, size: area.1 };
        let payload = region(info, &[(id, next, sparse(1, &[area]))]);
        if let Ok(RegionReply::Whole(info, areas)) = parse_region_info(&payload, 0, 4096) {
            for area in areas {
                prop_assert!(area.offset.checked_add(area.size).unwrap() <= info.size);
            }
        }
    }
}
