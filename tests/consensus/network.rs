//! A small network of logs in one thread: virtual time, one seed, cuts, losses, restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weft::base::{Time, Uuid};
use weft::consensus::store::{Batch, MemoryStore};
use weft::consensus::{
    Configuration, Effect, Event, Failure, Index, Log, Member, Message, Mutations, NodeId,
    RequestId, Settings,
};

/// xorshift64*, which is all that a test needs.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

enum What {
    Deliver { from: NodeId, to: NodeId, message: Message },
    Stored { node: NodeId, start: u64, batch: Batch },
    Timer { node: NodeId, start: u64 },
}

/// The application: the commands in order.
#[derive(Clone, Default, Debug)]
pub struct Application {
    pub applied: Vec<(Index, u64)>,
}

impl Application {
    fn bytes(&self) -> Arc<[u8]> {
        self.applied
            .iter()
            .flat_map(|(index, value)| [index.0.to_le_bytes(), value.to_le_bytes()].concat())
            .collect()
    }

    fn of(bytes: &[u8]) -> Application {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let pair = |row: &[u8]| (Index(number(&row[..8])), number(&row[8..]));
        Application { applied: bytes.chunks(16).map(pair).collect() }
    }
}

pub struct Node {
    pub log: Log,
    pub application: Application,
    pub is_up: bool,
    pub failure: Option<Failure>,
    pub is_amnesiac: bool,
    /// Messages that left it after it failed.
    pub sent_after_failure: u32,
    start: u64,
    timer: Time,
    pub disk_fails: bool,
}

pub struct Network {
    pub now: Time,
    pub random: Random,
    pub settings: Settings,
    pub nodes: BTreeMap<NodeId, Node>,
    pub stores: BTreeMap<NodeId, MemoryStore>,
    /// Links that are cut, one way.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    pub delay: (u64, u64),
    pub store_delay: (u64, u64),
    events: BTreeMap<(Time, u64), What>,
    count: u64,
    starts: u64,
    /// What each index held where it was applied first.
    pub agreed: BTreeMap<Index, u64>,
    /// A disagreement that a test with a broken rule looks for.
    pub violations: Vec<String>,
    pub proposed: BTreeMap<RequestId, u64>,
    pub acknowledged: BTreeSet<u64>,
    pub sent: u64,
    pub installs: u64,
    effects: Vec<Effect>,
}

pub fn n(node: u32) -> NodeId {
    NodeId(node)
}

impl Network {
    pub fn new(seed: u64) -> Network {
        Network {
            now: Time::from_nanos(1_000_000_000),
            random: Random::new(seed),
            settings: Settings::new(n(0)),
            nodes: BTreeMap::new(),
            stores: BTreeMap::new(),
            cut: BTreeSet::new(),
            loss_percent: 0,
            duplicate_percent: 0,
            delay: (100, 400),
            store_delay: (100, 900),
            events: BTreeMap::new(),
            count: 0,
            starts: 0,
            agreed: BTreeMap::new(),
            violations: Vec::new(),
            proposed: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            sent: 0,
            installs: 0,
            effects: Vec::new(),
        }
    }

    /// A mesh that node 1 founded, with `members` members (1 to that) and `others` more nodes.
    pub fn mesh(seed: u64, members: u32, others: u32) -> Network {
        Self::mesh_with(seed, members, others, |_| ())
    }

    pub fn mesh_with(
        seed: u64,
        members: u32,
        others: u32,
        change: impl Fn(&mut Settings),
    ) -> Network {
        let mut network = Network::new(seed);
        change(&mut network.settings);
        for node in 1..=members + others {
            network.start(n(node));
        }
        network.act(n(1), |log, now, effects| log.found(now, effects));
        network.run(300);
        if members > 1 {
            network.change_members(n(1), &(1..=members).collect::<Vec<_>>());
            network.until(5000, "the members vote", |network| {
                (1..=members).all(|node| network.nodes[&n(node)].log.is_member())
                    && network.leader().is_some()
            });
        }
        network
    }

    pub fn mutate(&mut self, change: impl Fn(&mut Mutations)) {
        change(&mut self.settings.mutations);
    }

    fn at(&mut self, time: Time, what: What) {
        self.count += 1;
        self.events.insert((time, self.count), what);
    }

    fn microseconds(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_micros(least + self.random.below(most - least + 1))
    }

    /// Starts a node with what its store holds; a node that has none gets one.
    pub fn start(&mut self, node: NodeId) {
        self.starts += 1;
        let start = self.starts;
        let uuid = Uuid::from_u128(u128::from(node.0) << 64 | u128::from(start));
        let store = self.stores.entry(node).or_insert_with(|| MemoryStore::new(node, uuid));
        let restored = store.open();
        let origin = self.random.next();
        let settings = Settings { node, ..self.settings.clone() };
        let log = Log::open(settings, Some(restored), origin, self.now);
        let fresh = Node {
            log,
            application: Application::default(),
            is_up: true,
            failure: None,
            is_amnesiac: false,
            sent_after_failure: 0,
            start,
            timer: Time::NEVER,
            disk_fails: false,
        };
        self.nodes.insert(node, fresh);
        self.event(node, Event::Timer);
        let others: Vec<NodeId> =
            self.nodes.keys().copied().filter(|other| *other != node).collect();
        for other in others {
            if self.nodes[&other].is_up && !self.cut.contains(&(node, other)) {
                self.event(node, Event::LinkUp(other));
                self.event(other, Event::LinkUp(node));
            }
        }
    }

