//! Packets as bytes, without their payloads, which travel behind them. All fixed numbers are little-endian.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 2 | magic `WM` |
//! | 2 | 1 | format version: 1 |
//! | 3 | 1 | kind: 0 log, 1 data, 2 hello, 3 heartbeat |
//! | 4 | 4 | node that it is from |
//! | 8 | 4 | node that it is for |
//! | 12 | 8 | up to two relays, in order; zero where there is none |
//! | 20 | 1 | number of relays |
//! | 21 | 1 | relays passed |
//! | 22 | 2 | zero |
//! | 24 | 4 | bytes of the body |
//! | 28 | 4 | blocks of the payload behind the body; 2³²−1 when there is none |
//! | 32 | | body, in postcard's encoding of the type that the kind names |
//!
//! In postcard's encoding an integer of more than 8 bits is a little-endian base-128 varint, an enum its variant's number as a varint and then its fields, a sequence its
//! length as a varint and then its elements, an option one byte and then the value.

use serde::{Deserialize, Serialize};

use super::ids::NodeId;
use super::node::{Body, Hello, Packet};
use super::picture::Beat;
use super::route::{RELAYS_MAX, Route};

/// Bytes in front of the body.
pub const HEADER_BYTES: usize = 32;
/// Longest body: the map of the largest group, and room for the rest.
pub const BODY_BYTES_MAX: usize = 4 << 20;

const MAGIC: [u8; 2] = *b"WM";
const VERSION: u8 = 1;
const NO_PAYLOAD: u32 = u32::MAX;

/// Bytes that are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPacket {
    /// More bytes are needed: at least so many in all.
    Short(usize),
    /// It does not begin as a packet does.
    Magic,
    /// A version that this program does not speak.
    Version(u8),
    /// A number outside its limits.
    Header,
    /// The body is not what its kind says.
    Body,
}

/// What a heartbeat's body is.
#[derive(Serialize, Deserialize)]
struct Heartbeat {
    beat: Beat,
    hops: u8,
}

/// Adds the bytes of a packet, payload aside, to `bytes`. `blocks` are those of its payload, if it has one. Gives nothing back, and adds nothing, when
/// the body is too long to be sent.
pub fn encode<P>(packet: &Packet<P>, blocks: Option<u32>, bytes: &mut Vec<u8>) -> Option<()> {
    let start = bytes.len();
    let (kind, body) = match &packet.body {
        Body::Log(message) => (0, postcard::to_allocvec(message)),
        Body::Data(message, _) => (1, postcard::to_allocvec(message)),
        Body::Hello(hello) => (2, postcard::to_allocvec(hello)),
        Body::Beat { beat, hops } => {
            (3, postcard::to_allocvec(&Heartbeat { beat: *beat, hops: *hops }))
        }
    };
    let body = body.ok().filter(|body| body.len() <= BODY_BYTES_MAX)?;
    let relays = packet.route.relays();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend([VERSION, kind]);
    bytes.extend(packet.from.0.to_le_bytes());
    bytes.extend(packet.to.0.to_le_bytes());
    for at in 0..RELAYS_MAX {
        bytes.extend(relays.get(at).map_or(0, |relay| relay.0).to_le_bytes());
    }
    bytes.extend([relays.len() as u8, packet.passed, 0, 0]);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(blocks.unwrap_or(NO_PAYLOAD).to_le_bytes());
    debug_assert_eq!(bytes.len() - start, HEADER_BYTES);
    bytes.extend_from_slice(&body);
    Some(())
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

/// Reads the packet that `bytes` begin with: it, without its payload; the blocks of the payload, if one follows; and the bytes that it took.
///
/// # Errors
/// [`BadPacket::Short`] when there are not enough bytes yet; the others when there never will be.
pub fn decode<P>(bytes: &[u8]) -> Result<(Packet<P>, Option<u32>, usize), BadPacket> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(BadPacket::Magic);
    }
    if bytes.len() < HEADER_BYTES {
        return Err(BadPacket::Short(HEADER_BYTES));
    }
    if bytes[2] != VERSION {
        return Err(BadPacket::Version(bytes[2]));
    }
    let (relays, length) = (usize::from(bytes[20]), number(bytes, 24) as usize);
    if relays > RELAYS_MAX || length > BODY_BYTES_MAX {
        return Err(BadPacket::Header);
    }
    let end = HEADER_BYTES + length;
    if bytes.len() < end {
        return Err(BadPacket::Short(end));
    }
    let through: [NodeId; RELAYS_MAX] =
        std::array::from_fn(|at| NodeId(number(bytes, 12 + at * 4)));
    let route = Route::through(&through[..relays]).ok_or(BadPacket::Header)?;
    let body = &bytes[HEADER_BYTES..end];
    let body = match bytes[3] {
        0 => Body::Log(read(body)?),
        1 => Body::Data(read(body)?, None),
        2 => Body::Hello(read::<Hello>(body)?),
        3 => {
            let Heartbeat { beat, hops } = read(body)?;
            Body::Beat { beat, hops }
        }
        _ => return Err(BadPacket::Header),
    };
    let (from, to) = (NodeId(number(bytes, 4)), NodeId(number(bytes, 8)));
    let blocks = Some(number(bytes, 28)).filter(|blocks| *blocks != NO_PAYLOAD);
    Ok((Packet { from, to, route, passed: bytes[21], body }, blocks, end))
}

