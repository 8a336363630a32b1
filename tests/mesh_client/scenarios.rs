//! One story for each thing that a client has to do.

use std::time::Duration;

use weft::base::Time;
use weft::mesh::ids::{
    DriveId, Epoch, GroupId, Incarnation, Index, NodeId, ReplicaId, WriteNumber,
};
use weft::mesh::message::{IoResult, Operation, Refused, ToClient, ToTarget};
use weft::mesh::picture::{AttachMode, Change, Command, Evidence, ReplicaState, Round};
use weft::mesh::request::{Completion, Request};
use weft::mesh::route::Route;
use weft::mesh::story::Event;

use super::world::{Manner, Rig, World, run, write};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn exclusive(copies: u32) -> Rig {
    Rig::new(World::new(1, copies, AttachMode::Exclusive))
}

fn relay(node: u32) -> Route {
    Route::through(&[NodeId(node)]).expect("one relay")
}

fn data(rig: &Rig, token: u64) -> Vec<u64> {
    match rig.completion(token) {
        Some(Completion::Data(parts)) => parts.iter().flat_map(|part| part.0.to_vec()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_sent_before_the_first_request_and_then_each_copy_gets_the_write() {
    let mut rig = exclusive(3);
    assert!(rig.sent.is_empty());
    assert_eq!(rig.client.next_timer(), Time::NEVER);
    rig.submit(1, write(3, 2, 7));
    assert_eq!(rig.completion(1), Some(&Completion::Done));
    for node in 1..=3 {
        let number = WriteNumber(1);
        let operations: Vec<_> = rig.operations(node).into_iter().map(|(_, it)| it).collect();
        assert_eq!(operations, [Operation::Write { number, run: run(3, 2) }]);
    }
    rig.submit(2, Request::Read(run(2, 4)));
    assert_eq!(data(&rig, 2), [0, 7, 7, 0]);
    rig.submit(3, Request::Zero { run: run(4, 1), unmap: true });
    rig.submit(4, Request::Read(run(2, 4)));
    assert_eq!(data(&rig, 4), [0, 7, 0, 0]);
    rig.pass(5000);
    assert!(rig.client.is_idle() && rig.proposed.is_empty());
    assert_eq!(rig.client.next_timer(), Time::NEVER);
}

#[test]
fn a_striped_request_is_cut_and_put_together() {
    let mut rig = Rig::new(World::new(3, 2, AttachMode::Exclusive));
    rig.submit(1, write(0, 30, 5));
    rig.submit(2, write(7, 2, 6));
    rig.submit(3, Request::Read(run(5, 6)));
    assert_eq!(data(&rig, 3), [5, 5, 6, 6, 5, 5]);
    rig.submit(4, Request::Read(run(190, 2)));
    assert_eq!(data(&rig, 4), [0, 0]);
}

#[test]
fn what_makes_no_sense_is_invalid() {
    let mut rig = exclusive(2);
    rig.submit(1, Request::Read(run(60, 5)));
    rig.submit(2, Request::Read(run(0, 0)));
    rig.submit(3, Request::Zero { run: run(u64::MAX, 9), unmap: false });
    let mut reader = Rig::new(World::new(1, 2, AttachMode::SharedRead));
    reader.submit(4, write(0, 1, 1));
    reader.submit(5, Request::Flush);
    assert!((1..=3).all(|token| rig.completion(token) == Some(&Completion::Invalid)));
    assert_eq!(reader.completion(4), Some(&Completion::Invalid));
    assert_eq!(reader.completion(5), Some(&Completion::Done));
}

#[test]
fn a_dead_replica_is_proposed_within_the_time_out_and_the_write_ends_without_it() {
    let mut rig = exclusive(2);
    rig.submit(1, write(0, 1, 1));
    rig.pass(1000);
    rig.manners.insert(B, Manner::Silent);
    let started = rig.now;
    rig.submit(2, write(0, 1, 2));
    rig.submit(3, Request::Read(run(0, 1)));
    rig.world.applied = Index(120);
    rig.pass(199);
    assert!(rig.evictions().is_empty());
    rig.pass(1);
    let tried = vec![Route::DIRECT];
    let evidence = Evidence::Unreachable { tried: tried.clone(), since: Index(100) };
    let proposed = started + Duration::from_millis(200);
    assert_eq!(rig.evictions(), [(proposed, ReplicaId(12), evidence)]);
    // The mesh says no, or nothing: fresh attempts, fresh evidence.
    rig.picture_changed(&[]);
    rig.pass(400);
    let fresh = Evidence::Unreachable { tried, since: Index(120) };
    assert_eq!(rig.evictions().last().map(|(.., evidence)| evidence), Some(&fresh));
    assert_eq!(rig.completion(2), None);
    // B had opened a session in this attachment: no wait is needed against it.
    rig.set_state(12, ReplicaState::Stale);
    assert_eq!(rig.completion(2), Some(&Completion::Done));
    assert_eq!(data(&rig, 3), [2]);
}

#[test]
fn a_replica_that_never_knew_this_attachment_is_waited_out() {
    for early in [false, true] {
        let mut world = World::new(1, 2, AttachMode::Exclusive);
        world.set_state(12, ReplicaState::Stale);
        let mut rig = Rig::new(world);
        rig.submit(1, write(0, 1, 1));
        rig.submit(2, Request::Read(run(9, 1)));
        rig.pass(900);
        assert!(rig.completed.is_empty());
        assert!(rig.stories.iter().any(|event| matches!(event, Event::FenceWait { .. })));
        if early {
            rig.world.group_mut(1).unfenced.clear();
            rig.picture_changed(&[Change::Fenced(GroupId(1))]);
        } else {
            rig.pass(121);
        }
        assert_eq!(rig.completed.len(), 2);
        let over = |event: &Event| matches!(event, Event::Fenced { early: it, .. } if *it == early);
        assert!(rig.stories.iter().any(over));
        assert!(rig.proposed.is_empty());
    }
}

#[test]
fn a_replica_that_was_opened_after_the_attachment_needs_no_wait() {
    let mut world = World::new(1, 2, AttachMode::Exclusive);
    world.drives.get_mut(&DriveId(2)).expect("drive").incarnation = Some(Incarnation(60));
    world.set_state(12, ReplicaState::Stale);
    let mut rig = Rig::new(world);
    rig.submit(1, write(0, 1, 1));
    assert_eq!(rig.completion(1), Some(&Completion::Done));
}

#[test]
fn in_shared_write_mode_nothing_shortens_the_wait_but_the_picture() {
    let mut rig = Rig::new(World::new(1, 2, AttachMode::SharedWrite));
    rig.submit(1, write(0, 1, 1));
    rig.manners.insert(B, Manner::Silent);
    rig.submit(2, write(0, 1, 2));
    rig.pass(200);
    rig.set_state(12, ReplicaState::Stale);
    rig.pass(1020);
    assert_eq!(rig.completion(2), None);
    rig.pass(1);
    assert_eq!(rig.completion(2), Some(&Completion::Done));
}

#[test]
fn a_broken_link_is_gone_around_and_used_again_when_it_is_up() {
    let mut rig = exclusive(2);
    rig.submit(1, write(0, 1, 1));
    rig.world.routes.insert(B, vec![Route::DIRECT, relay(1)]);
    rig.picture_changed(&[Change::Routes]);
    rig.broken.insert((B, Route::DIRECT));
    rig.submit(2, write(0, 1, 2));
    rig.pass(200);
    assert_eq!(rig.completion(2), Some(&Completion::Done));
    assert!(rig.stories.contains(&Event::Routed { to: B, route: relay(1) }));
    // The first attempt may arrive late: it is of a lower session.
    let sessions: Vec<_> = rig.operations(2).into_iter().map(|(session, _)| session).collect();
    assert_eq!(sessions.len(), 3);
    assert!(sessions[1] < sessions[2]);
    rig.world.routes.insert(B, vec![relay(1)]);
    rig.picture_changed(&[Change::Routes]);
    rig.broken.clear();
    rig.world.routes.insert(B, vec![Route::DIRECT, relay(1)]);
    rig.picture_changed(&[Change::Routes]);
    rig.submit(3, write(0, 1, 3));
    assert_eq!(rig.completion(3), Some(&Completion::Done));
    assert_eq!(rig.sent.last().map(|(_, _, route, _)| *route), Some(Route::DIRECT));
    rig.pass(1000);
    assert!(rig.evictions().is_empty());
}

#[test]
fn every_way_is_tried_before_a_replica_is_called_unreachable() {
    let mut world = World::new(1, 2, AttachMode::Exclusive);
    world.routes.insert(B, vec![relay(1), relay(3), relay(4)]);
    let mut rig = Rig::new(world);
    rig.manners.insert(B, Manner::Silent);
    rig.submit(1, write(0, 1, 1));
    rig.pass(200);
    let tried = vec![relay(1), Route::DIRECT, relay(3), relay(4)];
    let (_, replica, evidence) = rig.evictions().remove(0);
    assert_eq!(replica, ReplicaId(12));
    assert_eq!(evidence, Evidence::Unreachable { tried, since: Index(100) });
}

#[test]
fn lost_io_is_sent_again_in_a_higher_session_and_a_held_one_is_waited_for() {
    let mut rig = exclusive(2);
    rig.submit(1, write(0, 1, 1));
    rig.manners.insert(B, Manner::LosesIo);
    rig.submit(2, write(0, 1, 2));
    let message = rig.sent.last().map(|(.., message)| message.clone());
    let Some(ToTarget::Io(io)) = message else { panic!("{message:?}") };
    for _ in 0..10 {
        rig.pass(90);
        let (key, session, sequence) = (io.key, io.session, io.sequence);
        rig.message(B, Route::DIRECT, (ToClient::Held { key, session, sequence }, None));
    }
    assert_eq!(rig.operations(2).len(), 2);
    rig.manners.clear();
    rig.pass(400);
    assert_eq!(rig.completion(2), Some(&Completion::Done));
    assert_eq!(rig.operations(2).len(), 3);
    assert!(rig.evictions().is_empty());
}

#[test]
fn a_target_that_hangs_but_lives_is_not_evicted_by_the_client() {
    let mut rig = exclusive(2);
    rig.manners.insert(B, Manner::Hung);
    rig.submit(1, write(0, 1, 1));
    rig.pass(5000);
    assert!(rig.evictions().is_empty());
    rig.manners.clear();
    rig.pass(100);
    assert_eq!(rig.completion(1), Some(&Completion::Done));
}

#[test]
fn a_target_without_a_lease_is_given_time_and_then_left_behind() {
    for why in [Refused::NoLease, Refused::Behind, Refused::NotServed] {
        let mut rig = exclusive(2);
        rig.submit(1, write(0, 1, 1));
        rig.manners.insert(B, Manner::Refuses(why));
        rig.submit(2, write(0, 1, 2));
        rig.pass(1199);
        assert!(rig.evictions().is_empty());
        rig.pass(1);
        let evidence = match why {
            Refused::NotServed => Evidence::Device,
            _ => Evidence::NotServing { since: Index(100) },
        };
        assert_eq!(rig.evictions().remove(0).2, evidence);
        rig.manners.clear();
        rig.pass(100);
        assert_eq!(rig.completion(2), Some(&Completion::Done));
    }
}

#[test]
fn who_is_behind_waits_for_the_picture() {
    for why in [Refused::StaleEpoch, Refused::NotAttached, Refused::OldSession] {
        let mut rig = exclusive(2);
        rig.manners.insert(B, Manner::Refuses(why));
        rig.submit(1, write(0, 1, 1));
        rig.pass(5000);
        assert!(rig.evictions().is_empty());
        assert!(rig.sent.len() < 200, "{}", rig.sent.len());
        rig.set_state(12, ReplicaState::Stale);
        rig.pass(2000);
        assert_eq!(rig.completion(1), Some(&Completion::Done));
    }
}

#[test]
fn a_drive_that_fails_a_write_is_left_behind_at_once() {
    let mut rig = exclusive(2);
    rig.manners.insert(B, Manner::FailsWrites);
    rig.submit(1, write(0, 1, 1));
    assert_eq!(rig.evictions(), [(rig.now, ReplicaId(12), Evidence::Device)]);
    rig.pass(1000);
    assert!(rig.evictions().len() > 2 && rig.evictions().len() < 8);
    rig.set_state(12, ReplicaState::Stale);
    assert_eq!(rig.completion(1), Some(&Completion::Done));
}

#[test]
fn a_read_goes_to_another_copy_when_one_cannot_read() {
    for result in [IoResult::Unreadable, IoResult::DeviceError, IoResult::NotReadable] {
        let mut rig = exclusive(3);
        rig.submit(1, write(0, 1, 1));
        rig.manners.insert(A, Manner::Reads(result));
        rig.manners.insert(B, Manner::Reads(result));
        rig.submit(2, Request::Read(run(0, 1)));
        assert_eq!(data(&rig, 2), [1]);
        rig.manners.insert(NodeId(3), Manner::Reads(result));
        rig.submit(3, Request::Read(run(0, 1)));
        rig.pass(1000);
        // A drive that failed may be back: only what it cannot read is an answer.
        let expected = (result == IoResult::Unreadable).then_some(&Completion::Unreadable);
        assert_eq!(rig.completion(3), expected);
        rig.manners.clear();
        rig.pass(1000);
        assert!(rig.completion(3).is_some());
        assert!(rig.evictions().is_empty());
    }
}

#[test]
fn reads_prefer_the_own_node_and_leave_a_silent_one() {
    let mut world = World::new(1, 2, AttachMode::Exclusive);
    world.drives.get_mut(&DriveId(2)).expect("drive").node = super::world::CLIENT;
    let mut rig = Rig::new(world);
    rig.submit(1, write(0, 1, 1));
    let own = rig.operations(9).len();
    rig.submit(2, Request::Read(run(0, 1)));
    assert_eq!(rig.operations(9).len(), own + 1);
    rig.manners.insert(super::world::CLIENT, Manner::Silent);
    rig.submit(3, Request::Read(run(0, 1)));
    rig.pass(200);
    assert_eq!(data(&rig, 3), [1]);
}

#[test]
fn only_the_source_of_a_reconcile_round_is_read() {
    let mut rig = exclusive(3);
    let round = Round { epoch: Epoch(2), source: ReplicaId(12) };
    rig.set_state(11, ReplicaState::Reconciling(round));
    rig.set_state(13, ReplicaState::Syncing(round));
    for token in 0..8 {
        rig.submit(token, Request::Read(run(token, 1)));
    }
    assert_eq!(rig.operations(2).len(), 8);
    rig.submit(9, write(0, 1, 1));
    assert!((1..=3).all(|node| rig.operations(node).iter().any(|(_, it)| it.write().is_some())));
}

#[test]
fn shared_writes_go_to_the_first_replica_first_and_are_confirmed() {
    let mut rig = Rig::new(World::new(1, 3, AttachMode::SharedWrite));
    assert_eq!(rig.sent.len(), 3, "sessions are opened at once");
    rig.manners.insert(A, Manner::LosesIo);
    rig.submit(1, write(0, 1, 1));
    assert!(rig.operations(2).is_empty());
    rig.manners.clear();
    rig.pass(400);
    assert_eq!(rig.completion(1), Some(&Completion::Done));
    let confirm = Operation::Confirm { number: WriteNumber(1) };
    assert!((1..=3).all(|node| rig.operations(node).iter().any(|(_, it)| *it == confirm)));
    for token in 2..6 {
        rig.submit(token, Request::Read(run(token, 1)));
    }
    let reads = |rig: &Rig, node| {
        let operations = rig.operations(node).into_iter();
        operations.filter(|(_, it)| matches!(it, Operation::Read(_))).count()
    };
    assert_eq!([1, 2, 3].map(|node| reads(&rig, node)), [4, 0, 0]);
    // A new epoch opens all sessions again, and says what is not confirmed.
    rig.manners.insert(B, Manner::LosesIo);
    rig.submit(7, write(5, 2, 1));
    rig.set_state(13, ReplicaState::Stale);
    let opens = rig.sent.iter().rev().filter_map(|(.., message)| match message {
        ToTarget::Open(open) if open.epoch == Epoch(2) => Some(open.unconfirmed.clone()),
        _ => None,
    });
    let opens: Vec<_> = opens.collect();
    assert_eq!(opens, vec![vec![(WriteNumber(2), run(5, 2))]; 2]);
}

#[test]
fn an_answer_of_an_earlier_epoch_counts_for_nothing() {
    let mut rig = exclusive(3);
    rig.submit(1, write(0, 1, 1));
    rig.manners.insert(B, Manner::LosesIo);
    rig.manners.insert(A, Manner::LosesIo);
    rig.submit(2, write(0, 1, 2));
    let old: Vec<ToTarget> = rig.sent.iter().map(|(.., message)| message.clone()).collect();
    rig.set_state(13, ReplicaState::Stale);
    for message in old {
        let ToTarget::Io(io) = message else { continue };
        let (key, session, sequence) = (io.key, io.session, io.sequence);
        let result = IoResult::Done;
        for node in [A, B, NodeId(3)] {
            let done = ToClient::Done { key, session, sequence, result };
            rig.message(node, Route::DIRECT, (done, None));
        }
    }
    assert_eq!(rig.completion(2), None);
    rig.manners.clear();
    rig.pass(500);
    assert_eq!(rig.completion(2), Some(&Completion::Done));
}

#[test]
fn a_target_that_restarted_gets_a_session_of_its_new_incarnation() {
    let mut rig = exclusive(2);
    rig.submit(1, write(0, 1, 1));
    rig.manners.insert(B, Manner::LosesIo);
    rig.submit(2, write(0, 1, 2));
    rig.world.drives.get_mut(&DriveId(2)).expect("drive").incarnation = Some(Incarnation(99));
    rig.manners.clear();
    rig.picture_changed(&[Change::Drive(DriveId(2))]);
    assert_eq!(rig.completion(2), Some(&Completion::Done));
    let mut opens = rig.sent.iter().filter_map(|(.., message)| match message {
        ToTarget::Open(open) if open.key.replica == ReplicaId(12) => Some(open.incarnation),
        _ => None,
    });
    assert_eq!(opens.next_back(), Some(Incarnation(99)));
}

#[test]
fn overlapping_io_goes_one_after_the_other_and_nobody_starves() {
    let mut rig = exclusive(2);
    rig.submit(1, write(0, 1, 1));
    rig.manners.insert(B, Manner::LosesIo);
    rig.submit(2, write(0, 4, 2));
    rig.submit(3, Request::Read(run(3, 2)));
    rig.submit(4, write(4, 1, 4));
    rig.submit(5, Request::Read(run(4, 1)));
    rig.submit(6, Request::Read(run(9, 1)));
    // The first write, the second, and the read that shares no block with it.
    assert_eq!(rig.operations(1).len() + rig.operations(2).len(), 2 + 2 + 1);
    assert!(rig.completion(6).is_some());
    rig.manners.clear();
    rig.pass(500);
    assert_eq!(data(&rig, 3), [2, 0]);
    assert_eq!(data(&rig, 5), [4]);
}

#[test]
fn more_than_the_window_waits_its_turn() {
    let mut rig = exclusive(2);
    rig.manners.insert(B, Manner::LosesIo);
    for token in 0..400 {
        rig.submit(token, write(token % 64, 1, token));
    }
    assert!(rig.operations(1).len() <= 128);
    rig.manners.clear();
    rig.pass(1000);
    assert_eq!(rig.completed.len(), 400);
    rig.submit(1000, Request::Read(run(0, 64)));
    assert_eq!(
        data(&rig, 1000),
        (0..64).map(|b| if b < 16 { 384 + b } else { 320 + b }).collect::<Vec<_>>()
    );
}

#[test]
fn the_last_copy_is_waited_for() {
    let mut rig = exclusive(1);
    rig.submit(1, write(0, 1, 1));
    rig.manners.insert(A, Manner::Silent);
    rig.submit(2, write(0, 1, 2));
    rig.pass(10_000);
    assert!(rig.proposed.is_empty());
    let blocked = rig.stories.iter().filter(|event| matches!(event, Event::Blocked { .. }));
    assert_eq!(blocked.count(), 1);
    rig.manners.clear();
    rig.pass(200);
    assert_eq!(rig.completion(2), Some(&Completion::Done));
    assert!(rig.stories.iter().any(|event| matches!(event, Event::Stalled { .. })));
}

#[test]
fn the_watermark_rests_below_the_first_unanswered_write_and_is_told_when_all_is_quiet() {
    let mut rig = exclusive(2);
    rig.submit(1, write(0, 1, 1));
    rig.manners.insert(B, Manner::LosesIo);
    rig.submit(2, write(1, 1, 2));
    rig.manners.clear();
    rig.submit(3, write(2, 1, 3));
    let watermarks = |rig: &Rig| {
        let told = rig.sent.iter().filter_map(|(time, _, _, message)| match message {
            ToTarget::Watermark { through, .. } => Some((*time, *through)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    rig.pass(150);
    // A had it with the third write already? It carried 1, as B's did: nothing new to tell.
    assert!(watermarks(&rig).iter().all(|(_, through)| *through == WriteNumber(1)));
    rig.pass(400);
    assert_eq!(rig.completion(2), Some(&Completion::Done));
    rig.pass(100);
    let through: Vec<_> = watermarks(&rig).into_iter().map(|(_, through)| through).collect();
    assert_eq!(through[through.len() - 2..], [WriteNumber(3), WriteNumber(3)]);
}

#[test]
fn a_flush_waits_for_the_writes_before_it_and_asks_nobody_where_answers_are_stable() {
    let mut rig = exclusive(2);
    rig.manners.insert(B, Manner::LosesIo);
    rig.submit(1, write(0, 1, 1));
    rig.submit(2, Request::Flush);
    rig.submit(3, write(1, 1, 1));
    assert_eq!(rig.completion(2), None);
    rig.manners.clear();
    rig.pass(500);
    let order: Vec<u64> = rig.completed.iter().map(|(_, token, _)| token.0).collect();
    assert_eq!(
        order.iter().position(|it| *it == 2),
        Some(1 + order.iter().position(|it| *it == 1).unwrap())
    );
    assert!(rig.operations(1).iter().all(|(_, it)| *it != Operation::Flush));
}

#[test]
fn a_write_back_volume_is_flushed_where_it_was_written_on_all_of_one_epoch() {
    let mut world = World::new(3, 2, AttachMode::Exclusive);
    world.volume.as_mut().expect("volume").spec.write_back = true;
    let mut rig = Rig::new(world);
    rig.submit(1, write(0, 8, 1));
    rig.manners.insert(B, Manner::LosesIo);
    rig.submit(2, Request::Flush);
    let flushes = |rig: &Rig, node| {
        let operations = rig.operations(node).into_iter();
        operations.filter(|(_, it)| *it == Operation::Flush).count()
    };
    assert_eq!((flushes(&rig, 1), rig.completion(2)), (2, None));
    rig.manners.clear();
    rig.set_state(12, ReplicaState::Stale);
    rig.pass(500);
    assert_eq!(rig.completion(2), Some(&Completion::Done));
    let before = flushes(&rig, 1);
    rig.submit(3, Request::Flush);
    assert_eq!((flushes(&rig, 1), rig.completion(3)), (before, Some(&Completion::Done)));
}

#[test]
fn a_detach_finishes_what_is_in_flight_and_asks_until_it_is_gone() {
    let mut rig = exclusive(2);
    rig.manners.insert(B, Manner::LosesIo);
    rig.submit(1, write(0, 1, 1));
    rig.detach();
    rig.submit(2, write(0, 1, 1));
    assert_eq!(rig.completion(2), Some(&Completion::Detached));
    assert!(rig.proposed.is_empty());
    rig.manners.clear();
    rig.pass(1000);
    assert_eq!(rig.completion(1), Some(&Completion::Done));
    assert!(rig.proposed.len() > 1);
    assert!(rig.proposed.iter().all(|(_, it)| matches!(it, Command::Detach { .. })));
    let told = rig.sent.iter().any(|(.., message)| matches!(message, ToTarget::Watermark { .. }));
    assert!(told && !rig.ended);
    rig.world.volume.as_mut().expect("volume").attachments.clear();
    rig.picture_changed(&[]);
    assert!(rig.ended && rig.client.has_ended());
    assert_eq!(rig.client.next_timer(), Time::NEVER);
}

#[test]
fn a_revoked_attachment_ends_everything() {
    let mut rig = exclusive(2);
    rig.manners.insert(B, Manner::Silent);
    rig.submit(1, write(0, 1, 1));
    rig.submit(2, Request::Read(run(0, 1)));
    rig.submit(3, Request::Flush);
    rig.world.volume = None;
    rig.picture_changed(&[]);
    assert!((1..=3).all(|token| rig.completion(token) == Some(&Completion::Detached)));
    assert!(rig.ended && rig.client.is_idle());
    rig.submit(4, Request::Flush);
    assert_eq!(rig.completion(4), Some(&Completion::Detached));
    rig.pass(5000);
}

#[test]
fn an_extended_volume_has_its_new_blocks() {
    let mut rig = exclusive(2);
    rig.submit(1, Request::Read(run(64, 1)));
    assert_eq!(rig.completion(1), Some(&Completion::Invalid));
    let larger = World::new(2, 2, AttachMode::Exclusive);
    let added = larger.groups[&GroupId(2)].clone();
    rig.world.groups.insert(GroupId(2), added);
    let volume = rig.world.volume.as_mut().expect("volume");
    let mut part = volume.parts[0].clone();
    part.groups = vec![GroupId(2)];
    volume.parts.push(part);
    rig.picture_changed(&[Change::Volume(weft::mesh::ids::VolumeId(1))]);
    rig.submit(2, write(62, 4, 3));
    rig.submit(3, Request::Read(run(61, 6)));
    assert_eq!(data(&rig, 3), [0, 3, 3, 3, 3, 0]);
}