    /// A crash: what was not stored is lost.
    pub fn stop(&mut self, node: NodeId) {
        self.nodes.get_mut(&node).unwrap().is_up = false;
        let others: Vec<NodeId> = self.nodes.keys().copied().collect();
        for other in others {
            self.event(other, Event::LinkDown(node));
        }
    }

    pub fn wipe(&mut self, node: NodeId) {
        self.stores.remove(&node);
    }

    /// Cuts both ways. The nodes are told, as the transport would.
    pub fn cut(&mut self, one: u32, two: u32) {
        self.cut_silently(one, two);
        self.event(n(one), Event::LinkDown(n(two)));
        self.event(n(two), Event::LinkDown(n(one)));
    }

    pub fn cut_silently(&mut self, one: u32, two: u32) {
        self.cut.insert((n(one), n(two)));
        self.cut.insert((n(two), n(one)));
    }

    pub fn heal(&mut self) {
        let cut = std::mem::take(&mut self.cut);
        for (one, two) in cut {
            self.event(one, Event::LinkUp(two));
        }
    }

    pub fn member(&self, node: u32) -> Member {
        let store = self.stores[&n(node)].restored().identity.store;
        Member { node: n(node), store }
    }

    pub fn change_members(&mut self, at: NodeId, members: &[u32]) {
        let members: Vec<Member> = members.iter().map(|node| self.member(*node)).collect();
        self.act(at, |log, now, effects| {
            log.propose_members(now, members, effects).unwrap();
        });
    }

    pub fn propose(&mut self, at: u32, value: u64) {
        let mut request = None;
        self.act(n(at), |log, now, effects| {
            request = log.propose(now, Arc::from(&value.to_le_bytes()[..]), effects).ok();
        });
        if let Some(request) = request {
            self.proposed.insert(request, value);
        }
    }

    pub fn act(&mut self, node: NodeId, act: impl FnOnce(&mut Log, Time, &mut Vec<Effect>)) {
        let now = self.now;
        let mut effects = std::mem::take(&mut self.effects);
        let Some(actor) = self.nodes.get_mut(&node).filter(|node| node.is_up) else { return };
        act(&mut actor.log, now, &mut effects);
        self.perform(node, &mut effects);
        self.effects = effects;
    }

    pub fn event(&mut self, node: NodeId, event: Event) {
        self.act(node, |log, now, effects| log.handle(now, event, effects));
    }

