//! What each command does to the states of replicas.

use weft::mesh::ids::*;
use weft::mesh::picture::*;
use weft::mesh::route::Route;

use crate::fixture::*;

fn reconciling(epoch: u64, source: u32) -> ReplicaState {
    ReplicaState::Reconciling(Round { epoch: Epoch(epoch), source: ReplicaId(source) })
}

fn syncing(epoch: u64, source: u32) -> ReplicaState {
    ReplicaState::Syncing(Round { epoch: Epoch(epoch), source: ReplicaId(source) })
}

use ReplicaState::{InSync, Stale};

#[test]
fn a_replica_is_left_behind_filled_and_in_sync_again() {
    let mut mesh = Mesh::new(3);
    mesh.create(volume_spec(3));
    assert_eq!(mesh.states(1), [InSync, InSync, InSync]);
    mesh.evict(1);
    assert_eq!(mesh.states(1), [Stale, InSync, InSync]);
    assert_eq!(mesh.group(1).epoch, Epoch(2));
    assert_eq!(mesh.group(1).since, mesh.picture.applied());
    let start = mesh.sync_start(1);
    assert_eq!(mesh.item(start.clone()), Ok(()));
    assert_eq!(mesh.states(1), [syncing(3, 2), InSync, InSync]);
    assert_eq!(mesh.item(start), Err(Refusal::Superseded));
    // The source dies: the round starts over.
    mesh.evict(2);
    assert_eq!(mesh.states(1), [syncing(4, 3), Stale, InSync]);
    let command = mesh.eviction(3, Evidence::Device);
    assert_eq!(mesh.item(command), Err(Refusal::LastHolder));
    let end = mesh.sync_end(1);
    assert_eq!(mesh.item(end), Ok(()));
    assert_eq!(mesh.states(1), [InSync, Stale, InSync]);
}

#[test]
fn snapshot_gives_the_same_picture() {
    let mut mesh = Mesh::new(3);
    let volume = mesh.create(volume_spec(2));
    mesh.attach(volume, 1, AttachMode::Exclusive);
    mesh.evict(1);
    let restored = Picture::restore(&mesh.picture.snapshot()).unwrap();
    assert_eq!(restored.digest(), mesh.picture.digest());
    assert_eq!(restored.snapshot(), mesh.picture.snapshot());
}

#[test]
fn a_revoked_writer_leaves_a_reconciliation_and_a_reader_none() {
    let mut mesh = Mesh::new(3);
    let volume = mesh.create(volume_spec(3));
    mesh.evict(3);
    let start = mesh.sync_start(3);
    assert_eq!(mesh.item(start), Ok(()));
    let generation = mesh.attach(volume, 1, AttachMode::Exclusive);
    mesh.ok(Command::Revoke { volume, generation });
    assert_eq!(mesh.states(1), [InSync, reconciling(4, 1), syncing(4, 1)]);
    mesh.evict(1);
    assert_eq!(mesh.states(1), [Stale, InSync, syncing(5, 2)]);
}

#[test]
fn evidence_that_a_target_is_silent_needs_routes_that_were_tried() {
    let mut mesh = Mesh::new(3);
    mesh.create(volume_spec(2));
    let target = mesh.group(1).replicas[1].id.0;
    let since = mesh.picture.applied();
    let unreachable = |tried: Vec<Route>| Evidence::Unreachable { tried, since };
    let command = mesh.eviction(target, unreachable(vec![Route::DIRECT]));
    assert_eq!(mesh.item(command), Err(Refusal::RouteUntried));
    let relayed = Route::through(&[NodeId(3)]).unwrap();
    let command = mesh.eviction(target, unreachable(vec![Route::DIRECT, relayed]));
    assert_eq!(mesh.item(command), Ok(()));
}
