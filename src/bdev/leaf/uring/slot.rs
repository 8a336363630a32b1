//! One outstanding request: what is left of it to do, and the submission queue entry that does it.

use std::mem::MaybeUninit;

use io_uring::{opcode, squeue, types};
use libc::iovec;

use super::facts::{PUNCH_HOLE, ZERO_RANGE};
use super::fixed::FixedBuffers;
use super::ring::FILE;
use crate::base::{BlockCount, Geometry, Status};
use crate::bdev::{Completion, Opcode, Request, RequestFlags, Ticket};

/// No registered buffer.
const NO_BUFFER: u16 = u16::MAX;

/// How often a request that the system turns away (EAGAIN, EINTR) is tried: one time per poll round.
const TRIES_MAX: u16 = 1000;

/// The memory in which a slot keeps the vectors of a scattered payload.
pub(super) type Vectors = [MaybeUninit<iovec>];

/// What is to be done after a completion queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The request ended.
    Ended(Status),
    /// There is more to do: submit [`Slot::entry`] again.
    Again,
    /// The medium ended in the middle of the request's range.
    BeyondEnd,
}

/// One outstanding request.
pub(super) struct Slot {
    ticket: Ticket,
    /// Where the rest of the range starts, in bytes.
    offset: u64,
    /// How many bytes are left to do.
    left: u64,
    /// The rest of a payload in one piece.
    address: *mut u8,
    /// The rest of a scattered payload: first and end among the slot's vectors.
    vectors: (u16, u16),
    /// Index of the registered buffer that holds the payload.
    buffer: u16,
    tries: u16,
    /// The zeroing is done, and now must become durable.
    syncing: bool,
    /// How many resets the queue had taken before this request.
    pub epoch: u32,
    /// Whether it goes through the second ring of a queue that has two.
    pub side: bool,
    /// Whether a kernel thread of this core may have to finish the request.
    pub lent: bool,
    /// Whether the slot holds a request that the ring has.
    pub busy: bool,
}

impl Slot {
    /// A slot without a request.
    pub(super) fn vacant() -> Slot {
        Slot {
            ticket: Request::bare(Opcode::Flush, crate::base::Lba::ZERO, 0, 0).ticket,
            offset: 0,
            left: 0,
            address: std::ptr::null_mut(),
            vectors: (0, 0),
            buffer: NO_BUFFER,
            tries: 0,
            syncing: false,
            epoch: 0,
            side: false,
            lent: false,
            busy: false,
        }
    }

    /// Puts a request in; `vectors` has room for as many segments as a request has at most.
    ///
    /// # Errors
    /// The status of a request that cannot be served: the channel in front has checked requests, but
    /// memory safety does not rest on another file.
    #[inline]
    pub(super) fn fill(
        &mut self,
        request: &Request,
        geometry: Geometry,
        vectors: &mut Vectors,
        fixed: Option<&FixedBuffers>,
    ) -> Result<(), Status> {
        let bytes = geometry.bytes_of(BlockCount(u64::from(request.ticket.blocks))).0;
        self.ticket = request.ticket;
        self.offset = geometry.offset_of(request.lba).0;
        self.left = bytes;
        self.buffer = NO_BUFFER;
        self.vectors = (0, 0);
        self.tries = 0;
        self.syncing = false;
        match request.opcode() {
            Opcode::Read | Opcode::Write => {}
            Opcode::Flush | Opcode::Unmap | Opcode::WriteZeroes => return Ok(()),
            _ => return Err(Status::INVALID_OPCODE),
        }
        let payload = if request.segment_count() == 1 {
            let segment = request.first_segment();
            self.address = segment.address();
            self.buffer = fixed.and_then(|fixed| fixed.index_of(segment)).unwrap_or(NO_BUFFER);
            u64::from(segment.len())
        } else {
            self.scatter(request, vectors, fixed)?
        };
        if payload == bytes { Ok(()) } else { Err(Status::INVALID_FIELD) }
    }

    /// Writes the vectors of a scattered payload; returns its length. Neighbours become one.
    fn scatter(
        &mut self,
        request: &Request,
        vectors: &mut Vectors,
        fixed: Option<&FixedBuffers>,
    ) -> Result<u64, Status> {
        let mut count = 0;
        let mut last = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut payload = 0;
        let mut buffer = None;
        for segment in request.segments() {
            let index = fixed.and_then(|fixed| fixed.index_of(segment)).unwrap_or(NO_BUFFER);
            // A vectored request names one registered buffer for all of its vectors.
            buffer = match buffer {
                Some(other) if other != index => Some(NO_BUFFER),
                _ => Some(index),
            };
            payload += u64::from(segment.len());
            let end = last.iov_base.cast::<u8>().wrapping_add(last.iov_len);
            if count > 0 && end == segment.address() {
                last.iov_len += segment.len() as usize;
            } else {
                count += 1;
                last.iov_base = segment.address().cast();
                last.iov_len = segment.len() as usize;
            }
            vectors.get_mut(count - 1).ok_or(Status::INVALID_FIELD)?.write(last);
        }
        self.buffer = buffer.unwrap_or(NO_BUFFER);
        if count == 1 {
            self.address = last.iov_base.cast();
        } else {
            self.vectors = (0, count as u16);
        }
        Ok(payload)
    }

    /// How the request ended.
    #[inline]
    pub(super) fn complete(&self, status: Status) -> Completion {
        self.ticket.complete(status)
    }

