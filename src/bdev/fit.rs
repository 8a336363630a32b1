//! Whether a request fits a driver as it is: the check that every request passes on the fast path.

use super::device::Info;
use super::request::{Opcode, OpcodeSet, Request, RequestFlags};
use crate::base::{BlockCount, Geometry};
use crate::memory::Segment;

/// What a request must be like to go to the driver as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    /// Opcodes that may.
    opcodes: OpcodeSet,
    /// Those of them with a range and a payload as long as that: nearly every request.
    transfers: OpcodeSet,
    blocks_max: u32,
    block_shift: u32,
    /// Blocks between boundaries, less one; `u64::MAX` where there is none.
    boundary_mask: u64,
    segments_max: u16,
    /// Bits of a segment's address that must be zero.
    address_mask: u32,
    /// Bits of a segment's length that must be zero. No more is asked than that a segment holds whole blocks:
    /// a payload is a number of blocks, however coarsely a device wants addresses aligned.
    length_mask: u32,
}

/// Opcodes with a range and a payload as long as that.
const TRANSFERS: OpcodeSet = OpcodeSet::READ_WRITE.with(Opcode::Compare);

impl Fit {
    /// The check for `opcodes` on a device.
    pub(super) fn new(info: &Info, opcodes: OpcodeSet) -> Fit {
        let block_size = info.geometry.block_size;
        let limits = info.limits;
        Fit {
            opcodes,
            transfers: opcodes.and(TRANSFERS),
            // A driver that takes less than a block takes a block: nothing less can be asked of it.
            blocks_max: (limits.transfer_max >> block_size.shift()).max(1),
            block_shift: block_size.shift(),
            boundary_mask: u64::from(limits.boundary).wrapping_sub(1),
            segments_max: limits.segments_max.max(1),
            address_mask: limits.memory_alignment.max(1) - 1,
            length_mask: limits.memory_alignment.clamp(1, block_size.bytes()) - 1,
        }
    }

    /// The same check for other opcodes.
    pub(super) fn with_opcodes(mut self, opcodes: OpcodeSet) -> Fit {
        self.opcodes = opcodes;
        self.transfers = opcodes.and(TRANSFERS);
        self
    }

    /// Most blocks in one request.
    pub(super) fn blocks_max(&self) -> u32 {
        self.blocks_max
    }

    /// How many blocks there are from `lba` to the next boundary.
    pub(super) fn blocks_to_boundary(&self, lba: u64) -> u64 {
        let mask = self.boundary_mask;
        if mask == u64::MAX { u64::MAX } else { mask + 1 - (lba & mask) }
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
        if request.ticket.flags.has(RequestFlags::DETOUR) {
            return false;
        }
        if request.segment_count() != 1 || !self.transfers.contains(request.opcode()) {
            return self.admits_other(request, geometry);
        }
        self.range_fits(request, geometry)
            && self.segment_fits(request.first_segment(), self.range_bytes(request))
    }

    /// The same for what is not a transfer to or from one segment.
    #[inline(never)]
    fn admits_other(&self, request: &Request, geometry: Geometry) -> bool {
        let opcode = request.opcode();
        self.opcodes.contains(opcode)
            && (!opcode.has_range()
                || self.range_fits(request, geometry)
                    && self.payload_fits(request, self.range_bytes(request)))
    }

    #[inline]
    fn range_bytes(&self, request: &Request) -> u64 {
        u64::from(request.ticket.blocks) << self.block_shift
    }

    #[inline]
    fn range_fits(&self, request: &Request, geometry: Geometry) -> bool {
        let (lba, blocks) = (request.lba, request.ticket.blocks);
        // Zero blocks wrap to the greatest number.
        let beyond_first = blocks.wrapping_sub(1);
        // Of a range that the device has, the last block's number does not wrap.
        beyond_first < self.blocks_max
            && geometry.contains(lba, BlockCount(u64::from(blocks)))
            && (lba.0 & self.boundary_mask) + u64::from(beyond_first) <= self.boundary_mask
    }

    #[inline]
    fn segment_fits(&self, segment: Segment, bytes: u64) -> bool {
        let misaligned = (segment.address() as u64 & u64::from(self.address_mask))
            | u64::from(segment.len() & self.length_mask);
        u64::from(segment.len()) == bytes && misaligned == 0
    }

    fn payload_fits(&self, request: &Request, range_bytes: u64) -> bool {
        let bytes = range_bytes * request.opcode().payload_factor();
        if request.segment_count() == 1 {
            return self.segment_fits(request.first_segment(), bytes);
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
