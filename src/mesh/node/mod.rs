//! One node of the mesh: the log, the picture that follows from it, its targets and its clients, as one state machine. Events in,
//! effects out; in a daemon the parts may be driven on different cores by the same events.
//!
//! Nothing here acts on what the node sees of its surroundings: links and failures become reports and proposals, and the picture that the log
//! makes of them is what the parts act on.

mod control;
mod heart;
mod io;
mod links;
mod wants;

use std::collections::{BTreeMap, VecDeque};

pub use io::{Body, Hello, Input, Output, Packet, Start};

use super::client::{self, Client};
use super::ids::{NodeId, VolumeId};
use super::message::{Message, Sender};
use super::mutations::{Rule, kept};
use super::payload::Payload;
use super::picture::{Beat, Change, Command, Nonce, Picture, Refusal, Reply};
use super::request::Completion;
use super::route::{RELAYS_MAX, Route};
use super::story;
use super::target::{self, Target};
use crate::base::Time;
use crate::consensus::{self, Index, Log, RequestId};
use heart::{Heart, Ticker};
use links::Links;
use wants::Wants;

/// Ways that are looked at for a message between logs.
const ROUTES: usize = 4;

/// A node.
pub struct Node<P> {
    start: Start,
    log: Log,
    picture: Picture,
    target: Target<P>,
    clients: BTreeMap<VolumeId, Client<P>>,
    links: Links,
    heart: Heart,
    ticker: Ticker,
    /// The tick that is under way.
    tick: Option<RequestId>,
    wants: Wants,
    leads: bool,
    leased: bool,
    /// The log has named this start of the daemon.
    started: bool,
    stopped: bool,
    /// Packets of this node to itself.
    own: VecDeque<Packet<P>>,
    /// Nodes that the log believes to be within reach.
    within_reach: Vec<NodeId>,
    log_effects: Vec<consensus::Effect>,
    target_effects: Vec<target::Effect<P>>,
    client_effects: Vec<client::Effect<P>>,
    changes: Vec<Change>,
}

impl<P: Payload> Node<P> {
    /// Starts a daemon's state machine.
    pub fn start(mut start: Start, now: Time) -> Node<P> {
        let restored = start.restored.take();
        let log = Log::open(start.settings.clone(), restored, start.origin, now);
        let mut node = Node {
            log,
            picture: Picture::default(),
            target: Target::new(start.node),
            clients: BTreeMap::new(),
            links: Links::new(start.origin, now),
            heart: Heart::new(start.origin, now),
            ticker: Ticker::default(),
            tick: None,
            wants: Wants::new(now),
            leads: false,
            leased: false,
            started: false,
            stopped: false,
            own: VecDeque::new(),
            within_reach: Vec::new(),
            log_effects: Vec::new(),
            target_effects: Vec::new(),
            client_effects: Vec::new(),
            changes: Vec::new(),
            start,
        };
        node.set_links();
        if node.start.found {
            node.log.found(now, &mut node.log_effects);
        }
        node
    }

    /// The picture that it acts on.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Whether the node may serve at `now`.
    pub fn has_lease(&self, now: Time) -> bool {
        self.target.has_lease(now)
    }

    /// Its end of the log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Whether it has stopped for good.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// The attachment of a volume here, if it has one.
    pub fn client(&self, volume: VolumeId) -> Option<&Client<P>> {
        self.clients.get(&volume)
    }

    /// When [`Input::Timer`] is wanted at the latest.
    pub fn next_timer(&self) -> Time {
        if self.stopped {
            return Time::NEVER;
        }
        let clients = self.clients.values().map(Client::next_timer).min().unwrap_or(Time::NEVER);
        let ticker = if self.leads { self.ticker.due(self.picture.timing()) } else { Time::NEVER };
        let parts = [
            self.log.next_timer(),
            self.target.next_timer(),
            clients,
            self.links.due(),
            self.heart_due(),
            ticker,
            self.wants.due(),
        ];
        parts.into_iter().min().unwrap_or(Time::NEVER)
    }

