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
    /// Blocks of the requests staged or outstanding.
    pub busy_blocks: u64,
    /// The view that it came with.
    since: u64,
}

/// A queue's legs.
pub(super) struct QueueLegs {
    legs: [Option<QueueLeg>; LEGS],
    /// Those that reads go to, in the order in which they are looked at.
    readable: [u8; LEGS],
    readable_count: u8,
    /// Whom the next read looks at first.
    rotate: u8,
    /// Those that writes go to.
    pub writable: LegSet,
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
            readable: [0; LEGS],
            readable_count: 0,
            rotate: 0,
            writable: 0,
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
        let mut least = self.busy_of(best);
        for index in 0..count {
            let leg = usize::from(self.readable[usize::from(index)]);
            let busy = self.busy_of(leg);
            if busy < least {
                (best, least) = (leg, busy);
            }
        }
        Some(best)
    }

    #[inline]
    fn busy_of(&self, leg: usize) -> u64 {
        self.legs[leg].as_ref().map_or(u64::MAX, |leg| leg.busy_blocks)
    }

    /// Puts a request among those that [`QueueLegs::flush`] sends.
    #[inline]
    pub fn stage(&mut self, leg: usize, request: Request) {
        if let Some(have) = &mut self.legs[leg] {
            have.busy_blocks += u64::from(request.ticket.blocks);
            have.staged.push(request);
            self.dirty |= 1 << leg;
            self.busy |= 1 << leg;
        }
    }

    /// Whether something is staged.
    #[inline]
    pub fn is_dirty(&self) -> bool {
        self.dirty != 0
    }

    /// Sends what is staged; what a leg has no room for stays.
    #[inline]
    pub fn flush(&mut self) {
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
        let Some(channel) = &mut leg.channel else {
            let activity = leg.fail_staged(completions);
            if leg.staged.is_empty() {
                self.dirty &= !(1 << index);
                self.busy &= !(1 << index);
            }
            return activity;
        };
        let activity = channel.poll(completions);
        leg.outstanding -= completions.len() as u32;
        for completion in &*completions {
            leg.busy_blocks -= u64::from(completion.blocks);
        }
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
            busy_blocks: 0,
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
            self.busy_blocks -= u64::from(request.ticket.blocks);
            completions.push(request.complete(Status::INTERNAL_PATH_ERROR));
        }
        if count > 0 { Activity::Busy } else { Activity::Idle }
    }
}
