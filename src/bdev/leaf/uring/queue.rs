//! The queue pair over io_uring.
//!
//! Each request that the kernel has occupies a slot; the slot's index travels as the entry's user
//! data. A slot has one submission queue entry at a time, so neither ring can overflow.
//!
//! A ring that polls its device (IOPOLL) takes reads and writes only; flushes, FUA writes and
//! zeroing then go through a second, ordinary ring.

use std::mem::MaybeUninit;
use std::sync::Arc;

use io_uring::SubmissionQueue;
use libc::iovec;
use tracing::{debug, warn};

use super::fixed::FixedBuffers;
use super::medium::{Medium, MediumKind};
use super::ring::{Ring, RingOptions};
use super::slot::{Slot, Step};
use crate::base::{Geometry, Result, Status, limits};
use crate::bdev::{Completion, Completions, Opcode, Queue, Request, Ticket};
use crate::reactor::{Activity, Context};

/// What a queue must know of its device.
#[derive(Clone)]
pub(super) struct QueueOptions {
    pub medium: Arc<Medium>,
    /// Names the device in the log.
    pub name: String,
    pub geometry: Geometry,
    /// What offsets and addresses must be multiples of, in bytes.
    pub granule: u32,
    pub rings: RingOptions,
    /// Whether to register payload memory.
    pub fixed: bool,
}

/// After how many fruitless polls the core is offered to others while writes to a file are outstanding.
///
/// File systems finish direct writes in a kernel thread of the core where the device interrupts
/// (iomap's completion work), and a reactor that spins on that core keeps it waiting for a whole time
/// slice. Offering costs nothing noticeable on a core that nobody else wants.
const YIELD_AFTER: u32 = 64;

/// A reset that waits for the requests before it.
struct PendingReset {
    ticket: Ticket,
    epoch: u32,
    left: usize,
}

/// One reactor's queue pair.
pub(super) struct UringQueue {
    ring: Ring,
    side: Option<Ring>,
    fixed: Option<FixedBuffers>,
    /// Whether the kernel has vectored operations on registered buffers (Linux 6.15).
    fixed_vectors: bool,
    slots: Slots,
    /// Slots to submit once more.
    again: Vec<u16>,
    /// What ended without the kernel.
    done: Vec<Completion>,
    resets: Vec<PendingReset>,
    /// How many resets were taken.
    epoch: u32,
    /// How many requests are outstanding that a kernel thread of this core may have to finish.
    lent: usize,
    /// Polls in a row that found nothing.
    quiet: u32,
    complained: bool,
    /// The device was found not to poll, after reads of holes had not shown it at creation.
    polling_refused: bool,
    options: QueueOptions,
}

/// The slots and their vectors.
struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    /// [`limits::SEGMENTS_MAX`] for each slot; the system gives the memory when it is first used.
    vectors: Box<[MaybeUninit<iovec>]>,
}

impl Slots {
    fn new(count: u32) -> Slots {
        let count = count as usize;
        Slots {
            slots: (0..count).map(|_| Slot::vacant()).collect(),
            free: (0..count as u16).rev().collect(),
            vectors: Box::new_uninit_slice(count * limits::SEGMENTS_MAX),
        }
    }

    #[inline]
    fn busy(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slot with its vectors; `None` for an index that no busy slot has.
    #[inline]
    fn get(&mut self, index: usize) -> Option<(&mut Slot, &mut [MaybeUninit<iovec>])> {
        let slot = self.slots.get_mut(index)?;
        let start = index * limits::SEGMENTS_MAX;
        let vectors = self.vectors.get_mut(start..start + limits::SEGMENTS_MAX)?;
        Some((slot, vectors))
    }
}

const _: () = assert!(limits::QUEUE_DEPTH_MAX <= 1 << 15);

impl UringQueue {
    /// A queue with room for `depth` requests, on the reactor of `cx`.
    pub(super) fn open(cx: &Context, depth: u32, options: QueueOptions) -> Result<UringQueue> {
        let mut ring = Ring::open(&options.medium, depth, options.rings)?;
        let mut side = match options.rings.iopoll {
            true => {
                let plain = RingOptions { iopoll: false, ..options.rings };
                Some(Ring::open(&options.medium, depth, plain)?)
            }
            false => None,
        };
        ring.wake_by(cx);
        if let Some(side) = &mut side {
            side.wake_by(cx);
        }
        let fixed = options.fixed.then(|| FixedBuffers::new(&ring, cx.pool().registry()));
        let fixed_vectors = ring.supports(io_uring::opcode::ReadvFixed::CODE)
            && ring.supports(io_uring::opcode::WritevFixed::CODE);
        debug!(bdev = options.name, ?ring, ?side, fixed_vectors, depth, "queue opened");
        Ok(UringQueue {
            ring,
            side,
            fixed,
            fixed_vectors,
            slots: Slots::new(depth),
            again: Vec::with_capacity(depth as usize),
            done: Vec::with_capacity(depth as usize),
            resets: Vec::with_capacity(depth as usize),
            epoch: 0,
            lent: 0,
            quiet: 0,
            complained: false,
            polling_refused: false,
            options,
        })
    }