    /// Takes what has reached the node at `now` and adds what it does to `outputs`.
    pub fn handle(&mut self, now: Time, input: Input<P>, outputs: &mut Vec<Output<P>>) {
        if self.stopped {
            return;
        }
        match input {
            Input::Timer => {}
            Input::Packet { from, packet } => self.packet(now, from, packet, outputs),
            Input::Disk { ticket, result, .. } => {
                self.target.disk(now, &self.picture, ticket, result, &mut self.target_effects);
            }
            Input::DriveFound { uuid, open_count, nonce, previous, identity, add } => {
                self.target.open_drive(uuid, nonce);
                self.wants.drive_found(wants::FoundDrive {
                    uuid,
                    open_count,
                    nonce,
                    previous,
                    identity,
                    add,
                });
                self.target.picture_replaced(now, &self.picture, &mut self.target_effects);
            }
            Input::DriveLost { uuid } => {
                self.target.lose_drive(uuid);
                self.wants.drive_lost(uuid);
                self.target.picture_replaced(now, &self.picture, &mut self.target_effects);
            }
            Input::Stored { batch } => {
                self.log.handle(now, consensus::Event::Stored(batch), &mut self.log_effects)
            }
            Input::StoreFailed => {
                self.log.handle(now, consensus::Event::StoreFailed, &mut self.log_effects)
            }
            Input::Attach { tag, volume, mode, preempt } => {
                if self.clients.contains_key(&volume) && !preempt || self.wants.is_attaching(volume)
                {
                    outputs.push(Output::Attached { tag, result: Err(Refusal::Attached) });
                } else {
                    self.wants.attach(wants::Attaching { tag, volume, mode, preempt });
                }
            }
            Input::Detach { tag, volume } => match self.clients.get_mut(&volume) {
                Some(client) => {
                    self.wants.detach(tag, volume);
                    client.detach(now, &mut self.client_effects);
                    self.client_did(now, volume, outputs);
                }
                None => outputs.push(Output::Answered { tag, result: Err(Refusal::Unknown) }),
            },
            Input::Submit { volume, token, request } => match self.clients.get_mut(&volume) {
                Some(client) => {
                    client.submit(now, token, request, &mut self.client_effects);
                    self.client_did(now, volume, outputs);
                }
                None => outputs.push(Output::Completed {
                    volume,
                    token,
                    completion: Completion::Detached,
                }),
            },
            Input::Ask { tag, command } => self.ask(now, tag, command, outputs),
            Input::SetMembers { tag, members } => self.set_members(now, tag, &members, outputs),
        }
        self.timers(now, outputs);
        self.settle(now, outputs);
        if self.log.next_timer() <= now {
            // It had nothing to wait for before, and has now.
            self.log.handle(now, consensus::Event::Timer, &mut self.log_effects);
            self.settle(now, outputs);
        }
    }

    /// Does everything that is due.
    fn timers(&mut self, now: Time, outputs: &mut Vec<Output<P>>) {
        self.say_hello(now, outputs);
        if self.log.next_timer() <= now {
            self.log.handle(now, consensus::Event::Timer, &mut self.log_effects);
        }
        self.settle(now, outputs);
        self.beat(now, outputs);
        self.lead(now, outputs);
        self.pursue(now);
        self.target.timer(now, &mut self.target_effects);
        let due: Vec<VolumeId> = self
            .clients
            .iter()
            .filter(|(_, client)| client.next_timer() <= now)
            .map(|(volume, _)| *volume)
            .collect();
        for volume in due {
            if let Some(client) = self.clients.get_mut(&volume) {
                client.timer(now, &mut self.client_effects);
            }
            self.client_did(now, volume, outputs);
        }
        let leased = self.target.has_lease(now);
        if leased != self.leased {
            self.leased = leased;
            outputs.push(Output::Story(story::Event::Lease { held: leased }));
        }
    }

