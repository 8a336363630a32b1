//! What a node does for the mesh besides I/O: it says hello, sends heartbeats, passes those of others on, and ticks when it leads.

use super::Node;
use super::io::{Body, Output};
use super::wants::{Purpose, Want};
use crate::base::Time;
use crate::consensus::{self, Member, RequestId};
use crate::mesh::client::Client;
use crate::mesh::ids::NodeId;
use crate::mesh::payload::Payload;
use crate::mesh::picture::{Beat, Change, Command, Refusal, Reply};
use crate::mesh::route::Route;
use crate::mesh::story;

/// Members that may pass a heartbeat on.
const BEAT_HOPS: u8 = 2;

impl<P: Payload> Node<P> {
    pub(super) fn say_hello(&mut self, now: Time, outputs: &mut Vec<Output<P>>) {
        let node = self.start.node;
        let mut went = false;
        let mut hellos = Vec::new();
        let say = |to, hello| hellos.push((to, hello));
        self.links.timer(now, self.picture.timing(), say, |to, up| {
            went = true;
            outputs.push(Output::Story(story::Event::Link { to, up }));
        });
        for (to, hello) in hellos {
            let packet = super::Packet {
                from: node,
                to,
                route: Route::DIRECT,
                passed: 0,
                body: Body::Hello(hello),
            };
            outputs.push(Output::Send { to, packet });
        }
        if went {
            self.links_changed(now);
        }
    }

    /// The nodes that this one should have links with are those of the picture and those it was told of.
    pub(super) fn set_links(&mut self) {
        let known = self.picture.nodes().map(|node| node.id);
        let all: std::collections::BTreeSet<NodeId> =
            known.chain(self.start.peers.iter().copied()).collect();
        let own = self.start.node;
        self.links.set(all.into_iter().filter(|node| *node != own));
    }

    /// Links or reports have changed: the log learns whom it can talk to over any way.
    pub(super) fn links_changed(&mut self, now: Time) {
        let others =
            self.picture.nodes().map(|node| node.id).chain(self.start.peers.iter().copied());
        let mut reach: Vec<NodeId> = others
            .filter(|node| *node != self.start.node && self.way_to(*node).is_some())
            .collect();
        reach.sort_unstable();
        reach.dedup();
        let before = std::mem::replace(&mut self.within_reach, reach);
        for node in before.iter().filter(|node| !self.within_reach.contains(node)) {
            self.log.handle(now, consensus::Event::LinkDown(*node), &mut self.log_effects);
        }
        for node in self.within_reach.iter().filter(|node| !before.contains(node)) {
            self.log.handle(now, consensus::Event::LinkUp(*node), &mut self.log_effects);
        }
        self.wants.look(now);
    }

    /// A way to another node that begins with a link which is up: directly if that works, else through relays by what nodes have
    /// reported.
    fn way_to(&self, to: NodeId) -> Option<Route> {
        if self.links.is_up(to) {
            return Some(Route::DIRECT);
        }
        let mut routes = [Route::DIRECT; super::ROUTES];
        let count = self.picture.routes(self.start.node, to, &mut routes);
        let works =
            |route: &&Route| route.relays().first().is_some_and(|relay| self.links.is_up(*relay));
        routes[..count].iter().find(works).copied()
    }

    /// A message between logs goes the best way there is; directly if none is known, for who has just come up.
    pub(super) fn send_log(
        &mut self,
        to: NodeId,
        message: consensus::Message,
        outputs: &mut Vec<Output<P>>,
    ) {
        let route = self.way_to(to).unwrap_or(Route::DIRECT);
        self.send(to, route, Body::Log(message), outputs);
    }

    /// Sends a heartbeat if one is due. The time is noted before.
    pub(super) fn beat(&mut self, now: Time, outputs: &mut Vec<Output<P>>) {
        let Some(incarnation) = self.incarnation() else { return };
        let applied = self.target.confirmed();
        let timing = *self.picture.timing();
        if let Some(beat) = self.heart.beat(now, &timing, self.start.node, incarnation, applied) {
            self.target.lease().sent(beat.nonce, now);
            if Self::lease_is_granted_early() {
                self.target.lease().ticked(beat.nonce, now, &timing);
            }
            self.take_beat(beat, BEAT_HOPS, outputs);
        }
    }

