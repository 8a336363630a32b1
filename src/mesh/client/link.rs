//! A client's side of one replica: the session with it, and what is known of its health.

use super::flight::Flight;
use crate::base::Time;
use crate::mesh::ids::{
    DriveId, Incarnation, Index, NodeId, ReplicaId, SessionNumber, WriteNumber,
};
use crate::mesh::route::Route;

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None is wanted yet.
    Closed,
    /// Asked for; asked again at this time.
    Opening(Time),
    /// Open.
    Open,
    /// It was refused, or its drive failed: another is opened at this time.
    Pausing(Time),
}

/// How long a replica has given no sign of life while one was due.
#[derive(Clone, Copy)]
pub struct Silence {
    /// When this attempt began; [`Time::NEVER`] while no answer is due.
    pub since: Time,
    /// What had been applied then.
    pub index: Index,
    /// Number of the pings of this attempt; 0 when none were sent.
    pub probe: u64,
    /// A way over which one was answered, though it is not the one in use.
    pub other: Option<Route>,
    /// Attempts in a row that failed.
    pub failed: u32,
}

impl Silence {
    /// No answer is due.
    pub const NONE: Silence =
        Silence { since: Time::NEVER, index: Index(0), probe: 0, other: None, failed: 0 };
}

/// Why a replica that answers is not good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has no lease, or lags behind.
    NotServing,
    /// Its target does not have it.
    Absent,
    /// Its drive failed.
    Device,
}

/// A fault that lasts.
#[derive(Clone, Copy)]
pub struct Trouble {
    /// What is wrong.
    pub fault: Fault,
    /// What had been applied when it was first seen, or at the last proposal.
    pub index: Index,
    /// When an eviction is proposed (again).
    pub due: Time,
}

/// One replica of a group's write set in one epoch.
pub struct Link {
    /// The replica.
    pub replica: ReplicaId,
    /// Its drive.
    pub drive: DriveId,
    /// The drive's incarnation.
    pub incarnation: Option<Incarnation>,
    /// Where the drive is.
    pub node: NodeId,
    /// The ways to that node.
    pub path: u32,
    /// The way of the session.
    pub route: Route,
    /// Where the session stands.
    pub phase: Phase,
    /// Its number.
    pub session: SessionNumber,
    /// I/O without an answer.
    pub flight: Flight,
    /// Something waits for room in the session.
    pub starved: bool,
    /// The watermark that was last sent.
    pub told: WriteNumber,
    /// Refusals in a row.
    pub refusals: u32,
    /// Whether signs of life are missing.
    pub silence: Silence,
    /// Whether it answers, but not well.
    pub trouble: Option<Trouble>,
}

impl Link {
    /// Without a session.
    pub fn new(replica: ReplicaId, drive: DriveId, node: NodeId, path: u32) -> Link {
        Link {
            replica,
            drive,
            incarnation: None,
            node,
            path,
            route: Route::DIRECT,
            phase: Phase::Closed,
            session: SessionNumber(0),
            flight: Flight::default(),
            starved: false,
            told: WriteNumber(0),
            refusals: 0,
            silence: Silence::NONE,
            trouble: None,
        }
    }

    /// An answer is due from now on.
    pub fn expect(&mut self, now: Time, applied: Index) {
        if self.silence.since == Time::NEVER {
            self.silence = Silence { since: now, index: applied, ..Silence::NONE };
        }
    }

    /// The replica's target lives.
    pub fn sign_of_life(&mut self, now: Time, applied: Index) {
        self.silence = Silence::NONE;
        if !self.flight.is_empty() || matches!(self.phase, Phase::Opening(_)) {
            self.expect(now, applied);
        }
    }
}
