//! The check of a block in which no value was written twice.
//!
//! The zone of a value lies between the first end and the last start of all that wrote or read it. When the first end comes before the last
//! start the block must hold the value all that time: it is a *holding* zone. Otherwise there are moments at which all of it may happen at once. There is an order
//! if and only if no two holding zones meet, no other zone lies within a holding one, and no read ends before its write starts.

use std::collections::HashMap;

use super::block::{BlockOperation, Disorder, Kind, Verdict};
use super::history::NEVER;
use crate::payload::ZERO;

/// A value's zone, and the requests that bound it.
#[derive(Clone, Copy, Debug)]
struct Zone {
    first_end: (u64, usize),
    last_start: (u64, usize),
}

impl Zone {
    fn of(operation: &BlockOperation) -> Zone {
        let (number, ended) = (operation.number, operation.ended);
        Zone { first_end: (ended, number), last_start: (operation.invoked, number) }
    }

    fn add(&mut self, operation: &BlockOperation) {
        let other = Zone::of(operation);
        self.first_end = self.first_end.min(other.first_end);
        self.last_start = self.last_start.max(other.last_start);
    }

    fn holds(&self) -> bool {
        self.first_end.0 < self.last_start.0
    }
}

/// Checks what was done to a block that began as zeroes, and to which none were written.
pub fn check(operations: &[BlockOperation]) -> Verdict {
    match zones(operations) {
        Ok(zones) => compare(zones),
        Err(disorder) => Verdict::Disordered(disorder),
    }
}

fn zones(operations: &[BlockOperation]) -> Result<Vec<Zone>, Disorder> {
    // Only looked up, never walked through: its order is not seen.
    let mut places: HashMap<u64, usize> = HashMap::from([(ZERO, 0)]);
    let mut zones = vec![Zone { first_end: (0, usize::MAX), last_start: (0, usize::MAX) }];
    for write in operations.iter().filter(|operation| operation.kind == Kind::Write) {
        places.insert(write.value, zones.len());
        zones.push(Zone::of(write));
    }
    let starts: Vec<u64> = zones.iter().map(|zone| zone.last_start.0).collect();
    for read in operations.iter().filter(|operation| operation.kind == Kind::Read) {
        let read_by = read.number;
        let Some(&place) = places.get(&read.value) else {
            return Err(Disorder::FromNowhere { read: read_by });
        };
        if read.ended < starts[place] {
            return Err(Disorder::FromTheFuture { read: read_by });
        }
        zones[place].add(read);
    }
    // A write that nobody has seen and nobody was told of may never have happened.
    zones.retain(|zone| zone.first_end.0 != NEVER);
    Ok(zones)
}

fn compare(zones: Vec<Zone>) -> Verdict {
    let (mut holding, other): (Vec<Zone>, Vec<Zone>) = zones.into_iter().partition(Zone::holds);
    holding.sort_by_key(|zone| zone.first_end);
    for pair in holding.windows(2) {
        if pair[1].first_end < pair[0].last_start {
            return interleaved(&pair[0], &pair[1]);
        }
    }
    for zone in other {
        let after = holding.partition_point(|held| held.first_end < zone.last_start);
        if let Some(around) = after.checked_sub(1).map(|before| &holding[before])
            && zone.first_end < around.last_start
        {
            return interleaved(around, &zone);
        }
    }
    Verdict::Ordered
}

fn interleaved(one: &Zone, other: &Zone) -> Verdict {
    let bounds = [one.first_end, other.last_start, other.first_end, one.last_start];
    let mut shown_by: Vec<usize> = bounds
        .into_iter()
        .map(|(_, number)| number)
        .filter(|number| *number != usize::MAX)
        .collect();
    shown_by.sort_unstable();
    shown_by.dedup();
    Verdict::Disordered(Disorder::Interleaved { shown_by })
}
