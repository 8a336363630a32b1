//! The words in which scenarios are written. Nodes are numbered from 1, as in stories; times are milliseconds from when the mesh is whole and its
//! clients begin.

use weft::mesh::picture::{AttachMode, Timing};

use crate::plan::{Act, ClientPlan, DrivePlan, Expectations, MS, Mix, Plan, SECOND, Wish, volume};
use crate::world::drive::{Ailment, Speed};
use crate::world::host::Rest;
use crate::world::network::Quality;

/// A scenario as it is written.
pub struct Script {
    plan: Plan,
    now: u64,
}

/// The class of the drives that the volume of a scenario is on.
const CLASS: &str = "stage";

impl Script {
    /// Three nodes, all members, good clocks and links, nothing else.
    pub fn new(name: &str, seed: u64) -> Script {
        let plan = Plan {
            name: name.into(),
            seed,
            hosts: 3,
            members: 3,
            drives: Vec::new(),
            volumes: Vec::new(),
            clients: Vec::new(),
            timing: Timing::default(),
            network: Quality::GOOD,
            clocks: Vec::new(),
            acts: Vec::new(),
            length: 6 * SECOND,
            recovery: 30 * SECOND,
            expects: Expectations::default(),
        };
        Script { plan, now: 0 }
    }

    /// The seed: for moments that are another with each.
    pub fn seed(&self) -> u64 {
        self.plan.seed
    }

    /// So many nodes, of which the first `members` are members.
    pub fn nodes(mut self, nodes: usize, members: usize) -> Script {
        (self.plan.hosts, self.plan.members) = (nodes, members);
        self
    }

    /// A volume with a copy on each of these nodes. Small enough to be one group.
    pub fn mirror(mut self, nodes: &[usize]) -> Script {
        let class = format!("{CLASS}{}", self.plan.volumes.len());
        for node in nodes {
            let class = class.clone();
            self.plan.drives.push(DrivePlan { host: node - 1, class, speed: Speed::GOOD });
        }
        let mut spec = volume(256, nodes.len() as u8);
        spec.class = class;
        self.plan.volumes.push(spec);
        self
    }

    /// A node that reads and writes the last volume, so many requests in a second.
    pub fn client(self, node: usize, mode: AttachMode, per_second: u64) -> Script {
        self.client_with(node, mode, per_second, Mix { scribbled: 0, zeroes: 0, ..Mix::USUAL })
    }

    /// A node that does so to the last volume.
    pub fn client_with(
        mut self,
        node: usize,
        mode: AttachMode,
        per_second: u64,
        mix: Mix,
    ) -> Script {
        let pause = (per_second > 0).then(|| SECOND / per_second);
        let volume = self.plan.volumes.len().saturating_sub(1);
        let (host, attaches) = (node - 1, true);
        let client = ClientPlan { host, volume, mode, attaches, depth: 8, pause, mix };
        self.plan.clients.push(client);
        self
    }

    /// A node that does to the last volume what it is told.
    pub fn puppet(self, node: usize, mode: AttachMode) -> Script {
        self.client(node, mode, 0)
    }

    /// Other timing constants.
    pub fn timing(mut self, timing: Timing) -> Script {
        self.plan.timing = timing;
        self
    }

    /// How many millionths each node's clock gains.
    pub fn clocks(mut self, ppm: &[i32]) -> Script {
        self.plan.clocks = ppm.to_vec();
        self
    }

    /// How links behave.
    pub fn network(mut self, quality: Quality) -> Script {
        self.plan.network = quality;
        self
    }

    /// What follows happens at this time.
    pub fn at(mut self, ms: u64) -> Script {
        self.now = ms * MS;
        self
    }

    /// Something is done.
    pub fn act(mut self, act: Act) -> Script {
        self.plan.acts.push((self.now, act));
        self
    }

    /// A word for the story.
    pub fn say(self, text: &str) -> Script {
        self.act(Act::Say { text: text.into() })
    }

    /// Cuts a link both ways.
    pub fn cut(self, one: usize, other: usize) -> Script {
        self.cut_from(one, other).cut_from(other, one)
    }

    /// Cuts a link one way.
    pub fn cut_from(self, from: usize, to: usize) -> Script {
        self.act(Act::Cut { from: from - 1, to: to - 1 })
    }

    /// Mends what [`Script::cut`] has cut.
    pub fn mend(self, one: usize, other: usize) -> Script {
        let (one, other) = (one - 1, other - 1);
        self.act(Act::Mend { from: one, to: other }).act(Act::Mend { from: other, to: one })
    }

    /// Cuts a node off from all others.
    pub fn isolate(mut self, node: usize) -> Script {
        for other in (1..=self.plan.hosts).filter(|other| *other != node) {
            self = self.cut(node, other);
        }
        self
    }

    /// A node's daemon dies.
    pub fn kill(self, node: usize) -> Script {
        self.act(Act::Crash { host: node - 1, power: false })
    }

    /// A node loses power.
    pub fn power_off(self, node: usize) -> Script {
        self.act(Act::Crash { host: node - 1, power: true })
    }

    /// A node's daemon starts.
    pub fn start(self, node: usize) -> Script {
        self.act(Act::Start { host: node - 1 })
    }

    /// A node does nothing for a while.
    pub fn pause(self, node: usize, rest: Rest, ms: u64) -> Script {
        self.act(Act::Rest { host: node - 1, rest, length: ms * MS })
    }

    /// Something is wrong with a drive; drives are numbered from 0 in the order of the volumes' nodes.
    pub fn ail(self, drive: usize, ailment: Ailment) -> Script {
        self.act(Act::Ailing { drive, ailment })
    }

    /// A client asks; clients are numbered from 0.
    pub fn ask(self, client: usize, wish: Wish) -> Script {
        self.act(Act::Submit { client, wish })
    }

    /// When the busy part ends.
    pub fn until(mut self, ms: u64) -> Script {
        self.plan.length = ms * MS;
        self
    }

    /// No I/O may take longer than this.
    pub fn stalls_below(mut self, ms: u64) -> Script {
        self.plan.expects.stall_max = Some(ms * MS);
        self
    }

    /// No replica may be left behind.
    pub fn keeps_replicas(mut self) -> Script {
        self.plan.expects.keeps_replicas = true;
        self
    }

    /// The plan that was written.
    pub fn plan(mut self) -> Plan {
        self.plan.acts.sort_by_key(|(time, _)| *time);
        self.plan
    }
}
