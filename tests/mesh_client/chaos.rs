//! Random faults from a seed: loss, duplicates, reordering, refusals, restarts and new epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft::base::Time;
use weft::mesh::client::{Client, Effect};
use weft::mesh::ids::{DriveId, Epoch, GroupId, Incarnation, Index, NodeId, ReplicaId, VolumeId};
use weft::mesh::message::{IoResult, Operation, Refused, Run, Sender, ToClient, ToTarget};
use weft::mesh::picture::{AttachMode, Change, ReplicaState, Round};
use weft::mesh::request::{Completion, Request, Token};
use weft::mesh::route::Route;

use super::world::{Blocks, CLIENT, Fake, GENERATION, World, run, write};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

enum Packet {
    Out(NodeId, Route, ToTarget, Option<Blocks>),
    In(NodeId, Route, ToClient, Option<Blocks>),
}

struct Asked {
    run: Run,
    /// What is written; `None` for a read.
    value: Option<u64>,
    /// What a read must give: all overlapping writes before it, and none after.
    expected: Vec<u64>,
    is_sent: bool,
}

struct Chaos {
    dice: Dice,
    world: World,
    client: Client<Blocks>,
    now: Time,
    network: BTreeMap<(Time, u64), Packet>,
    packets: u64,
    fakes: BTreeMap<ReplicaId, Fake>,
    asked: BTreeMap<Token, Asked>,
    /// Who was heard to have done the write of a value, in which epoch.
    done: BTreeSet<(u64, Epoch, ReplicaId)>,
    values: BTreeMap<(ReplicaId, u64, u64), (u64, Epoch)>,
    model: Vec<u64>,
    calm: bool,
    completed: u64,
}

impl Chaos {
    fn take(&mut self, effects: Vec<Effect<Blocks>>) {
        for effect in effects {
            match effect {
                Effect::Send { to, route, message, payload } => {
                    self.see(&message, payload.as_ref());
                    self.post(|| Packet::Out(to, route, message.clone(), payload.clone()));
                }
                Effect::Complete { token, completion } => self.complete(token, completion),
                Effect::Propose(_) | Effect::Story(_) => {}
                Effect::Ended => panic!("nobody ended it"),
            }
        }
    }

    fn post(&mut self, packet: impl Fn() -> Packet) {
        let copies = match self.dice.roll(10) {
            _ if self.calm => 1,
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = 10 + self.dice.roll(if self.calm { 10 } else { 30_000 });
            self.packets += 1;
            let at = self.now + Duration::from_micros(delay);
            self.network.insert((at, self.packets), packet());
        }
    }

    /// No two requests that share a block are under way, unless both read.
    fn see(&mut self, message: &ToTarget, payload: Option<&Blocks>) {
        let ToTarget::Io(io) = message else { return };
        let Some(run) = io.operation.run() else { return };
        let value = payload.map(|payload| payload.0[0]);
        let is_it = |asked: &Asked| asked.run == run && asked.value == value;
        let token = self.asked.iter().find(|(_, it)| is_it(it)).map(|(token, _)| *token);
        let token = token.expect("sent after its end, or never asked");
        for (other, asked) in &self.asked {
            let one_writes = asked.value.is_some() || value.is_some();
            let overlaps = asked.run.overlaps(&run) && one_writes;
            assert!(*other == token || !asked.is_sent || !overlaps, "{other:?} and {token:?}");
        }
        self.asked.get_mut(&token).expect("asked").is_sent = true;
        if let Some(value) = value {
            let epoch = self.world.groups[&GroupId(1)].epoch;
            let key = (io.key.replica, io.session.0, io.sequence.0);
            self.values.insert(key, (value, epoch));
        }
    }

