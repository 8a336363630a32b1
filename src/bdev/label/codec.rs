//! A label as bytes. All numbers are little-endian; what is not named is zero.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `WEFTLABL` |
//! | 8 | 4 | CRC-32C (iSCSI) of the 4096 bytes with this field zero |
//! | 12 | 4 | format version: 1 |
//! | 16 | 16 | UUID of the set |
//! | 32 | 8 | event count |
//! | 40 | 8 | capacity of the set's device in blocks |
//! | 48 | 4 | block size in bytes |
//! | 52 | 4 | kind of set |
//! | 56 | 8 | data offset in bytes |
//! | 64 | 8 | map offset in bytes |
//! | 72 | 4 | bytes of a map page |
//! | 76 | 4 | base-2 logarithm of the bytes of a region |
//! | 80 | 1 | which member this device is |
//! | 81 | 1 | number of members, 1 to 8 |
//! | 82 | 1 | length of the name |
//! | 128 | 255 | name of the set's device, UTF-8 |
//! | 384 | 288 each | members: UUID (16), last event (8), state (1), length of the name (1), zero (6), name (255) |

use crc_fast::{CrcAlgorithm, checksum};

use super::{LABEL_BYTES, LABELS_END, Label, MEMBERS_MAX, Member, MemberState, Places};
use crate::base::{BlockCount, BlockSize, Error, ErrorKind, Geometry, Result, Uuid, limits};

const MAGIC: [u8; 8] = *b"WEFTLABL";
const VERSION: u32 = 1;
const NAME_AT: usize = 128;
const MEMBERS_AT: usize = 384;
const MEMBER_BYTES: usize = 288;
const MEMBER_NAME_AT: usize = 32;

const _: () = {
    assert!(NAME_AT + limits::NAME_LENGTH_MAX <= MEMBERS_AT);
    assert!(MEMBER_NAME_AT + limits::NAME_LENGTH_MAX <= MEMBER_BYTES);
    assert!(MEMBERS_AT + MEMBERS_MAX * MEMBER_BYTES <= LABEL_BYTES);
    assert!(limits::NAME_LENGTH_MAX <= u8::MAX as usize);
};

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[offset + i]))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[offset + i]))
}

fn uuid_at(bytes: &[u8], offset: usize) -> Uuid {
    Uuid::from_bytes(std::array::from_fn(|i| bytes[offset + i]))
}

fn sum_of(bytes: &[u8; LABEL_BYTES]) -> u32 {
    let mut copy = *bytes;
    put(&mut copy, 8, &[0; 4]);
    checksum(CrcAlgorithm::Crc32Iscsi, &copy) as u32
}

/// The bytes of a label. Names that are too long are cut.
pub fn encode(label: &Label) -> [u8; LABEL_BYTES] {
    let mut bytes = [0; LABEL_BYTES];
    put(&mut bytes, 0, &MAGIC);
    put(&mut bytes, 12, &VERSION.to_le_bytes());
    put(&mut bytes, 16, label.set.as_bytes());
    put(&mut bytes, 32, &label.event.to_le_bytes());
    put(&mut bytes, 40, &label.geometry.blocks.0.to_le_bytes());
    put(&mut bytes, 48, &label.geometry.block_size.bytes().to_le_bytes());
    put(&mut bytes, 52, &label.kind.to_le_bytes());
    put(&mut bytes, 56, &label.places.data.to_le_bytes());
    put(&mut bytes, 64, &label.places.map.to_le_bytes());
    put(&mut bytes, 72, &label.places.map_page.to_le_bytes());
    put(&mut bytes, 76, &label.places.region_shift.to_le_bytes());
    let members = &label.members[..label.members.len().min(MEMBERS_MAX)];
    bytes[80] = label.own as u8;
    bytes[81] = members.len() as u8;
    let name = cut(&label.name);
    bytes[82] = name.len() as u8;
    put(&mut bytes, NAME_AT, name.as_bytes());
    for (index, member) in members.iter().enumerate() {
        let at = MEMBERS_AT + index * MEMBER_BYTES;
        put(&mut bytes, at, member.uuid.as_bytes());
        put(&mut bytes, at + 16, &member.last_event.to_le_bytes());
        bytes[at + 24] = member.state as u8;
        let name = cut(&member.name);
        bytes[at + 25] = name.len() as u8;
        put(&mut bytes, at + MEMBER_NAME_AT, name.as_bytes());
    }
    let sum = sum_of(&bytes);
    put(&mut bytes, 8, &sum.to_le_bytes());
    bytes
}

