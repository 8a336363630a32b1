//! A queue's channels on the legs: what is to be sent, what is outstanding, which leg is least busy.

use super::shared::{LEGS, Leg, LegSet, View};
use crate::base::{Result, Status};
use crate::bdev::request::{Completions, Request};
use crate::bdev::{Channel, Queue};
use crate::reactor::{Activity, Context};

/// One leg as a queue has it.
pub(super) struct QueueLeg {
    /// `None` when it could not be opened: everything sent to it fails.
    channel: Option<Channel>,
    /// To be sent at the end of the batch.
    staged: Vec<Request>,
    outstanding: u32,
    /// The view that it came with.
    since: u64,
}

/// A queue's legs.
pub(super) struct QueueLegs {
    legs: [Option<QueueLeg>; LEGS],
    /// Blocks of the requests staged or outstanding, by leg.
    busy_blocks: [u64; LEGS],
    /// Staged for all legs that writes go to: kept once, and copied to each leg as one piece.
    to_all: Vec<Request>,
    /// Those that reads go to, in the order in which they are looked at.
    readable: [u8; LEGS],
    readable_count: u8,
    /// Whom the next read looks at first.
    rotate: u8,
    /// Those that writes go to.
    writable: LegSet,
    writable_count: u8,
    /// Those that reads go to.
    pub in_sync: LegSet,
    /// Those that are open and no longer in the view.
    leaving: LegSet,
    /// Those with something staged.
    dirty: LegSet,
    /// Those with something outstanding.
    busy: LegSet,
    depth: u32,
}

/// Iterates over the legs of a set.
#[inline]
pub(super) fn each(mut set: LegSet) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let leg = set.trailing_zeros() as usize;
        set &= set - 1;
        Some(leg)
    })
}

impl QueueLegs {
    pub fn new(depth: u32) -> QueueLegs {
        QueueLegs {
            legs: [const { None }; LEGS],
            busy_blocks: [0; LEGS],
            to_all: Vec::with_capacity(depth as usize),
            readable: [0; LEGS],
            readable_count: 0,
            rotate: 0,
            writable: 0,
            writable_count: 0,
            in_sync: 0,
            leaving: 0,
            dirty: 0,
            busy: 0,
            depth,
        }
    }

    /// Opens and closes legs to match `view`. A leg that goes is closed when nothing is outstanding on it.
    /// Returns the first error; a leg that cannot be opened fails what is sent to it.
    pub fn follow(&mut self, view: &View, cx: &Context) -> Result<()> {
        let mut result = Ok(());
        // It is for the legs of the view before.
        self.distribute();
        self.leaving = 0;
        for (index, slot) in self.legs.iter_mut().enumerate() {
            let wanted = view.legs[index].as_ref();
            let fits = |have: &QueueLeg| wanted.is_some_and(|leg| leg.since == have.since);
            if let Some(have) = slot {
                if fits(have) {
                    continue;
                }
                // (The control task puts no new leg in a place before all have closed the old one.)
                if !have.is_idle() {
                    self.leaving |= 1 << index;
                    continue;
                }
                *slot = None;
            }
            if let Some(leg) = wanted {
                let (open, error) = QueueLeg::open(leg, cx, self.depth);
                *slot = Some(open);
                if let Some(error) = error {
                    result = Err(error);
                }
            }
        }
        self.in_sync = view.in_sync();
        self.writable = view.legs_that(|_| true);
        self.writable_count = self.writable.count_ones() as u8;
        self.readable_count = 0;
        for leg in each(self.in_sync) {
            self.readable[usize::from(self.readable_count)] = leg as u8;
            self.readable_count += 1;
        }
        self.rotate = 0;
        self.close_idle();
        result
    }

    /// Closes legs that are leaving and have nothing outstanding. Returns whether none is leaving.
    pub fn close_idle(&mut self) -> bool {
        for index in each(self.leaving) {
            if self.legs[index].as_ref().is_none_or(QueueLeg::is_idle) {
                self.legs[index] = None;
                self.leaving &= !(1 << index);
            }
        }
        self.leaving == 0
    }

    /// Whether a leg waits to be closed.
    #[inline]
    pub fn is_leaving(&self) -> bool {
        self.leaving != 0
    }

