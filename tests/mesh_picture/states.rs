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

#[test]
fn a_target_that_missed_ticks_needs_no_route_trials_and_one_that_came_back_is_alive() {
    let mut mesh = Mesh::new(3);
    mesh.create(volume_spec(2));
    let target = mesh.group(1).replicas[1].drive.0;
    let replica = mesh.group(1).replicas[1].id.0;
    let others: Vec<u32> = (1..=3).filter(|&node| node != target).collect();
    let since = mesh.picture.applied();
    let evidence = Evidence::Unreachable { tried: Vec::new(), since };
    for _ in 0..4 {
        mesh.tick(others.iter().copied());
    }
    let command = mesh.eviction(replica, evidence.clone());
    assert_eq!(mesh.item(command.clone()), Err(Refusal::RouteUntried), "silent for T, not longer");
    mesh.tick(others.iter().copied());
    let mut silent = Mesh { picture: mesh.picture.clone(), log: mesh.log.clone(), changes: vec![] };
    assert_eq!(silent.item(command), Ok(()));
    // It is heard again: a new run, and what is older than that counts no more.
    mesh.tick(1..=3);
    let relay = Route::through(&[NodeId(*others.last().unwrap())]).unwrap();
    let all = vec![Route::DIRECT, relay, Route::through(&[NodeId(others[0])]).unwrap()];
    let command = mesh.eviction(replica, Evidence::Unreachable { tried: all.clone(), since });
    assert_eq!(mesh.item(command), Err(Refusal::Alive));
    let since = mesh.picture.applied();
    let command = mesh.eviction(replica, Evidence::Unreachable { tried: all, since });
    assert_eq!(mesh.item(command), Ok(()));
}

#[test]
fn an_outage_of_the_log_is_no_evidence_against_anybody() {
    let mut mesh = Mesh::new(3);
    let volume = mesh.create(volume_spec(2));
    mesh.attach(volume, 3, AttachMode::SharedWrite);
    let replica = mesh.group(1).replicas[1].id.0;
    let since = mesh.picture.applied();
    // The first tick after half a minute lacks a node that is only slow to reconnect.
    mesh.tick_of(1..=1, Some(30_000), Index(0));
    let evidence = Evidence::Unreachable { tried: Vec::new(), since };
    let command = mesh.eviction(replica, evidence);
    assert_eq!(mesh.item(command), Err(Refusal::RouteUntried));
    assert_eq!(mesh.picture.volume(volume).unwrap().attachments.len(), 1);
    // Nor does a target that was heard after it count as not serving since before.
    mesh.tick_of(1..=3, None, Index(0));
    let command = mesh.eviction(replica, Evidence::NotServing { since });
    assert_eq!(mesh.item(command), Err(Refusal::Alive));
}

#[test]
fn a_replica_is_unfenced_until_its_node_has_applied_its_eviction() {
    let mut mesh = Mesh::new(3);
    mesh.create(volume_spec(2));
    let early = Index(mesh.log.len() as u64);
    mesh.evict(1);
    let at = mesh.picture.applied();
    let drive = mesh.group(1).replicas[0].drive.0;
    let expected = Unfenced {
        replica: ReplicaId(1),
        drive: DriveId(drive),
        node: NodeId(drive),
        incarnation: Some(mesh.drive(drive)),
        at,
    };
    assert_eq!(mesh.group(1).unfenced, [expected]);
    mesh.tick_of(1..=3, Some(250), early);
    assert_eq!(mesh.group(1).unfenced.len(), 1, "its node lags behind");
    mesh.tick_of(1..=3, Some(250), at);
    assert!(mesh.group(1).unfenced.is_empty());
    assert_eq!(mesh.changes, [Change::Fenced(GroupId(1))]);
}

#[test]
fn opening_a_drive_fences_what_it_served_and_ends_its_rounds() {
    let mut mesh = Mesh::new(3);
    mesh.create(volume_spec(2));
    let (first, second) = (mesh.group(1).replicas[0].drive.0, mesh.group(1).replicas[1].drive.0);
    mesh.evict(1);
    let start = mesh.sync_start(1);
    assert_eq!(mesh.item(start), Ok(()));
    mesh.open(second, second);
    assert_eq!(mesh.states(1), [syncing(3, 2), InSync], "a source in sync may restart");
    mesh.open(first, first);
    assert_eq!(mesh.states(1), [Stale, InSync]);
    assert!(mesh.group(1).unfenced.is_empty());
    assert!(mesh.changes.contains(&Change::Fenced(GroupId(1))));
}

