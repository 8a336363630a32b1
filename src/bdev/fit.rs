//! Whether a request fits a driver as it is: the check that every request passes on the fast path.

use super::device::Info;
use super::request::{OpcodeSet, Request, RequestFlags};
use crate::base::{BlockCount, Geometry};

/// What a request must be like to go to the driver as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    /// Opcodes that may.
    opcodes: OpcodeSet,
    blocks_max: u32,
    block_shift: u32,
    /// Blocks between boundaries, less one; `u32::MAX` where there is none.
    boundary_mask: u32,
    segments_max: u16,
    /// Bits of a segment's address that must be zero.
    address_mask: u32,
    /// Bits of a segment's length that must be zero. No more is asked than that a segment holds whole blocks:
    /// a payload is a number of blocks, however coarsely a device wants addresses aligned.
    length_mask: u32,
}

impl Fit {
    /// The check for `opcodes` on a device.
    pub(super) fn new(info: &Info, opcodes: OpcodeSet) -> Fit {
        let block_size = info.geometry.block_size;
        let limits = info.limits;
        Fit {
            opcodes,
            // A driver that takes less than a block takes a block: nothing less can be asked of it.
            blocks_max: (limits.transfer_max >> block_size.shift()).max(1),
            block_shift: block_size.shift(),
            boundary_mask: limits.boundary.wrapping_sub(1),
            segments_max: limits.segments_max.max(1),
            address_mask: limits.memory_alignment.max(1) - 1,
            length_mask: limits.memory_alignment.clamp(1, block_size.bytes()) - 1,
        }
    }

    /// The same check for other opcodes.
    pub(super) fn with_opcodes(mut self, opcodes: OpcodeSet) -> Fit {
        self.opcodes = opcodes;
        self
    }

    /// Most blocks in one request.
    pub(super) fn blocks_max(&self) -> u32 {
        self.blocks_max
    }

    /// How many blocks there are from `lba` to the next boundary.
    pub(super) fn blocks_to_boundary(&self, lba: u64) -> u64 {
        let mask = u64::from(self.boundary_mask);
        if self.boundary_mask == u32::MAX { u64::MAX } else { mask + 1 - (lba & mask) }
    }

    /// Most segments in one request.
    pub(super) fn segments_max(&self) -> usize {
        usize::from(self.segments_max)
    }

    /// Bits of a segment's address and of its length that must be zero.
    pub(super) fn masks(&self) -> (u64, u64) {
        (u64::from(self.address_mask), u64::from(self.length_mask))
    }

    /// Whether `request` may go to the driver as it is.
    #[inline]
    pub(super) fn admits(&self, request: &Request, geometry: Geometry) -> bool {
        let opcode = request.opcode();
        if !self.opcodes.contains(opcode) || request.ticket.flags.has(RequestFlags::DETOUR) {
            return false;
        }
        if !opcode.has_range() {
            return true;
        }
        let blocks = request.ticket.blocks;
        // Zero blocks wrap to the greatest number.
        if blocks.wrapping_sub(1) >= self.blocks_max
            || !geometry.contains(request.lba, BlockCount(u64::from(blocks)))
        {
            return false;
        }
        if self.boundary_mask != u32::MAX {
            let mask = u64::from(self.boundary_mask);
            if (request.lba.0 & mask) + u64::from(blocks) > mask + 1 {
                return false;
            }
        }
        self.payload_fits(request, u64::from(blocks) << self.block_shift)
    }

    #[inline]
    fn payload_fits(&self, request: &Request, range_bytes: u64) -> bool {
        let bytes = range_bytes * request.opcode().payload_factor();
        if request.segment_count() == 1 {
            let segment = request.first_segment();
            let misaligned = (segment.address() as u64 & u64::from(self.address_mask))
                | u64::from(segment.len() & self.length_mask);
            return u64::from(segment.len()) == bytes && misaligned == 0;
        }
        self.segments_fit(request, bytes)
    }

    fn segments_fit(&self, request: &Request, bytes: u64) -> bool {
        if request.segment_count() > usize::from(self.segments_max) {
            return false;
        }
        let mut sum = 0;
        let mut misaligned = 0;
        for segment in request.segments() {
            sum += u64::from(segment.len());
            misaligned |= (segment.address() as u64 & u64::from(self.address_mask))
                | u64::from(segment.len() & self.length_mask);
        }
        sum == bytes && misaligned == 0
    }
}