    /// The in-sync leg with the fewest blocks on their way; ties go round.
    #[inline]
    pub fn least_busy(&mut self) -> Option<usize> {
        let count = self.readable_count;
        if count == 0 {
            return None;
        }
        self.rotate = if self.rotate + 1 < count { self.rotate + 1 } else { 0 };
        let mut best = usize::from(self.readable[usize::from(self.rotate)]);
        let mut least = self.busy_blocks[best];
        for &leg in &self.readable[..usize::from(count)] {
            let busy = self.busy_blocks[usize::from(leg)];
            if busy < least {
                (best, least) = (usize::from(leg), busy);
            }
        }
        Some(best)
    }

    /// Puts a request among those that [`QueueLegs::flush`] sends.
    #[inline]
    pub fn stage(&mut self, leg: usize, request: Request) {
        if let Some(have) = &mut self.legs[leg] {
            self.busy_blocks[leg] += u64::from(request.ticket.blocks);
            have.staged.push(request);
            self.dirty |= 1 << leg;
            self.busy |= 1 << leg;
        }
    }

    /// How many legs writes go to.
    #[inline]
    pub fn writable_count(&self) -> u8 {
        self.writable_count
    }

    /// Puts a request among those that [`QueueLegs::flush`] sends to every leg that writes go to: after what is
    /// staged for a leg alone, so that a reset follows all that came before it.
    #[inline]
    pub fn stage_for_all(&mut self, request: Request) {
        self.to_all.push(request);
    }

    /// Stages for each leg what is for all.
    #[inline]
    fn distribute(&mut self) {
        if self.to_all.is_empty() {
            return;
        }
        let blocks: u64 = self.to_all.iter().map(|request| u64::from(request.ticket.blocks)).sum();
        for index in each(self.writable) {
            if let Some(leg) = &mut self.legs[index] {
                leg.staged.extend_from_slice(&self.to_all);
                self.busy_blocks[index] += blocks;
                self.dirty |= 1 << index;
                self.busy |= 1 << index;
            }
        }
        self.to_all.clear();
    }

    /// Whether something is staged.
    #[inline]
    pub fn is_dirty(&self) -> bool {
        self.dirty != 0 || !self.to_all.is_empty()
    }

    /// Sends what is staged; what a leg has no room for stays.
    #[inline]
    pub fn flush(&mut self) {
        self.distribute();
        for index in each(self.dirty) {
            let Some(leg) = &mut self.legs[index] else { continue };
            let Some(channel) = &mut leg.channel else { continue };
            let taken = channel.submit(&mut leg.staged);
            leg.outstanding += taken as u32;
            if taken == leg.staged.len() {
                leg.staged.clear();
                self.dirty &= !(1 << index);
            } else {
                leg.staged.drain(..taken);
            }
        }
    }

    /// Polls leg `index`, if anything is outstanding there, into `completions`, which is empty.
    #[inline]
    pub fn poll(&mut self, index: usize, completions: &mut Completions) -> Activity {
        if self.busy & 1 << index == 0 {
            return Activity::Idle;
        }
        let Some(leg) = &mut self.legs[index] else { return Activity::Idle };
        let activity = if let Some(channel) = &mut leg.channel {
            let activity = channel.poll(completions);
            leg.outstanding -= completions.len() as u32;
            activity
        } else {
            let activity = leg.fail_staged(completions);
            if leg.staged.is_empty() {
                self.dirty &= !(1 << index);
            }
            activity
        };
        let done = completions.as_slice().iter();
        self.busy_blocks[index] -= done.map(|done| u64::from(done.blocks)).sum::<u64>();
        if leg.outstanding == 0 && leg.staged.is_empty() {
            self.busy &= !(1 << index);
        }
        activity
    }
}

impl QueueLeg {
    fn open(leg: &Leg, cx: &Context, depth: u32) -> (QueueLeg, Option<crate::base::Error>) {
        let (channel, error) = match leg.device.open_channel(cx, depth) {
            Ok(channel) => (Some(channel), None),
            Err(error) => (None, Some(error)),
        };
        let open = QueueLeg {
            channel,
            staged: Vec::with_capacity(depth as usize),
            outstanding: 0,
            since: leg.since,
        };
        (open, error)
    }

    fn is_idle(&self) -> bool {
        self.outstanding == 0 && self.staged.is_empty()
    }

    /// Fails what was sent to a leg that could not be opened.
    #[cold]
    fn fail_staged(&mut self, completions: &mut Completions) -> Activity {
        let count = self.staged.len().min(completions.room());
        for request in self.staged.drain(..count) {
            completions.push(request.complete(Status::INTERNAL_PATH_ERROR));
        }
        if count > 0 { Activity::Busy } else { Activity::Idle }
    }
}
