//! A picture that tests write by hand, and targets that answer by a script.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weft::base::{Time, Uuid};
use weft::mesh::client::{Client, Effect, View};
use weft::mesh::ids::{
    DriveId, Epoch, Generation, GroupId, Incarnation, Index, NodeId, ReplicaId, SessionNumber,
    VolumeId, WriteNumber,
};
use weft::mesh::message::{IoResult, Operation, Refused, Run, Sender, ToClient, ToTarget};
use weft::mesh::payload::Payload;
use weft::mesh::picture::{
    AttachMode, Attachment, Change, Command, Drive, DriveSpec, Evidence, Group, Layout, Part,
    Replica, ReplicaState, Spread, Timing, Unfenced, Volume, VolumeSpec,
};
use weft::mesh::request::{Completion, Request, Token};
use weft::mesh::route::Route;
use weft::mesh::story;

/// Blocks of a group.
pub const BLOCKS: u64 = 64;
/// The client's node; replica `n` is on node `n`, drive `n`.
pub const CLIENT: NodeId = NodeId(9);
/// The attachment.
pub const GENERATION: Generation = Generation(50);

/// One number for each block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks(pub Arc<Vec<u64>>);

impl Payload for Blocks {
    fn blocks(&self) -> u32 {
        self.0.len() as u32
    }
    fn zeroes(count: u32) -> Blocks {
        Blocks(Arc::new(vec![0; count as usize]))
    }
    fn capture(&self) -> Blocks {
        self.clone()
    }
    fn part(&self, first: u32, count: u32) -> Blocks {
        let (first, count) = (first as usize, count as usize);
        Blocks(Arc::new(self.0[first..first + count].to_vec()))
    }
}

pub fn run(first: u64, blocks: u32) -> Run {
    Run { first, blocks }
}

pub fn write(first: u64, blocks: u32, value: u64) -> Request<Blocks> {
    Request::Write(run(first, blocks), Blocks(Arc::new(vec![value; blocks as usize])))
}

/// What a client sees of the picture.
pub struct World {
    pub applied: Index,
    pub timing: Timing,
    pub volume: Option<Volume>,
    pub groups: BTreeMap<GroupId, Group>,
    pub drives: BTreeMap<DriveId, Drive>,
    pub routes: BTreeMap<NodeId, Vec<Route>>,
}

impl View for World {
    fn applied(&self) -> Index {
        self.applied
    }
    fn timing(&self) -> &Timing {
        &self.timing
    }
    fn volume(&self, _: VolumeId) -> Option<&Volume> {
        self.volume.as_ref()
    }
    fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(&id)
    }
    fn drive(&self, id: DriveId) -> Option<&Drive> {
        self.drives.get(&id)
    }
    fn routes(&self, _: NodeId, to: NodeId, routes: &mut [Route]) -> usize {
        let known = self.routes.get(&to).map_or(&[][..], |known| known);
        let count = known.len().min(routes.len());
        routes[..count].copy_from_slice(&known[..count]);
        count
    }
}

