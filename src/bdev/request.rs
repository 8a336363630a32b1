//! Requests and completions.

use std::fmt;
use std::ptr::NonNull;

use crate::base::{Lba, Status};
use crate::memory::{Segment, SegmentList};
use crate::reactor::Activity;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Device to memory.
    Read = 0,
    /// Memory to device.
    Write = 1,
    /// Makes every write that completed before it durable. Covers the whole device.
    Flush = 2,
    /// The blocks' contents are no longer needed; they read as zeros afterwards.
    Unmap = 3,
    /// The blocks read as zeros afterwards.
    WriteZeroes = 4,
    /// Compares the payload with the medium: `COMPARE_FAILURE` when they differ.
    Compare = 5,
    /// Atomically compares the first half of the payload with the medium and, when equal, writes the
    /// second half (NVM Command Set Specification, fused operation). The payload is twice as
    /// long as the range.
    CompareAndWrite = 6,
    /// Completes when every request that was submitted before it on this queue has completed; a
    /// device that can abort what hangs does so.
    Reset = 7,
    /// An NVMe admin command, passed through.
    NvmeAdmin = 8,
    /// An NVMe I/O command, passed through.
    NvmeIo = 9,
}

impl Opcode {
    /// All opcodes, by number.
    pub const ALL: [Opcode; 10] = [
        Opcode::Read,
        Opcode::Write,
        Opcode::Flush,
        Opcode::Unmap,
        Opcode::WriteZeroes,
        Opcode::Compare,
        Opcode::CompareAndWrite,
        Opcode::Reset,
        Opcode::NvmeAdmin,
        Opcode::NvmeIo,
    ];

    /// Whether it names a range of blocks.
    #[inline]
    pub const fn has_range(self) -> bool {
        !matches!(self, Opcode::Flush | Opcode::Reset | Opcode::NvmeAdmin | Opcode::NvmeIo)
    }

    /// Whether it changes the medium.
    #[inline]
    pub const fn is_write(self) -> bool {
        matches!(
            self,
            Opcode::Write | Opcode::Unmap | Opcode::WriteZeroes | Opcode::CompareAndWrite
        )
    }

    /// How many bytes of payload it carries per byte of its range.
    #[inline]
    pub const fn payload_factor(self) -> u64 {
        match self {
            Opcode::Read | Opcode::Write | Opcode::Compare => 1,
            Opcode::CompareAndWrite => 2,
            _ => 0,
        }
    }

    /// The name SPDK gives this I/O type in `supported_io_types`.
    pub const fn name(self) -> &'static str {
        match self {
            Opcode::Read => "read",
            Opcode::Write => "write",
            Opcode::Flush => "flush",
            Opcode::Unmap => "unmap",
            Opcode::WriteZeroes => "write_zeroes",
            Opcode::Compare => "compare",
            Opcode::CompareAndWrite => "compare_and_write",
            Opcode::Reset => "reset",
            Opcode::NvmeAdmin => "nvme_admin",
            Opcode::NvmeIo => "nvme_io",
        }
    }
}

/// A set of opcodes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct OpcodeSet(u16);

impl OpcodeSet {
    /// No opcode.
    pub const EMPTY: OpcodeSet = OpcodeSet(0);
    /// Every opcode.
    pub const ALL: OpcodeSet = OpcodeSet::BLOCK.with(Opcode::NvmeAdmin).with(Opcode::NvmeIo);
    /// What the channel cannot make up by itself.
    pub const READ_WRITE: OpcodeSet = OpcodeSet::EMPTY.with(Opcode::Read).with(Opcode::Write);
    /// Every opcode on blocks: all but NVMe passthrough.
    pub const BLOCK: OpcodeSet = OpcodeSet::READ_WRITE
        .with(Opcode::Flush)
        .with(Opcode::Unmap)
        .with(Opcode::WriteZeroes)
        .with(Opcode::Compare)
        .with(Opcode::CompareAndWrite)
        .with(Opcode::Reset);

