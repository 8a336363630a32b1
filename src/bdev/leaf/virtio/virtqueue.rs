//! A virtqueue of a device: bdev requests to virtio-blk requests and back (VIRTIO 5.2.6).
//!
//! Owned by one reactor. Those who open queues on the device there share it (a device has few virtqueues): each is an
//! *owner*, and gets the completions of its own requests.
//!
//! Addresses for the device are ours, so nothing is translated; but the device must have been told of a segment's region.
//! A request in a region that it was not told of waits until the controller has done so.
//!
//! virtio-blk has no Force Unit Access: such a write is followed by a flush, in a slot of the queue, before it
//! completes.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::facts::Facts;
use super::trouble::{Trouble, TroubleSender};
use crate::base::Status;
use crate::bdev::request::{Completion, Completions, Opcode, Request, RequestFlags, Ticket};
use crate::memory::{RegionId, Segment};
use crate::reactor::Activity;
use crate::virtio::ring::driver::{Done, DriverRing, Header, Sender};
use crate::virtio::spec::block::{RangeDescriptor, RequestStatus, RequestType};

/// Whether a queue does I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It does.
    Live,
    /// The back end is gone, and waited for.
    Frozen,
    /// It is gone for good; requests end with this status.
    Dead(Status),
}

/// Of a sender: a flush comes after this request.
const MARK_FLUSH: u16 = 1;

/// Of a sender: nobody waits for the request.
const NOBODY: u16 = u16::MAX;

/// One of those who share the queue.
struct Owner {
    open: bool,
    /// What ended while others polled.
    done: VecDeque<Completion>,
}

/// How requests are to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    sector_shift: u32,
    size_max: u32,
    /// Force Unit Access needs a flush.
    flushes: bool,
}

impl Target {
    pub(super) fn new(facts: &Facts) -> Target {
        Target {
            sector_shift: facts.sector_shift(),
            size_max: facts.size_max,
            flushes: facts.volatile_write_cache,
        }
    }
}

/// The queue.
pub(super) struct Virtqueue<R> {
    mode: Mode,
    ring: R,
    target: Target,
    /// The regions that the device was told of, by slot.
    regions: Vec<RegionId>,
    kick: Arc<OwnedFd>,
    /// A notification was sent since the last poll: another waits for the next.
    kicked: bool,
    kick_again: bool,
    /// The region that the controller was asked to tell of, and whether it has answered.
    asked: Option<(RegionId, bool)>,
    /// The region that the controller was last told cannot be used.
    refused: Option<RegionId>,
    owners: Vec<Owner>,
    /// Writes that a flush has to follow. Empty between calls.
    flushes: Vec<Sender>,
    index: u16,
    trouble: TroubleSender,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Push {
    Taken,
    /// No room now.
    Full,
    /// It ends with this status.
    Refused(Status),
}

impl<R: DriverRing> Virtqueue<R> {
    pub(super) fn new(
        index: u16,
        ring: R,
        target: Target,
        kick: Arc<OwnedFd>,
        trouble: TroubleSender,
    ) -> Self {
        let flushes = Vec::with_capacity(ring.room());
        Virtqueue {
            mode: Mode::Live,
            ring,
            target,
            regions: Vec::new(),
            kick,
            kicked: false,
            kick_again: false,
            asked: None,
            refused: None,
            owners: Vec::new(),
            flushes,
            index,
            trouble,
        }
    }

    /// Its index.
    pub(super) fn index(&self) -> u16 {
        self.index
    }

    pub(super) fn ring(&self) -> &R {
        &self.ring
    }

    /// A new owner.
    pub(super) fn add_owner(&mut self) -> u16 {
        let owner = Owner { open: true, done: VecDeque::new() };
        let index = match self.owners.iter().position(|owner| !owner.open) {
            Some(index) => {
                self.owners[index] = owner;
                index
            }
            None => {
                self.owners.push(owner);
                self.owners.len() - 1
            }
        };
        if self.owners.len() > 1 {
            // What ends while another polls must not be put off by an allocation.
            let most = self.ring.room() + self.ring.outstanding();
            for owner in &mut self.owners {
                owner.done.reserve(most.saturating_sub(owner.done.len()));
            }
        }
        index as u16
    }

    /// An owner goes; it is owed nothing.
    pub(super) fn remove_owner(&mut self, owner: u16) {
        self.owners[usize::from(owner)] = Owner { open: false, done: VecDeque::new() };
    }