impl World {
    /// A volume of `groups` groups in strips of 4 blocks, each with `copies` replicas on nodes 1, 2, …
    pub fn new(groups: u32, copies: u32, mode: AttachMode) -> World {
        let ids: Vec<GroupId> = (1..=groups).map(GroupId).collect();
        let blocks = BLOCKS * u64::from(groups);
        let strip_blocks = if groups == 1 { BLOCKS } else { 4 };
        let volume = Volume {
            id: VolumeId(1),
            name: "v".into(),
            spec: VolumeSpec {
                block_shift: 12,
                blocks,
                copies: copies as u8,
                layout: Layout::Concatenated,
                spread: Spread::Host,
                class: String::new(),
                tags: BTreeSet::new(),
                region_shift: 20,
                write_back: false,
            },
            parts: vec![Part { blocks, strip_blocks, groups: ids.clone() }],
            attachments: vec![Attachment {
                generation: GENERATION,
                node: CLIENT,
                incarnation: Incarnation(3),
                mode,
            }],
        };
        let replica = |group: u32, copy: u32| Replica {
            id: ReplicaId(group * 10 + copy),
            drive: DriveId(copy),
            extents: Vec::new(),
            state: ReplicaState::InSync,
            blank: false,
            replaces: None,
        };
        let group = |id: &GroupId| Group {
            id: *id,
            volume: VolumeId(1),
            blocks: BLOCKS,
            epoch: Epoch(1),
            since: Index(10),
            replicas: (1..=copies).map(|copy| replica(id.0, copy)).collect(),
            unfenced: Vec::new(),
        };
        let drive = |copy: u32| Drive {
            id: DriveId(copy),
            uuid: Uuid::default(),
            node: NodeId(copy),
            spec: DriveSpec {
                block_shift: 12,
                extent_blocks: 1,
                extents: 1,
                class: String::new(),
                tags: BTreeSet::new(),
            },
            incarnation: Some(Incarnation(u64::from(copy) + 10)),
            open_count: 1,
            nonce: 1,
            identity: 0,
            closed: false,
            draining: false,
            free: Vec::new(),
        };
        World {
            applied: Index(100),
            timing: Timing::default(),
            groups: ids.iter().map(|id| (*id, group(id))).collect(),
            volume: Some(volume),
            drives: (1..=copies).map(|copy| (DriveId(copy), drive(copy))).collect(),
            routes: (1..=copies).map(|copy| (NodeId(copy), vec![Route::DIRECT])).collect(),
        }
    }

    pub fn group_mut(&mut self, id: u32) -> &mut Group {
        self.groups.get_mut(&GroupId(id)).expect("group")
    }

    /// A replica's state changes, and with it the group's epoch.
    pub fn set_state(&mut self, replica: u32, state: ReplicaState) {
        self.applied.0 += 1;
        let at = self.applied;
        let drives = &self.drives;
        let group = self.groups.get_mut(&GroupId(replica / 10)).expect("group");
        group.epoch = group.epoch.next();
        group.since = at;
        let found = group.replicas.iter_mut().find(|it| it.id == ReplicaId(replica));
        let found = found.expect("replica");
        let could_serve = found.state.is_holder();
        found.state = state;
        if could_serve && !state.is_holder() {
            let drive = &drives[&found.drive];
            group.unfenced.push(Unfenced {
                replica: found.id,
                drive: found.drive,
                node: drive.node,
                incarnation: drive.incarnation,
                at,
            });
        }
    }
}

/// How a target behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Well,
    /// Nothing reaches it, or comes back.
    Silent,
    /// It answers pings only: I/O and sessions hang.
    Hung,
    /// It loses I/O, and answers all else.
    LosesIo,
    /// It refuses sessions and I/O.
    Refuses(Refused),
    /// Its drive gives this result for reads.
    Reads(IoResult),
    /// Its drive fails writes.
    FailsWrites,
}

/// What a replica has and knows.
#[derive(Default)]
pub struct Fake {
    pub session: SessionNumber,
    pub epoch: Epoch,
    pub executed: BTreeSet<u64>,
    pub blocks: BTreeMap<u64, (WriteNumber, u64)>,
}

impl Fake {
    /// Executes and answers.
    pub fn handle(&mut self, message: &ToTarget, payload: Option<Blocks>) -> Answer {
        match message {
            ToTarget::Open(open) if open.session >= self.session => {
                if open.session > self.session {
                    self.executed.clear();
                }
                self.session = open.session;
                self.epoch = open.epoch;
                Some((ToClient::Opened { key: open.key, session: open.session }, None))
            }
            ToTarget::Open(_) | ToTarget::Watermark { .. } => None,
            ToTarget::Ping { key, probe } => {
                Some((ToClient::Pong { key: *key, probe: *probe }, None))
            }
            ToTarget::Io(io) => {
                if io.session != self.session || !self.executed.insert(io.sequence.0) {
                    return None;
                }
                let data = self.execute(io.operation, payload);
                let result = IoResult::Done;
                let (key, session, sequence) = (io.key, io.session, io.sequence);
                Some((ToClient::Done { key, session, sequence, result }, data))
            }
        }
    }

