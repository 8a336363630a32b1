//! What clients do: attach, ask, lose their attachment, attach again.

use weft::mesh::ids::Generation;
use weft::mesh::message::Run as BlockRun;
use weft::mesh::node::Input;
use weft::mesh::picture::{AttachMode, Refusal};
use weft::mesh::request::{Completion, Request, Token};

use super::operator::Purpose;
use super::{Phase, Run, Wake};
use crate::check::history::Asked;
use crate::check::split;
use crate::payload::Blocks;
use crate::plan::{ClientPlan, MS, Wish};
use crate::world::machine::Machine;

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Attaching { tag: u64 },
    Attached { generation: Generation },
    Detaching { generation: Generation },
}

/// A client.
pub struct Client {
    /// What it is to do.
    pub plan: ClientPlan,
    state: State,
    /// Requests that are not answered, by their numbers in the history.
    pub in_flight: Vec<usize>,
    /// What it still has to read, for one that reads everything in the end.
    pub reads: Option<Vec<BlockRun>>,
    /// It is woken for its next request already.
    is_pulsing: bool,
}

impl Client {
    /// A client that has not begun.
    pub fn new(plan: ClientPlan) -> Client {
        Client { plan, state: State::Idle, in_flight: Vec::new(), reads: None, is_pulsing: false }
    }

    /// Whether it can ask.
    pub fn is_attached(&self) -> bool {
        matches!(self.state, State::Attached { .. })
    }

    /// It could not detach.
    pub fn stays_attached(&mut self) {
        if let State::Detaching { generation } = self.state {
            self.state = State::Attached { generation };
        }
    }

    fn generation(&self) -> Option<Generation> {
        match self.state {
            State::Attached { generation } | State::Detaching { generation } => Some(generation),
            State::Idle | State::Attaching { .. } => None,
        }
    }
}

/// Most blocks of a request.
const BLOCKS_MAX: u64 = 6;

impl<M: Machine> Run<M> {
    /// A client attaches, unless it has begun to.
    pub(super) fn try_attach(&mut self, client: usize) {
        let contended = self.phase == Phase::Busy && self.random.below(3) == 0;
        let reads = self.phase == Phase::Reading;
        self.attach(client, contended || reads);
    }

    pub(super) fn attach(&mut self, at: usize, preempt: bool) {
        let client = &self.clients[at];
        let (host, mode) = (client.plan.host, client.plan.mode);
        let Some(volume) = self.volumes[client.plan.volume].id else { return };
        if client.state != State::Idle || !self.world.hosts[host].is_running() {
            return;
        }
        let tag = self.tag(Purpose::Attach(at));
        self.clients[at].state = State::Attaching { tag };
        self.world.feed(host, Input::Attach { tag, volume, mode, preempt });
    }

    pub(super) fn attached(&mut self, tag: u64, result: Result<Generation, Refusal>) {
        let Some(Purpose::Attach(at)) = self.tags.remove(&tag) else { return };
        if self.clients[at].state != (State::Attaching { tag }) {
            return;
        }
        match result {
            Ok(generation) => {
                self.clients[at].state = State::Attached { generation };
                self.start_pulse(at);
            }
            Err(_) => {
                self.clients[at].state = State::Idle;
                self.attach_later(at);
            }
        }
    }

    fn attach_later(&mut self, at: usize) {
        if self.clients[at].plan.attaches {
            let after = self.random.between(50 * MS, 600 * MS);
            self.wake_in(after, Wake::Attach(at));
        }
    }

    pub(super) fn detach(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Some(volume) = self.volumes[client.plan.volume].id else { return };
        if let State::Attached { generation } = client.state {
            client.state = State::Detaching { generation };
            let host = client.plan.host;
            let tag = self.tag(Purpose::Detach(at));
            self.world.feed(host, Input::Detach { tag, volume });
        }
    }

    /// A client was told that it is detached.
    pub(super) fn has_detached(&mut self, at: usize) {
        if self.clients[at].generation().is_some() {
            self.clients[at].state = State::Idle;
            self.attach_later(at);
        }
    }

    pub(super) fn detached(&mut self, generation: Generation) {
        let has_lost = |client: &Client| client.generation() == Some(generation);
        if let Some(at) = self.clients.iter().position(has_lost) {
            self.has_detached(at);
        }
    }

    /// The clients of a host have died with its daemon: what they had in flight is never answered.
    pub(super) fn host_died(&mut self, host: usize) {
        for at in 0..self.clients.len() {
            if self.clients[at].plan.host == host {
                self.clients[at].in_flight.clear();
                self.clients[at].state = State::Idle;
                self.attach_later(at);
            }
        }
    }

    fn start_pulse(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.plan.pause.is_some() && !client.is_pulsing && self.phase == Phase::Busy {
            client.is_pulsing = true;
            self.wake_in(0, Wake::Pulse(at));
        }
    }

    /// It is time for a client's next request.
    pub(super) fn pulse(&mut self, at: usize) {
        let asks = match self.phase {
            Phase::Busy => true,
            Phase::Recovering { since } => self.world.now() < since + super::recovery::GOES_ON,
            _ => false,
        };
        let client = &mut self.clients[at];
        client.is_pulsing = false;
        let Some(pause) = client.plan.pause.filter(|_| asks && client.is_attached()) else {
            return;
        };
        client.is_pulsing = true;
        if client.in_flight.len() < client.plan.depth {
            let (asked, run, unmap) = self.draw_wish(at);
            self.submit(at, asked, run, unmap);
        }
        let after = self.random.around(pause);
        self.wake_in(after, Wake::Pulse(at));
    }

