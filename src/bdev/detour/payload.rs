//! A request's payload by byte position: walking it, cutting it into pieces that a driver takes, and copying
//! between it and a buffer.

use crate::bdev::request::Request;
use crate::memory::{Buffer, Segment, copy};

/// A position in the payload of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Index of the segment.
    segment: u16,
    /// Bytes into it.
    offset: u32,
}

impl Position {
    /// The position `bytes` further on.
    pub(super) fn advanced(self, request: &Request, bytes: u64) -> Position {
        let mut position = self;
        let mut left = bytes;
        for segment in request.segments().skip(usize::from(self.segment)) {
            let rest = u64::from(segment.len() - position.offset);
            if left < rest {
                position.offset += left as u32;
                return position;
            }
            left -= rest;
            position.segment += 1;
            position.offset = 0;
        }
        position
    }

    /// The pieces of memory from here on, in order; none is empty.
    pub(super) fn pieces(self, request: &Request) -> impl Iterator<Item = Segment> + use<> {
        let mut offset = self.offset;
        request.segments().skip(usize::from(self.segment)).filter_map(move |segment| {
            let skip = std::mem::take(&mut offset);
            let rest = segment.len() - skip;
            (rest > 0).then(|| segment.part(skip, rest))
        })
    }
}

/// What a driver asks of a payload that goes to it as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demands {
    /// Most segments.
    pub(super) segments_max: usize,
    /// Bits of a segment's address that must be zero.
    pub(super) address_mask: u64,
    /// Bits of a segment's length that must be zero.
    pub(super) length_mask: u64,
    /// Bits of an address between two segments that must be zero.
    pub(super) edge_mask: u64,
}

/// Cuts the longest piece of the payload, at most `bytes_max` long and a multiple of `block` bytes, that
/// satisfies `demands`. Fills `segments` from the front; returns how many, and how many bytes they hold
/// (0 when not even one block can go as it is).
pub(super) fn cut(
    request: &Request,
    from: Position,
    bytes_max: u64,
    block: u64,
    demands: &Demands,
    segments: &mut [Segment],
) -> (usize, u64) {
    let segments_max = demands.segments_max.min(segments.len());
    let mut count = 0;
    let mut bytes = 0;
    // The longest cut so far that ends with a block: how many segments, and how much of the last.
    let mut best = (0, 0, 0);
    for piece in from.pieces(request) {
        if count == segments_max || bytes == bytes_max {
            break;
        }
        let start = piece.address() as u64;
        if start & demands.address_mask != 0 || (count > 0 && start & demands.edge_mask != 0) {
            break;
        }
        let length = u64::from(piece.len()).min(bytes_max - bytes);
        segments[count] = piece.part(0, length as u32);
        count += 1;
        // A cut within this piece is possible where a block ends and the length is aligned.
        let end = (bytes + length) / block * block;
        if end > bytes && (end - bytes) & demands.length_mask == 0 {
            best = (count, end, (end - bytes) as u32);
        }
        if length & demands.length_mask != 0 || (start + length) & demands.edge_mask != 0 {
            break;
        }
        bytes += length;
    }
    let (count, bytes, last) = best;
    if count > 0 {
        segments[count - 1] = segments[count - 1].part(0, last);
    }
    (count, bytes)
}

/// Copies `bytes` bytes of the payload into `buffer`.
pub(super) fn gather(request: &Request, from: Position, bytes: usize, buffer: &mut Buffer) {
    let target = buffer.bytes_mut();
    let mut done = 0;
    for piece in from.pieces(request) {
        let length = (piece.len() as usize).min(bytes - done);
        let target = &mut target[done..done + length];
        // SAFETY: the segment's invariant makes `length` bytes readable until the request completes;
        // a pool buffer that we own overlaps no payload.
        unsafe { copy::copy(piece.address(), target.as_mut_ptr(), length) };
        done += length;
        if done == bytes {
            break;
        }
    }
    debug_assert_eq!(done, bytes, "the payload was measured before");
}

/// Copies the first `bytes` bytes of `buffer` into the payload.
pub(super) fn scatter(request: &Request, to: Position, bytes: usize, buffer: &Buffer) {
    let source = &buffer.bytes()[..bytes];
    let mut done = 0;
    for piece in to.pieces(request) {
        let length = (piece.len() as usize).min(bytes - done);
        let source = &source[done..done + length];
        // SAFETY: as in `gather`; the request is a read, so its memory is ours to write.
        unsafe { copy::copy(source.as_ptr(), piece.address(), length) };
        done += length;
        if done == bytes {
            break;
        }
    }
    debug_assert_eq!(done, bytes, "the payload was measured before");
}