    #[inline]
    fn room(&self) -> usize {
        self.slots.free.len().saturating_sub(self.done.len() + self.resets.len())
    }

    /// Takes requests up to the first reset.
    #[inline]
    fn submit_run(&mut self, requests: &[Request]) -> usize {
        let mut taken = 0;
        let geometry = self.options.geometry;
        let epoch = self.epoch;
        let worked_on = self.options.medium.kind == MediumKind::RegularFile;
        let room = self.room();
        let mut submissions = self.ring.submissions();
        for request in requests.iter().take(room) {
            if request.opcode() == Opcode::Reset {
                break;
            }
            let Some(&index) = self.slots.free.last() else { break };
            let Some((slot, vectors)) = self.slots.get(usize::from(index)) else { break };
            taken += 1;
            if let Err(status) = slot.fill(request, geometry, vectors, self.fixed.as_ref()) {
                self.done.push(request.complete(status));
                continue;
            }
            slot.epoch = epoch;
            slot.busy = true;
            slot.lent = worked_on && request.opcode() != Opcode::Read;
            self.lent += usize::from(slot.lent);
            if slot.is_scattered() && !self.fixed_vectors {
                slot.forget_buffer();
            }
            match &mut self.side {
                Some(side) if self.polling_refused || !slot.is_plain_transfer() => {
                    slot.side = true;
                    slot.forget_buffer();
                    push(&mut side.submissions(), slot, vectors, index);
                }
                _ => {
                    slot.side = false;
                    push(&mut submissions, slot, vectors, index);
                }
            }
            self.slots.free.pop();
        }
        taken
    }

