//! What surrounds the data of a request, alike in both kinds of ring: a line for each slot, with descriptors and the
//! header, and the range of a request that has one.

use super::Header;
use super::cells::{Line, Pairs};
use super::memory::LINE;
use crate::virtio::spec::block::{RangeDescriptor, RequestHeader};

/// Where in a slot's line: the data's descriptor, the status byte's, the header. The line begins with the header's
/// descriptor.
pub(super) const DATA: usize = 16;
pub(super) const STATUS: usize = 32;
pub(super) const HEADER: usize = 48;
const _: () = assert!(HEADER + size_of::<RequestHeader>() == LINE);

/// Length of the header.
pub(super) const HEADER_LENGTH: u32 = size_of::<RequestHeader>() as u32;

/// Writes the header of a request.
#[inline(always)]
pub(super) fn set_header(line: Line, header: Header) {
    line.store::<HEADER>(u64::from(header.kind as u32));
    line.store::<{ HEADER + 8 }>(header.sector);
}

/// Writes the range of the request in slot `index`. Returns its address and length, as data.
pub(super) fn set_range(ranges: &Pairs, index: usize, range: RangeDescriptor) -> (u64, u32) {
    let second = u64::from(range.sectors) | u64::from(range.flags) << 32;
    ranges.store(index, range.sector, second);
    (ranges.address(index), size_of::<RangeDescriptor>() as u32)
}