    /// Whether the device may use memory of an owner's requests.
    pub(super) fn owes(&self, owner: u16) -> bool {
        self.mode == Mode::Live && self.ring.owes(owner)
    }

    /// The device was told of a region; or it will never be.
    pub(super) fn set_region(&mut self, id: RegionId) {
        let slot = id.slot();
        if slot >= self.regions.len() {
            self.regions.resize(slot + 1, RegionId::NONE);
        }
        self.regions[slot] = id;
    }

    /// A region goes.
    pub(super) fn clear_region(&mut self, id: RegionId) {
        if let Some(entry) = self.regions.get_mut(id.slot())
            && *entry == id
        {
            *entry = RegionId::NONE;
        }
    }

    /// The controller has done what it can about a region. (It may have been asked about another meanwhile.)
    pub(super) fn answer(&mut self, id: RegionId) {
        if let Some((asked, answered)) = &mut self.asked
            && *asked == id
        {
            *answered = true;
        }
    }

    #[inline(always)]
    fn reaches(&self, segment: Segment) -> bool {
        // The slot of `NONE` lies beyond every table.
        self.regions.get(segment.region().slot()) == Some(&segment.region())
    }

    /// Takes requests from the front of the batch; how many. Those that end at once go to `refused`.
    #[inline]
    pub(super) fn submit(
        &mut self,
        owner: u16,
        requests: &[Request],
        refused: &mut Vec<Completion>,
    ) -> usize {
        if self.mode != Mode::Live {
            return self.submit_not_live(requests, refused);
        }
        let mut taken = 0;
        for request in requests {
            let (kind, to_memory) = match request.opcode() {
                Opcode::Read => (RequestType::In, true),
                Opcode::Write => (RequestType::Out, false),
                _ => (RequestType::Flush, false),
            };
            let data = request.first_segment();
            let plain = kind as u32 <= RequestType::Out as u32
                && request.segment_count() == 1
                && data.len() <= self.target.size_max
                && self.reaches(data);
            let push = if plain {
                let sector = request.lba.0 << self.target.sector_shift;
                let sender = self.sender(owner, request);
                match self.ring.push(sender, Header { kind, sector }, data, to_memory) {
                    true => Push::Taken,
                    false => Push::Full,
                }
            } else {
                self.push_other(owner, request)
            };
            match push {
                Push::Taken => {}
                Push::Full => break,
                Push::Refused(_) if refused.len() == refused.capacity() => break,
                Push::Refused(status) => refused.push(request.complete(status)),
            }
            taken += 1;
        }
        if self.ring.publish() {
            self.notify();
        }
        taken
    }

    #[inline(always)]
    fn sender(&self, owner: u16, request: &Request) -> Sender {
        let ticket = &request.ticket;
        let flush = ticket.flags.has(RequestFlags::FUA) && self.target.flushes;
        let mark = if flush && ticket.opcode.is_write() { MARK_FLUSH } else { 0 };
        Sender { tag: ticket.into_words(), owner, mark }
    }

    #[cold]
    fn submit_not_live(&mut self, requests: &[Request], refused: &mut Vec<Completion>) -> usize {
        match self.mode {
            Mode::Live | Mode::Frozen => 0,
            Mode::Dead(status) => {
                let count = requests.len().min(refused.capacity() - refused.len());
                refused.extend(requests[..count].iter().map(|request| request.complete(status)));
                count
            }
        }
    }

    /// Pushes what is no transfer with one segment that the device can take as it is.
    #[inline(never)]
    fn push_other(&mut self, owner: u16, request: &Request) -> Push {
        let sender = self.sender(owner, request);
        let sector = request.lba.0 << self.target.sector_shift;
        let range = |flags| {
            let blocks = u64::from(request.ticket.blocks) << self.target.sector_shift;
            // The channel lets nothing through that is longer than the device says, in 32 bits of sectors.
            let sectors = u32::try_from(blocks).unwrap_or(u32::MAX);
            RangeDescriptor { sector, sectors, flags }
        };
        let zeroes = Header { kind: RequestType::WriteZeroes, sector: 0 };
        let taken = match request.opcode() {
            Opcode::Read => return self.push_scattered(sender, RequestType::In, request, true),
            Opcode::Write => return self.push_scattered(sender, RequestType::Out, request, false),
            Opcode::Flush => {
                self.ring.push_bare(sender, Header { kind: RequestType::Flush, sector: 0 })
            }
            Opcode::WriteZeroes => {
                let range = range(0);
                self.ring.push_range(sender, zeroes, range)
            }
            Opcode::Unmap => {
                let range = range(RangeDescriptor::UNMAP);
                self.ring.push_range(sender, zeroes, range)
            }
            _ => return Push::Refused(Status::INVALID_OPCODE),
        };
        if taken { Push::Taken } else { Push::Full }
    }

