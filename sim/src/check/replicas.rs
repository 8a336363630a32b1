//! When all is quiet, all replicas of a group hold the same bytes.

use std::collections::BTreeSet;

use weft::mesh::ids::VolumeId;
use weft::mesh::picture::{Group, Picture};

use super::history::{Asked, History};
use super::layout::{locate, place};
use crate::payload::describe;
use crate::world::drive::Drive;

/// Compares what drives hold, in all regions to which a write was acknowledged: what was never written is zeroes, whatever lies there, and
/// a block that went bad by itself is repaired only when it is read.
///
/// # Errors
/// Where they differ.
pub fn compare(
    picture: &Picture,
    drives: &[Drive],
    volumes: &[Option<VolumeId>],
    history: &History,
) -> Result<(), String> {
    let mut regions = BTreeSet::new();
    for operation in history.operations() {
        let is_write = matches!(operation.asked, Asked::Write | Asked::Zero);
        let volume = volumes[operation.volume].and_then(|volume| picture.volume(volume));
        let Some(volume) = volume.filter(|_| is_write && operation.until.is_some()) else {
            continue;
        };
        let shift = volume.spec.region_shift - volume.spec.block_shift;
        for block in operation.run.first..operation.run.end() {
            if let Some((group, block)) = locate(volume, block) {
                regions.insert((group, block >> shift, shift));
            }
        }
    }
    for (group, region, shift) in regions {
        let Some(group) = picture.group(group) else { continue };
        let blocks = region << shift..((region + 1) << shift).min(group.blocks);
        for block in blocks {
            compare_block(picture, drives, group, block)?;
        }
    }
    Ok(())
}

fn compare_block(
    picture: &Picture,
    drives: &[Drive],
    group: &Group,
    block: u64,
) -> Result<(), String> {
    let mut first = None;
    for replica in &group.replicas {
        let Some(known) = picture.drive(replica.drive) else { continue };
        let is_it =
            |drive: &&Drive| drive.label.uuid == known.uuid && drive.label.nonce == known.nonce;
        let Some(drive) = drives.iter().find(is_it) else { continue };
        let Some(at) = place(picture, group, replica, block) else { continue };
        if drive.medium.is_latent(at) {
            // Nobody has read it, or whoever did was told the others' data.
            continue;
        }
        let held = match drive.medium.is_readable(at, 1) {
            true => describe(drive.medium.value(at)),
            false => "unreadable".into(),
        };
        match &first {
            None => first = Some((replica.id, held)),
            Some((_, other)) if *other == held => {}
            Some((other, theirs)) => {
                let (group, replica) = (group.id, replica.id);
                return Err(format!(
                    "block {block} of {group} is {held} on {replica} and {theirs} on {other}, though both are in sync"
                ));
            }
        }
    }
    Ok(())
}
