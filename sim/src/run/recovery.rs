//! How a mesh becomes whole again, and what is looked at when it is.

use weft::mesh::ids::DriveId;
use weft::mesh::message::Run as BlockRun;
use weft::mesh::picture::{AttachMode, Command, Picture, ReplicaState};

use super::client::Client;
use super::operator::Purpose;
use super::{Phase, Run, Wake};
use crate::check::history::Asked;
use crate::check::replicas;
use crate::plan::{ClientPlan, MS, Mix, SECOND};
use crate::world::drive::Ailment;
use crate::world::machine::Machine;

/// How long clients go on with requests when nothing is done to the mesh any more.
pub const GOES_ON: u64 = 3 * SECOND / 2;
/// How long the operator gives a drive to come back before it is replaced.
const PATIENCE: u64 = 3 * SECOND;
/// How long writes whose clients are gone may be under way in a mesh that is whole.
const SETTLES: u64 = 2 * SECOND;
/// Most blocks that are read at once in the end.
const READ_BLOCKS: u32 = 8;

impl<M: Machine> Run<M> {
    /// Nothing more is done to the mesh: links are mended, daemons run, drives are well.
    pub(super) fn recover(&mut self) {
        self.phase = Phase::Recovering { since: self.world.now() };
        self.say(None, || "everything is mended".into());
        self.world.network.mend_all(self.plan.network);
        for host in 0..self.world.hosts.len() {
            self.world.rouse(host);
            self.start(host);
        }
        for drive in 0..self.world.drives.len() {
            self.set_ailment(drive, Ailment::default());
        }
        for (drive, plan) in self.plan.drives.clone().into_iter().enumerate() {
            let drive = self.drives[drive];
            if self.world.drives[drive].host.is_none() {
                self.world.plug(drive, plan.host);
            }
        }
        for client in 0..self.clients.len() {
            if self.clients[client].plan.pause.is_some() {
                self.wake_in(MS, Wake::Attach(client));
            }
        }
    }

    /// The operator looks after a mesh that recovers. Gives when to look again.
    pub(super) fn look_after(&mut self, since: u64) -> u64 {
        let passed = self.world.now() - since;
        if passed < GOES_ON {
            return 100 * MS;
        }
        let in_flight = self.clients.iter().find_map(|client| client.in_flight.first().copied());
        let missing = match in_flight {
            Some(number) => Some(format!("no answer: {}", self.history.describe(number))),
            None => self.what_is_missing(),
        };
        let Some(missing) = missing else {
            return self.look_at_replicas();
        };
        self.whole_since = None;
        if passed > self.plan.recovery {
            let seconds = self.plan.recovery / SECOND;
            self.blame(format!(
                "the mesh is not whole {seconds} s after the last fault: {missing}"
            ));
        }
        if passed > PATIENCE {
            self.replace_what_is_lost();
        }
        500 * MS
    }

    /// The mesh is whole: in a moment all replicas hold the same. This is looked at before the last clients attach, which takes the volumes from
    /// others, and so makes replicas equal that are not. Gives when to look again.
    fn look_at_replicas(&mut self) -> u64 {
        let now = self.world.now();
        let since = *self.whole_since.get_or_insert(now);
        match self.compare_replicas() {
            Ok(()) => self.begin_reading(),
            Err(why) if now > since + SETTLES => self.blame(why),
            Err(_) => {}
        }
        20 * MS
    }

    fn compare_replicas(&self) -> Result<(), String> {
        let ids: Vec<_> = self.volumes.iter().map(|volume| volume.id).collect();
        let Some(picture) = self.best_picture() else { return Ok(()) };
        replicas::compare(picture, &self.world.drives, &ids, &self.history)
    }

    /// What keeps the mesh from being whole.
    fn what_is_missing(&self) -> Option<String> {
        let Some(picture) = self.best_picture() else { return Some("no daemon runs".into()) };
        for group in picture.groups() {
            for replica in &group.replicas {
                if replica.state != ReplicaState::InSync {
                    let drive = self.describe_drive(picture, replica.drive);
                    let (group, replica, state) = (group.id, replica.id, replica.state);
                    return Some(format!("{replica} of {group} is {state:?}, {drive}"));
                }
            }
        }
        let behind = |host: &&crate::world::host::Host<M>| {
            !host.machine.as_ref().is_some_and(|machine| {
                machine.has_lease(host.clock.read(self.world.now()))
                    && machine.picture().applied().0 + 100 > picture.applied().0
            })
        };
        let host = self.world.hosts.iter().find(behind)?;
        Some(format!("{} has no lease, or is far behind", host.node))
    }

