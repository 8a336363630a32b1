//! The check of a block in which a value may be written more than once: a search through all orders, kept small.
//!
//! It goes through asking and answering in order of time and keeps all states in which the block can be: its value, and which of the open
//! requests have happened. A read happens as soon as it can, since it changes nothing; a write as late as it can: when an open request
//! ends that has not happened yet, all ways to make it happen are tried. (Wing and Gong, 1993, with the states merged as Lowe does, 2017.)

use std::collections::{HashMap, HashSet};

use super::block::{BlockOperation, Disorder, Kind, Verdict};
use super::history::NEVER;
use crate::payload::ZERO;

/// Most open requests at one time.
const OPEN_MAX: u32 = 64;
/// Most states at one time.
const STATES_MAX: usize = 1 << 16;

/// A state that the block can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    value: u64,
    /// The open requests that have happened, by place.
    happened: u64,
}

/// Zeroing writes without an answer are all alike: how many of them a state has used. Fewer is better.
type States = HashMap<State, u32>;

/// What happens in order of time.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Start(usize),
    End(usize),
}

/// What is open.
struct Open<'a> {
    operations: &'a [BlockOperation],
    /// By place: the operation there.
    places: [Option<usize>; OPEN_MAX as usize],
    /// Zeroing writes without an answer that were asked for.
    zeroings: u32,
}

/// Checks what was done to a block that began as zeroes.
pub fn check(operations: &[BlockOperation]) -> Verdict {
    let moments = match moments(operations) {
        Ok(moments) => moments,
        Err(disorder) => return Verdict::Disordered(disorder),
    };
    let mut open = Open { operations, places: [None; OPEN_MAX as usize], zeroings: 0 };
    let mut states = States::from([(State { value: ZERO, happened: 0 }, 0)]);
    for moment in moments {
        match moment {
            Moment::Start(at) if operations[at].ended == NEVER && operations[at].value == ZERO => {
                open.zeroings += 1;
            }
            Moment::Start(at) => match open.start(at, states) {
                Some(started) => states = started,
                None => return Verdict::Undecided,
            },
            Moment::End(at) => {
                let Some(ended) = open.end(at, states) else { return Verdict::Undecided };
                if ended.is_empty() {
                    let at = operations[at].number;
                    return Verdict::Disordered(Disorder::NoOrder { at });
                }
                states = ended;
            }
        }
    }
    Verdict::Ordered
}

/// Starts and ends in order. A write without an answer ends, at the latest, when the first read of it does; if none does, it may as well
/// not have happened.
fn moments(operations: &[BlockOperation]) -> Result<Vec<Moment>, Disorder> {
    let mut seen: HashMap<u64, u64> = HashMap::new();
    let written: HashSet<u64> =
        operations.iter().filter(|done| done.kind == Kind::Write).map(|done| done.value).collect();
    for read in operations.iter().filter(|done| done.kind == Kind::Read) {
        if read.value != ZERO && !written.contains(&read.value) {
            return Err(Disorder::FromNowhere { read: read.number });
        }
        let first = seen.entry(read.value).or_insert(read.ended);
        *first = read.ended.min(*first);
    }
    let mut moments: Vec<(u64, u8, Moment)> = Vec::with_capacity(operations.len() * 2);
    for (at, operation) in operations.iter().enumerate() {
        if operation.ended != NEVER {
            moments.push((operation.ended, 1, Moment::End(at)));
        } else if operation.value != ZERO {
            let Some(&end) = seen.get(&operation.value) else { continue };
            if end < operation.invoked {
                continue;
            }
            // Just before the read ends.
            moments.push((end, 0, Moment::End(at)));
        }
        moments.push((operation.invoked, 0, Moment::Start(at)));
    }
    moments.sort_by_key(|(time, order, _)| (*time, *order));
    Ok(moments.into_iter().map(|(_, _, moment)| moment).collect())
}

impl Open<'_> {
    fn start(&mut self, at: usize, states: States) -> Option<States> {
        let place = self.places.iter().position(Option::is_none)?;
        self.places[place] = Some(at);
        let operation = &self.operations[at];
        if operation.kind == Kind::Write {
            return Some(states);
        }
        let started = states.into_iter().map(|(mut state, used)| {
            state.happened |= u64::from(state.value == operation.value) << place;
            (state, used)
        });
        Some(started.collect())
    }

    fn end(&mut self, at: usize, states: States) -> Option<States> {
        let place = self.places.iter().position(|open| *open == Some(at))?;
        let bit = 1 << place;
        let mut ended = States::new();
        let mut tried = States::new();
        let mut left: Vec<(State, u32)> = states.into_iter().collect();
        while let Some((state, used)) = left.pop() {
            if state.happened & bit != 0 {
                keep_better(&mut ended, State { happened: state.happened & !bit, ..state }, used);
            } else if keep_better(&mut tried, state, used) {
                self.write_each(state, used, &mut left);
            }
            if tried.len() > STATES_MAX {
                return None;
            }
        }
        self.places[place] = None;
        Some(ended)
    }

    /// Adds the states after each of the writes that can happen now.
    fn write_each(&self, state: State, used: u32, after: &mut Vec<(State, u32)>) {
        for (place, at) in self.places.iter().enumerate() {
            let Some(write) = at.map(|at| &self.operations[at]) else { continue };
            if write.kind == Kind::Write && state.happened >> place & 1 == 0 {
                let happened = state.happened | 1 << place;
                after.push((self.with_reads(State { value: write.value, happened }), used));
            }
        }
        if used < self.zeroings && state.value != ZERO {
            after.push((self.with_reads(State { value: ZERO, ..state }), used + 1));
        }
    }

    /// All open reads of the present value happen.
    fn with_reads(&self, mut state: State) -> State {
        for (place, at) in self.places.iter().enumerate() {
            let Some(read) = at.map(|at| &self.operations[at]) else { continue };
            let gives = read.kind == Kind::Read && read.value == state.value;
            state.happened |= u64::from(gives) << place;
        }
        state
    }
}

/// Notes a state unless it is known with as few zeroings used. Whether it is news.
fn keep_better(states: &mut States, state: State, used: u32) -> bool {
    match states.get_mut(&state) {
        Some(known) if *known <= used => false,
        Some(known) => {
            *known = used;
            true
        }
        None => {
            states.insert(state, used);
            true
        }
    }
}
