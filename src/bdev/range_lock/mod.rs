//! Range locks: overlapping block ranges of one device, one at a time, over all its queues.
//!
//! A write excludes every other write that overlaps it. A read waits for the writes in flight that
//! overlap it, and excludes nothing: no reader ever sees the new contents of a block and then the
//! old ones, as two copies that are written at slightly different times would show them. Whoever
//! needs a write, a comparison and a write in one, or a copy from here to there undisturbed, takes
//! the range as a write.
//!
//! [`RangeLocks`] belongs to a device and is shared by all threads; each queue has a [`RangeLock`],
//! which belongs to its reactor. How much they do depends on the [`Level`], which is the least that
//! is needed:
//!
//! - *Off*: nobody needs exclusion. Requests are counted, in batches.
//! - *Local*: there is one queue. Overlap is exact, and found with no atomic read-modify-write: a
//!   counting filter answers nearly always, and a scan of what is in flight otherwise.
//! - *Shared*: between queues, a table of slots that stand for chunks of the device; a write owns those
//!   it touches. One compare-exchange for a write, plain loads for a read.
//!
//! A change of level is a hand-over: every queue holds what is new, finishes what it has in flight,
//! and goes on when all others have done so, or have nothing in flight (`gate.rs`).
//!
//! Within a queue, requests that overlap go in the order in which they came. Between queues they go
//! in no particular order, and none waits forever.
//!
//! What it does not do: it knows no timeouts, and nothing of a queue's requests but their number.

mod filter;
mod gate;
mod sync;
mod table;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use filter::Filter;
use gate::{Gate, Pass};
use sync::Arc;
#[cfg_attr(weft_loom, allow(unreachable_pub))]
pub(in crate::bdev) use sync::Barrier;
use table::{SlotSet, SlotTable};

use crate::base::{BlockSize, Lba};

/// How much exclusion is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// None is needed.
    Off = 0,
    /// Within the one queue that there is.
    Local = 1,
    /// Between all queues.
    Shared = 2,
}

/// What is done to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Waits for writes that overlap; nothing waits for it once it has started.
    Read,
    /// Excludes all other writes that overlap.
    Write,
}

/// The rule of the gate: a change counter, whether exclusion is needed, and the level.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rule {
    level: Level,
    needed: bool,
    changes: u64,
}

impl Rule {
    fn unpack(packed: u64) -> Rule {
        let level = match packed & 3 {
            0 => Level::Off,
            1 => Level::Local,
            _ => Level::Shared,
        };
        Rule { level, needed: packed & 4 != 0, changes: packed >> 3 }
    }

    fn pack(self) -> u64 {
        self.changes << 3 | u64::from(self.needed) << 2 | self.level as u64
    }

    /// The rule for `queues` queues.
    fn next(packed: u64, needed: bool, queues: usize) -> u64 {
        let now = Rule::unpack(packed);
        let needed = needed || now.needed;
        let level = match (needed, queues) {
            (false, _) => Level::Off,
            (true, 0 | 1) => Level::Local,
            (true, _) => Level::Shared,
        };
        if level == now.level && needed == now.needed {
            return packed;
        }
        Rule { level, needed, changes: now.changes + 1 }.pack()
    }
}

/// The range locks of a device.
pub struct RangeLocks {
    gate: Arc<Gate>,
    table: SlotTable,
    block_shift: u32,
}

impl RangeLocks {
    /// For a device with blocks of this size. No exclusion is in force until somebody asks for it
    /// ([`RangeLocks::require`]).
    pub fn new(block_size: BlockSize) -> RangeLocks {
        let rule = Rule { level: Level::Off, needed: false, changes: 0 };
        RangeLocks {
            gate: Arc::new(Gate::new(rule.pack())),
            table: SlotTable::new(block_size.shift()),
            block_shift: block_size.shift(),
        }
    }

    /// From now on, for good, exclusion is needed. Any thread may call this; it is no work for every
    /// I/O.
    pub fn require(&self) {
        self.gate.change(|rule, queues| Rule::next(rule, true, queues));
    }
}

/// Names a request of one queue: less than the capacity that the queue joined with.
pub type Slot = u32;

const NONE: u32 = u32::MAX;

