//! Requests to NVMe commands and back (NVM Command Set Specification, section 3).

use zerocopy::{FromBytes, IntoBytes};

use crate::base::Status;
use crate::bdev::queue::Queue;
use crate::bdev::request::{Completion, Completions, Opcode, Request, RequestFlags, Ticket};
use crate::memory::Segment;
use crate::nvme::spec::{IoOpcode, SubmissionEntry};
use crate::nvme::{Batch, Done, Push, Queue as NvmeQueue};
use crate::reactor::{Activity, Context};

/// Force Unit Access (command dword 12).
const FUA: u32 = 1 << 30;
/// Deallocate, of Write Zeroes (command dword 12).
const DEAC: u32 = 1 << 25;

/// How blocks are unmapped. Deallocation alone is a hint that promises no contents (NVM Command Set Specification,
/// section 3.2.3.2), but unmapped blocks have to read as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmap {
    /// By Write Zeroes with the Deallocate attribute.
    Deallocating,
    /// By Write Zeroes, then Dataset Management: deallocated or not, the blocks read as zeros.
    ZeroThenDeallocate,
    /// Not at all; the channel makes up for it.
    None,
}

/// What the queue must know of its namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) nsid: u32,
    pub(super) block_shift: u32,
    pub(super) unmap: Unmap,
}

/// A queue on one namespace.
pub(super) struct NamespaceQueue {
    queue: NvmeQueue,
    cx: Context,
    target: Target,
    /// Requests that ended without having been sent.
    refused: Vec<Completion>,
}

impl NamespaceQueue {
    pub(super) fn new(queue: NvmeQueue, cx: &Context, target: Target, depth: u32) -> Self {
        let refused = Vec::with_capacity(depth as usize);
        NamespaceQueue { queue, cx: cx.clone(), target, refused }
    }
}

impl Target {
    /// A command on a range of blocks.
    #[inline]
    fn ranged(self, opcode: u8, request: &Request, flags: u32) -> SubmissionEntry {
        let lba = request.lba.0;
        SubmissionEntry {
            cdw10: lba as u32,
            cdw11: (lba >> 32) as u32,
            // The number of blocks is 0's based; the channel lets no request of none through.
            cdw12: request.ticket.blocks.wrapping_sub(1) & 0xffff | flags,
            ..SubmissionEntry::new(opcode, self.nsid)
        }
    }
}

impl Queue for NamespaceQueue {
    #[inline]
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        let target = self.target;
        let mut batch = self.queue.batch(self.cx.now().0);
        for (index, request) in requests.iter().enumerate() {
            let tag = request.ticket.into_words();
            let fua = if request.ticket.flags.has(RequestFlags::FUA) { FUA } else { 0 };
            let transfer = match request.opcode() {
                Opcode::Read => Some((IoOpcode::READ, 0)),
                Opcode::Write => Some((IoOpcode::WRITE, fua)),
                Opcode::Compare => Some((IoOpcode::COMPARE, 0)),
                _ => None,
            };
            let push = match transfer {
                Some((opcode, flags)) => {
                    let command = target.ranged(opcode, request, flags);
                    let (count, first) = (request.segment_count(), request.first_segment());
                    batch.push(tag, command, count, first, request.segments())
                }
                None => push_other(&mut batch, target, request, fua),
            };
            match push {
                Push::Taken => {}
                Push::Full => return index,
                Push::Refused(_) if self.refused.len() == self.refused.capacity() => return index,
                Push::Refused(status) => self.refused.push(request.complete(status)),
            }
        }
        requests.len()
    }

    #[inline]
    fn poll(&mut self, completions: &mut Completions) -> Activity {
        let refused = completions.take_from(&mut self.refused);
        let room = completions.room();
        let polled = self.queue.poll(self.cx.now().0, room, |done| completions.push(ended(done)));
        refused.max(polled)
    }
}

/// The completion of the request whose ticket came back.
#[inline]
fn ended(done: Done) -> Completion {
    // SAFETY: the driver gives back tags as they are, and every tag of this queue was a ticket.
    let ticket = unsafe { Ticket::from_words(done.tag) };
    match ticket.opcode {
        Opcode::NvmeIo => ticket.complete_passthrough(done.status, done.result),
        _ => ticket.complete(done.status),
    }
}

/// Pushes what is not a plain transfer.
#[inline(never)]
fn push_other(batch: &mut Batch<'_>, target: Target, request: &Request, fua: u32) -> Push {
    let tag = request.ticket.into_words();
    match request.opcode() {
        Opcode::Flush => batch.push_bare(tag, SubmissionEntry::new(IoOpcode::FLUSH, target.nsid)),
        Opcode::WriteZeroes => {
            batch.push_bare(tag, target.ranged(IoOpcode::WRITE_ZEROES, request, fua))
        }
        Opcode::Unmap => match target.unmap {
            Unmap::Deallocating => {
                batch.push_bare(tag, target.ranged(IoOpcode::WRITE_ZEROES, request, DEAC))
            }
            Unmap::ZeroThenDeallocate => {
                let command = target.ranged(IoOpcode::WRITE_ZEROES, request, 0);
                batch.push_zero_and_deallocate(tag, command)
            }
            Unmap::None => Push::Refused(Status::INVALID_OPCODE),
        },
        Opcode::CompareAndWrite => {
            let half = u64::from(request.ticket.blocks) << target.block_shift;
            let commands = [
                target.ranged(IoOpcode::COMPARE, request, 0),
                target.ranged(IoOpcode::WRITE, request, fua),
            ];
            let payload = |skip| Window { segments: request.segments(), skip, left: half };
            batch.push_fused(tag, commands, [payload(0), payload(half)])
        }
        Opcode::NvmeIo => {
            let Some(command) = request.command() else {
                return Push::Refused(Status::INVALID_FIELD);
            };
            let Ok(mut command) = SubmissionEntry::read_from_bytes(command.as_bytes()) else {
                return Push::Refused(Status::INVALID_FIELD);
            };
            // Fused operations are two commands, and the data pointer is ours to fill in.
            if command.flags != 0 {
                return Push::Refused(Status::INVALID_FIELD);
            }
            command.nsid = target.nsid;
            batch.push_passthrough(tag, command, request.segments())
        }
        _ => Push::Refused(Status::INVALID_OPCODE),
    }
}

/// `left` bytes of a payload after the first `skip`.
#[derive(Clone)]
struct Window<I> {
    segments: I,
    skip: u64,
    left: u64,
}

impl<I: Iterator<Item = Segment>> Iterator for Window<I> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        while self.left > 0 {
            let segment = self.segments.next()?;
            let length = u64::from(segment.len());
            if self.skip >= length {
                self.skip -= length;
                continue;
            }
            let offset = std::mem::take(&mut self.skip);
            let length = (length - offset).min(self.left);
            self.left -= length;
            return Some(segment.part(offset as u32, length as u32));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;
    use crate::memory::RegionId;

    #[test]
    fn a_window_cuts_segments() {
        let mut memory = [0_u8; 64];
        let start = NonNull::new(memory.as_mut_ptr()).unwrap();
        // SAFETY: no request is made of it.
        let segment = |length| unsafe { Segment::new(start, length, RegionId::NONE) };
        let segments = [segment(16), segment(8), segment(16)];
        let window = |skip, left| {
            let segments = segments.iter().copied();
            Window { segments, skip, left }.map(Segment::len).collect::<Vec<_>>()
        };
        assert_eq!(window(0, 20), [16, 4]);
        assert_eq!(window(20, 20), [4, 16]);
        assert_eq!(window(40, 20), [0; 0]);
    }
}
