//! Each rule is needed: without it, faults at random soon break what they otherwise do not.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::chaos::{chaos, settle};
use crate::network::{Network, n};

/// How many seeds it takes until something breaks.
fn broken_after(seeds: u64, run: impl Fn(u64) -> bool) -> Option<u64> {
    (0..seeds).find(|seed| !catch_unwind(AssertUnwindSafe(|| run(*seed))).unwrap_or(false))
}

fn holds(seed: u64, change: impl Fn(&mut Network)) -> bool {
    let mut network = chaos(seed, change);
    settle(&mut network, seed);
    network.violations.is_empty()
}

#[test]
fn messages_must_wait_for_the_store() {
    let seed = broken_after(100, |seed| {
        let mut network = Network::mesh_with(seed, 3, 0, |settings| {
            settings.mutations.send_before_durable = true;
        });
        network.store_delay = (20_000, 60_000);
        for value in 0..30 {
            network.propose(1 + (value % 3) as u32, value);
            network.run(5);
        }
        for node in 1..=3 {
            network.stop(n(node));
        }
        for node in 1..=3 {
            network.start(n(node));
        }
        network.run(3000);
        network.propose(1, 99);
        network.run(3000);
        network.check_complete(&[1, 2, 3]);
        network.violations.is_empty()
    });
    assert!(seed.is_some());
}

#[test]
fn requests_must_be_applied_once() {
    let change = |network: &mut Network| {
        network.mutate(|mutations| mutations.no_request_dedupe = true);
    };
    assert!(broken_after(50, |seed| holds(seed, change)).is_some());
}

#[test]
fn entries_must_not_be_applied_again() {
    let change = |network: &mut Network| {
        network.mutate(|mutations| mutations.apply_backwards = true);
    };
    assert!(broken_after(50, |seed| holds(seed, change)).is_some());
}

/// A member votes with an old image while one that has the rest is away for a moment: it must wait for that one.
fn old_image(seed: u64, is_believed: bool) -> bool {
    let mut network = Network::mesh_with(seed, 3, 0, |settings| {
        settings.mutations.accept_old_store_identity = is_believed;
    });
    let leader = network.leader().unwrap().0;
    let (old, late) = (1 + leader % 3, 1 + (leader + 1) % 3);
    let image = network.stores[&n(old)].clone();
    network.stop(n(old));
    network.start(n(old));
    network.run(1000);
    network.stop(n(late));
    for value in 0..20 {
        network.propose(leader, value);
    }
    network.run(1500);
    // The leader and one member have decided those. Now that member forgets, and the leader is slow to answer.
    network.stop(n(old));
    network.stores.insert(n(old), image);
    network.start(n(old));
    network.start(n(late));
    network.cut(leader, old);
    network.cut(leader, late);
    network.propose(late, 100);
    // Longer than a member waits for the one that is cut off.
    network.run(4000);
    network.heal();
    network.run(3000);
    network.check_complete(&[leader, late]);
    network.violations.is_empty()
}

#[test]
fn an_old_image_must_not_vote() {
    assert!((0..20).all(|seed| old_image(seed, false)));
    assert!(broken_after(20, |seed| old_image(seed, true)).is_some());
}
