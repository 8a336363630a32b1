//! Where replicas go, and what they take there.

use std::collections::{BTreeMap, BTreeSet};

use weft::mesh::ids::*;
use weft::mesh::picture::footprint::{data_offset, replica_blocks};
use weft::mesh::picture::*;
use weft::mesh::route::Route;

use crate::fixture::*;

#[test]
fn copies_are_on_different_hosts_and_drives_fill_evenly() {
    let mut mesh = Mesh::new(5);
    for _ in 0..30 {
        mesh.create(volume_spec(3));
    }
    let mut load: BTreeMap<DriveId, u32> = BTreeMap::new();
    for group in mesh.picture.groups() {
        let drives: BTreeSet<DriveId> =
            group.replicas.iter().map(|replica| replica.drive).collect();
        assert_eq!(drives.len(), 3);
        for drive in drives {
            *load.entry(drive).or_default() += 1;
        }
    }
    assert_eq!(load.into_values().collect::<Vec<_>>(), [18; 5]);
}

#[test]
fn racks_are_domains_and_a_host_without_one_is_its_own() {
    let mut mesh = Mesh::new(3);
    let spec = VolumeSpec { spread: Spread::Rack, ..volume_spec(3) };
    mesh.create(spec.clone());
    for node in 1..=2 {
        mesh.ok(Command::StartNode {
            node: NodeId(node),
            uuid: uuid(node.into()),
            origin: 1000 + u64::from(node),
            addresses: Vec::new(),
            domains: Domains { rack: "one".into(), zone: String::new() },
            store: None,
        });
    }
    let name = "three".to_string();
    mesh.refused(Command::CreateVolume { name, spec }, Refusal::NoRoom);
    mesh.create(VolumeSpec { spread: Spread::Rack, ..volume_spec(2) });
}

#[test]
fn only_drives_of_the_class_with_the_tags_that_are_not_drained_are_used() {
    let mut mesh = Mesh::new(2);
    let name = || "no".to_string();
    for spec in [
        VolumeSpec { class: "qlc".into(), ..volume_spec(1) },
        VolumeSpec { tags: BTreeSet::from(["fast".to_string()]), ..volume_spec(1) },
        VolumeSpec { block_shift: 9, ..volume_spec(1) },
        VolumeSpec { blocks: 1 << 40, ..volume_spec(1) },
    ] {
        mesh.refused(Command::CreateVolume { name: name(), spec }, Refusal::NoRoom);
    }
    mesh.ok(Command::DrainNode { node: NodeId(1), drain: true });
    let spec = volume_spec(2);
    mesh.refused(Command::CreateVolume { name: name(), spec }, Refusal::NoRoom);
    mesh.create(volume_spec(1));
    assert_eq!(mesh.group(1).replicas[0].drive, DriveId(2));
}

#[test]
fn a_volume_may_be_larger_than_a_drive_and_every_block_of_a_replica_has_a_place() {
    let mut mesh = Mesh::new(3);
    // A drive has 4096 blocks.
    let volume = mesh.create(VolumeSpec { blocks: 6000, ..volume_spec(1) });
    mesh.ok(Command::ExtendVolume { volume, blocks: 500 });
    let volume = mesh.picture.volume(volume).unwrap();
    assert_eq!((volume.spec.blocks, volume.parts.len()), (6500, 2));
    for part in &volume.parts {
        let blocks = part.groups.iter().map(|&group| mesh.picture.group(group).unwrap().blocks);
        assert_eq!(blocks.sum::<u64>(), part.blocks);
    }
    let mut used: BTreeSet<(DriveId, u64)> = BTreeSet::new();
    for group in mesh.picture.groups() {
        let replica = &group.replicas[0];
        let blocks = replica_blocks(group.blocks, 12, 16);
        assert_eq!(blocks, data_offset(group.blocks, 12, 16) + group.blocks);
        let mut block = 0;
        while block < blocks {
            let (start, run) = replica.locate(64, block).expect("a place for each block");
            for at in start..start + run {
                assert!(used.insert((replica.drive, at)), "in two replicas");
            }
            block += run;
        }
        assert_eq!(replica.locate(64, block), None);
    }
    assert!(used.iter().all(|&(_, at)| at < 4096));
}

#[test]
fn deleted_volumes_give_back_their_room() {
    let mut mesh = Mesh::new(2);
    let volumes: Vec<VolumeId> = (0..10).map(|_| mesh.create(volume_spec(2))).collect();
    for at in [3, 1, 2, 0, 9, 5, 7, 4, 6, 8] {
        mesh.ok(Command::DeleteVolume { volume: volumes[at] });
        assert_eq!(mesh.picture.check_sound(), Ok(()));
    }
    assert!(mesh.picture.drives().all(|drive| drive.free == [(0, 64)]));
    assert_eq!(mesh.picture.groups().count(), 0);
}

#[test]
fn routes_are_direct_then_over_few_relays_then_over_idle_ones() {
    let mut mesh = Mesh::new(5);
    let cut: &[(u32, u32)] = &[(1, 2)];
    for node in 1..=5 {
        let is_cut = |peer| cut.contains(&(node, peer)) || cut.contains(&(peer, node));
        mesh.ok(Command::Report {
            node: NodeId(node),
            incarnation: mesh.node(node),
            reach: (1..=5).filter(|&peer| !is_cut(peer)).map(NodeId).collect(),
            load: if node == 3 { 9 } else { 0 },
        });
    }
    let through = |relays: &[u32]| {
        Route::through(&relays.iter().map(|&relay| NodeId(relay)).collect::<Vec<_>>()).unwrap()
    };
    let mut routes = [Route::DIRECT; 5];
    assert_eq!(mesh.picture.routes(NodeId(1), NodeId(2), &mut routes), 5);
    let expected =
        [through(&[4]), through(&[5]), through(&[3]), through(&[4, 5]), through(&[5, 4])];
    assert_eq!(routes, expected);
    assert_eq!(mesh.picture.routes(NodeId(1), NodeId(3), &mut routes[..1]), 1);
    assert!(routes[0].is_direct());
    assert!(!mesh.picture.is_linked(NodeId(1), NodeId(2)));
    // A link that only one end vouches for is none.
    mesh.reach(4, [1, 3, 5].into_iter());
    assert!(!mesh.picture.is_linked(NodeId(4), NodeId(2)));
    assert_eq!(mesh.changes, [Change::Routes]);
    mesh.reach(4, [1, 3, 5].into_iter());
    assert!(mesh.changes.is_empty());
}
