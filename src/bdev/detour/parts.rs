//! Requests to the driver for parts of jobs: how each is made, and what its completion means.

use super::job::{Job, Work};
use super::payload::{self, Demands, Position};
use super::slab::Slab;
use crate::base::{Status, limits};
use crate::bdev::device::Info;
use crate::bdev::fit::Fit;
use crate::bdev::request::{Opcode, Request, RequestFlags};
use crate::memory::{Buffer, Pool, Segment};

/// Most segments of a part. A payload that is scattered more finely goes in more parts.
const SEGMENTS: usize = 32;
/// Longest part that goes through a buffer, in bytes: long enough that the copy costs, not the request.
const BOUNCE_BYTES: u32 = 256 << 10;
/// Longest write of zeros, in bytes.
pub(super) const ZERO_BYTES: u32 = 256 << 10;

const _: () = {
    assert!(BOUNCE_BYTES as u64 >= limits::BLOCK_SIZE_MAX);
    assert!(ZERO_BYTES as u64 >= limits::BLOCK_SIZE_MAX);
};

/// A request to the driver for a part of a job. Stays in its slot of the slab, and with it its segments,
/// until the driver has completed it.
#[derive(Debug)]
struct Part {
    job: u32,
    /// Where in the payload it starts.
    at: Position,
    /// How long it is, in bytes.
    bytes: u32,
    /// What the driver moves instead of the payload itself.
    buffer: Option<Buffer>,
    /// The payload's own segments, otherwise.
    segments: [Segment; SEGMENTS],
}

impl Default for Part {
    fn default() -> Self {
        Part {
            job: 0,
            at: Position::default(),
            bytes: 0,
            buffer: None,
            segments: [Segment::EMPTY; SEGMENTS],
        }
    }
}

/// Why no part was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A slot or a buffer will come back.
    Later,
    /// The pool has no buffer, and none of ours will come back.
    NoBuffer,
}

/// The parts in flight of all jobs of a channel.
#[derive(Debug)]
pub(super) struct Parts {
    block_shift: u32,
    /// What the driver takes.
    fit: Fit,
    /// Least size of a buffer whose alignment suffices: a pool aligns buffers to their size.
    buffer_min: usize,
    slots: Slab<Part>,
    zeros: Option<Buffer>,
    /// Buffers in parts.
    buffers: u32,
    /// The pool had none, and none of ours has come back since.
    starved: bool,
}

impl Parts {
    /// Room for `capacity` parts at a time, for a driver that takes what `fit` admits.
    pub(super) fn new(info: &Info, fit: Fit, capacity: u32) -> Parts {
        Parts {
            block_shift: info.geometry.block_size.shift(),
            fit,
            buffer_min: info.limits.memory_alignment as usize,
            slots: Slab::new(capacity as usize),
            zeros: None,
            buffers: 0,
            starved: false,
        }
    }

    /// Makes the next part of `job`, whose index is `index`, and moves the job on. The request's token
    /// is the part's.
    pub(super) fn make(
        &mut self,
        index: u32,
        job: &mut Job,
        flags: RequestFlags,
        pool: &Pool,
    ) -> Result<Request, Refusal> {
        let slot = self.slots.take().ok_or(Refusal::Later)?;
        self.slots[slot].job = index;
        self.slots[slot].at = job.at;
        let blocks_max = match job.work {
            Work::Range(_) => job.left.min(self.fit.range_blocks_max(job.lba.0)),
            _ => {
                let to_boundary = self.fit.blocks_to_boundary(job.lba.0);
                u64::from(job.left.min(self.fit.blocks_max())).min(to_boundary) as u32
            }
        };
        let token = u64::from(slot);
        let made = match job.work {
            Work::Range(opcode) => Ok(Request::bare(opcode, job.lba, blocks_max, token)),
            Work::Zero => self.write_zeros(job, blocks_max, token, pool),
            Work::Transfer(opcode) => match self.transfer(job, opcode, blocks_max, slot) {
                Some(request) => Ok(request),
                None => self.bounce(job, opcode, blocks_max, slot, pool),
            },
            Work::Compare | Work::CompareThenWrite => {
                self.bounce(job, Opcode::Read, blocks_max, slot, pool)
            }
            Work::Forward | Work::Reset => unreachable!("{:?} has no parts", job.work),
        };
        match made {
            Ok(request) => {
                let blocks = request.ticket.blocks;
                job.lba.0 += u64::from(blocks);
                job.left -= blocks;
                if job.request.opcode().payload_factor() > 0 {
                    let bytes = blocks << self.block_shift;
                    self.slots[slot].bytes = bytes;
                    job.at = job.at.advanced(&job.request, u64::from(bytes));
                }
                job.in_flight += 1;
                Ok(request.with_flags(flags))
            }
            Err(refusal) => {
                self.slots.give_back(slot);
                Err(refusal)
            }
        }
    }