/// One queue's side of a device's range locks.
///
/// At level Off the queue tells only how many requests it has in flight ([`RangeLock::enter`],
/// [`RangeLock::exit`]). Otherwise it asks for each request's range with [`RangeLock::acquire`], and
/// gives back that of each write with [`RangeLock::release`]. It polls ([`RangeLock::poll`]) for
/// the requests that had to wait.
pub struct RangeLock {
    pass: Pass,
    level: Level,
    /// What is new waits for a change of level.
    handing_over: bool,
    filter: Filter,
    /// Start and end of what is in flight or waits, by slot; empty where there is nothing.
    ranges: Box<[(u64, u64)]>,
    entries: Box<[Entry]>,
    /// One more than the highest slot with a range.
    ranges_end: usize,
    registered: u32,
    next_order: u64,
    /// Wait for a change of level, in the order in which they came.
    held: VecDeque<Slot>,
    /// Wait for another queue.
    remote: Vec<Slot>,
    /// May start, and were not collected yet.
    granted: VecDeque<Slot>,
    locks: Arc<RangeLocks>,
}

#[derive(Clone, Copy)]
struct Entry {
    order: u64,
    access: Access,
    /// How many of its slots in the table it owns (or, for a read, has passed).
    slots: u32,
    /// The last, by order, that waits for this one.
    waiters: Slot,
    /// The next that waits for the same one.
    next: Slot,
}

impl RangeLock {
    /// Joins with room for `capacity` requests at a time.
    pub fn join(locks: &Arc<RangeLocks>, capacity: u32) -> RangeLock {
        let pass = locks.gate.join(|rule, queues| Rule::next(rule, false, queues));
        let entry = Entry { order: 0, access: Access::Read, slots: 0, waiters: NONE, next: NONE };
        RangeLock {
            pass,
            level: Level::Off,
            handing_over: true,
            filter: Filter::new(locks.block_shift, capacity),
            ranges: vec![(0, 0); capacity as usize].into_boxed_slice(),
            entries: vec![entry; capacity as usize].into_boxed_slice(),
            ranges_end: 0,
            registered: 0,
            next_order: 0,
            held: VecDeque::with_capacity(capacity as usize),
            // Twice, since while they are looked at some may be in it a second time.
            remote: Vec::with_capacity(2 * capacity as usize),
            granted: VecDeque::with_capacity(capacity as usize),
            locks: Arc::clone(locks),
        }
    }

    /// The level that this queue follows. It changes only within calls of this type's functions.
    #[inline]
    pub fn level(&self) -> Level {
        self.level
    }

    /// The locks of the device.
    pub fn locks(&self) -> &Arc<RangeLocks> {
        &self.locks
    }

    /// At level Off: counts `requests` as in flight and returns true. Otherwise, or when the level
    /// changes, returns false: go by [`RangeLock::acquire`].
    #[inline]
    pub fn enter(&mut self, requests: u32) -> bool {
        if self.level == Level::Off && !self.handing_over && self.pass.enter(requests) {
            return true;
        }
        (self.handing_over || self.level == Level::Off) && self.enter_again(requests)
    }

    #[cold]
    fn enter_again(&mut self, requests: u32) -> bool {
        self.hand_over();
        self.level == Level::Off && !self.handing_over && self.pass.enter(requests)
    }

    /// Counts `requests` that had entered as completed.
    #[inline]
    pub fn exit(&mut self, requests: u32) {
        self.pass.exit(requests);
    }

    /// Asks for `blocks` blocks from `lba` on behalf of request `slot`. Returns whether it may start
    /// now. If not, [`RangeLock::next_granted`] will name it. A write is released when it has
    /// completed; a read is not.
    ///
    /// A slot names one request until that is released, or, for a read, was granted.
    #[inline(always)]
    #[must_use]
    pub fn acquire(&mut self, slot: Slot, access: Access, lba: Lba, blocks: u64) -> bool {
        let (start, end) = (lba.0, lba.0.saturating_add(blocks));
        if start == end {
            // Nothing can overlap nothing, but a write is released.
            return self.acquire_empty(slot, access);
        }
        if self.handing_over || self.filter.may_overlap(start, end) {
            return self.acquire_with_care(slot, access, start, end);
        }
        // The rule is looked at last, and once: a write counts as in flight before that.
        let follows = match access {
            Access::Read => self.pass.is_current(),
            Access::Write => self.pass.enter(1),
        };
        if !follows {
            return self.acquire_in_hand_over(slot, access, start, end);
        }
        match access {
            Access::Read => {
                self.level != Level::Shared || self.read_between_queues(slot, start, end)
            }
            Access::Write => {
                self.register(slot, access, start, end);
                self.level != Level::Shared || self.write_between_queues(slot)
            }
        }
    }