    fn execute(&mut self, operation: Operation, payload: Option<Blocks>) -> Option<Blocks> {
        let mut put = |run: Run, number, value: &dyn Fn(usize) -> u64| {
            for (at, block) in (run.first..run.end()).enumerate() {
                let had = self.blocks.entry(block).or_default();
                assert!(had.0 <= number, "a write was overtaken by an earlier one");
                *had = (number, value(at));
            }
        };
        match operation {
            Operation::Read(run) => {
                let value = |block| self.blocks.get(&block).map_or(0, |(_, value)| *value);
                return Some(Blocks(Arc::new((run.first..run.end()).map(value).collect())));
            }
            Operation::Write { number, run } => {
                let payload = payload.expect("payload");
                assert_eq!(payload.0.len(), run.blocks as usize);
                put(run, number, &|at| payload.0[at]);
            }
            Operation::Zero { number, run, .. } => put(run, number, &|_| 0),
            Operation::Flush | Operation::Confirm { .. } => {}
        }
        None
    }
}

/// An answer and its payload.
pub type Answer = Option<(ToClient, Option<Blocks>)>;

/// A client among scripted targets, over a network that takes no time.
pub struct Rig {
    pub world: World,
    pub client: Client<Blocks>,
    pub now: Time,
    pub manners: BTreeMap<NodeId, Manner>,
    /// Routes over which nothing comes through.
    pub broken: BTreeSet<(NodeId, Route)>,
    pub fakes: BTreeMap<ReplicaId, Fake>,
    pub sent: Vec<(Time, NodeId, Route, ToTarget)>,
    pub completed: Vec<(Time, Token, Completion<Blocks>)>,
    pub proposed: Vec<(Time, Command)>,
    pub stories: Vec<story::Event>,
    pub ended: bool,
}

impl Rig {
    pub fn new(world: World) -> Rig {
        let now = Time::from_nanos(1_000_000_000);
        let mut effects = Vec::new();
        let client = Client::new(CLIENT, VolumeId(1), GENERATION, &world, now, &mut effects);
        let mut rig = Rig {
            world,
            client: client.expect("attached"),
            now,
            manners: BTreeMap::new(),
            broken: BTreeSet::new(),
            fakes: BTreeMap::new(),
            sent: Vec::new(),
            completed: Vec::new(),
            proposed: Vec::new(),
            stories: Vec::new(),
            ended: false,
        };
        rig.take(effects);
        rig
    }

    pub fn submit(&mut self, token: u64, request: Request<Blocks>) {
        let mut effects = Vec::new();
        self.client.submit(self.now, Token(token), request, &mut effects);
        self.take(effects);
    }

    pub fn picture_changed(&mut self, changes: &[Change]) {
        let mut effects = Vec::new();
        self.client.picture_changed(self.now, &self.world, changes, &mut effects);
        self.take(effects);
    }

    pub fn set_state(&mut self, replica: u32, state: ReplicaState) {
        self.world.set_state(replica, state);
        self.picture_changed(&[Change::Group(GroupId(replica / 10))]);
    }

    pub fn detach(&mut self) {
        let mut effects = Vec::new();
        self.client.detach(self.now, &mut effects);
        self.take(effects);
    }

    pub fn message(&mut self, from: NodeId, route: Route, answer: (ToClient, Option<Blocks>)) {
        let mut effects = Vec::new();
        let sender = Sender { node: from, route };
        self.client.message(self.now, sender, answer.0, answer.1, &mut effects);
        self.take(effects);
    }