    /// Carries out what the parts want until nothing is left.
    fn settle(&mut self, now: Time, outputs: &mut Vec<Output<P>>) {
        loop {
            if !self.log_effects.is_empty() {
                self.log_did(now, outputs);
            } else if !self.target_effects.is_empty() {
                self.target_did(now, outputs);
            } else if let Some(packet) = self.own.pop_front() {
                self.deliver(now, packet, outputs);
            } else {
                break;
            }
        }
    }

    fn target_did(&mut self, now: Time, outputs: &mut Vec<Output<P>>) {
        let mut effects = std::mem::take(&mut self.target_effects);
        for effect in effects.drain(..) {
            match effect {
                target::Effect::Send { to, route, message, payload } => {
                    self.send(to, route, Body::Data(message, payload), outputs)
                }
                target::Effect::Disk { drive, ticket, operation } => {
                    outputs.push(Output::Disk { drive, ticket, operation })
                }
                target::Effect::Propose(command) => self.propose(now, &command),
                target::Effect::Story(event) => outputs.push(Output::Story(event)),
            }
        }
        // What was added meanwhile is kept; the list's memory is used again.
        effects.append(&mut self.target_effects);
        self.target_effects = effects;
    }

    /// Carries out what the client of a volume wants.
    fn client_did(&mut self, now: Time, volume: VolumeId, outputs: &mut Vec<Output<P>>) {
        let mut effects = std::mem::take(&mut self.client_effects);
        for effect in effects.drain(..) {
            match effect {
                client::Effect::Send { to, route, message, payload } => {
                    self.send(to, route, Body::Data(Message::ToTarget(message), payload), outputs);
                }
                client::Effect::Complete { token, completion } => {
                    outputs.push(Output::Completed { volume, token, completion });
                }
                client::Effect::Propose(command) => self.propose(now, &command),
                client::Effect::Story(event) => outputs.push(Output::Story(event)),
                client::Effect::Ended => {
                    if let Some(client) = self.clients.remove(&volume) {
                        let generation = client.generation();
                        outputs.push(Output::Detached { volume, generation });
                    }
                    for tag in self.wants.detached(volume) {
                        outputs.push(Output::Answered { tag, result: Ok(Reply::Done) });
                    }
                }
            }
        }
        self.client_effects = effects;
    }

    /// Sends something on its way, which may be to this node itself.
    fn send(&mut self, to: NodeId, route: Route, body: Body<P>, outputs: &mut Vec<Output<P>>) {
        let packet = Packet { from: self.start.node, to, route, passed: 0, body };
        if to == self.start.node {
            self.own.push_back(packet);
        } else {
            let next = route.relays().first().copied().unwrap_or(to);
            outputs.push(Output::Send { to: next, packet });
        }
    }

    fn packet(
        &mut self,
        now: Time,
        from: NodeId,
        mut packet: Packet<P>,
        outputs: &mut Vec<Output<P>>,
    ) {
        if packet.to == self.start.node {
            return self.deliver(now, packet, outputs);
        }
        // A relay passes on what it is named for, at its turn, and looks no further.
        let relays = packet.route.relays();
        let turn = usize::from(packet.passed);
        if turn < RELAYS_MAX && relays.get(turn) == Some(&self.start.node) && from != packet.to {
            let next = relays.get(turn + 1).copied().unwrap_or(packet.to);
            packet.passed += 1;
            outputs.push(Output::Send { to: next, packet });
        }
    }

