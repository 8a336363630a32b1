//! The source's part in a round with `Reconciling` joiners: which blocks are known to be equal on every holder. Only these are read: a
//! reader that saw what another holder lacks would see it vanish when that one becomes the source.

use std::time::Duration;

use super::bits::{self, BlockSets};
use crate::base::Time;
use crate::mesh::ids::{Incarnation, ReplicaId};
use crate::mesh::message::{Left, Run};
use crate::mesh::picture::Round;

/// How long an answer is waited for before a joiner is asked to hurry again.
const HURRY_AGAIN: Duration = Duration::from_millis(50);

/// What the source knows of a joiner.
struct Joiner {
    replica: ReplicaId,
    incarnation: Incarnation,
    round: Round,
    /// Regions that may differ; all, before it has the union.
    left: Option<Vec<u64>>,
    repaired: BlockSets,
    heard: Time,
}

/// The source's part.
pub(super) struct Sourcing {
    joiners: Vec<Joiner>,
    /// What readers wait for, and when the joiners were last asked for it.
    wanted: Vec<(Run, Time)>,
    region_blocks: u64,
    blocks: u64,
}

impl Sourcing {
    pub fn new(region_blocks: u64, blocks: u64) -> Sourcing {
        Sourcing { joiners: Vec::new(), wanted: Vec::new(), region_blocks, blocks }
    }

    /// The joiners are these now. What was known of one that goes on in the same round, in the same incarnation, stays known.
    pub fn set(
        &mut self,
        now: Time,
        joiners: impl Iterator<Item = (ReplicaId, Incarnation, Round)>,
    ) {
        let mut before = std::mem::take(&mut self.joiners);
        for (replica, incarnation, round) in joiners {
            let same = |joiner: &Joiner| {
                (joiner.replica, joiner.incarnation, joiner.round) == (replica, incarnation, round)
            };
            let joiner = match before.iter().position(same) {
                Some(at) => before.swap_remove(at),
                None => {
                    let repaired = BlockSets::new(self.region_blocks, self.blocks);
                    Joiner { replica, incarnation, round, left: None, repaired, heard: now }
                }
            };
            self.joiners.push(joiner);
        }
    }

    /// A joiner says what is left to copy, or what has been copied.
    pub fn progress(
        &mut self,
        now: Time,
        replica: ReplicaId,
        incarnation: Incarnation,
        round: Round,
        left: Left,
    ) {
        let same = |joiner: &&mut Joiner| {
            (joiner.replica, joiner.incarnation, joiner.round) == (replica, incarnation, round)
        };
        let Some(joiner) = self.joiners.iter_mut().find(same) else { return };
        joiner.heard = now;
        match left {
            // It only ever shrinks within a round: what comes late says less.
            Left::Regions(words) => match &mut joiner.left {
                Some(left) => left.iter_mut().zip(&words).for_each(|(left, word)| *left &= word),
                None => joiner.left = Some(words),
            },
            Left::Repaired(runs) => {
                let (region_blocks, blocks) = (self.region_blocks, self.blocks);
                let inside = |run: &&Run| {
                    run.blocks > 0
                        && run.end() <= blocks
                        && run.first / region_blocks == (run.end() - 1) / region_blocks
                };
                runs.iter().filter(inside).for_each(|run| joiner.repaired.insert(*run));
            }
        }
    }

    /// Whether a run, which lies in one region, is equal on every holder.
    pub fn is_equal(&self, run: Run) -> bool {
        let region = (run.first / self.region_blocks) as u32;
        self.joiners.iter().all(|joiner| {
            joiner.left.as_ref().is_some_and(|left| !bits::has(left, region))
                || joiner.repaired.contains(run)
        })
    }

    /// A reader waits for a run; whether the joiners are to be asked for it now.
    pub fn want(&mut self, now: Time, run: Run) -> bool {
        self.wanted.retain(|(_, asked)| now < *asked + 4 * HURRY_AGAIN);
        match self.wanted.iter_mut().find(|(wanted, _)| *wanted == run) {
            Some((_, asked)) if now < *asked + HURRY_AGAIN => false,
            Some((_, asked)) => {
                *asked = now;
                true
            }
            None => {
                self.wanted.push((run, now));
                true
            }
        }
    }

    /// The joiners for which a run is not known to be equal, with their rounds.
    pub fn behind(&self, run: Run) -> impl Iterator<Item = (ReplicaId, Incarnation, Round)> {
        let region = (run.first / self.region_blocks) as u32;
        let lacks = move |joiner: &&Joiner| {
            !joiner.repaired.contains(run)
                && joiner.left.as_ref().is_none_or(|left| bits::has(left, region))
        };
        self.joiners
            .iter()
            .filter(lacks)
            .map(|joiner| (joiner.replica, joiner.incarnation, joiner.round))
    }

    /// A joiner that has not been heard of since `before`.
    pub fn silent(&self, before: Time) -> Option<ReplicaId> {
        self.joiners.iter().find(|joiner| joiner.heard < before).map(|joiner| joiner.replica)
    }
}
