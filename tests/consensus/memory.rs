//! Stores that fail, are lost, or come back as old images; snapshots.

use crate::network::{Network, n};

#[test]
fn a_member_restored_from_an_old_image_does_not_vote_and_is_replaced() {
    let mut network = Network::mesh(1, 3, 0);
    let node = 1 + network.leader().unwrap().0 % 3;
    network.stop(n(node));
    let image = network.stores[&n(node)].clone();
    network.start(n(node));
    network.until(1000, "it votes", |network| network.nodes[&n(node)].log.is_member());
    for value in 0..10 {
        network.propose(node, value);
    }
    network.run(300);
    network.stop(n(node));
    network.stores.insert(n(node), image);
    network.start(n(node));
    network.until(500, "it knows", |network| network.nodes[&n(node)].is_amnesiac);
    network.run(1000);
    assert!(!network.nodes[&n(node)].log.is_member());

    network.stop(n(node));
    network.wipe(n(node));
    network.start(n(node));
    let leader = network.leader().unwrap();
    network.change_members(leader, &[1, 2, 3]);
    network.until(3000, "it votes", |network| network.nodes[&n(node)].log.is_member());
    network.propose(node, 77);
    network.until(1000, "all have it", |network| network.all_have(&[1, 2, 3], 77));
    network.check_complete(&[1, 2, 3]);
}

#[test]
fn a_wiped_member_is_no_member() {
    let mut network = Network::mesh(2, 3, 0);
    let node = 1 + network.leader().unwrap().0 % 3;
    network.propose(node, 1);
    network.run(300);
    network.stop(n(node));
    network.wipe(n(node));
    network.start(n(node));
    network.until(1000, "it has the entries", |network| network.has(node, 1));
    assert!(network.nodes[&n(node)].is_amnesiac);
    assert!(!network.nodes[&n(node)].log.is_member());
}

#[test]
fn a_store_that_fails_stops_the_node_without_a_word() {
    let mut network = Network::mesh(3, 3, 0);
    let leader = network.leader().unwrap();
    network.nodes.get_mut(&leader).unwrap().disk_fails = true;
    network.propose(leader.0, 1);
    network.run(50);
    assert!(network.nodes[&leader].failure.is_some());
    network.run(500);
    assert_eq!(network.nodes[&leader].sent_after_failure, 0);
    assert!(!network.has(leader.0, 1));
    let at = 1 + leader.0 % 3;
    network.propose(at, 2);
    network.until(1000, "the others go on", |network| network.has(at, 2));
}

#[test]
fn a_member_and_a_node_that_were_away_catch_up_by_snapshot() {
    let mut network = Network::mesh_with(4, 3, 1, |settings| {
        settings.snapshot_entries = 100;
        settings.retained_entries = 20;
        settings.chunk_bytes = 1000;
    });
    let away = 1 + network.leader().unwrap().0 % 3;
    network.stop(n(away));
    network.stop(n(4));
    let leader = network.leader().unwrap().0;
    for value in 0..1000 {
        network.propose(leader, value);
        network.run(2);
    }
    network.run(500);
    for (node, store) in &network.stores {
        assert!(store.entries() < 300, "{node} keeps {}", store.entries());
    }
    let before = network.installs;
    network.start(n(away));
    network.start(n(4));
    network.until(3000, "they have all", |network| {
        (0..1000).all(|value| network.all_have(&[away, 4], value))
    });
    assert!(network.installs >= before + 2);
    // And it votes: the quorum is this one and another.
    let other = (1..=3).find(|node| *node != away && *node != leader).unwrap();
    network.run(1000);
    network.stop(n(other));
    network.propose(leader, 5000);
    network.until(3000, "it is decided", |network| network.has(leader, 5000));
    network.check_complete(&[away, leader, 4]);
}

#[test]
fn all_members_lose_power_at_once_and_nothing_is_lost() {
    let mut network = Network::mesh(5, 3, 0);
    for value in 0..100 {
        network.propose(1 + (value % 3) as u32, value);
    }
    network.run(6);
    for node in 1..=3 {
        network.stop(n(node));
    }
    for node in 1..=3 {
        network.start(n(node));
    }
    network.until(2000, "they vote", |network| network.leader().is_some());
    network.propose(1, 500);
    network.until(2000, "they go on", |network| network.all_have(&[1, 2, 3], 500));
    network.check_complete(&[1, 2, 3]);
}

#[test]
fn a_removed_member_with_an_old_store_disturbs_nobody() {
    let mut network = Network::mesh(6, 5, 0);
    let leader = network.leader().unwrap();
    let gone: Vec<u32> = (1..=5).filter(|node| n(*node) != leader).take(2).collect();
    for node in &gone {
        network.stop(n(*node));
    }
    let rest: Vec<u32> = (1..=5).filter(|node| !gone.contains(node)).collect();
    network.change_members(leader, &rest);
    network.until(3000, "the rest votes", |network| {
        network.leader().is_some_and(|leader| network.configuration(leader.0).id == 3)
    });
    network.run(1000);
    let leader = network.leader().unwrap();
    for node in &gone {
        network.start(n(*node));
    }
    network.run(3000);
    assert_eq!(network.leader(), Some(leader));
    for node in &gone {
        assert!(!network.nodes[&n(*node)].log.is_member());
    }
    network.propose(gone[0], 9);
    network.until(1000, "all have it", |network| network.all_have(&[1, 2, 3, 4, 5], 9));
}