    fn complete(&mut self, token: Token, completion: Completion<Blocks>) {
        let asked = self.asked.remove(&token).expect("a request ends once");
        self.completed += 1;
        match (asked.value, completion) {
            (Some(value), Completion::Done) => {
                let group = &self.world.groups[&GroupId(1)];
                for replica in group.write_set() {
                    assert!(self.done.contains(&(value, group.epoch, replica.id)));
                }
            }
            (None, Completion::Data(parts)) => {
                let read: Vec<u64> = parts.iter().flat_map(|part| part.0.to_vec()).collect();
                assert_eq!(read, asked.expected);
            }
            (_, completion) => panic!("{completion:?}"),
        }
    }

    fn submit(&mut self) {
        let token = Token(self.packets + 1_000_000 * self.completed + self.asked.len() as u64);
        let run = run(self.dice.roll(24), 1 + self.dice.roll(6) as u32);
        let is_write = self.dice.roll(2) == 0;
        let same = |it: &Asked| it.run == run && it.value.is_none() && !is_write;
        if self.asked.len() > 40 || self.asked.contains_key(&token) || self.asked.values().any(same)
        {
            return;
        }
        let blocks = run.first as usize..run.end() as usize;
        let value = is_write.then_some(token.0 + 1);
        if let Some(value) = value {
            self.model[blocks.clone()].fill(value);
        }
        let expected = self.model[blocks].to_vec();
        self.asked.insert(token, Asked { run, value, expected, is_sent: false });
        let request = match value {
            Some(value) => write(run.first, run.blocks, value),
            None => Request::Read(run),
        };
        let mut effects = Vec::new();
        self.client.submit(self.now, token, request, &mut effects);
        self.take(effects);
    }

    fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::Out(to, route, message, payload) => {
                let answer = self.at_target(&message, payload);
                if let Some((answer, payload)) = answer {
                    let back = route.reversed();
                    self.post(|| Packet::In(to, back, answer.clone(), payload.clone()));
                }
            }
            Packet::In(node, route, message, payload) => {
                if let ToClient::Done { key, session, sequence, result: IoResult::Done } = message
                    && let Some(done) = self.values.get(&(key.replica, session.0, sequence.0))
                {
                    self.done.insert((done.0, done.1, key.replica));
                }
                let mut effects = Vec::new();
                let from = Sender { node, route };
                self.client.message(self.now, from, message, payload, &mut effects);
                self.take(effects);
            }
        }
    }

    fn at_target(
        &mut self,
        message: &ToTarget,
        payload: Option<Blocks>,
    ) -> Option<(ToClient, Option<Blocks>)> {
        let why = match self.dice.roll(40) {
            _ if self.calm => None,
            0 => Some(Refused::NoLease),
            1 => Some(Refused::Behind),
            2 => Some(Refused::OldSession),
            _ => None,
        };
        let (replica, epoch) = match message {
            ToTarget::Open(open) => (open.key.replica, Some(open.epoch)),
            ToTarget::Io(io) => (io.key.replica, None),
            ToTarget::Ping { key, .. } | ToTarget::Watermark { key, .. } => (key.replica, None),
        };
        let group = &self.world.groups[&GroupId(1)];
        let state = group.replica(replica).expect("replica").state;
        let fake = self.fakes.entry(replica).or_default();
        let stale = epoch.unwrap_or(fake.epoch) != group.epoch || !state.is_written();
        let why = if stale { Some(Refused::StaleEpoch) } else { why };
        match (message, why) {
            (ToTarget::Open(open), Some(why)) => {
                let (key, session) = (open.key, open.session);
                Some((ToClient::Refused { key, session, why, applied: Index(1) }, None))
            }
            (ToTarget::Io(io), Some(why)) => {
                // A refusal ends the session: nothing of it is executed later.
                if fake.session == io.session {
                    fake.epoch = Epoch(0);
                }
                let result = IoResult::Refused(why);
                let (key, session, sequence) = (io.key, io.session, io.sequence);
                Some((ToClient::Done { key, session, sequence, result }, None))
            }
            (ToTarget::Io(io), None) if matches!(io.operation, Operation::Read(_)) => {
                assert!(state == ReplicaState::InSync || io.session != fake.session);
                fake.handle(message, payload)
            }
            _ => fake.handle(message, payload),
        }
    }

    /// A replica is evicted, begins to be filled, is filled, or restarts.
    fn change(&mut self) {
        let replica = 11 + self.dice.roll(3) as u32;
        let group = self.world.group_mut(1);
        let epoch = group.epoch.next();
        let in_sync = |it: &&weft::mesh::picture::Replica| it.state == ReplicaState::InSync;
        let holders = group.replicas.iter().filter(in_sync).count();
        let state = group.replica(ReplicaId(replica)).expect("replica").state;
        let source = group.holders().next().expect("holder").id;
        let changes = match state {
            ReplicaState::InSync if self.dice.roll(2) == 0 || holders < 2 => {
                let drive = self.world.drives.get_mut(&DriveId(replica - 10)).expect("drive");
                self.world.applied.0 += 1;
                drive.incarnation = Some(Incarnation(self.world.applied.0));
                vec![Change::Drive(drive.id)]
            }
            ReplicaState::InSync => {
                self.world.set_state(replica, ReplicaState::Stale);
                vec![Change::Group(GroupId(1))]
            }
            ReplicaState::Stale => {
                self.world.set_state(replica, ReplicaState::Syncing(Round { epoch, source }));
                vec![Change::Group(GroupId(1))]
            }
            _ => {
                let newest = self.fakes.entry(source).or_default().blocks.clone();
                let filled = &mut self.fakes.entry(ReplicaId(replica)).or_default().blocks;
                for (block, has) in newest {
                    let had = filled.entry(block).or_default();
                    *had = (*had).max(has);
                }
                self.world.set_state(replica, ReplicaState::InSync);
                vec![Change::Group(GroupId(1))]
            }
        };
        let mut effects = Vec::new();
        self.client.picture_changed(self.now, &self.world, &changes, &mut effects);
        self.take(effects);
    }

    /// Goes on to the next thing that is due, at most this far.
    fn step(&mut self, most: Duration) {
        let until = self.now + most;
        let next = self.network.keys().next().map_or(Time::NEVER, |(time, _)| *time);
        let timer = self.client.next_timer();
        self.now = self.now.max(until.min(next).min(timer));
        if next <= self.now
            && let Some((_, packet)) = self.network.pop_first()
        {
            self.deliver(packet);
        } else if timer <= self.now {
            let mut effects = Vec::new();
            self.client.timer(self.now, &mut effects);
            self.take(effects);
        }
    }
}