    fn perform(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            self.effect(node, effect);
        }
        let next = self.nodes[&node].log.next_timer();
        let actor = self.nodes.get_mut(&node).unwrap();
        if next < actor.timer || actor.timer < self.now {
            let time = next.max(self.now);
            actor.timer = time;
            let start = actor.start;
            if time != Time::NEVER {
                self.at(time, What::Timer { node, start });
            }
        }
    }

    fn effect(&mut self, node: NodeId, effect: Effect) {
        let actor = self.nodes.get_mut(&node).unwrap();
        match effect {
            Effect::Send { to, message } => {
                actor.sent_after_failure += u32::from(actor.failure.is_some());
                self.transmit(node, to, message);
            }
            Effect::Store(batch) => {
                let start = actor.start;
                let delay = self.store_delay;
                let time = self.now + self.microseconds(delay);
                self.at(time, What::Stored { node, start, batch });
            }
            Effect::Apply { index, request, command } => {
                let value = u64::from_le_bytes(command[..].try_into().unwrap());
                actor.application.applied.push((index, value));
                self.applied(node, index, request, value);
            }
            Effect::Install { index, state } => {
                self.installs += 1;
                if actor.application.applied.last().is_some_and(|(last, _)| *last > index) {
                    self.violations.push(format!("{node} went back to {index}"));
                }
                actor.application = Application::of(&state);
            }
            Effect::TakeSnapshot { index } => {
                let state = actor.application.bytes();
                // As if the application took its time.
                let event = Event::SnapshotTaken { index, state };
                let mut effects = Vec::new();
                actor.log.handle(self.now, event, &mut effects);
                self.perform(node, &mut effects);
            }
            Effect::MembersChanged { .. } => {}
            Effect::Amnesiac => actor.is_amnesiac = true,
            Effect::Failed(failure) => actor.failure = Some(failure),
        }
    }

    fn applied(&mut self, node: NodeId, index: Index, request: RequestId, value: u64) {
        let applied = &self.nodes[&node].application.applied;
        let before = applied.len().checked_sub(2).map(|at| applied[at].0);
        if before.is_some_and(|before| before >= index) {
            self.violations.push(format!("{node} applied {index} after {before:?}"));
        }
        let agreed = *self.agreed.entry(index).or_insert(value);
        if agreed != value {
            self.violations.push(format!("{node} applied {value} at {index}, others {agreed}"));
        }
        if self.proposed.get(&request) == Some(&value) {
            self.acknowledged.insert(value);
        }
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.sent += 1;
        if self.cut.contains(&(from, to)) || self.random.chance(self.loss_percent) {
            return;
        }
        // As it would be on a wire.
        let bytes = postcard::to_stdvec(&message).unwrap();
        let copies = 1 + u64::from(self.random.chance(self.duplicate_percent));
        for _ in 0..copies {
            let message = postcard::from_bytes(&bytes).unwrap();
            let delay = self.delay;
            let time = self.now + self.microseconds(delay);
            self.at(time, What::Deliver { from, to, message });
        }
    }

    /// Handles the next event; whether there was one before `end`.
    fn step(&mut self, end: Time) -> bool {
        let Some(((time, _), what)) = self.events.pop_first() else { return false };
        if time > end {
            self.count += 1;
            self.events.insert((time, self.count), what);
            self.now = end;
            return false;
        }
        self.now = self.now.max(time);
        match what {
            What::Deliver { from, to, message } => {
                if !self.cut.contains(&(from, to)) {
                    self.event(to, Event::Message { from, message });
                }
            }
            What::Stored { node, start, batch } => {
                let actor = &self.nodes[&node];
                if actor.start != start || !actor.is_up {
                    return true;
                }
                if actor.disk_fails {
                    self.event(node, Event::StoreFailed);
                } else {
                    self.stores.get_mut(&node).unwrap().apply(&batch);
                    self.event(node, Event::Stored(batch.id));
                }
            }
            What::Timer { node, start } => {
                if self.nodes[&node].start == start {
                    self.nodes.get_mut(&node).unwrap().timer = Time::NEVER;
                    self.event(node, Event::Timer);
                }
            }
        }
        true
    }

    pub fn run(&mut self, milliseconds: u64) {
        let end = self.now + Duration::from_millis(milliseconds);
        while self.step(end) {}
        self.now = end;
        self.check();
    }

    /// Runs until something is so; how many milliseconds that took.
    pub fn until(
        &mut self,
        milliseconds: u64,
        what: &str,
        is_so: impl Fn(&Network) -> bool,
    ) -> u64 {
        let begin = self.now;
        let end = self.now + Duration::from_millis(milliseconds);
        while !is_so(self) {
            let slice = (self.now + Duration::from_millis(1)).min(end);
            while self.step(slice) {}
            self.now = slice;
            assert!(self.now < end, "not within {milliseconds} ms: {what}\n{}", self.describe());
        }
        self.check();
        (self.now - begin).as_millis() as u64
    }

    pub fn describe(&self) -> String {
        let one = |(node, actor): (&NodeId, &Node)| {
            format!(
                "{node}: up {} applied {} leader {:?} member {} amnesiac {} configuration {:?}\n",
                actor.is_up,
                actor.log.applied(),
                actor.log.leader_hint(),
                actor.log.is_member(),
                actor.is_amnesiac,
                actor.log.members().map(|configuration| configuration.id),
            )
        };
        self.nodes.iter().map(one).collect()
    }

    fn check(&self) {
        let is_broken = self.settings.mutations;
        let is_whole = !is_broken.send_before_durable
            && !is_broken.accept_old_store_identity
            && !is_broken.apply_backwards
            && !is_broken.no_request_dedupe;
        if is_whole {
            assert!(self.violations.is_empty(), "{:?}\n{}", self.violations, self.describe());
        }
    }

    /// The leader that is up and knows the newest configuration.
    pub fn leader(&self) -> Option<NodeId> {
        let newest = self.nodes.values().filter_map(|node| node.log.members()).map(|c| c.id).max();
        let leads = |node: &Node| {
            node.is_up
                && node.log.is_leader()
                && node.log.members().map(|configuration| configuration.id) == newest
        };
        self.nodes.iter().find(|(_, node)| leads(node)).map(|(node, _)| *node)
    }

    pub fn has(&self, node: u32, value: u64) -> bool {
        self.nodes[&n(node)].application.applied.iter().any(|(_, other)| *other == value)
    }

    /// Whether all nodes of these have applied a value.
    pub fn all_have(&self, nodes: &[u32], value: u64) -> bool {
        nodes.iter().all(|node| self.has(*node, value))
    }

    pub fn configuration(&self, node: u32) -> Configuration {
        self.nodes[&n(node)].log.members().cloned().unwrap()
    }

    /// Everything that was acknowledged is in every one of these nodes, once.
    pub fn check_complete(&self, nodes: &[u32]) {
        for node in nodes {
            let applied = &self.nodes[&n(*node)].application.applied;
            let mut values: Vec<u64> = applied.iter().map(|(_, value)| *value).collect();
            values.sort_unstable();
            let count = values.len();
            values.dedup();
            assert_eq!(values.len(), count, "n{node} applied something twice");
            let values: BTreeSet<u64> = values.into_iter().collect();
            let lost: Vec<&u64> = self.acknowledged.difference(&values).collect();
            assert!(lost.is_empty(), "n{node} lacks {lost:?}\n{}", self.describe());
        }
    }
}
