//! Random faults of every kind, then peace: one sequence everywhere, nothing acknowledged lost, each request once.

use crate::network::{Network, n};

pub fn chaos(seed: u64, change: impl Fn(&mut Network)) -> Network {
    let mut network = Network::mesh_with(seed, 3, 2, |settings| {
        settings.snapshot_entries = 60;
        settings.retained_entries = 10;
        settings.chunk_bytes = 500;
    });
    change(&mut network);
    // The rules that are switched off are those of the nodes that start from here on.
    for node in 1..=5 {
        network.stop(n(node));
        network.start(n(node));
    }
    network.loss_percent = 1 + seed % 4;
    network.duplicate_percent = 3;
    network.delay = (100, 3000);
    network.store_delay = (100, 8000);
    let mut value = 0;
    for _ in 0..60 {
        for _ in 0..network.random.below(8) {
            value += 1;
            let at = 1 + network.random.below(5) as u32;
            network.propose(at, value);
        }
        fault(&mut network);
        let time = 10 + network.random.below(150);
        network.run(time);
    }
    heal(&mut network);
    network
}

fn fault(network: &mut Network) {
    let (one, two) = (1 + network.random.below(5) as u32, 1 + network.random.below(5) as u32);
    match network.random.below(10) {
        0 | 1 if one != two => network.cut(one, two),
        2 if one != two => network.cut_silently(one, two),
        3 if one != two => {
            network.cut.insert((n(one), n(two)));
        }
        4 | 5 => network.heal(),
        6 if network.nodes[&n(one)].is_up
            && network.nodes.values().filter(|node| !node.is_up).count() < 2 =>
        {
            network.stop(n(one));
        }
        7 | 8 => {
            if let Some(node) = (1..=5).find(|node| !network.nodes[&n(*node)].is_up) {
                network.start(n(node));
            }
        }
        9 => {
            let sets: [&[u32]; 5] = [&[1, 2, 3], &[1, 2, 3, 4, 5], &[2, 3, 4], &[1, 4, 5], &[3]];
            let set = sets[network.random.below(5) as usize];
            if network.nodes[&n(one)].is_up && network.nodes[&n(one)].log.members().is_some() {
                network.change_members(n(one), set);
            }
        }
        _ => {}
    }
}

fn heal(network: &mut Network) {
    network.loss_percent = 0;
    network.heal();
    for node in 1..=5 {
        if !network.nodes[&n(node)].is_up {
            network.start(n(node));
        }
    }
    for one in 1..=5 {
        network.propose(one, 100_000 + u64::from(one));
    }
}

/// Waits until all nodes agree and have everything.
pub fn settle(network: &mut Network, seed: u64) {
    let what = format!("seed {seed}: all go on");
    network.until(20_000, &what, |network| {
        (1..=5).all(|one| network.all_have(&[1, 2, 3, 4, 5], 100_000 + one))
    });
    // What was proposed before may be decided after these.
    network.run(2000);
    network.check_complete(&[1, 2, 3, 4, 5]);
}

fn check(seed: u64) {
    let mut network = chaos(seed, |_| ());
    settle(&mut network, seed);
    assert!(network.nodes.values().all(|node| !node.is_amnesiac && node.failure.is_none()));
}

#[test]
fn random_faults_break_nothing() {
    let (from, count) = match std::env::var("WEFT_SEEDS") {
        Ok(range) => {
            let (from, count) = range.split_once('+').unwrap();
            (from.parse().unwrap(), count.parse().unwrap())
        }
        Err(_) => (0, 40),
    };
    (from..from + count).for_each(check);
}