fn go(seed: u64) {
    let world = World::new(1, 3, AttachMode::Exclusive);
    let now = Time::from_nanos(1_000_000_000);
    let client = Client::new(CLIENT, VolumeId(1), GENERATION, &world, now, &mut Vec::new());
    let mut chaos = Chaos {
        dice: Dice(seed * 2 + 1),
        world,
        client: client.expect("attached"),
        now,
        network: BTreeMap::new(),
        packets: 0,
        fakes: BTreeMap::new(),
        asked: BTreeMap::new(),
        done: BTreeSet::new(),
        values: BTreeMap::new(),
        model: vec![0; 64],
        calm: false,
        completed: 0,
    };
    for _ in 0..3000 {
        match chaos.dice.roll(100) {
            0..20 => chaos.submit(),
            20 => chaos.change(),
            _ => chaos.step(Duration::from_millis(5)),
        }
    }
    chaos.calm = true;
    let end = chaos.now + Duration::from_secs(20);
    while chaos.now < end {
        chaos.step(Duration::from_millis(100));
    }
    assert!(chaos.completed > 50, "{}", chaos.completed);
    assert!(chaos.asked.is_empty() && chaos.client.is_idle());
    assert_eq!(chaos.client.next_timer(), Time::NEVER);
}

#[test]
fn whatever_happens_each_request_ends_once_in_order_and_when_all_have_it() {
    for seed in 1..60 {
        let result = std::panic::catch_unwind(|| go(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}
