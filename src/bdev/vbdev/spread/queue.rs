//! The queue of a device whose blocks are spread over children.
//!
//! A request that lies on one child (the usual one) is handed on as it is, under the submitter's
//! token; its completion goes from the child straight into the caller's buffer. Any other becomes
//! *parts*, at most one per child as far as their scatter lists allow: pieces that follow each other on
//! a child are gathered into one request. Parts carry the flag [`RequestFlags::PART`] and a token of
//! ours; the parent completes with the last of them, with the first failure among them.
//!
//! Requests wait in one array per child until the end of a batch, and are submitted together. What a
//! child has no room for stays there, in order, and is tried again at every poll.
//!
//! Everything is sized at open. A request for which parents, rows or arrays have no room is not taken.

use std::sync::Arc;

use super::layout::Layout;
use super::rows::Rows;
use crate::base::{Lba, Result, Status, limits};
use crate::bdev::request::{Completion, Completions, Opcode, Request, RequestFlags, Ticket};
use crate::bdev::{Channel, Device, Queue};
use crate::memory::Segment;
use crate::reactor::{Activity, Context};

/// The flags that keep a request from being handed on under its submitter's token.
const RETOKENED: RequestFlags = RequestFlags::PART.with(RequestFlags::DETOUR);

/// Most rows of segments in one queue, beyond what a single request may need.
const ROWS_MAX: usize = 1024;

struct Child {
    channel: Channel,
    /// Requests for the child that it has not taken yet.
    pending: Vec<Request>,
}

/// A request that was taken and is in parts.
#[derive(Clone, Copy)]
struct Parent {
    ticket: Ticket,
    /// Parts that have not completed.
    parts: u32,
    /// The first failure.
    status: Status,
}

/// What of the request at hand goes to one child in the part that is being gathered.
#[derive(Clone, Copy)]
struct Share {
    lba: u64,
    /// 0 when there is none.
    blocks: u32,
    segments: u32,
    /// The only segment, when there is one.
    first: Segment,
    /// Where the segments are, when there are several.
    row: Option<u32>,
}

const NO_SHARE: Share = Share { lba: 0, blocks: 0, segments: 0, first: Segment::EMPTY, row: None };

/// A part's token: its parent, and the row of its segments.
fn part_token(parent: u32, row: Option<u32>) -> u64 {
    u64::from(parent) | row.map_or(0, |row| u64::from(row) + 1) << 32
}

pub(super) struct SpreadQueue<L> {
    layout: L,
    children: Box<[Child]>,
    /// Bit of each child that has requests pending.
    dirty: u64,
    /// Bit of each child that has requests outstanding.
    busy: u64,
    /// The child to poll first: after the one at which the room ran out last time.
    first: u32,
    outstanding: usize,
    depth: usize,
    block_shift: u32,
    parents: Vec<Parent>,
    free_parents: Vec<u32>,
    rows: Rows,
    shares: Box<[Share]>,
    /// Requests that no child can serve.
    refused: Vec<Completion>,
}

// A child is a bit of `dirty` and `busy`.
const _: () = assert!(limits::CHILDREN_MAX <= 64);

impl<L: Layout> SpreadQueue<L> {
    pub(super) fn open(
        layout: L,
        bases: &[Arc<Device>],
        cx: &Context,
        depth: u32,
    ) -> Result<SpreadQueue<L>> {
        let block_shift = bases[0].info().geometry.block_size.shift();
        // What the longest request there is can need: each piece cuts at most one segment in two, and
        // a row is given up for the next when a piece, of at most as many segments as the
        // request has, does not fit: on average half full.
        let blocks_max = limits::TRANSFER_MAX >> block_shift;
        let segments = layout.pieces_max(blocks_max) as usize + limits::SEGMENTS_MAX;
        let parts = 2 + 2 * segments / limits::SEGMENTS_MAX;
        let rows = (depth as usize * bases.len()).min(ROWS_MAX).max(bases.len() + parts);
        let depth_of_child = depth;
        let depth = depth as usize;
        let open_child = |base: &Arc<Device>| {
            Ok(Child {
                channel: base.open_channel(cx, depth_of_child)?,
                pending: Vec::with_capacity(depth + parts),
            })
        };
        Ok(SpreadQueue {
            layout,
            children: bases.iter().map(open_child).collect::<Result<_>>()?,
            dirty: 0,
            busy: 0,
            first: 0,
            outstanding: 0,
            depth,
            block_shift,
            parents: Vec::with_capacity(depth),
            free_parents: Vec::with_capacity(depth),
            rows: Rows::new(rows),
            shares: vec![NO_SHARE; bases.len()].into_boxed_slice(),
            refused: Vec::with_capacity(depth),
        })
    }