    /// Asks for a range that may overlap others, or that comes in a change of level.
    #[inline(never)]
    fn acquire_with_care(&mut self, slot: Slot, access: Access, start: u64, end: u64) -> bool {
        if self.handing_over || !self.pass.is_current() {
            return self.acquire_in_hand_over(slot, access, start, end);
        }
        self.acquire_after_scan(slot, access, start, end)
    }

    #[cold]
    fn acquire_empty(&mut self, slot: Slot, access: Access) -> bool {
        self.acquire_with_care(slot, access, 0, 0)
    }

    #[cold]
    fn acquire_in_hand_over(&mut self, slot: Slot, access: Access, start: u64, end: u64) -> bool {
        self.hand_over();
        if self.handing_over {
            self.register(slot, access, start, end);
            self.held.push_back(slot);
            return false;
        }
        self.acquire_after_scan(slot, access, start, end)
    }

    fn acquire_after_scan(&mut self, slot: Slot, access: Access, start: u64, end: u64) -> bool {
        self.register(slot, access, start, end);
        let granted = self.examine(slot);
        if granted && access == Access::Read {
            // Nothing waits for it: it is the newest.
            self.unregister(slot);
        }
        granted
    }

    #[inline(never)]
    fn read_between_queues(&mut self, slot: Slot, start: u64, end: u64) -> bool {
        let set = self.locks.table.slots_of(start, end);
        let me = self.pass.id();
        let blocked = (0..set.len()).find(|&index| !self.locks.table.pass(set.get(index), me));
        let Some(passed) = blocked else { return true };
        self.register(slot, Access::Read, start, end);
        // It has marked the next one, and must wait for none below that.
        self.entries[slot as usize].slots = passed;
        self.remote.push(slot);
        false
    }

    #[inline(never)]
    fn write_between_queues(&mut self, slot: Slot) -> bool {
        let taken = self.take_slots(slot, false);
        if !taken {
            self.remote.push(slot);
        }
        taken
    }

    #[inline(always)]
    fn register(&mut self, slot: Slot, access: Access, start: u64, end: u64) {
        let index = slot as usize;
        let entry = &mut self.entries[index];
        // They were taken out when its last request ended.
        debug_assert!(entry.next == NONE && entry.waiters == NONE);
        entry.order = self.next_order;
        entry.access = access;
        entry.slots = 0;
        self.next_order += 1;
        self.ranges[index] = (start, end);
        self.ranges_end = self.ranges_end.max(index + 1);
        self.registered += 1;
        if start < end {
            self.filter.add(start, end);
        }
    }

    #[inline(always)]
    fn unregister(&mut self, slot: Slot) {
        let (start, end) = std::mem::take(&mut self.ranges[slot as usize]);
        if start < end {
            self.filter.remove(start, end);
        }
        self.registered -= 1;
        if self.registered == 0 {
            self.ranges_end = 0;
        }
    }

    /// The youngest request before `slot` that it has to wait for.
    fn blocker(&self, slot: Slot) -> Option<Slot> {
        let (start, end) = self.ranges[slot as usize];
        let me = &self.entries[slot as usize];
        let mut found: Option<(u64, Slot)> = None;
        for (index, &(s, e)) in self.ranges[..self.ranges_end].iter().enumerate() {
            if s < end && start < e {
                let other = &self.entries[index];
                let reads = me.access == Access::Read && other.access == Access::Read;
                if other.order < me.order
                    && !reads
                    && found.is_none_or(|(order, _)| order < other.order)
                {
                    found = Some((other.order, index as Slot));
                }
            }
        }
        found.map(|(_, slot)| slot)
    }

    /// Lets a registered request start and returns true, or puts it where it waits.
    fn examine(&mut self, slot: Slot) -> bool {
        if let Some(blocker) = self.blocker(slot) {
            self.entries[slot as usize].next = self.entries[blocker as usize].waiters;
            self.entries[blocker as usize].waiters = slot;
            return false;
        }
        let follows = match self.entries[slot as usize].access {
            _ if self.handing_over => false,
            // It counts as in flight from here on: it may own slots of the table.
            Access::Write => self.pass.enter(1),
            Access::Read => self.pass.is_current(),
        };
        if !follows {
            self.handing_over = true;
            self.held.push_back(slot);
            return false;
        }
        if self.level == Level::Shared && !self.take_slots(slot, false) {
            self.remote.push(slot);
            return false;
        }
        true
    }

    fn slots_of(&self, slot: Slot) -> Option<SlotSet> {
        let (start, end) = self.ranges[slot as usize];
        (start < end).then(|| self.locks.table.slots_of(start, end))
    }

