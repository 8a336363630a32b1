//! One replica's part in a round: what it still has to copy, and the next step of it. Knows nothing of disks and messages: its owner
//! carries out the steps.
//!
//! A round goes through [`Phase`]s: what was accepted before has drained; every holder has said which regions may differ; that is durable
//! in the own map; the runs are copied one after the other; the log is asked to take note.

use std::time::Duration;

use super::bits::{self, BlockSets};
use crate::base::Time;
use crate::mesh::ids::ReplicaId;
use crate::mesh::message::{CopyResult, Run};
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::picture::Round;

/// Most blocks that are copied at once.
pub(super) const COPY_BLOCKS: u32 = 256;
/// How long an answer is waited for before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How often the log is asked to take note of the end.
const FINISH_AGAIN: Duration = Duration::from_millis(300);
/// While clients are busy this much time passes between two runs, for each block of a run. A floor of progress is left in any case.
const BUSY_PAUSE_PER_BLOCK: Duration = Duration::from_micros(20);

/// How far a round is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// What was accepted in earlier epochs has to end first.
    Draining,
    /// These holders have not said yet which regions may differ.
    Asking { missing: Vec<ReplicaId>, asked: Option<Time> },
    /// The union is being made durable in the own map.
    Merging,
    /// Runs are copied.
    Copying,
    /// Nothing is left.
    Equal { told: Option<Time> },
}

/// A run that is being copied. Writes to it are held.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Current {
    run: Run,
    stage: CopyStage,
    /// Who has said that it cannot read the run.
    unreadable: Vec<ReplicaId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyStage {
    Asking { from: ReplicaId, asked: Option<Time> },
    Writing,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask these holders for their maps.
    AskMaps(Vec<ReplicaId>),
    /// Make these regions durable in the own map, then call [`Joining::merged`].
    Merge,
    /// Ask this holder for a run.
    AskCopy(ReplicaId, Run),
    /// The union is known: tell the source what is left.
    TellLeft,
    /// Ask the log to take note that the replica is equal.
    Finish,
}

/// What is to be done with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// Nothing: it is an answer to something else.
    Ignore,
    /// Write the payload to the run, then call [`Joining::written`].
    Write,
    /// Write zeroes there.
    Zero,
    /// What is here is what all take: call [`Joining::written`].
    Keep,
    /// Nobody can read it: make it unreadable here as well.
    Poison,
}

/// A replica's part in a round.
pub(super) struct Joining {
    pub round: Round,
    phase: Phase,
    /// Regions with something left to copy; in the phases before, the union so far.
    left: Vec<u64>,
    /// Blocks that need no copy: newer data was written, or they have been copied.
    done: BlockSets,
    current: Option<Current>,
    /// Clients' writes of this round that the drive has not ended.
    writes: Vec<Run>,
    /// Readers at the source wait for these.
    hurried: Vec<Run>,
    /// Where the search for the next region goes on.
    cursor: u32,
    pause_until: Time,
    told_left: bool,
    /// When somebody last answered.
    pub heard: Time,
    /// Blocks copied.
    pub copied: u64,
}

impl Joining {
    pub fn new(round: Round, now: Time, words: usize, region_blocks: u64, blocks: u64) -> Joining {
        Joining {
            round,
            phase: Phase::Draining,
            left: vec![0; words],
            done: BlockSets::new(region_blocks, blocks),
            current: None,
            writes: Vec::new(),
            hurried: Vec::new(),
            cursor: 0,
            pause_until: Time::ZERO,
            told_left: false,
            heard: now,
            copied: 0,
        }
    }

    /// A client's write to a run is handed to the drive: no copy of it is begun before that has ended.
    pub fn write_begins(&mut self, run: Run) {
        self.writes.push(run);
    }

    /// A client's write that had begun in this round has ended. What was to be copied there is superseded, but only once it is `stable`: a
    /// write that a loss of power takes away again would leave the replica without either.
    pub fn write_ended(&mut self, run: Run, stable: bool) {
        let Some(at) = self.writes.iter().position(|write| *write == run) else { return };
        self.writes.swap_remove(at);
        if !stable {
            return;
        }
        let region = self.done.region_of(run);
        match self.phase {
            Phase::Draining | Phase::Asking { .. } | Phase::Merging => self.done.insert(run),
            Phase::Copying if bits::has(&self.left, region) => {
                self.done.insert(run);
                self.settle(region);
            }
            Phase::Copying | Phase::Equal { .. } => {}
        }
    }

    fn settle(&mut self, region: u32) {
        if self.done.is_full(region) {
            bits::remove(&mut self.left, region);
            self.done.forget(region);
        }
    }

