//! The mirror as a whole, over disks that fail, lose power, and come back.

mod disk;
mod world;

use std::cell::RefCell;
use std::rc::Rc;

use disk::{Disk, Random};
use world::{Client, DATA_OFFSET, Daemon, History, MIRROR, drain, id_of, stamp};

/// Blocks of the mirror's data: five regions.
const SPAN: usize = 5 * 256;

fn disks(count: usize, seed: u64) -> Vec<Disk> {
    (0..count).map(|index| Disk::new(DATA_OFFSET + SPAN, seed * 100 + index as u64 + 1)).collect()
}

fn plug_all(daemon: &Daemon, disks: &[Disk]) {
    for (index, disk) in disks.iter().enumerate() {
        daemon.plug(&format!("Disk{index}"), disk);
    }
}

fn new_history() -> Rc<RefCell<History>> {
    Rc::new(RefCell::new(History::new(SPAN)))
}

fn run(daemon: &Daemon, clients: &mut [Client], random: &mut Random, rounds: usize) {
    for _ in 0..rounds {
        for client in clients.iter_mut() {
            if random.chance(70) {
                client.act(random, SPAN);
            }
            if random.chance(80) {
                client.poll();
            }
        }
        daemon.cx.turn();
    }
}

fn assert_equal(disks: &[Disk], from: usize) {
    let first = disks[0].contents(from);
    for (index, disk) in disks.iter().enumerate().skip(1) {
        let other = disk.contents(from);
        for block in 0..first.len() {
            assert!(
                first[block] == other[block],
                "block {block}: disk 0 has {}, disk {index} has {}",
                id_of(&first[block]),
                id_of(&other[block])
            );
        }
    }
}

fn in_sync(daemon: &Daemon, count: u32) -> bool {
    let info = daemon.summary().info;
    info.num_base_bdevs_discovered == count && info.process.is_none()
}

/// Two queues write the same blocks at once: the legs end up equal, and no read goes back in time.
#[test]
fn overlapping_writes_of_two_queues() {
    for seed in 1..6 {
        for superblock in [false, true] {
            let disks = disks(3, seed);
            let daemon = Daemon::boot();
            plug_all(&daemon, &disks);
            daemon.create(&["Disk0", "Disk1", "Disk2"], superblock).unwrap();
            let history = new_history();
            let mut clients = [Client::open(&daemon, &history), Client::open(&daemon, &history)];
            run(&daemon, &mut clients, &mut Random(seed), 800);
            drain(&daemon, &mut clients);
            assert!(clients.iter().all(|client| client.failures == 0 && client.done > 300));
            assert_equal(&disks, if superblock { DATA_OFFSET } else { 0 });
            drop(clients);
            daemon.shut_down();
        }
    }
}

/// Power is lost at any point. After it, every block is what it may be, reads the same from the first moment
/// on, and the legs become equal.
#[test]
fn power_loss_at_any_point() {
    for seed in 1..25 {
        let disks = disks(2, seed);
        let mut random = Random(seed * 7919);
        let history = new_history();
        let mut daemon = Daemon::boot();
        plug_all(&daemon, &disks);
        daemon.create(&["Disk0", "Disk1"], true).unwrap();
        for round in 0..4 {
            let mut clients = [Client::open(&daemon, &history), Client::open(&daemon, &history)];
            let rounds = random.below(200) as usize;
            run(&daemon, &mut clients, &mut random, rounds);
            drop(clients);
            daemon.crash(&disks);
            daemon = Daemon::boot();
            plug_all(&daemon, &disks);
            assert!(daemon.mirror().is_some(), "seed {seed}, round {round}");
            settle(&daemon, &history, &mut random);
            daemon.until("the end of the resync", || !unresolved(&daemon));
            assert_equal(&disks, DATA_OFFSET);
        }
        daemon.shut_down();
    }
}

fn unresolved(daemon: &Daemon) -> bool {
    daemon.summary().info.process.is_some()
}

/// Reads every block a few times at once, and takes the first answer as what it holds.
fn settle(daemon: &Daemon, history: &Rc<RefCell<History>>, random: &mut Random) {
    let device = daemon.mirror().unwrap();
    let mut reader = world::Reader::open(daemon, &device);
    let mut values = vec![None; SPAN];
    for _ in 0..3 {
        let start = random.below(SPAN as u64) as usize;
        for block in (0..SPAN).map(|block| (block + start) % SPAN) {
            reader.send(block);
        }
        daemon.until("the reads", || {
            for (block, contents) in reader.poll() {
                let id = id_of(&contents);
                let first = *values[block].get_or_insert(id);
                assert_eq!(first, id, "block {block} alternates");
            }
            reader.is_idle()
        });
    }
    for (block, value) in values.into_iter().enumerate() {
        history.borrow_mut().settle(block, value.unwrap());
    }
}
