//! No two epochs serve: once a client acknowledges a write under an epoch, no replica that this epoch leaves out may serve reads any more.

use std::collections::BTreeSet;

use weft::mesh::ids::{GroupId, VolumeId};
use weft::mesh::message::Run;
use weft::mesh::picture::{AttachMode, Drive, Picture, Replica, ReplicaState};

use super::layout::locate;
use crate::world::World;
use crate::world::machine::{Machine, Observer};

/// A write to `run` of a volume was acknowledged by the client on `host`.
///
/// An exclusive attachment needs no such fence: nobody but the client itself could read, and it knows.
///
/// # Errors
/// Who could still serve.
pub fn look<M: Machine, O: Observer<M>>(
    world: &World<M, O>,
    host: usize,
    volume: VolumeId,
    run: Run,
) -> Result<(), String> {
    let Some(client) = world.hosts[host].machine.as_ref().map(Machine::picture) else {
        return Ok(());
    };
    let behind = |other: &crate::world::host::Host<M>| {
        other.machine.as_ref().is_some_and(|it| it.picture().applied() < client.applied())
    };
    for (at, other) in world.hosts.iter().enumerate().filter(|(_, other)| behind(other)) {
        let Some(machine) = &other.machine else { continue };
        if machine.has_lease(other.clock.read(world.now())) {
            let could_serve = |replica: &Replica| {
                let known = machine.picture().drive(replica.drive);
                replica.state == ReplicaState::InSync
                    && known.is_some_and(|known| is_open(world, at, known))
            };
            compare(client, machine.picture(), could_serve, volume, run)?;
        }
    }
    Ok(())
}

/// Whether the daemon that runs on host `at` has this opening of a drive: one that it was told of by the log alone belongs to an earlier start.
fn is_open<M: Machine, O: Observer<M>>(world: &World<M, O>, at: usize, known: &Drive) -> bool {
    let is_it = |drive: &crate::world::drive::Drive| {
        (drive.host, drive.label.uuid, drive.label.nonce) == (Some(at), known.uuid, known.nonce)
    };
    world.drives.iter().any(is_it)
}

fn compare(
    client: &Picture,
    target: &Picture,
    could_serve: impl Fn(&Replica) -> bool,
    volume: VolumeId,
    run: Run,
) -> Result<(), String> {
    let Some(volume) = client.volume(volume) else { return Ok(()) };
    let is_shared = |mode: AttachMode| mode != AttachMode::Exclusive;
    if !volume.attachments.iter().any(|attachment| is_shared(attachment.mode)) {
        return Ok(());
    }
    let groups: BTreeSet<GroupId> = (run.first..run.end())
        .filter_map(|block| locate(volume, block))
        .map(|(id, _)| id)
        .collect();
    // A write to several groups may be done in one of them in an epoch that has ended since, and wait for the others: it cannot be told from
    // here under which epoch a group was through with it.
    if groups.len() > 1 {
        return Ok(());
    }
    for group in groups {
        let (Some(now), Some(then)) = (client.group(group), target.group(group)) else { continue };
        if then.epoch >= now.epoch {
            continue;
        }
        for replica in then.replicas.iter().filter(|replica| could_serve(replica)) {
            if !now.replica(replica.id).is_some_and(|replica| replica.state.is_written()) {
                return Err(format!(
                    "a write was acknowledged in {group} {}, while {} could still serve in {}",
                    now.epoch, replica.id, then.epoch
                ));
            }
        }
    }
    Ok(())
}