    /// Whether a write to the run has to wait.
    pub fn holds(&self, run: &Run) -> bool {
        kept(Rule::HoldDuringCopy)
            && self.current.as_ref().is_some_and(|current| current.run.overlaps(run))
    }

    /// Whether the run is equal to the source's, or newer.
    pub fn is_equal(&self, run: Run, region: u32) -> bool {
        match self.phase {
            Phase::Copying => !bits::has(&self.left, region) || self.done.contains(run),
            Phase::Equal { .. } => true,
            _ => false,
        }
    }

    /// The regions that still have something to copy; `None` before the union is known.
    pub fn left(&self) -> Option<&[u64]> {
        matches!(self.phase, Phase::Copying | Phase::Equal { .. }).then_some(&self.left)
    }

    /// How many blocks the union has at most.
    pub fn left_blocks(&self, region_blocks: u64) -> u64 {
        self.left.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() * region_blocks
    }

    /// A reader waits for this run.
    pub fn hurry(&mut self, run: Run) {
        if matches!(self.phase, Phase::Copying)
            && self.hurried.len() < 64
            && !self.hurried.contains(&run)
        {
            self.hurried.push(run);
            self.pause_until = Time::ZERO;
        }
    }

    /// A holder has said which regions may differ.
    pub fn map(&mut self, now: Time, holder: ReplicaId, words: &[u64]) {
        if let Phase::Asking { missing, .. } = &mut self.phase
            && let Some(at) = missing.iter().position(|missing| *missing == holder)
        {
            missing.swap_remove(at);
            bits::unite(&mut self.left, words);
            self.heard = now;
        }
    }

    /// The union, to be merged into the own map.
    pub fn union(&self) -> &[u64] {
        &self.left
    }

    /// Whether the union is being made durable.
    pub fn is_merging(&self) -> bool {
        self.phase == Phase::Merging
    }

    /// The own map has every region of the union, durably.
    pub fn merged(&mut self) {
        if self.phase == Phase::Merging {
            if kept(Rule::S1) {
                self.done.keep(&self.left);
            } else {
                self.done.clear();
            }
            self.phase = Phase::Copying;
            let mut region = bits::next(&self.left, 0);
            while let Some(at) = region {
                self.settle(at);
                region = bits::next(&self.left, at + 1);
            }
        }
    }

    /// The next step, if something is to be done at `now`. `holders` are the other replicas that hold every acknowledged write, `own` the regions
    /// of the own map that may differ.
    pub fn step(
        &mut self,
        now: Time,
        drained: bool,
        holders: &[ReplicaId],
        own: &[u64],
    ) -> Option<Step> {
        // Who is no holder any more is not waited for: what it alone had was never acknowledged.
        if let Phase::Asking { missing, .. } = &mut self.phase {
            missing.retain(|missing| holders.contains(missing));
        }
        if let Some(Current { stage: CopyStage::Asking { from, asked }, .. }) = &mut self.current
            && !holders.contains(from)
        {
            (*from, *asked) = (self.round.source, None);
        }
        match &mut self.phase {
            Phase::Draining if drained => {
                if kept(Rule::JoinersOwnMap) {
                    bits::unite(&mut self.left, own);
                }
                self.phase = Phase::Asking { missing: holders.to_vec(), asked: None };
                self.heard = now;
                self.step(now, drained, holders, own)
            }
            Phase::Draining => None,
            Phase::Asking { missing, .. } if missing.is_empty() => {
                self.phase = Phase::Merging;
                Some(Step::Merge)
            }
            Phase::Asking { missing, asked } => {
                let due = asked.is_none_or(|asked| now >= asked + ASK_AGAIN);
                due.then(|| {
                    *asked = Some(now);
                    Step::AskMaps(missing.clone())
                })
            }
            Phase::Merging => None,
            Phase::Copying if !self.told_left => {
                self.told_left = true;
                Some(Step::TellLeft)
            }
            Phase::Copying => self.copy(now),
            Phase::Equal { told } => {
                let due = told.is_none_or(|told| now >= told + FINISH_AGAIN);
                due.then(|| {
                    *told = Some(now);
                    Step::Finish
                })
            }
        }
    }

    fn copy(&mut self, now: Time) -> Option<Step> {
        if self.current.is_none() {
            let Some(run) = self.next_run(now) else {
                if bits::next(&self.left, 0).is_some() {
                    return None;
                }
                self.phase = Phase::Equal { told: Some(now) };
                self.heard = now;
                return Some(Step::Finish);
            };
            let stage = CopyStage::Asking { from: self.round.source, asked: None };
            self.current = Some(Current { run, stage, unreadable: Vec::new() });
        }
        let current = self.current.as_mut()?;
        let CopyStage::Asking { from, asked } = &mut current.stage else { return None };
        let due = asked.is_none_or(|asked| now >= asked + ASK_AGAIN);
        due.then(|| {
            *asked = Some(now);
            Step::AskCopy(*from, current.run)
        })
    }