    /// Hands the pending requests to the children.
    #[inline]
    fn flush(&mut self) {
        let mut mask = self.dirty;
        while mask != 0 {
            let bit = mask & mask.wrapping_neg();
            mask ^= bit;
            let child = &mut self.children[bit.trailing_zeros() as usize];
            let accepted = child.channel.submit(&mut child.pending);
            if accepted == child.pending.len() {
                child.pending.clear();
                self.dirty ^= bit;
            } else {
                child.pending.drain(..accepted);
            }
            if accepted > 0 {
                self.busy |= bit;
            }
        }
    }

    #[inline]
    fn push(&mut self, child: usize, request: Request) {
        self.children[child].pending.push(request);
        self.dirty |= 1 << child;
    }

    /// Whether every child's array takes `count` more.
    fn has_room(&self, count: usize) -> bool {
        self.children.iter().all(|c| c.pending.capacity() - c.pending.len() >= count)
    }

    fn new_parent(&mut self, request: &Request) -> u32 {
        let parent = Parent { ticket: request.ticket, parts: 0, status: Status::SUCCESS };
        match self.free_parents.pop() {
            Some(index) => {
                self.parents[index as usize] = parent;
                index
            }
            None => {
                // Within capacity: no more requests are taken than `depth`.
                self.parents.push(parent);
                self.parents.len() as u32 - 1
            }
        }
    }

    /// Takes a request that cannot be handed on as it is. Returns whether there was room.
    fn spread(&mut self, request: &Request) -> bool {
        let (lba, blocks) = (request.lba.0, u64::from(request.ticket.blocks));
        match request.opcode() {
            Opcode::Flush | Opcode::Reset => self.spread_to_all(request),
            Opcode::Unmap | Opcode::WriteZeroes => self.spread_range(request, lba, blocks),
            Opcode::Read | Opcode::Write | Opcode::Compare => {
                self.spread_payload(request, lba, blocks)
            }
            // Atomic, so it cannot be in parts. The device does not offer it; its channel makes it of
            // the others.
            Opcode::CompareAndWrite => self.refuse(request, Status::INVALID_FIELD),
            Opcode::NvmeAdmin | Opcode::NvmeIo => self.refuse(request, Status::INVALID_OPCODE),
        }
    }

    fn refuse(&mut self, request: &Request, status: Status) -> bool {
        self.refused.push(request.complete(status));
        true
    }

    /// The part of `request` that goes to one child as it is.
    fn whole_part(&self, request: &Request, lba: u64, token: u64) -> Request {
        let flags = request.ticket.flags.without(RETOKENED).with(RequestFlags::PART);
        request.child(Lba(lba), token).with_flags(flags)
    }

    fn spread_to_all(&mut self, request: &Request) -> bool {
        if !self.has_room(1) {
            return false;
        }
        let parent = self.new_parent(request);
        self.parents[parent as usize].parts = self.children.len() as u32;
        let part = self.whole_part(request, 0, part_token(parent, None));
        for child in 0..self.children.len() {
            self.push(child, part);
        }
        true
    }

    fn spread_range(&mut self, request: &Request, lba: u64, blocks: u64) -> bool {
        if !self.has_room(1) {
            return false;
        }
        let parent = self.new_parent(request);
        for child in 0..self.children.len() {
            let Some((lba, blocks)) = self.layout.share(child, lba, blocks) else { continue };
            let mut part = self.whole_part(request, lba, part_token(parent, None));
            part.ticket.blocks = blocks as u32;
            self.parents[parent as usize].parts += 1;
            self.push(child, part);
        }
        true
    }

    fn spread_payload(&mut self, request: &Request, lba: u64, blocks: u64) -> bool {
        let pieces = self.layout.pieces(lba, blocks) as usize;
        if pieces == 1 {
            let place = self.layout.locate(lba);
            if !self.has_room(1) {
                return false;
            }
            let parent = self.new_parent(request);
            self.parents[parent as usize].parts = 1;
            let part = self.whole_part(request, place.lba, part_token(parent, None));
            self.push(place.child, part);
            return true;
        }
        let segments = pieces + request.segment_count();
        let parts = 2 + 2 * segments / limits::SEGMENTS_MAX;
        if !self.has_room(parts) || self.rows.free() < self.children.len().min(pieces) + parts {
            return false;
        }
        let parent = self.new_parent(request);
        self.gather(request, parent, lba, blocks);
        for child in 0..self.children.len() {
            self.finish_part(child, request, parent);
        }
        true
    }

    /// Walks over the request piece by piece, adding each to its child's share.
    fn gather(&mut self, request: &Request, parent: u32, mut lba: u64, mut blocks: u64) {
        let mut rest = request.segments();
        let mut segment = Segment::EMPTY;
        while blocks > 0 {
            let place = self.layout.locate(lba);
            let length = place.run.min(blocks);
            let bytes = length << self.block_shift;
            let count = pieces_of(segment, rest.clone(), bytes);
            if self.shares[place.child].segments as usize + count > limits::SEGMENTS_MAX {
                self.finish_part(place.child, request, parent);
            }
            // A range of the device is one of each child, so this piece follows the share's last one.
            let share = &mut self.shares[place.child];
            if share.blocks == 0 {
                share.lba = place.lba;
            }
            share.blocks += length as u32;
            let mut left = bytes;
            while left > 0 {
                if segment.is_empty() {
                    // The channel checked that the payload is as long as the range.
                    let Some(next) = rest.next() else { break };
                    segment = next;
                    continue;
                }
                let taken = u64::from(segment.len()).min(left) as u32;
                add_segment(share, &mut self.rows, segment.part(0, taken));
                segment = segment.part(taken, segment.len() - taken);
                left -= u64::from(taken);
            }
            lba += length;
            blocks -= length;
        }
    }

