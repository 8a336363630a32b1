//! The shapes of partial connectivity that break other systems.

use crate::network::{Network, n};

#[test]
fn a_dead_leader_has_a_successor_in_less_than_half_a_second() {
    for seed in 0..10 {
        let mut network = Network::mesh(seed, 3, 2);
        let leader = network.leader().unwrap();
        network.stop(leader);
        let at = (1..=3).find(|node| n(*node) != leader).unwrap();
        network.propose(at, 9);
        let others: Vec<u32> = (1..=5).filter(|node| n(*node) != leader).collect();
        let took = network.until(500, "it is decided", |network| network.all_have(&others, 9));
        assert!(took < 500);
    }
}

#[test]
fn five_members_linked_to_a_hub_only_elect_the_hub() {
    for seed in 0..5 {
        let mut network = Network::mesh(seed, 5, 0);
        let leader = network.leader().unwrap().0;
        let hub = 1 + leader % 5;
        for one in 1..=5 {
            for two in one + 1..=5 {
                if one != hub && two != hub {
                    network.cut(one, two);
                }
            }
        }
        let at = (1..=5).find(|node| *node != hub && *node != leader).unwrap();
        network.propose(at, 1);
        network.propose(leader, 2);
        network.until(2000, "all have both", |network| {
            network.all_have(&[1, 2, 3, 4, 5], 1) && network.all_have(&[1, 2, 3, 4, 5], 2)
        });
    }
}

#[test]
fn the_one_member_that_has_a_quorum_is_elected_though_its_log_is_behind() {
    for seed in 0..5 {
        let mut network = Network::mesh(seed, 5, 0);
        let leader = network.leader().unwrap().0;
        let only = 1 + leader % 5;
        // It misses entries first, then it is the only one that reaches a majority, and the leader nobody.
        network.cut(leader, only);
        for value in 0..20 {
            network.propose(leader, value);
        }
        network.run(20);
        for one in 1..=5 {
            for two in one + 1..=5 {
                let is_linked = (one == only || two == only) && one != leader && two != leader;
                if !is_linked {
                    network.cut(one, two);
                }
            }
        }
        network.propose(only, 100);
        let rest: Vec<u32> = (1..=5).filter(|node| *node != leader).collect();
        network.until(2000, "the rest goes on", |network| network.all_have(&rest, 100));
    }
}

#[test]
fn in_a_chain_the_member_that_is_cut_off_from_the_leader_proposes_and_applies() {
    for seed in 0..10 {
        let mut network = Network::mesh(seed, 3, 0);
        let leader = network.leader().unwrap().0;
        let end = 1 + leader % 3;
        network.cut(leader, end);
        for value in 0..100 {
            network.propose(end, value);
            network.propose(leader, 1000 + value);
            network.run(10);
        }
        network.until(1500, "all have all", |network| {
            (0..100).all(|value| {
                network.all_have(&[1, 2, 3], value) && network.all_have(&[1, 2, 3], 1000 + value)
            })
        });
        network.check_complete(&[1, 2, 3]);
    }
}

#[test]
fn an_isolated_leader_is_replaced_and_its_own_proposals_are_decided_later() {
    for seed in 0..5 {
        let mut network = Network::mesh(seed, 3, 1);
        let leader = network.leader().unwrap().0;
        for node in (1..=4).filter(|node| *node != leader) {
            network.cut_silently(leader, node);
        }
        network.propose(leader, 5);
        let at = 1 + leader % 3;
        network.propose(at, 6);
        let rest: Vec<u32> = (1..=4).filter(|node| *node != leader).collect();
        network.until(1500, "the rest goes on", |network| network.all_have(&rest, 6));
        assert!(!network.has(leader, 5));
        network.heal();
        network.until(1500, "the lost proposal is decided", |network| {
            network.all_have(&[1, 2, 3, 4], 5) && network.all_have(&[1, 2, 3, 4], 6)
        });
        network.check_complete(&[1, 2, 3, 4]);
    }
}

#[test]
fn a_node_behind_a_node_behind_a_member_follows_and_finds_another_way() {
    let mut network = Network::mesh(4, 3, 3);
    // 1 2 3 vote; 4 sees 3 only, 5 sees 4 and 6, 6 sees 2.
    for (one, two) in [(4, 1), (4, 2), (4, 6), (5, 1), (5, 2), (5, 3), (6, 1), (6, 3)] {
        network.cut(one, two);
    }
    network.run(500);
    for value in 0..20 {
        network.propose(5, value);
    }
    network.until(1500, "all have all", |network| {
        (0..20).all(|value| network.all_have(&[1, 2, 3, 4, 5, 6], value))
    });
    network.cut_silently(5, 4);
    network.cut_silently(5, 6);
    network.propose(2, 50);
    network.run(1000);
    assert!(!network.has(5, 50));
    network.cut.remove(&(n(5), n(6)));
    network.cut.remove(&(n(6), n(5)));
    network.until(1500, "it comes the other way", |network| network.has(5, 50));
}