    fn draw_wish(&mut self, at: usize) -> (Asked, BlockRun, bool) {
        let plan = &self.clients[at].plan;
        // As large as the client's own daemon knows it.
        let known = |it: &Self| {
            Some(it.picture(plan.host)?.volume(it.volumes[plan.volume].id?)?.spec.blocks)
        };
        let size = known(self).unwrap_or(1);
        let mix = plan.mix;
        let reads_only = plan.mode == AttachMode::SharedRead;
        let random = &mut self.random;
        let end = if random.below(100) < mix.hot.into() { mix.hot_blocks.min(size) } else { size };
        let first = random.below(end);
        let blocks = (1 + random.below(BLOCKS_MAX)).min(size - first) as u32;
        let chosen = random.below(100) as u8;
        let (writes, zeroes) = (mix.writes, mix.writes + mix.zeroes);
        let asked = match chosen {
            _ if reads_only => Asked::Read,
            chosen if chosen < writes => Asked::Write,
            chosen if chosen < zeroes => Asked::Zero,
            chosen if chosen < zeroes + mix.flushes => Asked::Flush,
            _ => Asked::Read,
        };
        (asked, BlockRun { first, blocks }, random.draw() & 1 == 0)
    }

    /// A client asks what it was told to.
    pub(super) fn wish(&mut self, at: usize, wish: Wish) {
        if !self.clients[at].is_attached() {
            return;
        }
        let (asked, first, blocks, unmap) = match wish {
            Wish::Read { first, blocks } => (Asked::Read, first, blocks, false),
            Wish::Write { first, blocks } => (Asked::Write, first, blocks, false),
            Wish::Zero { first, blocks, unmap } => (Asked::Zero, first, blocks, unmap),
        };
        self.submit(at, asked, BlockRun { first, blocks }, unmap);
    }

    pub(super) fn submit(&mut self, at: usize, asked: Asked, run: BlockRun, unmap: bool) {
        let plan = &self.clients[at].plan;
        let (host, volume, mix) = (plan.host, plan.volume, plan.mix);
        let Some(id) = self.volumes[volume].id else { return };
        let number = self.history.begin(self.world.now(), host, volume, asked, run);
        self.askers.push(at);
        self.clients[at].in_flight.push(number);
        let request = match asked {
            Asked::Read => Request::Read(run),
            Asked::Write => Request::Write(run, self.write_buffer(number, mix.scribbled)),
            Asked::Zero => Request::Zero { run, unmap },
            Asked::Flush => Request::Flush,
        };
        let token = Token(number as u64);
        self.world.feed(host, Input::Submit { volume: id, token, request });
    }

    /// A guest's buffer; some guests change it while it is being written.
    fn write_buffer(&mut self, number: usize, scribbled: u8) -> Blocks {
        let buffer = self.history.payload(number);
        if self.random.below(100) < scribbled.into() {
            self.history.scribble(number);
            self.buffers.insert(number, buffer.clone());
            let after = self.random.below(MS / 4);
            self.wake_in(after, Wake::Scribble(number));
        }
        buffer
    }

    pub(super) fn completed(&mut self, token: Token, completion: Completion<Blocks>) {
        let number = token.0 as usize;
        let asker = self.askers[number];
        let in_flight = &mut self.clients[asker].in_flight;
        let Some(place) = in_flight.iter().position(|known| *known == number) else {
            let asked = self.history.describe(number);
            return self.blame(format!("answered twice, or after the daemon died: {asked}"));
        };
        in_flight.swap_remove(place);
        self.buffers.remove(&number);
        let now = self.world.now();
        match completion {
            Completion::Done => self.done(number, &[]),
            Completion::Data(parts) => self.done(number, &parts),
            Completion::Detached => {}
            Completion::Unreadable => self.look_at_loss(number),
            Completion::Invalid => {
                let asked = self.history.describe(number);
                self.blame(format!("called invalid: {asked}"));
            }
        }
        let operation = self.history.operation(number);
        let took = now - operation.from;
        let first_act = self.plan.acts.first().map_or(0, |(time, _)| *time);
        if now >= self.busy_since + first_act {
            self.longest = self.longest.max(took);
        }
        if took > u64::from(self.plan.timing.io_timeout_ms) * MS {
            self.stalls.push(took);
            let host = operation.host;
            let (asked, ms) = (self.history.describe(number), took / MS);
            self.world
                .observer
                .stalled(now, host, took, || format!("stalled for {ms} ms: {asked}"));
        }
        if let Some(max) = self.plan.expects.stall_max.filter(|max| took > *max) {
            let asked = self.history.describe(number);
            self.blame(format!("stalled for {} ms, more than {} ms: {asked}", took / MS, max / MS));
        }
    }

    fn done(&mut self, number: usize, data: &[Blocks]) {
        let operation = self.history.operation(number).clone();
        let fits = (operation.asked == Asked::Read) != data.is_empty();
        if !self.history.end(self.world.now(), number, data) || !fits {
            let asked = self.history.describe(number);
            return self.blame(format!("an answer that does not fit the question: {asked}"));
        }
        self.answered += 1;
        if matches!(operation.asked, Asked::Write | Asked::Zero)
            && let Some(volume) = self.volumes[operation.volume].id
            && let Err(why) = split::look(&self.world, operation.host, volume, operation.run)
        {
            self.blame(why);
        }
    }

    fn look_at_loss(&mut self, number: usize) {
        let operation = self.history.operation(number);
        let (volume, run) = (operation.volume, operation.run);
        let excused = (run.first..run.end()).any(|block| self.excused.contains(&(volume, block)));
        if !excused {
            let asked = self.history.describe(number);
            self.blame(format!("lost, though a copy of it was never harmed: {asked}"));
        }
    }
}