    /// This set and `opcode`.
    #[must_use]
    pub const fn with(self, opcode: Opcode) -> OpcodeSet {
        OpcodeSet(self.0 | 1 << opcode as u16)
    }

    /// This set without `opcode`.
    #[must_use]
    pub const fn without(self, opcode: Opcode) -> OpcodeSet {
        OpcodeSet(self.0 & !(1 << opcode as u16))
    }

    /// Opcodes that are in both sets.
    #[must_use]
    pub const fn and(self, other: OpcodeSet) -> OpcodeSet {
        OpcodeSet(self.0 & other.0)
    }

    /// Whether `opcode` is in it.
    #[inline]
    pub const fn contains(self, opcode: Opcode) -> bool {
        self.0 & (1 << opcode as u16) != 0
    }

    /// The opcodes in it.
    pub fn iter(self) -> impl Iterator<Item = Opcode> {
        Opcode::ALL.into_iter().filter(move |&opcode| self.contains(opcode))
    }
}

impl FromIterator<Opcode> for OpcodeSet {
    fn from_iter<I: IntoIterator<Item = Opcode>>(opcodes: I) -> OpcodeSet {
        opcodes.into_iter().fold(OpcodeSet::EMPTY, OpcodeSet::with)
    }
}

impl fmt::Debug for OpcodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Modifiers of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct RequestFlags(u8);

impl RequestFlags {
    /// None.
    pub const NONE: RequestFlags = RequestFlags(0);
    /// Force Unit Access: a write completes only when it is durable.
    pub const FUA: RequestFlags = RequestFlags(1 << 0);
    /// Of a spreading queue's own use: the request is a part of one that it took, and the token names
    /// that. Such a queue never hands on a request under its submitter's token that came to it
    /// with this flag or with `DETOUR`.
    pub(super) const PART: RequestFlags = RequestFlags(1 << 6);
    /// Of the channel's own use: the token is one of its detour, not the submitter's.
    pub(super) const DETOUR: RequestFlags = RequestFlags(1 << 7);

    /// Whether all of `flags` are set.
    #[inline]
    pub const fn has(self, flags: RequestFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub const fn has_any(self, flags: RequestFlags) -> bool {
        self.0 & flags.0 != 0
    }

    /// These flags and `flags`.
    #[inline]
    #[must_use]
    pub const fn with(self, flags: RequestFlags) -> RequestFlags {
        RequestFlags(self.0 | flags.0)
    }

    /// Those of `flags` that are set.
    #[inline]
    #[must_use]
    pub const fn only(self, flags: RequestFlags) -> RequestFlags {
        RequestFlags(self.0 & flags.0)
    }

    /// These flags without `flags`.
    #[inline]
    #[must_use]
    pub const fn without(self, flags: RequestFlags) -> RequestFlags {
        RequestFlags(self.0 & !flags.0)
    }
}

/// The part of a request that comes back with its completion. A driver keeps it with the request's
/// slot and returns it as it was.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ticket {
    /// The submitter's own mark.
    pub token: u64,
    /// When the request entered the outermost channel that it went through unchanged, in TSC
    /// ticks; 0 before. Owned by [`Channel`](super::Channel).
    pub(super) stamp: u64,
    /// Length of the range in blocks. In the completion of a passthrough command: dword 0.
    pub blocks: u32,
    /// The opcode.
    pub opcode: Opcode,
    /// Modifiers.
    pub flags: RequestFlags,
    /// How many segments the payload has.
    segments: u16,
}

/// A 64-byte NVMe command (submission queue entry) for passthrough.
pub type NvmeCommand = [u32; 16];

/// One request: a cache line, plain data.
///
/// # Invariant
/// What the payload's segments promise (see [`Segment`]), from submission until completion.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Request {
    /// What comes back.
    pub ticket: Ticket,
    /// First block of the range.
    pub lba: Lba,
    payload: SegmentList,
    command: Option<NonNull<NvmeCommand>>,
}

const _: () = assert!(size_of::<Request>() == 64);
const _: () = assert!(size_of::<Completion>() == 24);