    /// A part that moves the payload itself, if the driver takes it as it lies.
    fn transfer(&mut self, job: &Job, opcode: Opcode, blocks: u32, slot: u32) -> Option<Request> {
        let (address_mask, length_mask) = self.fit.masks();
        let edge_mask = self.fit.edge_mask();
        let segments_max = self.fit.segments_max();
        let demands = Demands { segments_max, address_mask, length_mask, edge_mask };
        let (bytes_max, block) = (u64::from(blocks) << self.block_shift, 1 << self.block_shift);
        let segments = &mut self.slots[slot].segments;
        let (count, bytes) =
            payload::cut(&job.request, job.at, bytes_max, block, &demands, segments);
        if bytes == 0 {
            return None;
        }
        let blocks = (bytes >> self.block_shift) as u32;
        let segments = &self.slots[slot].segments[..count];
        // SAFETY: the slot keeps its address and its segments until it is given back, which is after
        // the driver has completed the part.
        Some(unsafe { Request::scattered(opcode, job.lba, blocks, segments, u64::from(slot)) })
    }

    /// A part that goes through a buffer.
    fn bounce(
        &mut self,
        job: &Job,
        opcode: Opcode,
        blocks: u32,
        slot: u32,
        pool: &Pool,
    ) -> Result<Request, Refusal> {
        let blocks = blocks.min(BOUNCE_BYTES >> self.block_shift);
        let bytes = blocks << self.block_shift;
        let mut buffer = self.take_buffer(bytes as usize, pool)?;
        if opcode != Opcode::Read {
            payload::gather(&job.request, job.at, bytes as usize, &mut buffer);
        }
        // SAFETY: the part owns the buffer and looks at it only after its completion.
        let segment = unsafe { buffer.segment(bytes) };
        self.slots[slot].buffer = Some(buffer);
        self.buffers += 1;
        Ok(Request::new(opcode, job.lba, blocks, segment, u64::from(slot)))
    }

    /// A part that writes the shared buffer of zeros.
    fn write_zeros(
        &mut self,
        job: &Job,
        blocks: u32,
        token: u64,
        pool: &Pool,
    ) -> Result<Request, Refusal> {
        let zeros = match self.zeros.take() {
            Some(zeros) => zeros,
            None => {
                let mut buffer = self.take_buffer(ZERO_BYTES as usize, pool)?;
                buffer.bytes_mut().fill(0);
                buffer
            }
        };
        let blocks = blocks.min(ZERO_BYTES >> self.block_shift);
        // SAFETY: a write only reads it; it is never written to again, and dropped after the queue.
        let segment = unsafe { zeros.segment(blocks << self.block_shift) };
        self.zeros = Some(zeros);
        Ok(Request::new(Opcode::Write, job.lba, blocks, segment, token))
    }

    fn take_buffer(&mut self, bytes: usize, pool: &Pool) -> Result<Buffer, Refusal> {
        if !self.starved {
            match pool.take(bytes.max(self.buffer_min)) {
                Ok(buffer) => return Ok(buffer),
                // Asking again and again would cost more than it finds: wait for one of ours.
                Err(_) => self.starved = true,
            }
        }
        if self.buffers > 0 {
            return Err(Refusal::Later);
        }
        self.starved = false;
        Err(Refusal::NoBuffer)
    }

    /// The job that part `token` belongs to, if there is such a part.
    pub(super) fn job_of(&self, token: u64) -> Option<u32> {
        let slot = u32::try_from(token).ok().filter(|&slot| self.slots.is_in_use(slot))?;
        Some(self.slots[slot].job)
    }

    /// Does what is to be done after part `token` of `job` completed, and frees its slot. Returns how the
    /// part ended.
    pub(super) fn complete(&mut self, token: u64, job: &Job, status: Status) -> Status {
        let slot = token as u32;
        let part = &mut self.slots[slot];
        let mut status = status;
        if let Some(buffer) = part.buffer.take() {
            let bytes = part.bytes as usize;
            match job.work {
                _ if !status.is_success() => {}
                Work::Transfer(Opcode::Read) => {
                    payload::scatter(&job.request, part.at, bytes, &buffer);
                }
                Work::Compare | Work::CompareThenWrite
                    if !payload::equals(&job.request, part.at, bytes, &buffer) =>
                {
                    status = Status::COMPARE_FAILURE;
                }
                _ => {}
            }
            self.buffers -= 1;
            self.starved = false;
        }
        self.slots.give_back(slot);
        status
    }
}