    fn describe_drive(&self, picture: &Picture, drive: DriveId) -> String {
        let Some(known) = picture.drive(drive) else { return format!("{drive} is unknown") };
        let mut drives = self.world.drives.iter();
        let real = drives.find(|real| real.label.uuid == known.uuid && real.host.is_some());
        let real = real.map_or("it is nowhere".into(), |real| {
            let host = real.host.map_or(0, |host| host + 1);
            format!("its label is at {} in n{host}", real.label.open_count)
        });
        let (node, count) = (known.node, known.open_count);
        format!("the log has {drive} in {node} at open count {count}, {real}")
    }

    /// Drives that the mesh waits for and that will not come are taken out of it; stores that are not believed are made anew.
    fn replace_what_is_lost(&mut self) {
        let Some(picture) = self.best_picture() else { return };
        let is_served = |known: &&weft::mesh::picture::Drive| {
            self.world.drives.iter().any(|drive| {
                let at = drive.host.map(|host| self.world.hosts[host].node);
                let label = &drive.label;
                at == Some(known.node) && label.uuid == known.uuid && label.nonce == known.nonce
            })
        };
        let lost: Vec<_> =
            picture.drives().filter(|drive| !is_served(drive)).map(|drive| drive.uuid).collect();
        for uuid in lost {
            let of_plan = |drive: &usize| self.world.drives[*drive].label.uuid == uuid;
            match self.drives.iter().position(of_plan) {
                Some(drive) => self.replace_drive(drive),
                None => self.remove_drive(uuid),
            }
        }
        self.set_members(Purpose::Other, self.members.clone());
        self.ask(Purpose::Other, Command::Rebalance { moves: 8 });
    }

    /// A new client for each volume reads all that was ever asked for.
    fn begin_reading(&mut self) {
        self.say(None, || "the mesh is whole again; everything is read".into());
        self.phase = Phase::Reading;
        for volume in 0..self.volumes.len() {
            let host = self.random.below(self.plan.hosts as u64) as usize;
            self.clients.push(Client::new(ClientPlan {
                host,
                volume,
                mode: AttachMode::Exclusive,
                attaches: true,
                depth: 16,
                pause: None,
                mix: Mix::USUAL,
            }));
            let client = self.clients.len() - 1;
            self.clients[client].reads = Some(self.runs_of(volume));
            for other in 0..client {
                if self.clients[other].plan.volume == volume {
                    self.clients[other].plan.attaches = false;
                }
            }
            self.wake_in(0, Wake::Attach(client));
        }
        self.reading_since = self.world.now();
    }

    /// What was ever asked for in a volume, in runs.
    fn runs_of(&self, volume: usize) -> Vec<BlockRun> {
        let mut blocks: Vec<u64> = Vec::new();
        for operation in self.history.operations().iter().filter(|it| it.volume == volume) {
            if operation.asked != Asked::Flush {
                blocks.extend(operation.run.first..operation.run.end());
            }
        }
        blocks.sort_unstable();
        blocks.dedup();
        let mut runs: Vec<BlockRun> = Vec::new();
        for block in blocks {
            match runs.last_mut() {
                Some(run) if run.end() == block && run.blocks < READ_BLOCKS => run.blocks += 1,
                _ => runs.push(BlockRun { first: block, blocks: 1 }),
            }
        }
        runs
    }

    /// The last clients read on. Gives when to look again.
    pub(super) fn read_all(&mut self) -> u64 {
        let mut left = false;
        for client in 0..self.clients.len() {
            let Some(mut runs) = self.clients[client].reads.take() else { continue };
            if self.clients[client].is_attached() {
                while self.clients[client].in_flight.len() < self.clients[client].plan.depth {
                    let Some(run) = runs.pop() else { break };
                    self.submit(client, Asked::Read, run, false);
                }
            }
            left |= !runs.is_empty() || !self.clients[client].in_flight.is_empty();
            self.clients[client].reads = Some(runs);
        }
        if !left {
            self.finish();
        } else if self.world.now() > self.reading_since + self.plan.recovery {
            self.blame("the last clients cannot read everything".into());
        }
        MS
    }

    /// The last look: all replicas hold the same.
    fn finish(&mut self) {
        self.phase = Phase::Over;
        if let Err(why) = self.compare_replicas() {
            self.blame(why);
        }
    }
}