impl Request {
    #[inline]
    fn make(
        opcode: Opcode,
        lba: Lba,
        blocks: u32,
        payload: (SegmentList, u16),
        token: u64,
    ) -> Self {
        Request {
            ticket: Ticket {
                token,
                stamp: 0,
                blocks,
                opcode,
                flags: RequestFlags::NONE,
                segments: payload.1,
            },
            lba,
            payload: payload.0,
            command: None,
        }
    }

    /// A request with a payload of one segment.
    #[inline]
    pub fn new(opcode: Opcode, lba: Lba, blocks: u32, payload: Segment, token: u64) -> Request {
        Self::make(opcode, lba, blocks, SegmentList::one(payload), token)
    }

    /// A request without payload: flush, unmap, write-zeroes, reset.
    #[inline]
    pub fn bare(opcode: Opcode, lba: Lba, blocks: u32, token: u64) -> Request {
        Self::make(opcode, lba, blocks, (SegmentList::EMPTY, 0), token)
    }

    /// A request whose payload is scattered over `segments`.
    ///
    /// # Safety
    /// The slice stays where it is, unchanged, until the request has completed.
    #[inline]
    pub unsafe fn scattered(
        opcode: Opcode,
        lba: Lba,
        blocks: u32,
        segments: &[Segment],
        token: u64,
    ) -> Request {
        // SAFETY: the caller's promise.
        let list = unsafe { SegmentList::many(segments) };
        Self::make(opcode, lba, blocks, list, token)
    }

    /// A passthrough command.
    ///
    /// # Safety
    /// `command` stays where it is, unchanged, until the request has completed.
    #[inline]
    pub unsafe fn passthrough(
        opcode: Opcode,
        command: NonNull<NvmeCommand>,
        payload: Segment,
        token: u64,
    ) -> Request {
        let mut request = Self::make(opcode, Lba(0), 0, SegmentList::one(payload), token);
        request.command = Some(command);
        request
    }

    /// The same request with other modifiers.
    #[inline]
    #[must_use]
    pub fn with_flags(mut self, flags: RequestFlags) -> Request {
        self.ticket.flags = flags;
        self
    }

    /// The same request for another range of the same length on another device: the way a virtual
    /// bdev forwards one. The ticket, and with it the time of entry, stays.
    #[inline]
    #[must_use]
    pub fn at(mut self, lba: Lba) -> Request {
        self.lba = lba;
        self
    }

    /// The same request under a new token, as a new request to a base bdev (its time of entry, and
    /// whether it takes a detour, are that bdev's own).
    #[inline]
    #[must_use]
    pub fn child(mut self, lba: Lba, token: u64) -> Request {
        self.ticket.token = token;
        self.ticket.stamp = 0;
        self.ticket.flags = self.ticket.flags.without(RequestFlags::DETOUR);
        self.lba = lba;
        self
    }

    /// The same request with its payload elsewhere.
    #[inline]
    #[must_use]
    pub(super) fn with_payload(mut self, (payload, segments): (SegmentList, u16)) -> Request {
        self.payload = payload;
        self.ticket.segments = segments;
        self
    }

    /// The opcode.
    #[inline]
    pub const fn opcode(&self) -> Opcode {
        self.ticket.opcode
    }

    /// How many segments the payload has.
    #[inline]
    pub const fn segment_count(&self) -> usize {
        self.ticket.segments as usize
    }

    /// The first segment of the payload, and the only one when [`Request::segment_count`] is 1.
    #[inline]
    pub const fn first_segment(&self) -> Segment {
        self.payload.first()
    }

    /// The payload's segments in order.
    #[inline]
    pub fn segments(&self) -> impl Iterator<Item = Segment> + Clone + use<> {
        // SAFETY: list and count were made together in `make`, and nothing changes them after.
        unsafe { self.payload.iter(self.ticket.segments) }
    }

    /// The passthrough command, if it is one.
    #[inline]
    pub fn command(&self) -> Option<&NvmeCommand> {
        // SAFETY: by the contract of `passthrough`.
        self.command.map(|command| unsafe { command.as_ref() })
    }