    fn push_scattered(
        &mut self,
        sender: Sender,
        kind: RequestType,
        request: &Request,
        to_memory: bool,
    ) -> Push {
        if let Some(segment) = request.segments().find(|&segment| !self.reaches(segment)) {
            return self.unreachable(segment);
        }
        if self.ring.room() == 0 {
            return Push::Full;
        }
        let sector = request.lba.0 << self.target.sector_shift;
        let size_max = self.target.size_max;
        let pieces = request.segments().flat_map(move |segment| pieces(segment, size_max));
        match self.ring.push_scattered(sender, Header { kind, sector }, pieces, to_memory) {
            true => Push::Taken,
            // There was room: it has more pieces than the limits allow.
            false => Push::Refused(Status::INVALID_SGL_COUNT),
        }
    }

    #[cold]
    fn unreachable(&mut self, segment: Segment) -> Push {
        let id = segment.region();
        // Memory in no region is never told of; nor is what was asked for, answered, and still is not in the table.
        if id == RegionId::NONE || self.asked == Some((id, true)) {
            if self.refused.replace(id) != Some(id) {
                self.trouble.send(Trouble::Unreachable(id));
            }
            return Push::Refused(Status::DATA_TRANSFER_ERROR);
        }
        if self.asked.is_none_or(|(other, answered)| answered || other != id) {
            self.asked = Some((id, false));
            self.trouble.send(Trouble::RegionBehind(id));
        }
        Push::Full
    }

    /// Notifies the device: at most once between two polls.
    #[inline(never)]
    fn notify(&mut self) {
        if std::mem::replace(&mut self.kicked, true) {
            self.kick_again = true;
            return;
        }
        self.kick();
    }

    /// A counter that is full notifies as well; nothing else can go wrong with an eventfd.
    pub(super) fn kick(&mut self) {
        let _ = rustix::io::write(&*self.kick, &1u64.to_ne_bytes());
    }

    /// Reports what ended of an owner's requests.
    #[inline]
    pub(super) fn poll(&mut self, owner: u16, completions: &mut Completions) -> Activity {
        let before = completions.len();
        if !self.owners[usize::from(owner)].done.is_empty() {
            self.deliver(owner, completions);
        }
        if self.mode != Mode::Live {
            return match completions.len() > before {
                true => Activity::Busy,
                false => Activity::Idle,
            };
        }
        let Virtqueue { ring, owners, flushes, target, .. } = self;
        let flushes_after = target.flushes;
        let reaped = ring.reap(completions.room(), |done| {
            if flushes_after && done.sender.mark == MARK_FLUSH && done.status == 0 {
                flushes.push(Sender { mark: 0, ..done.sender });
                return;
            }
            let completion = ended(done);
            if done.sender.owner == owner {
                completions.push(completion);
            } else if let Some(owner) = owners.get_mut(usize::from(done.sender.owner)) {
                owner.done.push_back(completion);
            }
        });
        match reaped {
            Ok(0) => self.poll_idle(),
            Ok(_) => {
                if !self.flushes.is_empty() {
                    self.push_flushes();
                }
                if self.kicked {
                    self.next_round();
                }
                Activity::Busy
            }
            Err(fault) => {
                self.mode = Mode::Frozen;
                self.push_flushes();
                self.trouble.send(Trouble::Fault(self.index, fault));
                Activity::Busy
            }
        }
    }

    /// The part of a poll that found nothing.
    #[inline]
    fn poll_idle(&mut self) -> Activity {
        if self.kicked {
            self.next_round();
        }
        if self.ring.recheck() {
            self.notify();
        }
        match self.ring.outstanding() {
            0 => Activity::Idle,
            _ => Activity::Waiting,
        }
    }

    #[cold]
    fn next_round(&mut self) {
        self.kicked = false;
        if std::mem::take(&mut self.kick_again) {
            self.notify();
        }
    }

    #[cold]
    fn deliver(&mut self, owner: u16, completions: &mut Completions) {
        let done = &mut self.owners[usize::from(owner)].done;
        let count = completions.room().min(done.len());
        done.drain(..count).for_each(|completion| completions.push(completion));
    }