/// A body, all of it.
fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BadPacket> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(BadPacket::Body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::ids::*;
    use crate::mesh::message::*;
    use crate::mesh::picture::Nonce;

    fn packets() -> Vec<Packet<()>> {
        let key =
            SessionKey { group: GroupId(3), replica: ReplicaId(70_000), generation: Generation(9) };
        let run = Run { first: 1 << 40, blocks: 8 };
        let operation = Operation::Write { number: WriteNumber(300), run };
        let (session, sequence, watermark) = (SessionNumber(2), Sequence(1), WriteNumber(299));
        let io = Io { key, session, sequence, watermark, operation };
        let nonce = Nonce { origin: u64::MAX, counter: 1 };
        let beat =
            Beat { node: NodeId(4), incarnation: Incarnation(17), nonce, applied: Index(16) };
        let bodies = [
            Body::Data(Message::ToTarget(ToTarget::Io(io)), None),
            Body::Hello(Hello { origin: 1, counter: 2, hears: true }),
            Body::Beat { beat, hops: 2 },
        ];
        let route = Route::through(&[NodeId(2)]).expect("one relay");
        bodies
            .into_iter()
            .map(|body| Packet { from: NodeId(1), to: NodeId(3), route, passed: 1, body })
            .collect()
    }

    #[test]
    fn a_packet_comes_out_as_it_went_in_and_needs_all_its_bytes() {
        for (blocks, packet) in [Some(8), None, Some(0)].into_iter().zip(packets()) {
            let mut bytes = Vec::new();
            encode(&packet, blocks, &mut bytes).expect("short enough");
            let (back, count, end) = decode::<()>(&bytes).expect("a packet");
            assert_eq!(
                (format!("{back:?}"), count, end),
                (format!("{packet:?}"), blocks, bytes.len())
            );
            for length in 0..bytes.len() {
                assert!(
                    matches!(decode::<()>(&bytes[..length]), Err(BadPacket::Short(_))),
                    "{length} bytes"
                );
            }
        }
    }

    #[test]
    fn what_is_no_packet_is_told_apart() {
        let mut bytes = Vec::new();
        encode(&packets()[0], None, &mut bytes).expect("short enough");
        let broken = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            decode::<()>(&bytes).expect_err("no packet")
        };
        assert_eq!(broken(0, b'X'), BadPacket::Magic);
        assert_eq!(broken(2, 9), BadPacket::Version(9));
        assert_eq!(broken(3, 9), BadPacket::Header);
        assert_eq!(broken(20, 3), BadPacket::Header);
        assert_eq!(broken(27, 0xff), BadPacket::Header);
        assert_eq!(broken(HEADER_BYTES, 99), BadPacket::Body);
    }

    /// The figure of the protocol's page.
    #[test]
    fn a_write_costs_less_than_a_cache_line_beyond_its_header() {
        let mut bytes = Vec::new();
        encode(&packets()[0], Some(8), &mut bytes).expect("short enough");
        assert!(bytes.len() - HEADER_BYTES < 32, "{}", bytes.len());
    }
}
