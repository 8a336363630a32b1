//! What is done to the mesh, act by act.

use weft::mesh::picture::Command;

use super::operator::Purpose;
use super::{Run, setup};
use crate::check::layout;
use crate::plan::Act;
use crate::world::drive::{Ailment, Drive};
use crate::world::machine::Machine;

impl<M: Machine> Run<M> {
    pub(super) fn act(&mut self, act: &Act) {
        self.say(None, || act.to_string());
        let now = self.world.now();
        if let Some(recorder) = &mut self.world.observer.recorder {
            recorder.acted(now, act);
        }
        match act {
            Act::Cut { from, to } => self.world.network.cut(*from, *to),
            Act::Mend { from, to } => self.world.network.mend(*from, *to),
            Act::Link { from, to, quality } => {
                self.world.network.set_quality(*from, *to, *quality);
            }
            Act::Crash { host, power } => self.crash(*host, *power),
            Act::Start { host } => self.start(*host),
            Act::Rest { host, rest, length } => self.world.rest(*host, *rest, *length),
            Act::ClockRate { host, ppm } => self.world.set_clock_rate(*host, *ppm),
            Act::StoreFails { host } => self.world.hosts[*host].store.failing = true,
            Act::SaveStore { host } => self.save_store(*host),
            Act::RestoreStore { host } => self.restore_store(*host),
            Act::WipeStore { host } => self.wipe_store(*host),
            Act::Attach { client, preempt } => self.attach(*client, *preempt),
            Act::Detach { client } => self.detach(*client),
            Act::Submit { client, wish } => self.wish(*client, *wish),
            Act::Members { hosts } => self.set_members(Purpose::Other, hosts.clone()),
            Act::Say { .. } => {}
            Act::Spoil { volume, block, replica } => self.spoil(*volume, *block, *replica),
            Act::Ailing { .. }
            | Act::MoveDrive { .. }
            | Act::ReplaceDrive { .. }
            | Act::CloneDrive { .. }
            | Act::SaveDrive { .. }
            | Act::RestoreDrive { .. } => self.act_on_drive(act),
            Act::Extend { .. }
            | Act::Passing { .. }
            | Act::MoveReplica { .. }
            | Act::Drain { .. }
            | Act::Rebalance
            | Act::SetTiming { .. } => self.act_as_operator(act),
        }
    }

    fn act_on_drive(&mut self, act: &Act) {
        match act {
            Act::Ailing { drive, ailment } => {
                if ailment.failing {
                    self.excuse_single_copies();
                }
                self.set_ailment(self.drives[*drive], *ailment);
            }
            Act::MoveDrive { drive, to } => self.world.plug(self.drives[*drive], *to),
            Act::ReplaceDrive { drive } if self.is_spare(*drive) => self.replace_drive(*drive),
            Act::CloneDrive { drive, into } => self.clone_drive(*drive, *into),
            Act::SaveDrive { drive } => self.save_drive(*drive),
            Act::RestoreDrive { drive } => self.restore_drive(*drive),
            _ => {}
        }
    }

    /// Something is wrong with a drive, or nothing any more. A drive that did not work and does again is found anew by its daemon, which
    /// may have given it up.
    pub(super) fn set_ailment(&mut self, at: usize, ailment: Ailment) {
        let drive = &mut self.world.drives[at];
        let worked = drive.ailment.works();
        drive.ailment = ailment;
        match drive.host {
            Some(host) if ailment.works() && !worked => self.world.plug(at, host),
            _ => self.world.set_hung(at, ailment.hung),
        }
    }

    /// What has one copy cannot be read while its drive fails.
    fn excuse_single_copies(&mut self) {
        for (volume, spec) in self.plan.volumes.iter().enumerate() {
            if spec.copies == 1 {
                self.excused.extend((0..self.volumes[volume].blocks).map(|block| (volume, block)));
            }
        }
    }