    /// How this request ended.
    #[inline]
    pub const fn complete(&self, status: Status) -> Completion {
        self.ticket.complete(status)
    }
}

const _: () = assert!(size_of::<Ticket>() == size_of::<[u64; 3]>());

impl Ticket {
    /// The ticket as plain words, for a driver below this layer that keeps them with a command.
    #[inline]
    pub(super) const fn into_words(self) -> [u64; 3] {
        // SAFETY: the sizes are equal, a ticket has no padding, and every bit pattern is a number.
        unsafe { std::mem::transmute::<Ticket, [u64; 3]>(self) }
    }

    /// The ticket that was made into `words`.
    ///
    /// # Safety
    /// `words` came from [`Ticket::into_words`].
    #[inline]
    pub(super) const unsafe fn from_words(words: [u64; 3]) -> Ticket {
        // SAFETY: the caller's promise makes the opcode a valid one; the rest are numbers.
        unsafe { std::mem::transmute::<[u64; 3], Ticket>(words) }
    }

    /// How the request of this ticket ended.
    #[inline]
    pub const fn complete(self, status: Status) -> Completion {
        Completion {
            token: self.token,
            stamp: self.stamp,
            blocks: self.blocks,
            opcode: self.opcode,
            flags: self.flags,
            status,
        }
    }

    /// How the passthrough command of this ticket ended: `result` is dword 0 of the completion
    /// queue entry.
    #[inline]
    pub const fn complete_passthrough(self, status: Status, result: u32) -> Completion {
        let mut completion = self.complete(status);
        completion.blocks = result;
        completion
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Completion {
    /// The submitter's mark.
    pub token: u64,
    pub(super) stamp: u64,
    /// Length of the range in blocks. For a passthrough command: dword 0 of the completion.
    pub blocks: u32,
    /// The request's opcode.
    pub opcode: Opcode,
    /// The request's modifiers.
    pub flags: RequestFlags,
    /// The status.
    pub status: Status,
}

/// Where [`Queue::poll`](super::Queue::poll) puts completions: a buffer of fixed capacity.
#[derive(Debug)]
pub struct Completions {
    items: Vec<Completion>,
    limit: usize,
}

impl Completions {
    /// An empty buffer for `capacity` completions.
    pub fn with_capacity(capacity: usize) -> Completions {
        let items = Vec::with_capacity(capacity);
        let limit = items.capacity();
        Completions { items, limit }
    }

    /// How many more it takes.
    #[inline]
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.items.len())
    }

    /// From now on it takes `limit` at most, or its capacity if that is less.
    #[inline]
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(self.items.capacity());
    }

    /// Adds one.
    ///
    /// # Panics
    /// When there is no room: a queue asks first.
    #[inline]
    pub fn push(&mut self, completion: Completion) {
        assert!(self.items.len() < self.items.capacity(), "completions beyond the room given");
        self.items.push(completion);
    }

    /// Moves as many as there is room for out of `done`; those left keep their order. The whole
    /// `poll` of a queue whose requests complete at once.
    #[inline]
    pub fn take_from(&mut self, done: &mut Vec<Completion>) -> Activity {
        if done.is_empty() {
            return Activity::Idle;
        }
        let count = done.len().min(self.room());
        self.items.extend_from_slice(&done[..count]);
        if count == done.len() {
            done.clear();
        } else {
            done.drain(..count);
        }
        Activity::Busy
    }

    /// How many it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it holds none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes all out.
    #[inline]
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// What it holds, oldest first.
    #[inline]
    pub fn as_slice(&self) -> &[Completion] {
        &self.items
    }

    /// What it holds, to change.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Completion] {
        &mut self.items
    }

    /// Drops all after the first `len`.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.items.truncate(len);
    }
}

impl<'a> IntoIterator for &'a Completions {
    type Item = &'a Completion;
    type IntoIter = std::slice::Iter<'a, Completion>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}
