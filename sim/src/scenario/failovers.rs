//! What can fail under a client, one thing at a time.

use weft::mesh::picture::{AttachMode, Timing};

use super::{Scenario, Script};
use crate::plan::{Mix, Plan};
use crate::world::drive::Ailment;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The node of a replica loses power.
    NodeDies,
    /// Its daemon dies, and comes back at once.
    DaemonRestarts,
    /// The drive of a replica fails.
    DriveFails,
    /// It hangs.
    DriveHangs,
    /// The link between the client and a replica is cut; another way exists.
    LinkCut,
    /// A replica's node is cut off from all.
    NodeCutOff,
    /// The leader of the log loses power. It has no replica.
    LeaderDies,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] = [
        Kind::NodeDies,
        Kind::DaemonRestarts,
        Kind::DriveFails,
        Kind::DriveHangs,
        Kind::LinkCut,
        Kind::NodeCutOff,
        Kind::LeaderDies,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Kind::NodeDies => "node-dies",
            Kind::DaemonRestarts => "daemon-restarts",
            Kind::DriveFails => "drive-fails",
            Kind::DriveHangs => "drive-hangs",
            Kind::LinkCut => "link-cut",
            Kind::NodeCutOff => "node-cut-off",
            Kind::LeaderDies => "leader-dies",
        }
    }
}

/// A client that writes 200 times a second to a mirror on two other nodes, of which something fails.
pub fn failover(kind: Kind, timing: Timing, mode: AttachMode, seed: u64) -> Plan {
    script(Script::new(kind.name(), seed), kind, timing, mode, seed).plan()
}

fn script(script: Script, kind: Kind, timing: Timing, mode: AttachMode, seed: u64) -> Script {
    let mix = Mix { hot: 50, ..Mix::WRITES };
    // At another moment of the leases with each seed.
    let script = script
        .nodes(5, 3)
        .timing(timing)
        .mirror(&[4, 5])
        .client_with(2, mode, 200, mix)
        .at(1500 + seed * 7 % 250)
        .until(6000);
    let well = Ailment::default();
    match kind {
        Kind::NodeDies => script.power_off(5),
        Kind::DaemonRestarts => script.kill(5).start(5),
        Kind::DriveFails => script.ail(1, Ailment { failing: true, ..well }),
        Kind::DriveHangs => script.ail(1, Ailment { hung: true, ..well }),
        Kind::LinkCut => script.cut(2, 5).keeps_replicas(),
        Kind::NodeCutOff => script.isolate(5),
        Kind::LeaderDies => script.power_off(1).keeps_replicas(),
    }
}

/// One scenario for each.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "node-dies",
            about: "The node of one of two replicas loses power under a writing client.",
            rule: None,
            script: |it| {
                script(it, Kind::NodeDies, Timing::default(), AttachMode::Exclusive, 0)
                    .at(5000)
                    .start(5)
                    .until(9000)
            },
        },
        Scenario {
            name: "drive-fails",
            about: "The drive of one of two replicas fails under a writing client.",
            rule: None,
            script: |it| script(it, Kind::DriveFails, Timing::default(), AttachMode::Exclusive, 0),
        },
        Scenario {
            name: "drive-hangs",
            about: "The drive of one of two replicas does not answer any more.",
            rule: None,
            script: |it| script(it, Kind::DriveHangs, Timing::default(), AttachMode::Exclusive, 0),
        },
        Scenario {
            name: "link-cut",
            about: "The link between a client and one replica is cut: it goes through another node.",
            rule: None,
            script: |it| script(it, Kind::LinkCut, Timing::default(), AttachMode::Exclusive, 0),
        },
    ]
}
