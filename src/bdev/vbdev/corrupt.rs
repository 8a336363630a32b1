//! Damaging payloads, for the error device.

use crate::base::Result;
use crate::bdev::Request;
use crate::memory::{Buffer, Segment, copy};
use crate::reactor::Context;

/// Longest buffer of a pool.
const BUFFER_MAX: u64 = 2 << 20;

/// Combines the byte at `offset` of a request's payload with `value` by exclusive or. The request is one
/// that the submitter still waits for, and no device works on it any more.
pub(super) fn damage(request: &Request, mut offset: u64, value: u8) {
    for segment in request.segments() {
        if offset < u64::from(segment.len()) {
            // SAFETY: within the segment, which is ours until the request's completion.
            unsafe { *segment.address().add(offset as usize) ^= value };
            return;
        }
        offset -= u64::from(segment.len());
    }
}

/// A copy of a request's payload with the byte at `offset` changed.
///
/// # Errors
/// What the reactor's pool says.
pub(super) fn damaged_copy(
    cx: &Context,
    request: &Request,
    offset: u64,
    value: u8,
) -> Result<(Vec<Buffer>, Vec<Segment>)> {
    let mut left: u64 = request.segments().map(|segment| u64::from(segment.len())).sum();
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut segments = Vec::new();
    while left > 0 {
        let length = left.min(BUFFER_MAX) as u32;
        let buffer = cx.pool().take(length as usize)?;
        // SAFETY: the caller keeps the buffer until the request that carries the segment is complete.
        segments.push(unsafe { buffer.segment(length) });
        buffers.push(buffer);
        left -= u64::from(length);
    }
    let mut copied = 0_u64;
    for source in request.segments() {
        let mut source_offset = 0;
        while source_offset < source.len() {
            let target = segments[(copied / BUFFER_MAX) as usize];
            let target_offset = (copied % BUFFER_MAX) as u32;
            let length = (source.len() - source_offset).min(target.len() - target_offset);
            let (from, to) =
                (source.part(source_offset, length), target.part(target_offset, length));
            // SAFETY: two parts of equal length of valid segments, one of the submitter's memory and
            // one of a buffer of ours.
            unsafe { copy::copy(from.address(), to.address(), length as usize) };
            source_offset += length;
            copied += u64::from(length);
        }
    }
    if offset < copied {
        let segment = segments[(offset / BUFFER_MAX) as usize];
        // SAFETY: within the buffer, of which nobody else knows yet.
        unsafe { *segment.address().add((offset % BUFFER_MAX) as usize) ^= value };
    }
    Ok((buffers, segments))
}
