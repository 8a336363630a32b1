//! What to do with a request that cannot go straight through: refuse it with the precise status, or
//! serve it by other requests.

use crate::base::{BlockCount, Geometry, Status, limits};
use crate::bdev::device::Info;
use crate::bdev::fit::Fit;
use crate::bdev::request::{Opcode, Request, RequestFlags};

/// How a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It ends at once.
    End(Status),
    /// It goes to the driver as it is, under a token of ours.
    Forward,
    /// The driver takes the opcode, but not all of the request at once: parts of it, with payload.
    Transfer(Opcode),
    /// The same without payload.
    Range(Opcode),
    /// Writes of zeros.
    Zero,
    /// Reads, each compared with its part of the payload.
    Compare,
    /// Under a lock: as `Compare` with the first half of the payload; when equal, the second half is written.
    CompareAndWrite,
    /// Completes when all before it have completed.
    Reset,
}

/// The plan for `request`. `fit` is the driver's, for the opcodes that it takes.
pub(super) fn plan(request: &Request, info: &Info, geometry: Geometry, fit: &Fit) -> Plan {
    let opcode = request.opcode();
    if let Some(status) = fault(request, info, geometry) {
        return Plan::End(status);
    }
    let native = info.native;
    let blocks = request.ticket.blocks;
    if opcode == Opcode::Unmap && blocks == 0 {
        // The one zero length that NVMe can express: a range of a Dataset Management command
        // (NVM Command Set Specification, section 3.2.3). There is nothing to deallocate.
        return Plan::End(Status::SUCCESS);
    }
    let mut unmarked = *request;
    unmarked.ticket.flags = unmarked.ticket.flags.without(RequestFlags::DETOUR);
    if fit.admits(&unmarked, geometry) {
        return Plan::Forward;
    }
    match opcode {
        Opcode::Read | Opcode::Write => Plan::Transfer(opcode),
        Opcode::Compare if native.contains(opcode) => Plan::Transfer(opcode),
        Opcode::Compare => Plan::Compare,
        Opcode::CompareAndWrite => Plan::CompareAndWrite,
        Opcode::Unmap | Opcode::WriteZeroes if native.contains(opcode) => Plan::Range(opcode),
        // Unmapped blocks read as zeros, so zeros will do.
        Opcode::Unmap if native.contains(Opcode::WriteZeroes) => Plan::Range(Opcode::WriteZeroes),
        Opcode::Unmap | Opcode::WriteZeroes => Plan::Zero,
        // The driver keeps nothing that could be lost: every completed write is durable.
        Opcode::Flush => Plan::End(Status::SUCCESS),
        Opcode::Reset => Plan::Reset,
        Opcode::NvmeAdmin | Opcode::NvmeIo => Plan::End(Status::INVALID_OPCODE),
    }
}

/// What is wrong with a request, if anything.
fn fault(request: &Request, info: &Info, geometry: Geometry) -> Option<Status> {
    let opcode = request.opcode();
    if !info.supported().contains(opcode) {
        let read_only = opcode.is_write() && !info.native.contains(Opcode::Write);
        return Some(if read_only {
            Status::NAMESPACE_WRITE_PROTECTED
        } else {
            Status::INVALID_OPCODE
        });
    }
    if !opcode.has_range() {
        return None;
    }
    let blocks = BlockCount(u64::from(request.ticket.blocks));
    // The length of a command's range is a zero-based number (NVM Command Set Specification, section
    // 3.3.4, NLB), except for that of an unmap.
    if blocks.0 == 0 && opcode != Opcode::Unmap {
        return Some(Status::INVALID_FIELD);
    }
    if !geometry.contains(request.lba, blocks) {
        return Some(Status::LBA_OUT_OF_RANGE);
    }
    let range_bytes = geometry.bytes_of(blocks).0;
    let factor = opcode.payload_factor();
    let payload: u64 = request.segments().map(|segment| u64::from(segment.len())).sum();
    if factor == 0 {
        // A payload where none belongs is left alone.
        return None;
    }
    if payload != range_bytes * factor || range_bytes > limits::TRANSFER_MAX {
        return Some(Status::INVALID_FIELD);
    }
    None
}
