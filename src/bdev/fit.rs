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
    /// Most blocks of a range without payload, where that is a limit of its own; else 0.
    range_blocks_max: u32,
    /// Most blocks of a compare-and-write.
    compare_and_write_max: u32,
    segments_max: u16,
    /// Bits of a segment's address that must be zero.
    address_mask: u32,
    /// Bits of an address at which one segment ends and another begins that must be zero.
    edge_mask: u32,
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
            range_blocks_max: limits.range_max,
            compare_and_write_max: match limits.compare_and_write_max {
                0 => u32::MAX,
                blocks => blocks,
            },
            segments_max: limits.segments_max.max(1),
            edge_mask: limits.edge_alignment.max(1) - 1,
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

    /// Most blocks in one request without payload that starts at `lba`.
    pub(super) fn range_blocks_max(&self, lba: u64) -> u32 {
        match self.range_blocks_max {
            0 => u64::from(self.blocks_max).min(self.blocks_to_boundary(lba)) as u32,
            own => own,
        }
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

    /// Bits of an address between two segments that must be zero.
    pub(super) fn edge_mask(&self) -> u64 {
        u64::from(self.edge_mask)
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
        if !self.opcodes.contains(opcode) {
            return false;
        }
        if !opcode.has_range() {
            return true;
        }
        if opcode == Opcode::CompareAndWrite && request.ticket.blocks > self.compare_and_write_max {
            return false;
        }
        if opcode.payload_factor() == 0 && self.range_blocks_max != 0 {
            let blocks = request.ticket.blocks;
            return blocks.wrapping_sub(1) < self.range_blocks_max
                && geometry.contains(request.lba, BlockCount(u64::from(blocks)))
                && self.payload_fits(request, 0);
        }
        self.range_fits(request, geometry) && self.payload_fits(request, self.range_bytes(request))
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
        let edge_mask = u64::from(self.edge_mask);
        let last = request.segment_count().saturating_sub(1);
        for (index, segment) in request.segments().enumerate() {
            let start = segment.address() as u64;
            if index > 0 {
                misaligned |= start & edge_mask;
            }
            if index < last {
                misaligned |= (start + u64::from(segment.len())) & edge_mask;
            }
            sum += u64::from(segment.len());
            misaligned |= (segment.address() as u64 & u64::from(self.address_mask))
                | u64::from(segment.len() & self.length_mask);
        }
        sum == bytes && misaligned == 0
    }
}