    fn act_as_operator(&mut self, act: &Act) {
        match act {
            Act::Extend { volume, blocks } => {
                let Some(id) = self.volumes[*volume].id else { return };
                let command = Command::ExtendVolume { volume: id, blocks: *blocks };
                self.ask(Purpose::Extend(*volume, *blocks), command);
            }
            Act::Passing { spec, after } => {
                let name = format!("passing {}", self.next_tag);
                let command = Command::CreateVolume { name, spec: spec.clone() };
                self.ask(Purpose::Passing(*after), command);
            }
            Act::MoveReplica { volume, replica } => {
                let Some(command) = self.move_of(*volume, *replica) else { return };
                self.ask(Purpose::Other, command);
            }
            Act::Drain { drive, drain } => {
                let uuid = self.world.drives[self.drives[*drive]].label.uuid;
                let known = self.best_picture().and_then(|picture| picture.drive_by_uuid(uuid));
                let Some(drive) = known.map(|drive| drive.id) else { return };
                self.ask(Purpose::Other, Command::DrainDrive { drive, drain: *drain });
                self.ask(Purpose::Other, Command::Rebalance { moves: 4 });
            }
            Act::Rebalance => self.ask(Purpose::Other, Command::Rebalance { moves: 4 }),
            Act::SetTiming { timing } => self.ask(Purpose::Other, Command::SetTiming(*timing)),
            _ => {}
        }
    }

    fn move_of(&self, volume: usize, replica: usize) -> Option<Command> {
        let picture = self.best_picture()?;
        let group = picture.group(picture.volume(self.volumes[volume].id?)?.groups().next()?)?;
        let replica = group.replicas.get(replica % group.replicas.len().max(1))?.id;
        Some(Command::MoveReplica { group: group.id, replica, to: None })
    }

    pub(super) fn crash(&mut self, host: usize, power: bool) {
        self.world.crash(host, power);
        self.host_died(host);
    }

    pub(super) fn start(&mut self, host: usize) {
        if !self.world.hosts[host].is_running() {
            self.world.start(host);
            self.say(Some(host), || "the daemon starts".into());
        }
    }

    fn spoil(&mut self, volume: usize, block: u64, replica: usize) {
        let found = || {
            let picture = self.best_picture()?;
            let (group, at) = layout::locate(picture.volume(self.volumes[volume].id?)?, block)?;
            let group = picture.group(group)?;
            let replica = group.replicas.get(replica % group.replicas.len().max(1))?;
            let uuid = picture.drive(replica.drive)?.uuid;
            Some((uuid, layout::place(picture, group, replica, at)?))
        };
        let Some((uuid, place)) = found() else { return };
        self.excused.insert((volume, block));
        let mut drives = self.world.drives.iter_mut();
        if let Some(drive) = drives.find(|drive| drive.label.uuid == uuid && drive.host.is_some()) {
            drive.medium.spoil(place);
        }
    }

    /// An empty drive takes the place of another.
    pub(super) fn replace_drive(&mut self, drive: usize) {
        let old = self.drives[drive];
        let host = self.world.drives[old].host.unwrap_or(self.plan.drives[drive].host);
        let uuid = self.world.drives[old].label.uuid;
        self.world.unplug(old);
        let speed = self.plan.drives[drive].speed;
        let name = setup::uuid(&mut self.random);
        let new = Drive::new(name, setup::drive_blocks(), speed, self.random.fork());
        let class = self.plan.drives[drive].class.clone();
        let new = self.world.add_drive(new, Some(setup::drive_spec(&class)));
        self.drives[drive] = new;
        self.world.plug(new, host);
        self.remove_drive(uuid);
    }

    /// The mesh is told that a drive is gone for good.
    pub(super) fn remove_drive(&mut self, uuid: weft::base::Uuid) {
        let known = self.best_picture().and_then(|picture| picture.drive_by_uuid(uuid));
        if let Some(drive) = known.map(|drive| drive.id) {
            self.ask(Purpose::Other, Command::RemoveDrive { drive, lose: false });
            self.ask(Purpose::Other, Command::Rebalance { moves: 8 });
        }
    }
}
