//! What goes wrong without one rule. Each goes well as the protocol is, and those that name their rule go badly without it with one of a few seeds;
//! the others show the trace, and the harm needs more luck.

use weft::mesh::mutations::Rule;
use weft::mesh::picture::AttachMode::{Exclusive, SharedWrite};
use weft::mesh::picture::Timing;

use super::{Scenario, Script};
use crate::plan::{Act, MS, Mix, Wish};
use crate::random::MILLION;
use crate::world::drive::Ailment;
use crate::world::network::Quality;

const WELL: Ailment = Ailment { hung: false, failing: false, full: false, slow: 0 };
const HUNG: Ailment = Ailment { hung: true, ..WELL };
const READS: Mix = Mix { writes: 0, zeroes: 0, hot: 0, ..Mix::USUAL };
const MIXED: Mix =
    Mix { zeroes: 0, flushes: 0, hot: 90, hot_blocks: 8, scribbled: 0, ..Mix::USUAL };

/// All of them.
pub fn all() -> Vec<Scenario> {
    let scenario = |name, about, rule, script| Scenario { name, about, rule, script };
    vec![
        scenario(
            "late-duplicates",
            "Requests to one replica are sent again over another way; the first ones arrive late, after newer writes.",
            None,
            late_duplicates,
        ),
        scenario(
            "joiner-restarts",
            "A joiner that has answered writes restarts, and takes its round up again before the source has them.",
            None,
            joiner_restarts,
        ),
        scenario(
            "read-repair",
            "A block that could not be read is taken from the other replica, while it is written.",
            Some(Rule::S11),
            read_repair,
        ),
        scenario(
            "late-finish",
            "Two clients take the volume from each other while rounds end: the end of an earlier round counts for nothing in a later one.",
            Some(Rule::S16),
            late_finish,
        ),
        scenario(
            "old-drive",
            "A drive falls back to an image of itself, and says that it has everything.",
            Some(Rule::S18),
            old_drive,
        ),
        scenario(
            "slow-source",
            "A client dies while the source of the round still has its writes on the way to a slow drive.",
            None,
            slow_source,
        ),
        scenario(
            "cut-off-with-its-client",
            "A replica is cut off together with a client that reads it, and the others go on without it.",
            Some(Rule::LeaseCheck),
            cut_off_with_its_client,
        ),
    ]
}

fn late_duplicates(script: Script) -> Script {
    let rough =
        Quality { overtaken: MILLION / 10, late: 400 * MS, loss: MILLION / 50, ..Quality::GOOD };
    script
        .mirror(&[1, 2])
        .client_with(3, Exclusive, 300, MIXED)
        .at(500)
        .act(Act::Link { from: 2, to: 1, quality: rough })
        .until(6000)
}

fn joiner_restarts(mut script: Script) -> Script {
    script = script.mirror(&[1, 2]).client_with(3, Exclusive, 300, Mix::WRITES);
    // Either may be the one that joins, and its round at another moment with each seed.
    let seed = script.seed();
    let (joiner, source) = if seed.is_multiple_of(2) { (2, 0) } else { (1, 1) };
    let again = 1300 + seed / 2 % 12 * 30;
    script
        .at(500)
        .kill(joiner)
        .at(1200)
        .ail(source, Ailment { slow: 60, ..WELL })
        .start(joiner)
        .at(again)
        .ail(source, HUNG)
        .at(again + 60)
        .kill(joiner)
        .at(again + 70)
        .start(joiner)
        .at(again + 400)
        .ail(source, WELL)
        .until(again + 450)
}

fn read_repair(mut script: Script) -> Script {
    let distant = Quality { latency: 2 * MS, ..Quality::GOOD };
    script = script.mirror(&[1, 2]).puppet(1, Exclusive).at(100);
    script = script.ask(0, Wish::Zero { first: 96, blocks: 6, unmap: true });
    for first in (0..96).step_by(6) {
        script = script.ask(0, Wish::Write { first, blocks: 6 });
    }
    script = script.at(2000);
    for drive in 0..2 {
        script = script.ail(drive, Ailment { slow: 50, ..WELL });
    }
    script = script.act(Act::Link { from: 0, to: 1, quality: distant }).act(Act::Link {
        from: 1,
        to: 0,
        quality: distant,
    });
    for block in 0..96 {
        script = script
            .at(2100 + block * 20)
            .act(Act::Spoil { volume: 0, block, replica: block as usize % 2 })
            .ask(0, Wish::Read { first: block, blocks: 1 })
            .ask(0, Wish::Write { first: block, blocks: 1 });
    }
    script.until(5000)
}

fn late_finish(script: Script) -> Script {
    let distant = Quality { latency: 12 * MS, jitter: 12 * MS, ..Quality::GOOD };
    let seed = script.seed();
    let first = 1500 + seed % 7 * 5;
    script
        .mirror(&[1, 2])
        .client_with(1, Exclusive, 300, MIXED)
        .client_with(2, Exclusive, 300, MIXED)
        .network(distant)
        .at(first)
        .act(Act::Attach { client: 1, preempt: true })
        .at(first + 100 + seed * 11 % 200)
        .act(Act::Attach { client: 0, preempt: true })
        .until(2200)
}

fn old_drive(mut script: Script) -> Script {
    script = script
        .mirror(&[1, 2])
        .puppet(3, Exclusive)
        .at(500)
        .act(Act::SaveDrive { drive: 0 })
        .kill(1)
        .at(600)
        .start(1)
        .at(2000);
    for first in (0..60).step_by(6) {
        script = script.ask(0, Wish::Write { first, blocks: 6 });
    }
    script = script.at(6000).act(Act::RestoreDrive { drive: 0 }).at(8000);
    for first in (0..60).step_by(6) {
        script = script.ask(0, Wish::Read { first, blocks: 6 });
    }
    script.until(9000)
}

fn slow_source(script: Script) -> Script {
    let seed = script.seed();
    let slow = seed as usize % 2;
    let begin = 800 + seed / 2 % 10 * 17;
    script
        .timing(Timing { drive_timeout_ms: 3_000, ..Timing::default() })
        .mirror(&[1, 2])
        .client_with(3, Exclusive, 200, Mix::WRITES)
        .client_with(1, Exclusive, 0, Mix::WRITES)
        .at(begin)
        .ail(slow, Ailment { slow: 4000, ..WELL })
        .at(begin + 100)
        .act(Act::Attach { client: 1, preempt: true })
        .at(begin + 700)
        .ail(slow, WELL)
        .until(begin + 800)
}

fn cut_off_with_its_client(mut script: Script) -> Script {
    script = script
        .timing(Timing { revoke_ms: 1000, ..Timing::default() })
        .mirror(&[1, 2])
        .client_with(1, SharedWrite, 50, READS)
        .client_with(2, SharedWrite, 50, READS)
        .client_with(3, SharedWrite, 200, Mix::WRITES);
    // One of the two is read first.
    for node in [1, 2] {
        let begin = 1000 + 5000 * (node as u64 - 1);
        script = script.at(begin).isolate(node).at(begin + 4000);
        for other in (1..=3).filter(|other| *other != node) {
            script = script.mend(node, other);
        }
    }
    script.until(12_000)
}