/// As much of a name as a label holds.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(limits::NAME_LENGTH_MAX)]
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, format!("label: {}", what.into()))
}

fn name_at(bytes: &[u8], offset: usize, length: u8) -> Result<String> {
    std::str::from_utf8(&bytes[offset..offset + usize::from(length)])
        .map(str::to_owned)
        .map_err(|_| corrupt("a name is not UTF-8"))
}

/// Reads one copy from any bytes.
///
/// # Errors
/// `NotFound` when there is no label; `Unsupported` for one of a later version; `Corrupt` for one that is
/// damaged or says what cannot be.
pub fn decode(bytes: &[u8; LABEL_BYTES]) -> Result<Label> {
    if bytes[..8] != MAGIC {
        return Err(Error::new(ErrorKind::NotFound, "there is no label"));
    }
    if sum_of(bytes) != u32_at(bytes, 8) {
        return Err(corrupt("wrong checksum"));
    }
    let version = u32_at(bytes, 12);
    if version != VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("label of format version {version} (this program reads {VERSION})"),
        ));
    }
    let block_size =
        BlockSize::new(u64::from(u32_at(bytes, 48))).map_err(|error| corrupt(error.to_string()))?;
    let geometry = Geometry::new(block_size, BlockCount(u64_at(bytes, 40)))
        .map_err(|error| corrupt(error.to_string()))?;
    let places = places_at(bytes, geometry)?;
    let (own, count) = (usize::from(bytes[80]), usize::from(bytes[81]));
    if count == 0 || count > MEMBERS_MAX || own >= count {
        return Err(corrupt(format!("member {own} of {count}")));
    }
    let members = (0..count)
        .map(|index| {
            let at = MEMBERS_AT + index * MEMBER_BYTES;
            let state = MemberState::from_byte(bytes[at + 24])
                .ok_or_else(|| corrupt(format!("member {index} is in state {}", bytes[at + 24])))?;
            Ok(Member {
                uuid: uuid_at(bytes, at),
                state,
                last_event: u64_at(bytes, at + 16),
                name: name_at(bytes, at + MEMBER_NAME_AT, bytes[at + 25])?,
            })
        })
        .collect::<Result<Vec<Member>>>()?;
    Ok(Label {
        set: uuid_at(bytes, 16),
        name: name_at(bytes, NAME_AT, bytes[82])?,
        kind: u32_at(bytes, 52),
        event: u64_at(bytes, 32),
        geometry,
        places,
        own,
        members,
    })
}

fn places_at(bytes: &[u8], geometry: Geometry) -> Result<Places> {
    let places = Places {
        data: u64_at(bytes, 56),
        map: u64_at(bytes, 64),
        map_page: u32_at(bytes, 72),
        region_shift: u32_at(bytes, 76),
    };
    let block = u64::from(geometry.block_size.bytes());
    if places.map < LABELS_END || places.map > places.data {
        return Err(corrupt(format!(
            "the map is at {} and the data at {}",
            places.map, places.data
        )));
    }
    if !places.map.is_multiple_of(block) || !places.data.is_multiple_of(block) {
        return Err(corrupt("map or data are not on a block boundary"));
    }
    // A device of all these bytes must be one that can be.
    let end = places.data.checked_add(geometry.capacity().0);
    if end.is_none_or(|end| end > i64::MAX as u64) {
        return Err(corrupt(format!("the data do not end below 2^63, from {} on", places.data)));
    }
    Ok(places)
}

/// The newer of the two copies that is intact, and which of the two it is. The next label goes to the
/// other.
///
/// # Errors
/// `NotFound` when there is no label in either place; otherwise what is wrong with what there is.
pub fn newest(copies: [&[u8; LABEL_BYTES]; 2]) -> Result<(Label, usize)> {
    match copies.map(decode) {
        [Ok(one), Ok(two)] if two.event > one.event => Ok((two, 1)),
        [Ok(one), _] => Ok((one, 0)),
        [Err(_), Ok(two)] => Ok((two, 1)),
        [Err(one), Err(two)] => Err(if one.kind() == ErrorKind::NotFound { two } else { one }),
    }
}