    /// Collects a heartbeat, or passes it on towards the leader: to the leader itself if a way is known, else to every other member within
    /// reach.
    pub(super) fn take_beat(&mut self, beat: Beat, hops: u8, outputs: &mut Vec<Output<P>>) {
        if self.log.is_leader() {
            return self.ticker.collect(beat);
        }
        if hops == 0 {
            return;
        }
        let own = self.start.node;
        let leader = self.log.leader_hint().filter(|leader| *leader != own);
        if let Some((leader, route)) =
            leader.and_then(|leader| Some((leader, self.way_to(leader)?)))
        {
            return self.send(leader, route, Body::Beat { beat, hops: hops - 1 }, outputs);
        }
        let members: Vec<NodeId> = self
            .log
            .members()
            .map(|members| members.members.iter().map(|member| member.node).collect())
            .unwrap_or_default();
        for member in members.into_iter().filter(|member| *member != own && *member != beat.node) {
            if let Some(route) = self.way_to(member) {
                self.send(member, route, Body::Beat { beat, hops: hops - 1 }, outputs);
            }
        }
    }

    /// What the leader does: it ticks.
    pub(super) fn lead(&mut self, now: Time, outputs: &mut Vec<Output<P>>) {
        let leads = self.log.is_leader();
        if leads != self.leads {
            self.leads = leads;
            outputs.push(Output::Story(story::Event::Leader { leads }));
            self.ticker.stop();
            self.tick = None;
        }
        if !leads {
            return;
        }
        if let Some(tick) = self.ticker.tick(now, self.picture.timing()) {
            let command = Command::Tick(tick);
            self.tick = super::encode(&command)
                .and_then(|bytes| self.log.propose(now, bytes, &mut self.log_effects).ok());
        }
    }

    /// An operator's command.
    pub(super) fn ask(
        &mut self,
        now: Time,
        tag: u64,
        command: Command,
        outputs: &mut Vec<Output<P>>,
    ) {
        let proposed = super::encode(&command)
            .and_then(|bytes| self.log.propose(now, bytes, &mut self.log_effects).ok());
        match proposed {
            Some(request) => self.wants.proposed(request, Purpose::Ask(tag)),
            None => outputs.push(Output::Answered { tag, result: Err(Refusal::Invalid) }),
        }
    }

    /// Changes who votes.
    pub(super) fn set_members(
        &mut self,
        now: Time,
        tag: u64,
        members: &[NodeId],
        outputs: &mut Vec<Output<P>>,
    ) {
        let known: Option<Vec<Member>> = members
            .iter()
            .map(|node| Some(Member { node: *node, store: self.picture.node(*node)?.store? }))
            .collect();
        let result = match known {
            Some(members) => self
                .log
                .propose_members(now, members, &mut self.log_effects)
                .map_err(|_| Refusal::Invalid),
            None => Err(Refusal::Unknown),
        };
        outputs.push(Output::Answered { tag, result: result.map(|()| Reply::Done) });
    }

    /// Proposes what the node wants and the picture does not show yet.
    pub(super) fn pursue(&mut self, now: Time) {
        if now < self.wants.due() {
            return;
        }
        let reach: Vec<NodeId> = self.links.up().collect();
        let store = self.log.as_member().map(|member| member.store);
        let wanted = self.wants.wanted(now, &self.start, &self.picture, &reach, store);
        for Want { purpose, command } in wanted {
            if let Some(bytes) = super::encode(&command)
                && let Ok(request) = self.log.propose(now, bytes, &mut self.log_effects)
            {
                self.wants.proposed(request, purpose);
            }
        }
    }

    /// A proposal of this node has been decided.
    pub(super) fn decided(
        &mut self,
        now: Time,
        request: RequestId,
        result: Result<Reply, Refusal>,
        outputs: &mut Vec<Output<P>>,
    ) {
        let Some(purpose) = self.wants.decided(now, request, result.is_ok()) else { return };
        match purpose {
            Purpose::Ask(tag) => outputs.push(Output::Answered { tag, result }),
            Purpose::Attach(attaching) => {
                let volume = attaching.volume;
                let result = result.and_then(|reply| match reply {
                    Reply::Generation(generation) => Ok(generation),
                    _ => Err(Refusal::State),
                });
                if let Ok(generation) = result {
                    // An attachment of this node that was preempted by this one ends first.
                    if let Some(old) = self.clients.get_mut(&volume) {
                        old.picture_changed(
                            now,
                            &self.picture,
                            &[Change::Volume(volume)],
                            &mut self.client_effects,
                        );
                        self.client_did(now, volume, outputs);
                    }
                    let node = self.start.node;
                    if let Some(client) = Client::new(
                        node,
                        volume,
                        generation,
                        &self.picture,
                        now,
                        &mut self.client_effects,
                    ) {
                        self.clients.insert(volume, client);
                        outputs.push(Output::Story(story::Event::Attached { volume, generation }));
                    }
                    self.client_did(now, volume, outputs);
                }
                outputs.push(Output::Attached { tag: attaching.tag, result });
            }
            Purpose::Join | Purpose::Start | Purpose::Drive(_) | Purpose::Report => {}
        }
    }
}