    fn next_run(&mut self, now: Time) -> Option<Run> {
        while let Some(run) = self.hurried.pop() {
            let region = self.done.region_of(run);
            if bits::has(&self.left, region)
                && !self.done.contains(run)
                && let Some(run) = self.idle_run(region)
            {
                return Some(run);
            }
        }
        if now < self.pause_until {
            return None;
        }
        let mut next = bits::next(&self.left, self.cursor).or_else(|| bits::next(&self.left, 0));
        while let Some(region) = next {
            if let Some(run) = self.idle_run(region) {
                self.cursor = region;
                return Some(run);
            }
            next = bits::next(&self.left, region + 1);
        }
        None
    }

    /// The first blocks of a region that are to be copied and are not being written.
    fn idle_run(&self, region: u32) -> Option<Run> {
        let run = self.done.gap(region, COPY_BLOCKS)?;
        let written = |write: &&Run| write.overlaps(&run);
        match self.writes.iter().filter(written).map(|write| write.first).min() {
            None => Some(run),
            Some(first) if first > run.first => {
                Some(Run { blocks: (first - run.first) as u32, ..run })
            }
            Some(_) => None,
        }
    }

    /// A holder has answered for a run. `holders` as in [`Joining::step`]; `own` is this replica, if it is one.
    pub fn copy_answer(
        &mut self,
        now: Time,
        from: ReplicaId,
        run: Run,
        result: CopyResult,
        holders: &[ReplicaId],
        own: Option<ReplicaId>,
    ) -> Copied {
        let Some(current) = &mut self.current else { return Copied::Ignore };
        if current.run != run
            || !matches!(current.stage, CopyStage::Asking { from: asked, .. } if asked == from)
        {
            return Copied::Ignore;
        }
        self.heard = now;
        match result {
            CopyResult::NotNow => Copied::Ignore,
            CopyResult::Data | CopyResult::Zeroes => {
                current.stage = CopyStage::Writing;
                if result == CopyResult::Data { Copied::Write } else { Copied::Zero }
            }
            CopyResult::Unreadable => {
                if current.run.blocks > 1 {
                    // Some of the blocks can be read: find out which, one by one.
                    current.run.blocks = 1;
                    current.stage = CopyStage::Asking { from: self.round.source, asked: None };
                    return Copied::Ignore;
                }
                current.unreadable.push(from);
                // All take the block from the same one then, or they would differ in what was never acknowledged: from the first in the order of
                // their numbers. That may be this replica.
                let others = holders.iter().copied().chain(own);
                let next = others.filter(|holder| !current.unreadable.contains(holder)).min();
                if next.is_some() && next == own {
                    current.stage = CopyStage::Writing;
                    return Copied::Keep;
                }
                if let Some(next) = next {
                    current.stage = CopyStage::Asking { from: next, asked: None };
                    return Copied::Ignore;
                }
                current.stage = CopyStage::Writing;
                Copied::Poison
            }
        }
    }

    /// The run that was being copied is on the drive; gives it. `busy`: clients want the drive as well.
    pub fn written(&mut self, now: Time, busy: bool) -> Option<Run> {
        let current = self.current.take()?;
        if current.stage != CopyStage::Writing {
            self.current = Some(current);
            return None;
        }
        self.heard = now;
        self.copied += u64::from(current.run.blocks);
        self.done.insert(current.run);
        self.settle(self.done.region_of(current.run));
        if busy {
            self.pause_until = now + BUSY_PAUSE_PER_BLOCK * current.run.blocks;
        }
        Some(current.run)
    }

    /// The run on its way to the drive could not be written.
    pub fn not_written(&mut self) {
        self.current = None;
    }

    /// Whose answer the round waits for.
    pub fn waits_for(&self) -> Option<ReplicaId> {
        match (&self.phase, &self.current) {
            (Phase::Asking { missing, .. }, _) => missing.first().copied(),
            (Phase::Copying, Some(Current { stage: CopyStage::Asking { from, .. }, .. })) => {
                Some(*from)
            }
            _ => None,
        }
    }

    /// When [`Joining::step`] may have something to do again though nothing happens.
    pub fn next_timer(&self, now: Time) -> Time {
        match (&self.phase, &self.current) {
            (Phase::Copying, None) => self.pause_until.max(now),
            _ => now + ASK_AGAIN,
        }
    }
}