    fn deliver(&mut self, now: Time, packet: Packet<P>, outputs: &mut Vec<Output<P>>) {
        let from = packet.from;
        match packet.body {
            Body::Log(message) => {
                self.log.handle(
                    now,
                    consensus::Event::Message { from, message },
                    &mut self.log_effects,
                );
            }
            Body::Hello(hello) => {
                if let Some(up) = self.links.hello(now, from, hello) {
                    outputs.push(Output::Story(story::Event::Link { to: from, up }));
                    self.links_changed(now);
                }
            }
            Body::Beat { beat, hops } => self.take_beat(beat, hops, outputs),
            Body::Data(message, payload) => {
                let sender = Sender { node: from, route: packet.route };
                match message {
                    Message::ToTarget(message) => {
                        self.target.client_message(
                            now,
                            sender,
                            message,
                            payload,
                            &mut self.target_effects,
                        );
                    }
                    Message::ToPeer(message) => {
                        self.target.peer_message(
                            now,
                            sender,
                            message,
                            payload,
                            &mut self.target_effects,
                        );
                    }
                    Message::ToClient(message) => {
                        let generation = message.generation();
                        let ours = |client: &&mut Client<P>| client.generation() == generation;
                        if let Some(client) = self.clients.values_mut().find(ours) {
                            let volume = client.volume();
                            client.message(now, sender, message, payload, &mut self.client_effects);
                            self.client_did(now, volume, outputs);
                        }
                    }
                }
            }
        }
    }