    fn reset(&mut self, request: &Request) {
        let left = self.slots.busy();
        if left == 0 {
            self.done.push(request.complete(Status::SUCCESS));
        } else {
            self.resets.push(PendingReset { ticket: request.ticket, epoch: self.epoch, left });
        }
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// A request of `epoch` has ended: resets that came after it wait for one less.
    #[cold]
    fn advance_resets(resets: &mut Vec<PendingReset>, epoch: u32, done: &mut Vec<Completion>) {
        resets.retain_mut(|reset| {
            // Requests that came after the reset have a greater epoch.
            if reset.epoch.wrapping_sub(epoch) < u32::MAX / 2 {
                reset.left -= 1;
            }
            if reset.left == 0 {
                done.push(reset.ticket.complete(Status::SUCCESS));
            }
            reset.left > 0
        });
    }

    /// Fetches completions from one of the rings.
    fn reap(&mut self, from_side: bool, completions: &mut Completions) -> usize {
        let has_side = self.side.is_some();
        let ring = match (&mut self.side, from_side) {
            (Some(side), true) => side,
            _ => &mut self.ring,
        };
        let granule = u64::from(self.options.granule);
        let mut seen = 0;
        let mut queue = ring.completions();
        while completions.room() > 0
            && let Some(entry) = queue.next()
        {
            let index = entry.user_data() as usize;
            let Some((slot, vectors)) = self.slots.get(index) else { continue };
            if !slot.busy {
                continue;
            }
            seen += 1;
            if entry.result() == -libc::EOPNOTSUPP && has_side && !slot.side {
                if !self.polling_refused {
                    self.polling_refused = true;
                    warn!(
                        bdev = self.options.name,
                        "the device refuses polled I/O (IOPOLL): interrupts from now on"
                    );
                }
                slot.side = true;
                slot.forget_buffer();
                self.again.push(index as u16);
                continue;
            }
            let status = match slot.advance(entry.result(), granule, vectors) {
                Step::Ended(status) => status,
                Step::Again => {
                    self.again.push(index as u16);
                    continue;
                }
                Step::BeyondEnd => {
                    if !self.complained {
                        self.complained = true;
                        warn!(
                            bdev = self.options.name,
                            "the file has become shorter than the device: requests beyond its end fail \
                             (bdev_uring_rescan takes up the new size)"
                        );
                    }
                    beyond_end(slot)
                }
            };
            completions.push(slot.complete(status));
            slot.busy = false;
            self.lent -= usize::from(slot.lent);
            let epoch = slot.epoch;
            self.slots.free.push(index as u16);
            if !self.resets.is_empty() {
                Self::advance_resets(&mut self.resets, epoch, &mut self.done);
            }
        }
        seen
    }

    /// Submits the rest of short transfers, and what the system had turned away.
    #[cold]
    fn submit_again(&mut self) {
        while let Some(index) = self.again.pop() {
            if let Some((slot, vectors)) = self.slots.get(usize::from(index)) {
                let ring = match &mut self.side {
                    Some(side) if slot.side => side,
                    _ => &mut self.ring,
                };
                push(&mut ring.submissions(), slot, vectors, index);
            }
        }
    }
}

/// Reading there may succeed from another copy; a write is lost.
#[cold]
fn beyond_end(slot: &Slot) -> Status {
    match slot.complete(Status::SUCCESS).opcode {
        Opcode::Read => Status::UNRECOVERED_READ_ERROR,
        _ => Status::WRITE_FAULT,
    }
}

/// Pushes a slot's entry.
#[inline]
fn push(
    submissions: &mut SubmissionQueue<'_>,
    slot: &Slot,
    vectors: &[MaybeUninit<iovec>],
    index: u16,
) {
    let entry = slot.entry(vectors).user_data(u64::from(index));
    // SAFETY: the payload stays until the request's completion (invariant of `Request`), and is used
    // by no other entry now; the slot's vectors stay until then too, since the queue's drop waits for
    // the kernel.
    let pushed = unsafe { submissions.push(&entry) };
    // There are as many entries as slots: see above.
    debug_assert!(pushed.is_ok());
}

impl Queue for UringQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        let mut taken = 0;
        loop {
            taken += self.submit_run(&requests[taken..]);
            match requests.get(taken) {
                Some(request) if request.opcode() == Opcode::Reset && self.room() > 0 => {
                    self.reset(request);
                    taken += 1;
                }
                _ => return taken,
            }
        }
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        if let Some(fixed) = &mut self.fixed
            && fixed.is_behind()
        {
            fixed.follow(&self.ring);
        }
        let busy = self.slots.busy();
        if busy == 0 && self.done.is_empty() {
            return Activity::Idle;
        }
        let mut entered = self.ring.enter();
        let mut seen = self.reap(false, completions);
        if let Some(side) = &mut self.side {
            let side = side.enter();
            entered.taken += side.taken;
            entered.left += side.left;
            seen += self.reap(true, completions);
        }
        if !self.again.is_empty() {
            self.submit_again();
        }
        if completions.take_from(&mut self.done) == Activity::Busy || entered.taken + seen > 0 {
            self.quiet = 0;
            return Activity::Busy;
        }
        self.quiet = self.quiet.wrapping_add(1);
        if self.lent > 0 && self.quiet.is_multiple_of(YIELD_AFTER) {
            std::thread::yield_now();
        }
        let wakes = entered.left == 0
            && self.ring.wakes()
            && self.side.as_ref().is_none_or(Ring::wakes)
            && self.done.is_empty();
        if wakes { Activity::Idle } else { Activity::Waiting }
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        if self.slots.busy() == 0 {
            return;
        }
        debug!(bdev = self.options.name, busy = self.slots.busy(), "queue closed under I/O");
        for from_side in [false, true] {
            let busy = |slot: &&Slot| slot.busy && slot.side == from_side;
            let busy = self.slots.slots.iter().filter(busy).count();
            let ring = match (&mut self.side, from_side) {
                (None, true) => break,
                (Some(side), true) => side,
                _ => &mut self.ring,
            };
            let mut left = ring.cancel(busy);
            while left > 0 {
                left = left.saturating_sub(ring.completions().count());
                if left > 0
                    && let Err(error) = ring.wait()
                {
                    debug!(%error, "waiting for the kernel to end I/O");
                    std::thread::yield_now();
                }
            }
        }
    }
}
