//! Shapes of a network, or of time, that break other systems.

use weft::mesh::picture::AttachMode::{Exclusive, SharedWrite};

use super::Scenario;
use crate::world::host::Rest;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "two-cannot-talk",
            about: "A and B cannot talk and each thinks the other dead; C sees both. A and B write to a volume mirrored over A and B all the while.",
            rule: None,
            script: |script| {
                script
                    .mirror(&[1, 2])
                    .client(1, SharedWrite, 40)
                    .client(2, SharedWrite, 40)
                    .at(1000)
                    .say("A (n1) and B (n2) cannot talk any more; C (n3) sees both")
                    .cut(1, 2)
                    .at(5000)
                    .mend(1, 2)
                    .until(7000)
                    .keeps_replicas()
            },
        },
        Scenario {
            name: "sees-only-one",
            about: "Client A reaches both drives, client B only one; both read and write the same blocks of a shared volume.",
            rule: None,
            script: |script| {
                script
                    .nodes(4, 3)
                    .mirror(&[1, 2])
                    .client(3, SharedWrite, 40)
                    .client(4, SharedWrite, 40)
                    .at(1000)
                    .say("client B (n4) reaches n1 only")
                    .cut(4, 2)
                    .cut(4, 3)
                    .at(5000)
                    .mend(4, 2)
                    .mend(4, 3)
                    .until(7000)
            },
        },
        Scenario {
            name: "quorum-loss",
            about: "Two of three members die for longer than T, then one comes back: I/O stops, nobody is left behind in panic, and all goes on.",
            rule: None,
            script: |script| {
                script
                    .nodes(5, 3)
                    .mirror(&[4, 5])
                    .client(4, Exclusive, 50)
                    .at(1000)
                    .kill(1)
                    .kill(2)
                    .at(5000)
                    .start(1)
                    .at(7000)
                    .start(2)
                    .until(9000)
            },
        },
        Scenario {
            name: "constrained-election",
            about: "The leader is cut off, and only one of the others reaches a majority: that one must lead.",
            rule: None,
            script: |script| {
                script
                    .nodes(5, 5)
                    .mirror(&[1, 2])
                    .client(3, Exclusive, 50)
                    .at(1000)
                    .say("n3 reaches all but n1; the others reach n3 only, and n1 nobody")
                    .isolate(1)
                    .cut(2, 4)
                    .cut(2, 5)
                    .cut(4, 5)
                    .until(7000)
            },
        },
        Scenario {
            name: "chained",
            about: "A–C and B–C, not A–B: the leader and another member cannot talk. No replica is left behind, and no I/O fails.",
            rule: None,
            script: |script| {
                script
                    .mirror(&[1, 2])
                    .client(1, Exclusive, 50)
                    .at(1000)
                    .cut(1, 2)
                    .until(6000)
                    .keeps_replicas()
                    .stalls_below(400)
            },
        },
        Scenario {
            name: "one-replica-client",
            about: "A client sees only one replica, over no route the other: that one is left behind for all.",
            rule: None,
            script: |script| {
                script
                    .nodes(3, 3)
                    .mirror(&[1, 2])
                    .client(3, SharedWrite, 50)
                    .client(2, SharedWrite, 50)
                    .at(1000)
                    .isolate(2)
                    .at(5000)
                    .mend(2, 1)
                    .mend(2, 3)
                    .until(8000)
            },
        },
        Scenario {
            name: "paused-past-lease",
            about: "A replica's node is paused for longer than its lease, in the midst of a step, and goes on as if nothing had been.",
            rule: None,
            script: |script| {
                script
                    .nodes(4, 3)
                    .mirror(&[1, 4])
                    .client(2, SharedWrite, 50)
                    .client(3, SharedWrite, 50)
                    .clocks(&[10_000, -10_000, 10_000, -10_000])
                    .at(1000)
                    .pause(4, Rest::PausedMidStep, 3500)
                    .until(8000)
            },
        },
    ]
}
