//! Quorums that grow, shrink and replace their members while they serve.

use crate::network::{Network, n};

#[test]
fn a_quorum_of_one_decides_alone() {
    let mut network = Network::mesh(1, 1, 0);
    network.propose(1, 7);
    network.until(100, "it is applied", |network| network.has(1, 7));
}

#[test]
fn three_members_decide_and_all_nodes_apply() {
    let mut network = Network::mesh(2, 3, 2);
    for value in 0..50 {
        network.propose(1 + (value % 5) as u32, value);
    }
    network.until(2000, "all have all", |network| {
        (0..50).all(|value| network.all_have(&[1, 2, 3, 4, 5], value))
    });
    network.check_complete(&[1, 2, 3, 4, 5]);
}

#[test]
fn one_grows_to_three_and_five_and_shrinks_again_while_nodes_propose() {
    let mut network = Network::mesh(3, 1, 5);
    let mut value = 0;
    for members in [&[1, 2, 3][..], &[1, 2, 3, 4, 5], &[2, 3, 6], &[2], &[2, 1, 4]] {
        let at = network.leader().unwrap();
        let before = network.configuration(1).id;
        network.change_members(at, members);
        for _ in 0..40 {
            value += 1;
            network.propose(1 + (value % 6) as u32, value);
            network.run(20);
        }
        network.until(5000, "the members vote", |network| {
            network.leader().is_some_and(|leader| network.configuration(leader.0).id > before)
                && members.iter().all(|node| network.nodes[&n(*node)].log.is_member())
        });
    }
    network.until(5000, "all have all", |network| {
        (1..=value).all(|value| network.all_have(&[1, 2, 3, 4, 5, 6], value))
    });
    network.check_complete(&[1, 2, 3, 4, 5, 6]);
}

#[test]
fn an_idle_mesh_is_quiet() {
    let mut network = Network::mesh(7, 3, 2);
    network.run(1000);
    let before = network.sent;
    network.run(10_000);
    let per_second = (network.sent - before) / 10;
    // 3 members: 6 requests and 6 replies each 50 ms, and what 5 nodes say of themselves each 100 ms.
    assert!(per_second <= 450, "{per_second} messages a second");
}

#[test]
fn the_entry_that_ends_a_quorum_of_one_is_durable_before_anybody_acts_on_it() {
    let mut network = Network::mesh(8, 1, 2);
    network.store_delay = (50_000, 50_000);
    network.change_members(n(1), &[1, 2, 3]);
    network.run(20);
    assert!((1..=3).all(|node| network.configuration(node).id == 1));
    // Power fails before it is: it never was.
    network.stop(n(1));
    network.start(n(1));
    network.run(500);
    assert!((1..=3).all(|node| network.configuration(node).id == 1));
    network.change_members(n(1), &[1, 2, 3]);
    network.until(3000, "they vote", |network| {
        (1..=3).all(|node| network.nodes[&n(node)].log.is_member())
    });
}

#[test]
fn asking_for_the_members_that_there_are_changes_nothing() {
    let mut network = Network::mesh(9, 3, 1);
    let (leader, before) = (network.leader(), network.configuration(1).id);
    for _ in 0..20 {
        network.change_members(n(4), &[3, 1, 2]);
        network.change_members(n(1), &[1, 2, 3]);
        network.run(100);
        assert_eq!(network.leader(), leader);
    }
    assert_eq!(network.configuration(1).id, before);
}

#[test]
fn a_change_of_members_costs_one_election_and_less_than_150_ms() {
    for seed in 0..20 {
        let mut network = Network::mesh(seed, 3, 2);
        network.run(300);
        let (members, id) = ([1, 2, 4], network.configuration(1).id);
        let at = network.leader().unwrap();
        network.change_members(at, &members);
        network.propose(5, 1);
        let took = network.until(1000, "the new members decide", |network| {
            let is_new = |node: &u32| network.configuration(*node).id > id;
            members.iter().all(is_new) && network.leader().is_some() && network.has(5, 1)
        });
        assert!(took < 150, "{took} ms with seed {seed}");
        let leader = network.leader();
        for _ in 0..500 {
            network.run(1);
            assert_eq!(network.leader(), leader, "seed {seed}");
        }
    }
}
