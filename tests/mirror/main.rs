//! The mirror as a whole, over disks that fail, lose power, and come back.

mod disk;
mod guest;
mod world;

use std::cell::RefCell;
use std::rc::Rc;

use disk::{Disk, Random};
use weft::base::{BlockCount, BlockSize, Geometry};
use weft::bdev::leaf::malloc::Malloc;
use weft::memory::HugePages;
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
    for seed in 1..4 {
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
    for seed in 1..9 {
        let disks = disks(2, seed);
        let mut random = Random(seed * 7919);
        let history = new_history();
        let mut daemon = Daemon::boot();
        plug_all(&daemon, &disks);
        daemon.create(&["Disk0", "Disk1"], true).unwrap();
        for round in 0..4 {
            let mut clients = [Client::open(&daemon, &history), Client::open(&daemon, &history)];
            let rounds = random.below(200) as usize;
            // Sometimes a leg fails first.
            let victim = &disks[random.below(2) as usize];
            if random.chance(50) {
                victim.with(|medium| medium.writes_left = Some(rounds as u64 / 2));
            }
            run(&daemon, &mut clients, &mut random, rounds);
            drop(clients);
            daemon.crash(&disks);
            victim.with(|medium| medium.writes_left = None);
            daemon = Daemon::boot();
            plug_all(&daemon, &disks);
            assert!(daemon.mirror().is_some(), "seed {seed}, round {round}");
            settle(&daemon, &history, &mut random);
            daemon.until("the end of the resync", || in_sync(&daemon, 2));
            assert_equal(&disks, DATA_OFFSET);
        }
        daemon.shut_down();
    }
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

fn filled(daemon: &Daemon, history: &Rc<RefCell<History>>, regions: usize) {
    let mut clients = [Client::open(daemon, history)];
    for region in 0..regions {
        for lba in (0..256).step_by(64) {
            clients[0].write(region * 256 + lba, 4);
            drain(daemon, &mut clients);
        }
    }
    clients[0].flush();
    drain(daemon, &mut clients);
}

/// A leg that fails a write is out of service before the write is acknowledged, also for a daemon that starts
/// after; when it comes back it gets what it missed, and no more.
#[test]
fn a_failed_leg_comes_back() {
    for superblock in [true, false] {
        let disks = disks(2, 42);
        let data = if superblock { DATA_OFFSET } else { 0 };
        let daemon = Daemon::boot();
        plug_all(&daemon, &disks);
        daemon.create(&["Disk0", "Disk1"], superblock).unwrap();
        let history = new_history();
        filled(&daemon, &history, 5);
        // An orderly end leaves no intent bit set.
        daemon.shut_down();
        let daemon = Daemon::boot();
        plug_all(&daemon, &disks);
        if !superblock {
            daemon.create(&["Disk0", "Disk1"], false).unwrap();
        }
        disks[1].with(|medium| medium.writes_left = Some(0));
        let mut clients = [Client::open(&daemon, &history), Client::open(&daemon, &history)];
        clients[0].write(256 + 7, 2);
        clients[1].write(256 + 8, 2);
        drain(&daemon, &mut clients);
        assert_eq!(clients[0].failures + clients[1].failures, 0);
        assert_eq!(daemon.legs(), ["Disk0"]);
        clients[0].read(256 + 6, 4);
        clients[1].write(2 * 256, 1);
        drain(&daemon, &mut clients);
        disks[1].with(|medium| {
            medium.writes_left = None;
            medium.blocks_written = 0;
        });
        run_writes_during(&daemon, &mut clients, || daemon.raids.add_base(MIRROR, "Disk1"));
        daemon.until("the end of the rebuild", || {
            clients.iter_mut().for_each(Client::poll);
            in_sync(&daemon, 2)
        });
        drain(&daemon, &mut clients);
        let written = disks[1].with(|medium| medium.blocks_written);
        // Two regions, what is written meanwhile, and metadata.
        assert!(
            (512..800).contains(&written),
            "{written} blocks were written, superblock {superblock}"
        );
        assert_equal(&disks, data);
        // The last leg is never taken out of service: the error is the caller's.
        disks[0].with(|medium| medium.writes_left = Some(0));
        disks[1].with(|medium| medium.writes_left = Some(0));
        clients[0].write(9, 1);
        drain(&daemon, &mut clients);
        assert_eq!((clients[0].failures, daemon.legs().len()), (1, 1));
        // When it works again, it serves again.
        disks[0].with(|medium| medium.writes_left = None);
        let cx = daemon.cx.clone();
        while clients[0].failures > 0 {
            clients[0].failures = 0;
            clients[0].write(9, 1);
            drain(&daemon, &mut clients);
            cx.block_on(cx.sleep(std::time::Duration::from_millis(20)));
        }
        drop(clients);
        daemon.crash(&disks);
    }
}

/// Adds a leg with requests in flight.
fn run_writes_during<F: Future<Output = weft::base::Result<()>>>(
    daemon: &Daemon,
    clients: &mut [Client; 2],
    add: impl FnOnce() -> F,
) {
    clients[0].write(256 + 1, 4);
    clients[1].write(3, 2);
    daemon.cx.block_on(async {
        let adding = add();
        let mut adding = std::pin::pin!(adding);
        std::future::poll_fn(|cx| {
            clients.iter_mut().for_each(Client::poll);
            cx.waker().wake_by_ref();
            adding.as_mut().poll(cx)
        })
        .await
        .unwrap();
    });
    clients[0].write(256 + 2, 4);
    clients[1].write(512, 2);
}

/// A leg that was left behind is not believed, alone or beside the one that went on.
#[test]
fn a_stale_leg_is_not_believed() {
    let disks = disks(2, 7);
    let daemon = Daemon::boot();
    plug_all(&daemon, &disks);
    daemon.create(&["Disk0", "Disk1"], true).unwrap();
    let history = new_history();
    filled(&daemon, &history, 5);
    disks[1].with(|medium| medium.writes_left = Some(0));
    filled(&daemon, &history, 2);
    disks[1].with(|medium| medium.writes_left = None);
    daemon.crash(&disks);

    let daemon = Daemon::boot();
    daemon.plug("Old", &disks[1]);
    assert!(daemon.mirror().is_none(), "the other may know more");
    assert_eq!(daemon.summary().info.num_base_bdevs_discovered, 1);
    daemon.plug("New", &disks[0]);
    assert!(daemon.mirror().is_some());
    settle(&daemon, &history, &mut Random(3));
    daemon.until("the rebuild", || in_sync(&daemon, 2));
    assert_equal(&disks, DATA_OFFSET);
    daemon.shut_down();

    // In sync both, one missing: it may have gone on alone, unless somebody says that it is gone for good.
    let daemon = Daemon::boot();
    daemon.plug("New", &disks[0]);
    assert!(daemon.mirror().is_none());
    daemon.cx.block_on(daemon.raids.remove_base("Old")).unwrap();
    assert!(daemon.mirror().is_some());
    filled(&daemon, &history, 1);
    daemon.crash(&disks);

    let daemon = Daemon::boot();
    daemon.plug("Old", &disks[1]);
    assert!(daemon.mirror().is_none(), "now the old one is stale");
    daemon.plug("New", &disks[0]);
    settle(&daemon, &history, &mut Random(4));
    daemon.until("the rebuild", || in_sync(&daemon, 2));
    assert_equal(&disks, DATA_OFFSET);
    daemon.cx.block_on(daemon.raids.delete(MIRROR, true)).unwrap();
    daemon.cx.close();
    let daemon = Daemon::boot();
    plug_all(&daemon, &disks);
    assert!(daemon.raids.list(None).is_empty(), "the labels are wiped");
    daemon.cx.close();
}

/// A bad block on one leg: the read succeeds from another, and the block is good again after.
#[test]
fn a_bad_block_is_repaired() {
    let disks = disks(2, 11);
    let daemon = Daemon::boot();
    plug_all(&daemon, &disks);
    daemon.create(&["Disk0", "Disk1"], true).unwrap();
    let history = new_history();
    filled(&daemon, &history, 1);
    let bad = DATA_OFFSET + 65;
    disks[1].with(|medium| {
        medium.bad_blocks.insert(bad);
    });
    disks[1].set_block(bad, stamp(u64::MAX));
    let mut clients = [Client::open(&daemon, &history)];
    for _ in 0..4 {
        clients[0].read(64, 4);
        clients[0].write(66, 1);
        drain(&daemon, &mut clients);
    }
    assert_eq!(clients[0].failures, 0);
    assert!(disks[1].with(|medium| medium.bad_blocks.is_empty()));
    assert_eq!(daemon.legs().len(), 2);
    assert_equal(&disks, DATA_OFFSET);
    drop(clients);
    daemon.shut_down();
}

/// A new leg gets everything ever written; a block that its source cannot read comes from another leg,
/// and when none can read it the leg is given up and not believed.
#[test]
fn a_rebuild_with_a_bad_source() {
    for both_bad in [false, true] {
        let mut disks = disks(3, 23);
        let daemon = Daemon::boot();
        plug_all(&daemon, &disks);
        daemon.create(&["Disk0", "Disk1", "Disk2"], true).unwrap();
        let history = new_history();
        filled(&daemon, &history, 3);
        disks[2] = Disk::new(DATA_OFFSET + SPAN, 99);
        disks[2].set_block(DATA_OFFSET + 4 * 256, stamp(77));
        daemon.cx.block_on(daemon.raids.remove_base("Disk2")).unwrap();
        daemon.plug("Disk3", &disks[2]);
        for disk in &disks[..if both_bad { 2 } else { 1 }] {
            disk.with(|medium| {
                medium.bad_blocks.insert(DATA_OFFSET + 256 + 64);
            });
        }
        daemon.cx.block_on(daemon.raids.add_base(MIRROR, "Disk3")).unwrap();
        let mut clients = [Client::open(&daemon, &history)];
        let mut random = Random(5);
        daemon.until("the end of the rebuild", || {
            clients[0].write(random.below(8) as usize, 2);
            clients[0].poll();
            daemon.summary().info.process.is_none()
        });
        drain(&daemon, &mut clients);
        assert_eq!(daemon.legs().len(), if both_bad { 2 } else { 3 });
        if !both_bad {
            disks[0].with(|medium| medium.bad_blocks.clear());
            let never_written = DATA_OFFSET + 4 * 256;
            assert_eq!(id_of(&disks[2].block(never_written)), 77, "copied for nothing");
            disks[2].set_block(never_written, stamp(0));
            assert_equal(&disks, DATA_OFFSET);
        }
        drop(clients);
        daemon.shut_down();
    }
}

/// A leg whose device goes is let go of, and the device is gone.
#[test]
fn a_leg_is_pulled() {
    let disks = disks(2, 31);
    let daemon = Daemon::boot();
    plug_all(&daemon, &disks);
    daemon.create(&["Disk0", "Disk1"], true).unwrap();
    let history = new_history();
    let mut clients = [Client::open(&daemon, &history), Client::open(&daemon, &history)];
    run(&daemon, &mut clients[..1], &mut Random(1), 100);
    let removed = Rc::new(std::cell::Cell::new(false));
    let (registry, done) = (daemon.registry.clone(), Rc::clone(&removed));
    daemon.cx.spawn(async move {
        registry.unregister("Disk1").await.unwrap();
        done.set(true);
    });
    // The second client sits idle, and is not polled.
    let mut random = Random(2);
    daemon.until("the removal", || {
        clients[0].act(&mut random, SPAN);
        clients[0].poll();
        removed.get()
    });
    drain(&daemon, &mut clients);
    assert_eq!((clients[0].failures, daemon.legs().len()), (0, 1));
    daemon.plug("Disk1", &disks[1]);
    daemon.until("the rebuild", || {
        clients[0].act(&mut random, SPAN);
        clients[0].poll();
        in_sync(&daemon, 2)
    });
    drain(&daemon, &mut clients);
    assert_equal(&disks, DATA_OFFSET);
    drop(clients);
    daemon.shut_down();
}

/// Intent bits are on the medium before what they announce, and go when it is quiet and all legs are there.
#[test]
fn intent_bits_come_and_go() {
    let disks = disks(2, 5);
    let daemon = Daemon::boot();
    plug_all(&daemon, &disks);
    daemon.create(&["Disk0", "Disk1"], true).unwrap();
    let set = daemon.summary().info.uuid;
    let history = new_history();
    let mut clients = [Client::open(&daemon, &history)];
    clients[0].write(3 * 256, 1);
    drain(&daemon, &mut clients);
    disks.iter().for_each(|disk| assert_eq!(intent_of(disk, set), 1 << 3));
    let cx = daemon.cx.clone();
    cx.block_on(async {
        while disks.iter().any(|disk| intent_of(disk, set) != 0) {
            cx.sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    disks[1].with(|medium| medium.writes_left = Some(0));
    clients[0].write(2 * 256, 1);
    drain(&daemon, &mut clients);
    assert_eq!(intent_of(&disks[0], set), 1 << 2);
    // Three ticks: while a leg is missing, the bit stays.
    cx.block_on(cx.sleep(std::time::Duration::from_millis(3100)));
    assert_eq!(intent_of(&disks[0], set), 1 << 2);
    drop(clients);
    daemon.shut_down();
    assert_eq!(intent_of(&disks[0], set), 1 << 2);
}

/// The first word of the intent bits that are on a disk.
fn intent_of(disk: &Disk, set: weft::base::Uuid) -> u64 {
    use weft::base::{BlockCount, BlockSize, Geometry};
    use weft::bdev::intent::{MapLayout, page};
    let geometry = Geometry::new(BlockSize::B4096, BlockCount(SPAN as u64)).unwrap();
    let layout = MapLayout::new(geometry).unwrap();
    let (mut one, mut two) = (*disk.block(32), *disk.block(33));
    page::newest(&layout, set, 0, [&mut one, &mut two]).unwrap().intent[0]
}

/// A leg that is replaced by an older image of itself has its label, and is not believed.
#[test]
fn an_old_image_is_not_believed() {
    let disks = disks(2, 77);
    let boot = || {
        let daemon = Daemon::boot();
        plug_all(&daemon, &disks);
        daemon
    };
    let daemon = boot();
    daemon.create(&["Disk0", "Disk1"], true).unwrap();
    let history = new_history();
    filled(&daemon, &history, 1);
    daemon.shut_down();
    let image = disks[1].contents(0);
    let daemon = boot();
    filled(&daemon, &history, 3);
    daemon.shut_down();
    for (block, contents) in image.into_iter().enumerate() {
        disks[1].set_block(block, *contents);
    }
    let daemon = boot();
    settle(&daemon, &history, &mut Random(1));
    daemon.until("the rebuild", || in_sync(&daemon, 2));
    assert_equal(&disks, DATA_OFFSET);
    daemon.shut_down();
}

/// A cleared intent bit says that what was written is stable on all legs, flushed by a client or not.
#[test]
fn bits_are_cleared_over_stable_data() {
    let disks = disks(2, 13);
    let daemon = Daemon::boot();
    plug_all(&daemon, &disks);
    daemon.create(&["Disk0", "Disk1"], true).unwrap();
    let set = daemon.summary().info.uuid;
    let history = new_history();
    let mut clients = [Client::open(&daemon, &history)];
    for lba in 0..100 {
        clients[0].write(lba, 1);
        drain(&daemon, &mut clients);
    }
    let cx = daemon.cx.clone();
    cx.block_on(async {
        while disks.iter().any(|disk| intent_of(disk, set) != 0) {
            cx.sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    drop(clients);
    daemon.crash(&disks);
    assert_equal(&disks, DATA_OFFSET);
}

/// A leg is not copied to before every queue sends its writes there too: one that does not look holds it up.
#[test]
fn a_leg_joins_when_every_queue_knows() {
    let disks = disks(2, 17);
    let daemon = Daemon::boot();
    plug_all(&daemon, &disks);
    daemon.create(&["Disk0", "Disk1"], true).unwrap();
    let history = new_history();
    filled(&daemon, &history, 1);
    daemon.cx.block_on(daemon.raids.remove_base("Disk1")).unwrap();
    // A reactor that has not had its turn since.
    let other = Daemon::boot().cx;
    let mut clients = [Client::open_on(&other, &daemon, &history), Client::open(&daemon, &history)];
    clients[0].write(3, 1);
    let added = Rc::new(std::cell::Cell::new(false));
    let (raids, done) = (daemon.raids.clone(), Rc::clone(&added));
    daemon.cx.spawn(async move {
        raids.add_base(MIRROR, "Disk1").await.unwrap();
        done.set(true);
    });
    let cx = daemon.cx.clone();
    cx.block_on(cx.sleep(std::time::Duration::from_millis(50)));
    assert!(!added.get() && daemon.summary().info.process.is_none());
    drain(&daemon, &mut clients);
    daemon.until("the rebuild", || {
        clients.iter_mut().for_each(Client::poll);
        other.turn();
        added.get() && in_sync(&daemon, 2)
    });
    assert_equal(&disks, DATA_OFFSET);
    drop(clients);
    other.close();
    daemon.shut_down();
}

/// A mirror of legs without a volatile cache says that writes are durable at once; a leg with one would make that
/// untrue.
#[test]
fn a_leg_with_a_cache_does_not_join_legs_without() {
    let daemon = Daemon::boot();
    let geometry = Geometry::new(BlockSize::B4096, BlockCount(1024)).unwrap();
    for name in ["Memory0", "Memory1"] {
        let memory = Malloc::create(name, None, geometry, HugePages::Never).unwrap();
        daemon.registry.register(memory, Vec::new()).unwrap();
    }
    daemon.plug("Disk0", &disks(1, 19)[0]);
    daemon.create(&["Memory0", "Memory1"], false).unwrap();
    // Nor can it know what its legs keep when they are gone.
    assert!(daemon.registry.get("Memory0").unwrap().info().erases);
    assert!(!daemon.mirror().unwrap().info().erases);
    daemon.cx.block_on(daemon.raids.remove_base("Memory1")).unwrap();
    let error = daemon.cx.block_on(daemon.raids.add_base(MIRROR, "Disk0")).unwrap_err();
    assert!(error.to_string().contains("volatile write cache"), "{error}");
    daemon.cx.block_on(daemon.raids.add_base(MIRROR, "Memory1")).unwrap();
    daemon.shut_down();
}
