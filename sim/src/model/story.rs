//! Steps as lines that a reader can follow: replicas are A, B, C, clients X and Y.

use super::{picture::Entry, step::Step};

/// One step as one line.
pub fn line(step: Step) -> String {
    match step {
        Step::ClientApplies(c) => format!("{} applies its next entry", client(c)),
        Step::TargetApplies(t) => format!("{} applies its next entry", replica(t)),
        Step::WaitPasses => "W passes: leases from before the next removal have ended".to_owned(),
        Step::Decide(entry) => format!("decided: {}", decided(entry)),
        Step::Propose(t) => format!("{} proposes its FinishSync", replica(t)),
        Step::Restart(t) => format!("{} restarts", replica(t)),
        Step::Write(c) => format!("{} begins a write", client(c)),
        Step::Arrive(c, t) => format!("{}'s write arrives at {}", client(c), replica(t)),
        Step::ArriveLate(c, t) => {
            format!("{}'s write of an older session arrives at {}", client(c), replica(t))
        }
        Step::Stable(c, t) => format!("{}'s write is stable on {}", client(c), replica(t)),
        Step::SwitchRoute(c, t) => format!("{} takes another route to {}", client(c), replica(t)),
        Step::Acknowledge(c) => format!("{} acknowledges its write", client(c)),
        Step::Read(c, t) => format!("{} reads from {}", client(c), replica(t)),
        Step::Clear(t) => format!("{} clears its intent bit", replica(t)),
        Step::TakeMap(t, h) => format!("{} takes the map of {}", replica(t), replica(h)),
        Step::Unite(t) => format!("{} has the union", replica(t)),
        Step::CopyRead(t) => format!("{} reads the block from its source", replica(t)),
        Step::CopyWrite(t) => format!("{} writes what it read", replica(t)),
        Step::Report(t) => format!("{} reports the block repaired", replica(t)),
    }
}

fn decided(entry: Entry) -> String {
    let name = |r: u8| replica(usize::from(r));
    match entry {
        Entry::Free => "nothing".to_owned(),
        Entry::Evict(r) => format!("Evict({})", name(r)),
        Entry::BeginSync(r) => format!("BeginSync({})", name(r)),
        Entry::FinishSync(r) => format!("FinishSync({})", name(r)),
        Entry::Attach { client: c, source } => {
            format!("Revoke and attach {}, source {}", client(usize::from(c)), name(source))
        }
        Entry::Incarnation(r) => format!("a new incarnation of {}", name(r)),
    }
}

fn client(client: usize) -> char {
    if client == 0 { 'X' } else { 'Y' }
}

fn replica(replica: usize) -> char {
    ['A', 'B', 'C'].get(replica).copied().unwrap_or('?')
}