/// Whether the payload equals the first `bytes` bytes of `buffer`.
pub(super) fn equals(request: &Request, at: Position, bytes: usize, buffer: &Buffer) -> bool {
    let ours = &buffer.bytes()[..bytes];
    let mut done = 0;
    for piece in at.pieces(request) {
        let length = (piece.len() as usize).min(bytes - done);
        let ours = &ours[done..done + length];
        // SAFETY: as in `gather`. A guest may write to its own payload meanwhile, so no reference to
        // it is made.
        let order = unsafe { libc::memcmp(ours.as_ptr().cast(), piece.address().cast(), length) };
        if order != 0 {
            return false;
        }
        done += length;
        if done == bytes {
            break;
        }
    }
    done == bytes
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;
    use crate::base::Lba;
    use crate::bdev::Opcode;
    use crate::memory::RegionId;

    fn segment(address: usize, length: u32) -> Segment {
        let address = NonNull::new(address as *mut u8).unwrap();
        // SAFETY: only lengths and addresses are looked at.
        unsafe { Segment::new(address, length, RegionId::NONE) }
    }

    fn cut_of(
        lengths: &[(usize, u32)],
        skip: u64,
        bytes_max: u64,
        block: u64,
        demands: Demands,
    ) -> (Vec<(usize, u32)>, u64) {
        let list: Vec<Segment> = lengths.iter().map(|&(a, l)| segment(a, l)).collect();
        // SAFETY: the request does not outlive the list.
        let request = unsafe { Request::scattered(Opcode::Write, Lba(0), 1, &list, 0) };
        let mut out = [Segment::EMPTY; 4];
        let from = Position::default().advanced(&request, skip);
        let (count, bytes) = cut(&request, from, bytes_max, block, &demands, &mut out);
        let sum: u64 = out[..count].iter().map(|s| u64::from(s.len())).sum();
        assert_eq!(sum, bytes);
        (out[..count].iter().map(|s| (s.address() as usize, s.len())).collect(), bytes)
    }

    const LAX: Demands = Demands { segments_max: 4, address_mask: 0, length_mask: 0, edge_mask: 0 };

    #[test]
    fn cuts_end_with_a_block() {
        let payload = [(0x1000, 512), (0x3000, 1024), (0x5000, 512)];
        assert_eq!(cut_of(&payload, 0, 2048, 512, LAX).1, 2048);
        let (pieces, bytes) = cut_of(&payload, 0, 1024, 512, LAX);
        assert_eq!((pieces, bytes), (vec![(0x1000, 512), (0x3000, 512)], 1024));
        let (pieces, bytes) = cut_of(&payload, 1024, 1024, 512, LAX);
        assert_eq!((pieces, bytes), (vec![(0x3200, 512), (0x5000, 512)], 1024));
        // Blocks of 1000 + 24 bytes and so on: the third segment is needed to end the block.
        let odd = [(0x1000, 1000), (0x3000, 500), (0x5000, 548)];
        assert_eq!(cut_of(&odd, 0, 4096, 1024, LAX).1, 2048);
        let two = Demands { segments_max: 2, ..LAX };
        assert_eq!(cut_of(&odd, 0, 4096, 1024, two), (vec![(0x1000, 1000), (0x3000, 24)], 1024));
        let one = Demands { segments_max: 1, ..LAX };
        assert_eq!(cut_of(&odd, 0, 4096, 1024, one).1, 0);
    }

    #[test]
    fn misaligned_pieces_are_not_cut() {
        let aligned = Demands { address_mask: 511, length_mask: 511, ..LAX };
        assert_eq!(cut_of(&[(0x1004, 4096)], 0, 4096, 512, aligned).1, 0);
        let mixed = [(0x1000, 1024), (0x3004, 1024)];
        assert_eq!(cut_of(&mixed, 0, 4096, 512, aligned), (vec![(0x1000, 1024)], 1024));
        assert_eq!(cut_of(&[(0x1000, 700), (0x2000, 324)], 0, 4096, 512, aligned).1, 512);
    }

    #[test]
    fn positions_skip_whole_segments() {
        let list = [segment(0x1000, 10), segment(0x2000, 20), segment(0x3000, 30)];
        // SAFETY: the request does not outlive the list.
        let request = unsafe { Request::scattered(Opcode::Write, Lba(0), 1, &list, 0) };
        let start = Position::default();
        assert_eq!(start.advanced(&request, 10), Position { segment: 1, offset: 0 });
        assert_eq!(start.advanced(&request, 35), Position { segment: 2, offset: 5 });
        let left: u32 = start.advanced(&request, 35).pieces(&request).map(Segment::len).sum();
        assert_eq!(left, 25);
        assert_eq!(start.advanced(&request, 60).pieces(&request).count(), 0);
    }
}