    /// Goes on with taking the request's slots of the table; returns whether it has them all.
    fn take_slots(&mut self, slot: Slot, waited: bool) -> bool {
        let Some(set) = self.slots_of(slot) else { return true };
        let me = self.pass.id();
        let entry = &mut self.entries[slot as usize];
        while entry.slots < set.len() {
            let index = set.get(entry.slots);
            let passed = match entry.access {
                Access::Write => self.locks.table.take(index, me),
                Access::Read if waited => self.locks.table.pass_after_wait(index, me),
                Access::Read => self.locks.table.pass(index, me),
            };
            if !passed {
                return false;
            }
            entry.slots += 1;
        }
        true
    }

    fn release_slots(&mut self, slot: Slot) {
        let entry = self.entries[slot as usize];
        if entry.slots == 0 || entry.access == Access::Read {
            return;
        }
        if let Some(set) = self.slots_of(slot) {
            for index in 0..entry.slots {
                self.locks.table.release(set.get(index), self.pass.id());
            }
        }
    }

    /// Gives back the range of write `slot`, which was granted and has completed.
    #[inline(always)]
    pub fn release(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        let waiters = std::mem::replace(&mut entry.waiters, NONE);
        if entry.slots > 0 {
            self.release_slots(slot);
        }
        self.unregister(slot);
        self.pass.exit(1);
        if waiters != NONE {
            self.wake(waiters);
        }
    }

    /// Looks again at all of the list that starts at `first`, whose blocker is gone.
    #[cold]
    fn wake(&mut self, first: Slot) {
        let mut work = first;
        while work != NONE {
            let slot = work;
            work = std::mem::replace(&mut self.entries[slot as usize].next, NONE);
            if self.examine(slot) {
                work = self.grant(slot, work);
            }
        }
    }

    /// Grants a request that waited. Those that wait for it, if it is a read, come before `work`.
    fn grant(&mut self, slot: Slot, work: Slot) -> Slot {
        self.granted.push_back(slot);
        if self.entries[slot as usize].access == Access::Write {
            return work;
        }
        self.unregister(slot);
        let first = std::mem::replace(&mut self.entries[slot as usize].waiters, NONE);
        let mut last = first;
        while last != NONE && self.entries[last as usize].next != NONE {
            last = self.entries[last as usize].next;
        }
        if last == NONE {
            return work;
        }
        self.entries[last as usize].next = work;
        first
    }

    /// Looks whether requests that wait for another queue, or for a change of level, may start.
    #[inline]
    pub fn poll(&mut self) {
        if !self.remote.is_empty() {
            self.poll_remote();
        }
        if self.handing_over || !self.pass.is_current() {
            self.hand_over();
        }
    }

    /// A request that had to wait and may start now.
    #[inline]
    pub fn next_granted(&mut self) -> Option<Slot> {
        self.granted.pop_front()
    }

    /// Whether no change of level is under way for this queue.
    #[inline]
    pub fn is_settled(&self) -> bool {
        !self.handing_over && self.pass.is_current()
    }

    /// Whether something waits that only [`RangeLock::poll`] notices.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.remote.is_empty() || !self.held.is_empty() || !self.granted.is_empty()
    }

    #[cold]
    fn poll_remote(&mut self) {
        let before = self.remote.len();
        let mut kept = 0;
        for index in 0..before {
            let slot = self.remote[index];
            if self.take_slots(slot, true) {
                let work = self.grant(slot, NONE);
                // What is woken may be pushed behind, which this loop does not look at.
                self.wake(work);
            } else {
                self.remote[kept] = slot;
                kept += 1;
            }
        }
        self.remote.drain(kept..before);
    }

    /// Follows a change of level, as far as that goes.
    #[cold]
    fn hand_over(&mut self) {
        self.handing_over = true;
        let Some(rule) = self.pass.follow() else { return };
        self.handing_over = false;
        self.level = Rule::unpack(rule).level;
        for _ in 0..self.held.len() {
            let Some(slot) = self.held.pop_front() else { break };
            if self.examine(slot) {
                let work = self.grant(slot, NONE);
                self.wake(work);
            }
        }
    }
}

impl Drop for RangeLock {
    fn drop(&mut self) {
        // Who drops a queue early has seen to it that no device is still at work.
        for slot in 0..self.ranges_end as Slot {
            self.release_slots(slot);
        }
        self.locks.table.unmark_all(self.pass.id());
        self.pass.leave(|rule, queues| Rule::next(rule, false, queues));
    }
}
