//! A host: its clock, its daemon, its store.

use weft::base::{Time, Uuid};
use weft::consensus::NodeId;
use weft::mesh::node::{Input, Output};
use weft::mesh::picture::Domains;

use super::clock::Clock;
use super::store::Store;
use crate::payload::Blocks;

/// Why a daemon does nothing for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It is not scheduled: what comes is there when it goes on.
    Paused,
    /// The same, and what it was just doing to the world happens only when it goes on.
    PausedMidStep,
    /// The host sleeps: packets to it are lost.
    Suspended,
}

impl std::fmt::Display for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Rest::Paused => "paused",
            Rest::PausedMidStep => "paused in the midst of a step",
            Rest::Suspended => "suspended",
        })
    }
}

/// What a daemon is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It is not running.
    Down,
    /// It runs.
    Up,
    /// It rests.
    Resting(Rest),
}

/// A host.
pub struct Host<M> {
    /// Its number in the mesh.
    pub node: NodeId,
    /// Its lasting name.
    pub uuid: Uuid,
    /// Where it is.
    pub domains: Domains,
    /// Its clock.
    pub clock: Clock,
    /// Its store.
    pub store: Store,
    /// The daemon, while there is one.
    pub machine: Option<M>,
    /// What the daemon is doing.
    pub activity: Activity,
    /// Counts starts and ends of the daemon: what was meant for an earlier one does not reach this one.
    pub boots: u32,
    /// It founds the mesh at its first start.
    pub founds: bool,
    /// What admits it to the mesh.
    pub token: Option<[u8; 32]>,
    /// Counts rests: an end of an earlier one does not end this one.
    pub(super) rests: u32,
    /// It rests after the next step, for so long.
    pub(super) rest_next: Option<u64>,
    /// What has come while it rests.
    pub(super) backlog: Vec<Input<Blocks>>,
    /// What it was doing when it came to rest.
    pub(super) unfinished: Vec<Output<Blocks>>,
    /// When a timer event of it is in the queue, and the daemon's wish that this follows from.
    pub(super) timer: (u64, Time),
    /// How often it was woken at the present moment.
    pub(super) wakes: (u64, u32),
}

impl<M> Host<M> {
    /// A host whose daemon has not started.
    pub fn new(node: NodeId, uuid: Uuid, store: Uuid, clock: Clock) -> Host<M> {
        Host {
            node,
            uuid,
            domains: Domains::default(),
            clock,
            store: Store::new(node, store),
            machine: None,
            activity: Activity::Down,
            boots: 0,
            founds: false,
            token: None,
            rests: 0,
            rest_next: None,
            backlog: Vec::new(),
            unfinished: Vec::new(),
            timer: (u64::MAX, Time::NEVER),
            wakes: (0, 0),
        }
    }

    /// Whether the daemon runs, be it resting.
    pub fn is_running(&self) -> bool {
        self.activity != Activity::Down
    }

    /// Forgets all that belongs to the daemon.
    pub(super) fn clear(&mut self) {
        self.machine = None;
        self.activity = Activity::Down;
        self.boots += 1;
        self.rests += 1;
        self.rest_next = None;
        self.backlog.clear();
        self.unfinished.clear();
        self.timer = (u64::MAX, Time::NEVER);
    }
}