    /// Carries out what the log wants. Entries are applied one after the other; then, once, the parts learn what has changed; and only then a
    /// lease that came with one of the entries counts.
    fn log_did(&mut self, now: Time, outputs: &mut Vec<Output<P>>) {
        let mut effects = std::mem::take(&mut self.log_effects);
        let mut nonces = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                consensus::Effect::Send { to, message } => self.send_log(to, message, outputs),
                consensus::Effect::Store(batch) => outputs.push(Output::Store(batch)),
                consensus::Effect::Apply { index, request, command } => {
                    self.apply(now, index, request, &command, &mut nonces, outputs);
                }
                consensus::Effect::Install { index, state } => {
                    self.install(now, index, &state, outputs)
                }
                consensus::Effect::TakeSnapshot { index } => {
                    let state = self.picture.snapshot().into();
                    self.log.handle(
                        now,
                        consensus::Event::SnapshotTaken { index, state },
                        &mut self.log_effects,
                    );
                }
                consensus::Effect::MembersChanged { .. } => {}
                consensus::Effect::Amnesiac => outputs.push(Output::Story(story::Event::Amnesiac)),
                consensus::Effect::Failed(failure) => self.stop(failure.to_string(), outputs),
            }
        }
        effects.append(&mut self.log_effects);
        self.log_effects = effects;
        self.tell_changes(now, outputs);
        for nonce in nonces {
            self.target.lease().ticked(nonce, now, self.picture.timing());
        }
    }

    fn apply(
        &mut self,
        now: Time,
        index: Index,
        request: RequestId,
        bytes: &[u8],
        nonces: &mut Vec<Nonce>,
        outputs: &mut Vec<Output<P>>,
    ) {
        let command: Option<Command> = postcard::from_bytes(bytes).ok();
        let result = match &command {
            Some(command) => self.picture.apply(index, command, &mut self.changes),
            // A later version's: refused the same way by all that do not know it.
            None => Err(Refusal::Invalid),
        };
        if let Some(Command::Tick(tick)) = &command {
            let own = |beat: &&Beat| {
                beat.node == self.start.node && beat.nonce.origin == self.start.origin
            };
            nonces.extend(tick.beats.iter().filter(own).map(|beat| beat.nonce));
        }
        if self.tick == Some(request) {
            self.tick = None;
            self.ticker.decided();
        }
        if request.origin == self.start.origin {
            self.decided(now, request, result, outputs);
        }
    }

    fn install(&mut self, now: Time, index: Index, state: &[u8], outputs: &mut Vec<Output<P>>) {
        let picture =
            if state.is_empty() { Ok(Picture::default()) } else { Picture::restore(state) };
        match picture {
            Ok(picture) => {
                self.picture = picture;
                outputs.push(Output::Story(story::Event::Installed { index }));
                for tag in self.wants.forget_proposals() {
                    outputs.push(Output::Answered { tag, result: Err(Refusal::Unclear) });
                }
                self.set_links();
                self.target.picture_replaced(now, &self.picture, &mut self.target_effects);
                self.changes.extend(self.picture.groups().map(|group| Change::Group(group.id)));
                self.changes.extend(self.picture.volumes().map(|volume| Change::Volume(volume.id)));
                self.changes.extend(self.clients.keys().map(|volume| Change::Volume(*volume)));
                self.changes.push(Change::Routes);
            }
            Err(bad) => {
                self.stop(format!("a snapshot of the mesh cannot be read: {bad:?}"), outputs)
            }
        }
    }

    /// The parts learn what the entries just applied have changed.
    fn tell_changes(&mut self, now: Time, outputs: &mut Vec<Output<P>>) {
        self.target.applied(self.picture.applied());
        self.clients.values_mut().for_each(|client| client.applied(self.picture.applied()));
        if self.changes.is_empty() {
            return;
        }
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_unstable();
        changes.dedup();
        if changes.iter().any(|change| matches!(change, Change::Node(_))) {
            self.set_links();
            self.check_identity(outputs);
        }
        if changes.iter().any(|change| matches!(change, Change::Group(_))) {
            self.heart.hurry(now);
        }
        if changes.iter().any(|change| matches!(change, Change::Routes | Change::Node(_))) {
            self.links_changed(now);
        }
        self.target.picture_changed(now, &self.picture, &changes, &mut self.target_effects);
        let volumes: Vec<VolumeId> = self.clients.keys().copied().collect();
        for volume in volumes {
            if let Some(client) = self.clients.get_mut(&volume) {
                client.picture_changed(now, &self.picture, &changes, &mut self.client_effects);
            }
            self.client_did(now, volume, outputs);
        }
        self.wants.look(now);
        changes.clear();
        changes.append(&mut self.changes);
        self.changes = changes;
    }

    /// A node is one daemon at a time: the one that the log names last.
    fn check_identity(&mut self, outputs: &mut Vec<Output<P>>) {
        let started = self.incarnation().is_some();
        let named =
            self.picture.node(self.start.node).is_some_and(|node| node.uuid == self.start.uuid);
        if self.started && !started {
            let why = if named {
                "another daemon has been started as this node"
            } else {
                "this node was removed from the mesh"
            };
            self.stop(why.into(), outputs);
        }
        self.started |= started;
    }

    /// Nothing is said or done from here on.
    fn stop(&mut self, why: String, outputs: &mut Vec<Output<P>>) {
        if !self.stopped {
            self.stopped = true;
            self.target.lease().drop_now();
            outputs.push(Output::Story(story::Event::Stopping { why: why.clone() }));
            outputs.push(Output::Stop { why });
        }
    }

    fn propose(&mut self, now: Time, command: &Command) {
        if let Some(bytes) = encode(command) {
            // A proposal that is not taken is lost: who still wants it asks again.
            let _ = self.log.propose(now, bytes, &mut self.log_effects);
        }
    }

    fn heart_due(&self) -> Time {
        if self.incarnation().is_some() { self.heart.due() } else { Time::NEVER }
    }

    /// The incarnation of this start of the daemon, once the log knows it.
    fn incarnation(&self) -> Option<super::ids::Incarnation> {
        let node = self.picture.node(self.start.node)?;
        (node.origin == self.start.origin).then_some(node.incarnation).flatten()
    }

    fn lease_is_granted_early() -> bool {
        !kept(Rule::LeaseFromTick)
    }
}

/// A command as the log has it.
fn encode(command: &Command) -> Option<std::sync::Arc<[u8]>> {
    postcard::to_allocvec(command).ok().map(Into::into)
}