    /// Lets time pass, with all timers in it.
    pub fn pass(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        while self.client.next_timer() <= until {
            assert!(self.client.next_timer() >= self.now || self.now == until);
            self.now = self.now.max(self.client.next_timer());
            let mut effects = Vec::new();
            self.client.timer(self.now, &mut effects);
            assert!(self.client.next_timer() > self.now, "a timer that stays due");
            self.take(effects);
        }
        self.now = until;
    }

    /// Carries out effects, with what follows from them.
    fn take(&mut self, effects: Vec<Effect<Blocks>>) {
        for effect in effects {
            match effect {
                Effect::Send { to, route, message, payload } => {
                    self.sent.push((self.now, to, route, message.clone()));
                    self.deliver(to, route, message, payload);
                }
                Effect::Complete { token, completion } => {
                    assert!(self.completed.iter().all(|(_, other, _)| *other != token));
                    self.completed.push((self.now, token, completion));
                }
                Effect::Propose(command) => self.proposed.push((self.now, command)),
                Effect::Story(event) => self.stories.push(event),
                Effect::Ended => self.ended = true,
            }
        }
    }

    fn deliver(&mut self, to: NodeId, route: Route, message: ToTarget, payload: Option<Blocks>) {
        if self.broken.contains(&(to, route)) {
            return;
        }
        let key = match &message {
            ToTarget::Open(open) => open.key,
            ToTarget::Io(io) => io.key,
            ToTarget::Watermark { key, .. } | ToTarget::Ping { key, .. } => *key,
        };
        let manner = self.manners.get(&to).copied().unwrap_or(Manner::Well);
        let fake = self.fakes.entry(key.replica).or_default();
        let scripted = match (manner, &message) {
            (Manner::Silent, _) => return,
            (_, ToTarget::Ping { .. }) => None,
            (Manner::Hung, _) | (Manner::LosesIo, ToTarget::Io(_)) => return,
            (Manner::Refuses(why), ToTarget::Open(open)) => {
                Some(ToClient::Refused { key, session: open.session, why, applied: Index(1) })
            }
            (Manner::Refuses(why), ToTarget::Io(io)) => Some(ToClient::Done {
                key,
                session: io.session,
                sequence: io.sequence,
                result: IoResult::Refused(why),
            }),
            (Manner::Reads(result), ToTarget::Io(io))
                if matches!(io.operation, Operation::Read(_)) =>
            {
                Some(ToClient::Done { key, session: io.session, sequence: io.sequence, result })
            }
            (Manner::FailsWrites, ToTarget::Io(io)) if io.operation.write().is_some() => {
                let result = IoResult::DeviceError;
                Some(ToClient::Done { key, session: io.session, sequence: io.sequence, result })
            }
            _ => None,
        };
        let answer = match scripted {
            Some(answer) => Some((answer, None)),
            None => fake.handle(&message, payload),
        };
        if let Some(answer) = answer {
            self.message(to, route.reversed(), answer);
        }
    }

    /// How a request has ended.
    pub fn completion(&self, token: u64) -> Option<&Completion<Blocks>> {
        let found = self.completed.iter().find(|(_, other, _)| *other == Token(token));
        found.map(|(_, _, completion)| completion)
    }

    /// Operations sent to a node, with their sessions.
    pub fn operations(&self, node: u32) -> Vec<(SessionNumber, Operation)> {
        let to_node = self.sent.iter().filter(|(_, to, _, _)| *to == NodeId(node));
        to_node
            .filter_map(|(_, _, _, message)| match message {
                ToTarget::Io(io) => Some((io.session, io.operation)),
                _ => None,
            })
            .collect()
    }

    /// Evictions proposed so far.
    pub fn evictions(&self) -> Vec<(Time, ReplicaId, Evidence)> {
        let mut evictions = Vec::new();
        for (time, command) in &self.proposed {
            if let Command::Evict { evictions: items, .. } = command {
                let items = items.iter();
                evictions.extend(items.map(|it| (*time, it.replica, it.evidence.clone())));
            }
        }
        evictions
    }
}
