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