#[test]
fn a_reconciliation_starts_over_when_one_of_its_drives_is_opened_anew() {
    let mut mesh = Mesh::new(3);
    let volume = mesh.create(volume_spec(3));
    let generation = mesh.attach(volume, 1, AttachMode::Exclusive);
    mesh.ok(Command::Revoke { volume, generation });
    assert_eq!(mesh.states(1), [InSync, reconciling(2, 1), reconciling(2, 1)]);
    for (drive, epoch) in
        [(mesh.group(1).replicas[2].drive.0, 3), (mesh.group(1).replicas[0].drive.0, 4)]
    {
        mesh.open(drive, drive);
        let joiner = reconciling(epoch, 1);
        assert_eq!(mesh.states(1), [InSync, joiner, joiner]);
    }
    // The source is evicted: one of those that reconcile becomes it.
    mesh.evict(1);
    assert_eq!(mesh.states(1), [Stale, InSync, reconciling(5, 2)]);
}

#[test]
fn a_write_back_replica_is_stale_after_a_restart_unless_it_is_the_last() {
    let mut mesh = Mesh::new(3);
    mesh.create(VolumeSpec { write_back: true, ..volume_spec(2) });
    let (first, second) = (mesh.group(1).replicas[0].drive.0, mesh.group(1).replicas[1].drive.0);
    mesh.open(first, first);
    assert_eq!(mesh.states(1), [Stale, InSync]);
    assert!(mesh.group(1).unfenced.is_empty());
    mesh.open(second, second);
    assert_eq!(mesh.states(1), [Stale, InSync]);
}

#[test]
fn an_old_image_of_a_drive_is_not_believed() {
    let mut mesh = Mesh::new(2);
    mesh.create(volume_spec(2));
    let good = mesh.opening(1, 1);
    mesh.refused(
        Command::OpenDrive(OpenDrive { open_count: 1, ..good.clone() }),
        Refusal::OldImage,
    );
    mesh.refused(Command::OpenDrive(OpenDrive { previous: vec![7], ..good.clone() }), Refusal::OldImage);
    let stranger = OpenDrive { incarnation: Incarnation(1), ..good.clone() };
    mesh.refused(Command::OpenDrive(stranger), Refusal::Superseded);
    let clone = mesh.opening(1, 2);
    mesh.refused(Command::OpenDrive(clone), Refusal::State);
    // Its node is silent for longer than any lease of it lasts.
    for _ in 0..5 {
        mesh.tick(2..=2);
    }
    mesh.open(1, 2);
    assert_eq!(mesh.picture.drive(DriveId(1)).unwrap().node, NodeId(2));
    mesh.refused(Command::OpenDrive(good), Refusal::OldImage);
}

#[test]
fn attachments_conflict_by_their_modes_and_preemption_revokes_all_in_the_way() {
    use AttachMode::{Exclusive, SharedRead, SharedWrite};
    for (held, wanted, fits) in [
        (Exclusive, Exclusive, false),
        (Exclusive, SharedRead, false),
        (SharedRead, SharedRead, true),
        (SharedRead, SharedWrite, false),
        (SharedWrite, SharedWrite, true),
        (SharedWrite, Exclusive, false),
    ] {
        let mut mesh = Mesh::new(3);
        let volume = mesh.create(volume_spec(2));
        mesh.attach(volume, 1, held);
        let wish = mesh.attaching(volume, 2, wanted, false);
        if fits {
            mesh.ok(wish);
            let again = mesh.attaching(volume, 2, wanted, false);
            mesh.refused(again, Refusal::Attached);
            assert_eq!(mesh.group(1).epoch, Epoch(1));
            continue;
        }
        mesh.refused(wish, Refusal::Attached);
        let wish = mesh.attaching(volume, 2, wanted, true);
        mesh.ok(wish);
        let attachments = &mesh.picture.volume(volume).unwrap().attachments;
        assert_eq!(attachments.iter().map(|other| other.node).collect::<Vec<_>>(), [NodeId(2)]);
        assert_eq!(mesh.group(1).epoch, Epoch(2));
        let joiner = if held == SharedRead { InSync } else { reconciling(2, 1) };
        assert_eq!(mesh.states(1), [InSync, joiner], "{held:?}");
    }
}

#[test]
fn a_daemons_start_revokes_in_every_group_and_its_old_incarnation_is_nobody() {
    let mut mesh = Mesh::new(3);
    let layout = Layout::Striped { width: 3, strip_blocks: 10 };
    let volume = mesh.create(VolumeSpec { layout, blocks: 90, ..volume_spec(2) });
    mesh.attach(volume, 3, AttachMode::Exclusive);
    let old = mesh.attaching(volume, 3, AttachMode::Exclusive, true);
    mesh.evict(1);
    mesh.start(3);
    for group in 1..=3 {
        let in_sync = mesh.states(group).into_iter().filter(|state| *state == InSync).count();
        assert_eq!(in_sync, 1, "{group}: one source, no other holder in sync");
    }
    assert!(mesh.picture.volume(volume).unwrap().attachments.is_empty());
    mesh.refused(old, Refusal::Superseded);
}

#[test]
fn shared_writes_of_a_silent_node_are_revoked_and_exclusive_ones_are_not() {
    for (mode, left) in [(AttachMode::SharedWrite, 0), (AttachMode::Exclusive, 1)] {
        let mut mesh = Mesh::new(3);
        let volume = mesh.create(volume_spec(2));
        mesh.attach(volume, 3, mode);
        for _ in 0..41 {
            mesh.tick(1..=2);
        }
        assert_eq!(mesh.picture.volume(volume).unwrap().attachments.len(), left, "{mode:?}");
    }
}