    /// Makes a request of the share of `child`, if it has one.
    fn finish_part(&mut self, child: usize, request: &Request, parent: u32) {
        let share = std::mem::replace(&mut self.shares[child], NO_SHARE);
        if share.blocks == 0 {
            return;
        }
        let (opcode, lba) = (request.opcode(), Lba(share.lba));
        let token = part_token(parent, share.row);
        let part = match share.row {
            None => Request::new(opcode, lba, share.blocks, share.first, token),
            // SAFETY: the row is this part's alone until its completion releases it.
            Some(row) => unsafe {
                Request::scattered(opcode, lba, share.blocks, self.rows.segments(row), token)
            },
        };
        let flags = request.ticket.flags.without(RETOKENED).with(RequestFlags::PART);
        self.parents[parent as usize].parts += 1;
        self.push(child, part.with_flags(flags));
    }

    /// Books the completion of a part; returns that of its parent, when it was the last.
    fn part_done(&mut self, part: &Completion) -> Option<Completion> {
        let index = part.token as u32;
        if let Some(row) = ((part.token >> 32) as u32).checked_sub(1) {
            self.rows.release(row);
        }
        let parent = &mut self.parents[index as usize];
        parent.status = parent.status.or(part.status);
        parent.parts -= 1;
        if parent.parts > 0 {
            return None;
        }
        let completion = parent.ticket.complete(parent.status);
        self.free_parents.push(index);
        Some(completion)
    }

    /// Replaces the parts among the completions from `start` on by the parents that they complete.
    fn collect(&mut self, completions: &mut Completions, start: usize) {
        let mut kept = start;
        for index in start..completions.len() {
            let completion = completions.as_slice()[index];
            let done = if completion.flags.has(RequestFlags::PART) {
                self.part_done(&completion)
            } else {
                Some(completion)
            };
            if let Some(done) = done {
                completions.as_mut_slice()[kept] = done;
                kept += 1;
            }
        }
        completions.truncate(kept);
    }
}

/// How many segments the next `bytes` of a payload are in, of which `segment` is the start.
fn pieces_of(segment: Segment, rest: impl Iterator<Item = Segment>, bytes: u64) -> usize {
    let mut covered = u64::from(segment.len());
    let mut count = usize::from(covered > 0);
    for next in rest {
        if covered >= bytes {
            break;
        }
        covered += u64::from(next.len());
        count += 1;
    }
    count
}

fn add_segment(share: &mut Share, rows: &mut Rows, segment: Segment) {
    if share.segments == 0 {
        share.first = segment;
    } else {
        let row = *share.row.get_or_insert_with(|| {
            let row = rows.take().expect("rows were counted before");
            rows.push(row, share.first);
            row
        });
        rows.push(row, segment);
    }
    share.segments += 1;
}

impl<L: Layout> Queue for SpreadQueue<L> {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        let room = self.depth - self.outstanding;
        let offered = requests.len().min(room);
        let mut taken = 0;
        for request in &requests[..offered] {
            let direct = request.opcode().has_range() && !request.ticket.flags.has_any(RETOKENED);
            if direct {
                let place = self.layout.locate(request.lba.0);
                if place.run >= u64::from(request.ticket.blocks) {
                    let child = &mut self.children[place.child];
                    if child.pending.len() == child.pending.capacity() {
                        break;
                    }
                    child.pending.push(request.at(Lba(place.lba)));
                    self.dirty |= 1 << place.child;
                    taken += 1;
                    continue;
                }
            }
            if !self.spread(request) {
                break;
            }
            taken += 1;
        }
        self.outstanding += taken;
        self.flush();
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        if self.dirty != 0 {
            self.flush();
        }
        let start = completions.len();
        let mut activity = completions.take_from(&mut self.refused);
        let mut mask = self.busy.rotate_right(self.first);
        while mask != 0 {
            let child = (mask.trailing_zeros() + self.first) % 64;
            mask &= mask - 1;
            if completions.room() == 0 {
                self.first = child;
                activity = Activity::Busy;
                break;
            }
            let before = completions.len();
            let channel = &mut self.children[child as usize].channel;
            activity = activity.max(channel.poll(completions));
            if channel.outstanding() == 0 {
                self.busy &= !(1 << child);
            }
            if self.free_parents.len() < self.parents.len() {
                self.collect(completions, before);
            }
        }
        self.outstanding -= completions.len() - start;
        activity
    }
}
