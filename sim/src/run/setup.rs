//! How a mesh comes to be.

use weft::base::Uuid;
use weft::consensus::NodeId;
use weft::mesh::node::Input;
use weft::mesh::picture::{Command, Domains, DriveSpec, Timing};

use super::operator::Purpose;
use super::{Phase, Run, Wake};
use crate::plan::{BLOCK_SHIFT, EXTENT_BLOCKS, EXTENTS, MS, Plan, SECOND};
use crate::random::Random;
use crate::world::clock::Clock;
use crate::world::host::Host;
use crate::world::machine::Machine;

/// What has to come true next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first node is in the log.
    Founding,
    /// The token is in the log.
    Admitting,
    /// All nodes are.
    Joining,
    /// The members vote.
    Electing,
    /// All drives are open.
    Opening,
    /// The timing constants are in the log.
    Timing,
    /// The volumes are made.
    Creating,
    /// Each has a client.
    Attaching,
}

/// How long all of this may take.
const SETUP_MAX: u64 = 60 * SECOND;
/// The digest of the secret that admits nodes.
const TOKEN: [u8; 32] = [7; 32];

/// Any name.
pub fn uuid(random: &mut Random) -> Uuid {
    Uuid::from_u64_pair(random.draw(), random.draw())
}

/// A host of a plan.
pub fn host<M>(plan: &Plan, at: usize, random: &mut Random) -> Host<M> {
    let ppm = plan.clocks.get(at).copied().unwrap_or(0);
    let shown = random.between(SECOND, 1 << 50);
    let node = NodeId(at as u32 + 1);
    let mut host = Host::new(node, uuid(random), uuid(random), Clock::new(shown, ppm));
    host.domains = Domains { rack: format!("rack {}", at % 3), zone: String::new() };
    host
}

/// What a drive is added as.
pub fn drive_spec(class: &str) -> DriveSpec {
    DriveSpec {
        block_shift: BLOCK_SHIFT,
        extent_blocks: EXTENT_BLOCKS,
        extents: EXTENTS,
        class: class.into(),
        tags: Default::default(),
    }
}

/// Blocks of a drive.
pub fn drive_blocks() -> u64 {
    EXTENT_BLOCKS * u64::from(EXTENTS)
}

impl<M: Machine> Run<M> {
    /// Looks whether the mesh is ready for the next step. Gives when to look again.
    pub(super) fn set_up(&mut self, step: Step) -> u64 {
        if self.world.now() > SETUP_MAX {
            self.blame(format!("the mesh was not made in {} s: {step:?}", SETUP_MAX / SECOND));
            return SECOND;
        }
        match step {
            Step::Founding if self.has_started(0) => {
                let uses = self.plan.hosts as u32;
                self.ask(Purpose::Setup, Command::AddToken { digest: TOKEN, uses });
                self.phase = Phase::Setup(Step::Admitting);
            }
            Step::Joining if (0..self.plan.hosts).all(|host| self.has_started(host)) => {
                self.phase = Phase::Setup(Step::Electing);
                self.set_members(Purpose::Setup, self.members.clone());
            }
            Step::Opening if self.drives_are_open() => {
                self.phase = Phase::Setup(Step::Timing);
                if self.plan.timing == Timing::default() {
                    self.next_step();
                } else {
                    self.ask(Purpose::Setup, Command::SetTiming(self.plan.timing));
                }
            }
            Step::Creating if self.volumes.iter().all(|volume| volume.id.is_some()) => {
                self.phase = Phase::Setup(Step::Attaching);
                for client in 0..self.clients.len() {
                    if self.clients[client].plan.attaches {
                        self.wake_in(0, Wake::Attach(client));
                    }
                }
            }
            Step::Attaching if self.volumes_have_clients() => self.begin(),
            _ => {}
        }
        20 * MS
    }

    /// What was asked for a step is done.
    pub(super) fn next_step(&mut self) {
        let Phase::Setup(step) = self.phase else { return };
        self.phase = Phase::Setup(match step {
            Step::Admitting => {
                for host in 1..self.plan.hosts {
                    self.world.hosts[host].token = Some(TOKEN);
                    self.world.start(host);
                }
                Step::Joining
            }
            Step::Electing => Step::Opening,
            Step::Timing => {
                for (at, spec) in self.plan.volumes.clone().into_iter().enumerate() {
                    let name = format!("volume {at}");
                    self.ask(Purpose::Volume(at), Command::CreateVolume { name, spec });
                }
                Step::Creating
            }
            other => other,
        });
    }

    fn has_started(&self, host: usize) -> bool {
        let node = self.world.hosts[host].node;
        self.picture(0)
            .and_then(|picture| picture.node(node))
            .is_some_and(|node| node.incarnation.is_some())
    }

    fn drives_are_open(&self) -> bool {
        let Some(picture) = self.picture(0) else { return false };
        let is_open = |drive: &usize| {
            let uuid = self.world.drives[*drive].label.uuid;
            picture.drive_by_uuid(uuid).is_some_and(|drive| drive.incarnation.is_some())
        };
        self.drives.iter().all(is_open)
    }

    fn volumes_have_clients(&self) -> bool {
        let wanted = self.clients.iter().filter(|client| client.plan.attaches);
        wanted.map(|client| client.plan.volume).all(|volume| {
            let mut clients = self.clients.iter();
            clients.any(|client| client.plan.volume == volume && client.is_attached())
        })
    }

    /// The busy part begins.
    fn begin(&mut self) {
        self.phase = Phase::Busy;
        self.busy_since = self.world.now();
        self.say(None, || "the mesh is whole, and its clients begin".into());
        for at in 0..self.plan.acts.len() {
            self.wake_in(self.plan.acts[at].0, Wake::Act(at));
        }
        for client in 0..self.clients.len() {
            if self.clients[client].plan.pause.is_some() {
                self.wake_in(0, Wake::Pulse(client));
            }
        }
        self.wake_in(self.plan.length, Wake::BusyEnds);
    }

    /// Asks that these hosts vote.
    pub(super) fn set_members(&mut self, purpose: Purpose, hosts: Vec<usize>) {
        self.members.clone_from(&hosts);
        let members = hosts.into_iter().map(|host| self.world.hosts[host].node).collect();
        let tag = self.tag(purpose);
        if let Some(operator) = self.operator_host() {
            self.world.feed(operator, Input::SetMembers { tag, members });
        }
    }
}
