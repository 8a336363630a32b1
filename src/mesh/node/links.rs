//! Which other nodes this one hears, and is heard by.
//!
//! Every node says hello to every other a few times in a lease, and says whether it hears the other. A link is up when hellos come that say so,
//! and down when none has come for a while: a way that works in one direction only is no link.

use std::collections::BTreeMap;
use std::time::Duration;

use super::io::Hello;
use crate::base::Time;
use crate::mesh::ids::NodeId;
use crate::mesh::picture::Timing;

/// Hellos that may be missing before a link counts as down.
const MISSING: u32 = 3;
/// Shortest and longest time between hellos.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

/// How long between two hellos.
fn interval(timing: &Timing) -> Duration {
    (timing.lease() / 8).clamp(INTERVAL.0, INTERVAL.1)
}

#[derive(Clone, Debug, Default)]
struct Neighbour {
    /// When it was last heard; `None` before the first time.
    heard: Option<Time>,
    origin: u64,
    counter: u64,
    /// It has said that it hears this node.
    hears: bool,
    up: bool,
}

/// The links of a node.
#[derive(Debug)]
pub(super) struct Links {
    origin: u64,
    counter: u64,
    neighbours: BTreeMap<NodeId, Neighbour>,
    due: Time,
}

impl Links {
    pub fn new(origin: u64, now: Time) -> Links {
        Links { origin, counter: 0, neighbours: BTreeMap::new(), due: now }
    }

    /// These are the other nodes now.
    pub fn set(&mut self, nodes: impl Iterator<Item = NodeId>) {
        let mut before = std::mem::take(&mut self.neighbours);
        self.neighbours =
            nodes.map(|node| (node, before.remove(&node).unwrap_or_default())).collect();
    }

    /// Whether the link is up.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.neighbours.get(&node).is_some_and(|neighbour| neighbour.up)
    }

    /// Those with links that are up.
    pub fn up(&self) -> impl Iterator<Item = NodeId> {
        self.neighbours.iter().filter(|(_, neighbour)| neighbour.up).map(|(node, _)| *node)
    }

    /// When [`Links::timer`] is wanted.
    pub fn due(&self) -> Time {
        self.due
    }

    /// Says hello, and finds out who is silent. `changed` is told of each link that goes down.
    pub fn timer(
        &mut self,
        now: Time,
        timing: &Timing,
        mut say: impl FnMut(NodeId, Hello),
        mut changed: impl FnMut(NodeId, bool),
    ) {
        if now < self.due {
            return;
        }
        let interval = interval(timing);
        self.due = now + interval;
        self.counter += 1;
        for (node, neighbour) in &mut self.neighbours {
            let hears = neighbour.heard.is_some_and(|heard| now.since(heard) <= interval * MISSING);
            say(*node, Hello { origin: self.origin, counter: self.counter, hears });
            if neighbour.up && !hears {
                neighbour.up = false;
                changed(*node, false);
            }
        }
    }

    /// A neighbour has said hello. Gives the link's new state when that has changed.
    pub fn hello(&mut self, now: Time, from: NodeId, hello: Hello) -> Option<bool> {
        let neighbour = self.neighbours.entry(from).or_default();
        if neighbour.origin == hello.origin && hello.counter <= neighbour.counter {
            return None;
        }
        neighbour.origin = hello.origin;
        neighbour.counter = hello.counter;
        neighbour.heard = Some(now);
        neighbour.hears = hello.hears;
        (neighbour.up != hello.hears).then(|| {
            neighbour.up = hello.hears;
            hello.hears
        })
    }
}