    /// Sends the flushes that follow writes: each has the place in the queue that its write had.
    #[cold]
    fn push_flushes(&mut self) {
        while let Some(sender) = self.flushes.pop() {
            let flush = Header { kind: RequestType::Flush, sector: 0 };
            let taken = self.ring.push_bare(sender, flush);
            debug_assert!(taken, "a slot was freed for it");
            if !taken {
                self.end(sender, Status::INTERNAL_ERROR);
            }
        }
        if self.ring.publish() && self.mode == Mode::Live {
            self.notify();
        }
    }

    fn end(&mut self, sender: Sender, status: Status) {
        // SAFETY: every tag of this queue was a ticket.
        let ticket = unsafe { Ticket::from_words(sender.tag) };
        if let Some(owner) = self.owners.get_mut(usize::from(sender.owner)) {
            owner.done.push_back(ticket.complete(status));
        }
    }

    /// Asks for the device's serial number (5.2.6, VIRTIO_BLK_T_GET_ID), before anybody else uses the queue.
    pub(super) fn ask_identity(&mut self, into: Segment) {
        let ticket = Request::bare(Opcode::Flush, crate::base::Lba(0), 0, 0).ticket;
        let sender = Sender { tag: ticket.into_words(), owner: NOBODY, mark: 0 };
        let header = Header { kind: RequestType::GetId, sector: 0 };
        self.ring.push(sender, header, into, true);
        self.ring.publish();
        self.kick();
    }

    /// The status of the answer, once it is there.
    pub(super) fn identity_answer(&mut self) -> Option<u8> {
        let mut status = None;
        match self.ring.reap(1, |done| status = Some(done.status)) {
            Ok(_) => status,
            // Whoever uses the queue next meets the fault.
            Err(_) => Some(u8::MAX),
        }
    }

    /// The back end is gone: what it has used is taken, what it has not is kept.
    pub(super) fn freeze(&mut self) {
        if self.mode != Mode::Live {
            return;
        }
        self.mode = Mode::Frozen;
        let mut done = Vec::new();
        // It may have broken the ring, too; what is sound of it counts.
        let _ = self.ring.reap(usize::MAX, |one| done.push(one));
        for one in done {
            if self.target.flushes && one.sender.mark == MARK_FLUSH && one.status == 0 {
                self.flushes.push(Sender { mark: 0, ..one.sender });
            } else if let Some(owner) = self.owners.get_mut(usize::from(one.sender.owner)) {
                owner.done.push_back(ended(one));
            }
        }
        self.push_flushes();
    }

    /// There is a new back end. `fresh`: it knows nothing of what was in flight.
    pub(super) fn prepare(&mut self, fresh: bool) {
        if fresh {
            self.ring.restart();
        }
    }

    /// It goes on.
    pub(super) fn thaw(&mut self) {
        if self.mode == Mode::Frozen {
            self.mode = Mode::Live;
        }
        (self.kicked, self.kick_again) = (false, false);
        // What was asked of the controller meanwhile, nobody answered.
        self.asked = None;
        self.kick();
    }

    /// Everything ends with `status`, now and from now on.
    pub(super) fn die(&mut self, status: Status) {
        self.freeze();
        self.mode = Mode::Dead(status);
        while let Some(sender) = self.ring.give_up() {
            self.end(sender, status);
        }
    }
}

/// A segment as pieces that are short enough.
fn pieces(segment: Segment, size_max: u32) -> impl Iterator<Item = Segment> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let length = (segment.len() - offset).min(size_max);
        let piece = (length > 0).then(|| segment.part(offset, length));
        offset += length;
        piece
    })
}

/// The completion of a request.
#[inline(always)]
fn ended(done: Done) -> Completion {
    // SAFETY: the ring gives back tags as they are, and every tag of this queue was a ticket.
    let ticket = unsafe { Ticket::from_words(done.sender.tag) };
    let status = match done.status {
        0 => Status::SUCCESS,
        other => failure(other, ticket.opcode),
    };
    ticket.complete(status)
}

#[cold]
fn failure(status: u8, opcode: Opcode) -> Status {
    const IO_ERROR: u8 = RequestStatus::IoError as u8;
    const UNSUPPORTED: u8 = RequestStatus::Unsupported as u8;
    match (status, opcode) {
        (IO_ERROR, Opcode::Read) => Status::UNRECOVERED_READ_ERROR,
        (IO_ERROR, _) if opcode.is_write() => Status::WRITE_FAULT,
        (UNSUPPORTED, _) => Status::INVALID_OPCODE,
        _ => Status::INTERNAL_ERROR,
    }
}

#[cfg(test)]
mod tests;