#[test]
fn a_finish_of_another_round_or_incarnation_is_refused() {
    let mut mesh = Mesh::new(3);
    let volume = mesh.create(volume_spec(2));
    let generation = mesh.attach(volume, 3, AttachMode::Exclusive);
    mesh.evict(1);
    let start = mesh.sync_start(1);
    assert_eq!(mesh.item(start), Ok(()));
    let early = mesh.sync_end(1);
    mesh.ok(Command::Revoke { volume, generation });
    assert_eq!(mesh.item(early), Err(Refusal::Superseded));
    let Command::FinishSync { proposer, mut syncs } = mesh.sync_end(1) else { unreachable!() };
    syncs[0].incarnation.0 += 1;
    let wrong = Command::FinishSync { proposer, syncs };
    assert_eq!(mesh.item(wrong), Err(Refusal::Superseded));
    let right = mesh.sync_end(1);
    assert_eq!(mesh.item(right), Ok(()));
}

#[test]
fn a_replica_comes_back_only_where_every_client_reaches_it() {
    let mut mesh = Mesh::new(3);
    let volume = mesh.create(volume_spec(2));
    let home = mesh.group(1).replicas[0].drive.0;
    let client = (1..=3).find(|&node| node != home).unwrap();
    mesh.attach(volume, client, AttachMode::Exclusive);
    mesh.evict(1);
    mesh.reach(home, std::iter::empty());
    let start = mesh.sync_start(1);
    assert_eq!(mesh.item(start.clone()), Err(Refusal::NoRoute));
    let relay = (1..=3).find(|&node| node != home && node != client).unwrap();
    mesh.reach(home, std::iter::once(relay));
    assert_eq!(mesh.item(start), Ok(()), "over a relay");
}

#[test]
fn a_moved_replica_replaces_the_old_one_when_it_is_filled() {
    let mut mesh = Mesh::new(3);
    mesh.create(volume_spec(2));
    let from = mesh.group(1).replicas[0].drive;
    mesh.ok(Command::DrainDrive { drive: from, drain: true });
    assert_eq!(mesh.ok(Command::Rebalance { moves: 5 }), Reply::Moves(1));
    let added = mesh.group(1).replicas[2].clone();
    assert_eq!((added.state, added.blank, added.replaces), (Stale, true, Some(ReplicaId(1))));
    let again = Command::MoveReplica { group: GroupId(1), replica: ReplicaId(1), to: None };
    mesh.refused(again, Refusal::State);
    let start = mesh.sync_start(added.id.0);
    assert_eq!(mesh.item(start), Ok(()));
    let end = mesh.sync_end(added.id.0);
    assert_eq!(mesh.item(end), Ok(()));
    let left: Vec<ReplicaId> = mesh.group(1).replicas.iter().map(|replica| replica.id).collect();
    assert_eq!(left, [ReplicaId(2), ReplicaId(3)]);
    assert_eq!(mesh.picture.replicas_on(from).count(), 0);
    assert_eq!(mesh.picture.drive(from).unwrap().free, [(0, 64)]);
    assert_eq!(mesh.group(1).unfenced.len(), 1, "the old one may still be read by who is behind");
    mesh.ok(Command::RemoveDrive { drive: from, lose: false });
}

#[test]
fn a_removed_drive_is_made_up_for_and_the_last_copy_is_not_given_up_by_mistake() {
    let mut mesh = Mesh::new(3);
    mesh.create(volume_spec(2));
    let (first, second) = (mesh.group(1).replicas[0].drive, mesh.group(1).replicas[1].drive);
    mesh.ok(Command::RemoveDrive { drive: first, lose: false });
    assert_eq!(mesh.states(1), [InSync]);
    mesh.refused(Command::RemoveDrive { drive: second, lose: false }, Refusal::LastHolder);
    assert_eq!(mesh.ok(Command::Rebalance { moves: 5 }), Reply::Moves(1));
    assert_eq!(mesh.states(1), [InSync, Stale]);
    assert_eq!(mesh.ok(Command::Rebalance { moves: 5 }), Reply::Moves(0), "one is on its way");
}

#[test]
fn a_lowered_lease_is_waited_for_until_the_longer_one_has_run_out() {
    let mut mesh = Mesh::new(1);
    let long = mesh.picture.timing().fence();
    mesh.ok(Command::SetTiming(Timing { lease_ms: 300, ..Timing::default() }));
    assert_eq!(mesh.picture.timing().fence(), long);
    for _ in 0..5 {
        mesh.tick(1..=1);
        assert_eq!(mesh.picture.timing().fence(), long);
    }
    mesh.tick(1..=1);
    assert!(mesh.picture.timing().fence() < long / 3);
    assert!(mesh.changes.contains(&Change::Timing));
}