    /// Whether it moves data and needs no more of the kernel than that: what a ring that polls its
    /// device can take.
    #[inline]
    pub(super) fn is_plain_transfer(&self) -> bool {
        matches!(self.ticket.opcode, Opcode::Read | Opcode::Write)
            && !self.ticket.flags.has(RequestFlags::FUA)
    }

    /// The payload is to go through a ring without registered buffers, or without vectored operations
    /// on them.
    #[inline]
    pub(super) fn forget_buffer(&mut self) {
        self.buffer = NO_BUFFER;
    }

    /// Whether the payload is in several pieces.
    #[inline]
    pub(super) fn is_scattered(&self) -> bool {
        self.vectors.1 > 0
    }

    /// The submission queue entry for what is left to do. It points at the payload and at
    /// `vectors`, where [`Slot::fill`] has put the payload's.
    #[inline]
    pub(super) fn entry(&self, vectors: &Vectors) -> squeue::Entry {
        let write_flags =
            if self.ticket.flags.has(RequestFlags::FUA) { libc::RWF_DSYNC } else { 0 };
        let (first, end) = self.vectors;
        // One piece is at most `IoLimits::transfer_max` long, which 32 bits hold.
        let length = self.left as u32;
        let count = u32::from(end - first);
        let vector = vectors.as_ptr().wrapping_add(usize::from(first)).cast::<iovec>();
        let fixed = self.buffer != NO_BUFFER;
        match self.ticket.opcode {
            Opcode::Read if count > 0 && fixed => {
                opcode::ReadvFixed::new(FILE, vector, count, self.buffer)
                    .offset(self.offset)
                    .build()
            }
            Opcode::Read if count > 0 => {
                opcode::Readv::new(FILE, vector, count).offset(self.offset).build()
            }
            Opcode::Read if fixed => {
                opcode::ReadFixed::new(FILE, self.address, length, self.buffer)
                    .offset(self.offset)
                    .build()
            }
            Opcode::Read => {
                opcode::Read::new(FILE, self.address, length).offset(self.offset).build()
            }
            Opcode::Write if count > 0 && fixed => {
                opcode::WritevFixed::new(FILE, vector, count, self.buffer)
                    .offset(self.offset)
                    .rw_flags(write_flags)
                    .build()
            }
            Opcode::Write if count > 0 => opcode::Writev::new(FILE, vector, count)
                .offset(self.offset)
                .rw_flags(write_flags)
                .build(),
            Opcode::Write if fixed => {
                opcode::WriteFixed::new(FILE, self.address, length, self.buffer)
                    .offset(self.offset)
                    .rw_flags(write_flags)
                    .build()
            }
            Opcode::Write => opcode::Write::new(FILE, self.address, length)
                .offset(self.offset)
                .rw_flags(write_flags)
                .build(),
            Opcode::Unmap | Opcode::WriteZeroes if !self.syncing => {
                let mode = match self.ticket.opcode {
                    Opcode::Unmap => PUNCH_HOLE,
                    _ => ZERO_RANGE,
                };
                opcode::Fallocate::new(FILE, self.left)
                    .offset(self.offset)
                    .mode(mode.bits() as i32)
                    .build()
            }
            // A flush, and the end of a zeroing that must be durable. The data and what is needed to
            // read it back, without timestamps: fdatasync(2).
            _ => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
        }
    }

    /// Takes in the result of a completion queue entry. `granule` is what offsets and addresses
    /// must be multiples of.
    #[inline]
    pub(super) fn advance(&mut self, result: i32, granule: u64, vectors: &mut Vectors) -> Step {
        if result < 0 {
            return self.failed(-result);
        }
        match self.ticket.opcode {
            Opcode::Read | Opcode::Write if result as u64 == self.left => {
                Step::Ended(Status::SUCCESS)
            }
            Opcode::Read | Opcode::Write => self.shorten(result as u64, granule, vectors),
            Opcode::Unmap | Opcode::WriteZeroes
                if self.ticket.flags.has(RequestFlags::FUA) && !self.syncing =>
            {
                self.syncing = true;
                Step::Again
            }
            _ => Step::Ended(Status::SUCCESS),
        }
    }

    #[cold]
    fn failed(&mut self, errno: i32) -> Step {
        let passes = matches!(errno, libc::EAGAIN | libc::EINTR);
        self.tries += 1;
        if passes && self.tries < TRIES_MAX {
            return Step::Again;
        }
        if passes {
            return Step::Ended(Status::COMMAND_INTERRUPTED);
        }
        Step::Ended(Status::from_errno(errno, self.ticket.opcode != Opcode::Read))
    }

    /// Cuts off what a short read or write has done.
    #[cold]
    fn shorten(&mut self, done: u64, granule: u64, vectors: &mut Vectors) -> Step {
        // What is left must be aligned, so the last granule may be moved again.
        let mut done = done.min(self.left) & !(granule - 1);
        if done == 0 {
            return Step::BeyondEnd;
        }
        self.offset += done;
        self.left -= done;
        if !self.is_scattered() {
            self.address = self.address.wrapping_add(done as usize);
            return Step::Again;
        }
        let (mut first, end) = self.vectors;
        while first < end {
            // SAFETY: `scatter` has written the vectors up to `end`.
            let vector = unsafe { vectors[usize::from(first)].assume_init_mut() };
            let part = done.min(vector.iov_len as u64);
            vector.iov_base = vector.iov_base.wrapping_byte_add(part as usize);
            vector.iov_len -= part as usize;
            done -= part;
            if vector.iov_len > 0 {
                break;
            }
            first += 1;
        }
        self.vectors = (first, end);
        Step::Again
    }
}
