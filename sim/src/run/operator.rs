//! What the operator asks of the mesh, and what becomes of it.

use weft::mesh::node::Input;
use weft::mesh::picture::{Command, Picture, Refusal, Reply};

use super::setup::Step;
use super::{Phase, Run, Wake};
use crate::plan::SECOND;
use crate::world::host::Activity;
use crate::world::machine::Machine;

/// What a question was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The mesh cannot go on being made before.
    Setup,
    /// A volume of the plan.
    Volume(usize),
    /// A volume that is deleted after so many nanoseconds.
    Passing(u64),
    /// So many blocks more for a volume.
    Extend(usize, u64),
    /// A client attaches.
    Attach(usize),
    /// A client detaches.
    Detach(usize),
    /// Whatever comes of it.
    Other,
}

impl<M: Machine> Run<M> {
    pub(super) fn tag(&mut self, purpose: Purpose) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.tags.insert(tag, purpose);
        tag
    }

    /// The first host whose daemon runs.
    pub(super) fn operator_host(&self) -> Option<usize> {
        let mut hosts = self.world.hosts.iter();
        hosts.position(|host| host.activity == Activity::Up && host.machine.is_some())
    }

    /// What a host's daemon knows, if it runs.
    pub(super) fn picture(&self, host: usize) -> Option<&Picture> {
        self.world.hosts[host].machine.as_ref().map(Machine::picture)
    }

    /// What is known by the daemon that knows most.
    pub(super) fn best_picture(&self) -> Option<&Picture> {
        let pictures = self.world.hosts.iter().filter_map(|host| host.machine.as_ref());
        pictures.map(Machine::picture).max_by_key(|picture| picture.applied())
    }

    /// Asks for a command wherever a daemon runs.
    pub(super) fn ask(&mut self, purpose: Purpose, command: Command) {
        let tag = self.tag(purpose);
        if let Some(host) = self.operator_host() {
            self.world.feed(host, Input::Ask { tag, command });
        }
    }

    pub(super) fn say(&mut self, host: Option<usize>, text: impl FnOnce() -> String) {
        self.world.observer.say(self.world.now(), host, text);
    }

    pub(super) fn answered(&mut self, tag: u64, result: Result<Reply, Refusal>) {
        let Some(purpose) = self.tags.remove(&tag) else { return };
        match (purpose, result) {
            (Purpose::Setup, Ok(_)) => self.next_step(),
            (Purpose::Volume(at), Ok(Reply::Volume(id))) => self.volumes[at].id = Some(id),
            (Purpose::Setup | Purpose::Volume(_), result) => {
                let Phase::Setup(step) = self.phase else { return };
                self.blame(format!("the mesh could not be made: {step:?}: {result:?}"));
            }
            (Purpose::Passing(after), Ok(Reply::Volume(id))) => {
                self.passing.push(id);
                self.wake_in(after, Wake::DeletePassing(self.passing.len() - 1));
            }
            (Purpose::Extend(volume, blocks), Ok(_)) => self.volumes[volume].blocks += blocks,
            (Purpose::Detach(client), Ok(_)) => self.has_detached(client),
            (Purpose::Detach(client), Err(_)) => self.clients[client].stays_attached(),
            _ => {}
        }
    }

    pub(super) fn delete_passing(&mut self, at: usize) {
        let volume = self.passing[at];
        self.ask(Purpose::Other, Command::DeleteVolume { volume });
    }

    /// A daemon has stopped by itself: as an init system does, it is started again.
    pub(super) fn stopped(&mut self, host: usize, why: &str) {
        self.say(Some(host), || format!("the daemon stops: {why}"));
        self.host_died(host);
        if self.phase == Phase::Setup(Step::Founding) {
            self.blame(format!("the first daemon stopped: {why}"));
        }
        let after = self.random.between(SECOND / 2, 2 * SECOND);
        self.wake_in(after, Wake::Start(host));
    }
}
