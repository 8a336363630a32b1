//! Commands decided a second by three members in one process, in memory and on redb, with so many in flight:
//! `cargo bench --bench consensus`. All three stores share one disk and one thread, so that a mesh of three machines does better.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft::base::{Time, Uuid};
use weft::consensus::store::{Batch, MemoryStore, RedbStore};
use weft::consensus::{Effect, Event, Index, Log, Member, Message, NodeId, Settings};

enum Store {
    Memory(Box<MemoryStore>),
    Redb(RedbStore),
}

struct Bench {
    begin: Instant,
    logs: Vec<Log>,
    stores: Vec<Store>,
    wire: VecDeque<(usize, NodeId, Message)>,
    batches: VecDeque<(usize, Batch)>,
    snapshots: Vec<(usize, Index)>,
    applied: [u64; 3],
    effects: Vec<Effect>,
}

fn node(place: usize) -> NodeId {
    NodeId(place as u32 + 1)
}

impl Bench {
    fn new(folder: Option<&std::path::Path>) -> Bench {
        let begin = Instant::now();
        let (mut logs, mut stores) = (Vec::new(), Vec::new());
        for place in 0..3 {
            let uuid = Uuid::from_u128(place as u128 + 1);
            let (store, restored) = match folder {
                Some(folder) => {
                    let path = folder.join(place.to_string());
                    let (store, restored) = RedbStore::open(&path, node(place), uuid).unwrap();
                    (Store::Redb(store), restored)
                }
                None => {
                    let mut store = MemoryStore::new(node(place), uuid);
                    let restored = store.open();
                    (Store::Memory(Box::new(store)), restored)
                }
            };
            let origin = place as u64 + 1;
            let settings = Settings::new(node(place));
            logs.push(Log::open(settings, Some(restored), origin, Time::ZERO));
            stores.push(store);
        }
        let (wire, batches, snapshots) = (VecDeque::new(), VecDeque::new(), Vec::new());
        let mut bench = Bench {
            begin,
            logs,
            stores,
            wire,
            batches,
            snapshots,
            applied: [0; 3],
            effects: Vec::new(),
        };
        bench.form();
        bench
    }

    fn now(&self) -> Time {
        Time::ZERO + self.begin.elapsed()
    }

    fn form(&mut self) {
        for place in 0..3 {
            for other in (0..3).filter(|other| *other != place) {
                self.event(place, Event::LinkUp(node(other)));
            }
        }
        self.act(0, |log, now, effects| log.found(now, effects));
        self.turn_until(|bench| bench.logs[0].members().is_some());
        let members: Vec<Member> = self.logs.iter().filter_map(Log::as_member).collect();
        self.act(0, |log, now, effects| log.propose_members(now, members, effects).unwrap());
        self.turn_until(|bench| {
            bench.logs.iter().all(Log::is_member) && bench.logs.iter().any(Log::is_leader)
        });
        let end = Instant::now() + Duration::from_millis(500);
        self.turn_until(|_| Instant::now() > end);
    }

    fn act(&mut self, place: usize, act: impl FnOnce(&mut Log, Time, &mut Vec<Effect>)) {
        let now = self.now();
        let mut effects = std::mem::take(&mut self.effects);
        act(&mut self.logs[place], now, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, message } => {
                    self.wire.push_back((to.0 as usize - 1, node(place), message));
                }
                Effect::Store(batch) => self.batches.push_back((place, batch)),
                Effect::Apply { .. } => self.applied[place] += 1,
                Effect::TakeSnapshot { index } => self.snapshots.push((place, index)),
                _ => {}
            }
        }
        self.effects = effects;
    }

    fn event(&mut self, place: usize, event: Event) {
        self.act(place, |log, now, effects| log.handle(now, event, effects));
    }

    /// Messages first, as many as there are, then one batch: the disk is slower than the wire.
    fn turn(&mut self) {
        while let Some((place, index)) = self.snapshots.pop() {
            let state = Arc::from(&[][..]);
            self.event(place, Event::SnapshotTaken { index, state });
        }
        while let Some((to, from, message)) = self.wire.pop_front() {
            self.event(to, Event::Message { from, message });
        }
        if let Some((place, batch)) = self.batches.pop_front() {
            match &mut self.stores[place] {
                Store::Memory(store) => store.apply(&batch),
                Store::Redb(store) => store.apply(&batch).unwrap(),
            }
            self.event(place, Event::Stored(batch.id));
        }
        for place in 0..3 {
            if self.logs[place].next_timer() <= self.now() {
                self.event(place, Event::Timer);
            }
        }
    }

    fn turn_until(&mut self, is_so: impl Fn(&Bench) -> bool) {
        while !is_so(self) {
            self.turn();
        }
    }

    fn decided_per_second(&mut self, in_flight: u64, time: Duration) -> f64 {
        let leader = self.logs.iter().position(Log::is_leader).unwrap();
        let command: Arc<[u8]> = vec![7; 128].into();
        let (begin, before) = (Instant::now(), self.applied[leader]);
        let mut proposed = before;
        while begin.elapsed() < time {
            while proposed - self.applied[leader] < in_flight {
                let command = Arc::clone(&command);
                self.act(leader, |log, now, effects| {
                    log.propose(now, command, effects).unwrap();
                });
                proposed += 1;
            }
            self.turn();
        }
        let rate = (self.applied[leader] - before) as f64 / begin.elapsed().as_secs_f64();
        // What is in flight still would count as the next measurement's.
        self.turn_until(|bench| bench.applied[leader] == proposed);
        rate
    }
}

fn main() {
    println!("{:<8}{:>12}{:>16}", "store", "in flight", "decided/s");
    for is_durable in [false, true] {
        let folder = tempfile::tempdir_in(".").unwrap();
        let mut bench = Bench::new(is_durable.then_some(folder.path()));
        for in_flight in [1, 32, 256] {
            let rate = bench.decided_per_second(in_flight, Duration::from_secs(2));
            let store = if is_durable { "redb" } else { "memory" };
            println!("{store:<8}{in_flight:>12}{rate:>16.0}");
        }
    }
}
