//! The payload buffers of a worker: one per slot of its queue.

use weft::base::Result;
use weft::bdev::Request;
use weft::load::random::Random;
use weft::memory::{Buffer, Pool, Segment};

use crate::shape::Shape;

/// Longest buffer that a pool gives: a longer payload is scattered over several.
const PIECE_MAX: usize = 2 << 20;

/// Buffers by slot.
///
/// # Invariant
/// The owner looks at a slot's bytes only while no request of that slot is outstanding, and drops
/// this only when none is at all.
pub struct Payloads {
    /// The buffers of each slot in order; all slots have the same number.
    buffers: Vec<Buffer>,
    pieces: usize,
    /// For each slot, the first `bytes` of its buffers.
    segments: Box<[Segment]>,
    /// For payloads of several pieces: segments that a request points to.
    lists: Vec<Segment>,
    block_shift: u32,
    bytes: usize,
}

impl Payloads {
    /// No slots, for loads that look at none.
    #[cfg(test)]
    pub fn none() -> Payloads {
        Payloads {
            buffers: Vec::new(),
            pieces: 0,
            segments: Box::default(),
            lists: Vec::new(),
            block_shift: 0,
            bytes: 0,
        }
    }

    /// Buffers of `bytes` for each of `slots`, filled with random bytes (no device can make them
    /// smaller than they are).
    ///
    /// # Errors
    /// `NoMemory` when the pool has not got it.
    pub fn take(
        pool: &Pool,
        slots: usize,
        bytes: usize,
        block_shift: u32,
        random: &mut Random,
    ) -> Result<Payloads> {
        let pieces = bytes.div_ceil(PIECE_MAX);
        let mut buffers = Vec::with_capacity(slots * pieces);
        let mut segments = Vec::with_capacity(slots * pieces);
        for _ in 0..slots {
            for piece in 0..pieces {
                let length = (bytes - piece * PIECE_MAX).min(PIECE_MAX);
                let mut buffer = pool.take(length)?;
                for word in buffer.bytes_mut().chunks_exact_mut(8) {
                    word.copy_from_slice(&random.next_u64().to_le_bytes());
                }
                // SAFETY: by the invariant of this type, which owns the buffer.
                segments.push(unsafe { buffer.segment(length as u32) });
                buffers.push(buffer);
            }
        }
        let lists = if pieces > 1 { segments.clone() } else { Vec::new() };
        Ok(Payloads { buffers, pieces, segments: segments.into(), lists, block_shift, bytes })
    }

    /// The segments by slot, of the full length each, if a payload is in one piece.
    #[inline]
    pub fn whole(&self) -> Option<&[Segment]> {
        (self.pieces == 1).then_some(&*self.segments)
    }

    /// The request of this shape in `slot`.
    #[inline]
    pub fn request(&mut self, slot: usize, shape: Shape, token: u64) -> Request {
        let Shape { opcode, flags, lba, blocks } = shape;
        if opcode.payload_factor() == 0 {
            return Request::bare(opcode, lba, blocks, token).with_flags(flags);
        }
        let length = blocks << self.block_shift;
        if self.pieces == 1 {
            let payload = self.segments[slot].part(0, length);
            return Request::new(opcode, lba, blocks, payload, token).with_flags(flags);
        }
        self.scattered(slot, shape, length as usize, token)
    }

    #[cold]
    fn scattered(&mut self, slot: usize, shape: Shape, length: usize, token: u64) -> Request {
        let count = length.div_ceil(PIECE_MAX);
        let from = slot * self.pieces;
        let last = length - (count - 1) * PIECE_MAX;
        // The slot has no request outstanding, so nothing points to its list.
        for piece in 0..count {
            let length = if piece + 1 == count { last } else { PIECE_MAX };
            self.lists[from + piece] = self.segments[from + piece].part(0, length as u32);
        }
        let list = &self.lists[from..from + count];
        // SAFETY: the list belongs to the slot and is next changed when the slot is used again,
        // after this request's completion.
        unsafe { Request::scattered(shape.opcode, shape.lba, shape.blocks, list, token) }
            .with_flags(shape.flags)
    }

    /// The first `length` bytes of the slot, in pieces of whole blocks.
    pub fn pieces(&self, slot: usize, length: usize) -> impl Iterator<Item = &[u8]> {
        let from = slot * self.pieces;
        let mut left = length.min(self.bytes);
        self.buffers[from..from + self.pieces].iter().map_while(move |buffer| {
            let length = left.min(PIECE_MAX);
            left -= length;
            (length > 0).then(|| &buffer.bytes()[..length])
        })
    }

    /// As [`Payloads::pieces`], to change.
    pub fn pieces_mut(&mut self, slot: usize, length: usize) -> impl Iterator<Item = &mut [u8]> {
        let from = slot * self.pieces;
        let mut left = length.min(self.bytes);
        self.buffers[from..from + self.pieces].iter_mut().map_while(move |buffer| {
            let length = left.min(PIECE_MAX);
            left -= length;
            (length > 0).then(|| &mut buffer.bytes_mut()[..length])
        })
    }
}
