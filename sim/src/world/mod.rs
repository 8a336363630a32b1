//! The simulated world: hosts with clocks, stores and daemons, drives, and a network between them, in one virtual time.
//!
//! Everything that happens is in one queue and happens one after the other, so that a run is the same each time. The world does what
//! the daemons ask of it and what a director does to it; it judges nothing. An [`Observer`] sees all.

pub mod clock;
pub mod drive;
mod faults;
pub mod host;
pub mod machine;
pub mod network;
pub mod queue;
pub mod store;

use weft::base::Uuid;
use weft::consensus::{NodeId, Settings};
use weft::mesh::disk::{DiskOperation, DiskResult, Ticket};
use weft::mesh::ids::Generation;
use weft::mesh::node::{Input, Output, Packet, Start};
use weft::mesh::picture::{DriveSpec, Refusal, Reply};
use weft::mesh::request::{Completion, Token};

use crate::payload::Blocks;
use crate::random::Random;
use drive::{Drive, Work};
use host::{Activity, Host, Rest};
use machine::{Machine, Observer};
use network::Network;
use queue::Queue;

/// What is going to happen.
enum Happening {
    /// A daemon wants to be woken.
    Timer { host: u32, boots: u32 },
    /// A packet arrives.
    Arrival { from: u32, to: u32, packet: Packet<Blocks> },
    /// An operation of a drive ends.
    DriveEnds { drive: u32, work: Work },
    /// A batch is durable.
    Stored { host: u32, boots: u32 },
    /// A daemon finds a drive.
    Open { host: u32, boots: u32, drive: u32 },
    /// Something reaches a daemon.
    Reach { host: u32, boots: u32, input: Input<Blocks> },
    /// A daemon goes on after a rest.
    GoOn { host: u32, rests: u32 },
    /// The director has asked for this.
    Wake(u64),
}

/// What the director gets to know.
#[derive(Debug)]
pub enum Upcall {
    /// It is time for this.
    Wake(u64),
    /// A request has ended.
    Completed { token: Token, completion: Completion<Blocks> },
    /// An attachment is made, or is not.
    Attached { tag: u64, result: Result<Generation, Refusal> },
    /// An attachment has ended.
    Detached { generation: Generation },
    /// An operator's command was decided.
    Answered { tag: u64, result: Result<Reply, Refusal> },
    /// A daemon has stopped by itself.
    Stopped { host: usize, why: String },
}

/// A daemon that is woken so often at one moment will be woken for ever.
const WAKES_MAX: u32 = 10_000;

/// The world.
pub struct World<M, O> {
    now: u64,
    queue: Queue<Happening>,
    /// The hosts; node `n` is host `n - 1`.
    pub hosts: Vec<Host<M>>,
    /// All drives, wherever they are.
    pub drives: Vec<Drive>,
    /// The links.
    pub network: Network,
    /// Who watches.
    pub observer: O,
    /// What the director is to know, in order.
    pub upcalls: Vec<Upcall>,
    /// How long a batch takes to be durable, in nanoseconds, around this.
    pub store_takes: u64,
    /// What a drive is added to the mesh as, by drive.
    pub specs: Vec<Option<DriveSpec>>,
    /// Changes of the log's settings for all daemons.
    pub settings: fn(&mut Settings),
    random: Random,
    outputs: Vec<Output<Blocks>>,
    steps: u64,
    digest: u64,
}

impl<M: Machine, O: Observer<M>> World<M, O> {
    /// A world of hosts without drives, whose daemons do not run.
    pub fn new(hosts: Vec<Host<M>>, mut random: Random, observer: O) -> World<M, O> {
        World {
            now: 0,
            queue: Queue::default(),
            network: Network::new(hosts.len(), random.fork()),
            hosts,
            drives: Vec::new(),
            observer,
            upcalls: Vec::new(),
            store_takes: 60_000,
            specs: Vec::new(),
            settings: |_| (),
            random,
            outputs: Vec::new(),
            steps: 0,
            digest: 0,
        }
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// How much has happened.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// A digest of all that has happened: the same for two runs that are the same.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Asks for [`Upcall::Wake`] at `time`.
    pub fn wake_at(&mut self, time: u64, what: u64) {
        self.queue.push(time.max(self.now), Happening::Wake(what));
    }

    /// Lets the next thing happen. False when nothing ever will again.
    pub fn step(&mut self) -> bool {
        let Some((time, happening)) = self.queue.pop() else { return false };
        self.now = time;
        self.steps += 1;
        let (kind, which) = match &happening {
            Happening::Timer { host, .. } => (1, *host),
            Happening::Arrival { from, to, .. } => (2, from << 8 | to),
            Happening::DriveEnds { drive, .. } => (3, *drive),
            Happening::Stored { host, .. } => (4, *host),
            Happening::Open { host, .. } => (5, *host),
            Happening::Reach { host, .. } => (6, *host),
            Happening::GoOn { host, .. } => (7, *host),
            Happening::Wake(what) => (8, *what as u32),
        };
        self.mix(time ^ u64::from(which) << 4 ^ kind);
        self.happen(happening);
        true
    }

    fn mix(&mut self, what: u64) {
        self.digest = (self.digest.rotate_left(5) ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Timer { host, boots } => self.wake(host as usize, boots),
            Happening::Arrival { from, to, packet } => self.arrive(from, to, packet),
            Happening::DriveEnds { drive, work } => self.drive_ends(drive as usize, work),
            Happening::Stored { host, boots } => {
                if self.hosts[host as usize].boots == boots {
                    self.stored(host as usize);
                }
            }
            Happening::Open { host, boots, drive } => {
                if self.hosts[host as usize].boots == boots {
                    self.open(host as usize, drive as usize);
                }
            }
            Happening::Reach { host, boots, input } => {
                if self.hosts[host as usize].boots == boots {
                    self.feed(host as usize, input);
                }
            }
            Happening::GoOn { host, rests } => self.go_on(host as usize, rests),
            Happening::Wake(what) => self.upcalls.push(Upcall::Wake(what)),
        }
    }

    fn wake(&mut self, at: usize, boots: u32) {
        let now = self.now;
        let host = &mut self.hosts[at];
        if host.boots != boots || host.timer.0 > now {
            return;
        }
        host.timer = (u64::MAX, weft::base::Time::NEVER);
        let Some(machine) = &host.machine else { return };
        if machine.next_timer() > host.clock.read(now) {
            return self.plan_timer(at);
        }
        host.wakes = if host.wakes.0 == now { (now, host.wakes.1 + 1) } else { (now, 0) };
        assert!(host.wakes.1 < WAKES_MAX, "{} spins: its timer never moves on", host.node);
        self.feed(at, Input::Timer);
    }

    fn plan_timer(&mut self, at: usize) {
        let now = self.now;
        let host = &mut self.hosts[at];
        let Some(machine) = &host.machine else { return };
        let wish = machine.next_timer();
        if wish == host.timer.1 {
            return;
        }
        host.timer.1 = wish;
        let due = host.clock.when(wish, now);
        if due < host.timer.0 {
            host.timer.0 = due;
            self.queue.push(due, Happening::Timer { host: at as u32, boots: host.boots });
        }
    }

    fn arrive(&mut self, from: u32, to: u32, packet: Packet<Blocks>) {
        let from = self.hosts[from as usize].node;
        if self.hosts[to as usize].activity != Activity::Resting(Rest::Suspended) {
            self.feed(to as usize, Input::Packet { from, packet });
        }
    }

    fn drive_ends(&mut self, at: usize, work: Work) {
        let drive = &mut self.drives[at];
        if drive.ailment.hung {
            drive.stuck.push(work);
            return;
        }
        let Some((ticket, result)) = drive.end(work) else { return };
        if let Some(host) = drive.host {
            let drive = drive.label.uuid;
            self.feed(host, Input::Disk { drive, ticket, result });
        }
    }

    fn stored(&mut self, at: usize) {
        match self.hosts[at].store.end() {
            Some(Ok(batch)) => self.feed(at, Input::Stored { batch }),
            Some(Err(())) => self.feed(at, Input::StoreFailed),
            None => {}
        }
    }

    fn open(&mut self, at: usize, which: usize) {
        let drive = &mut self.drives[which];
        if drive.host != Some(at) {
            return;
        }
        drive.open();
        let found = Input::DriveFound {
            uuid: drive.label.uuid,
            open_count: drive.label.open_count,
            nonce: drive.label.nonce,
            previous: drive.label.before.to_vec(),
            identity: which as u64 + 1,
            add: self.specs[which].clone(),
        };
        self.feed(at, found);
    }

    /// Gives an event to a daemon: at once, or when it goes on, or never if there is none.
    pub fn feed(&mut self, at: usize, input: Input<Blocks>) {
        let host = &mut self.hosts[at];
        match host.activity {
            Activity::Down => return,
            Activity::Resting(_) => return host.backlog.push(input),
            Activity::Up => {}
        }
        let local = host.clock.read(self.now);
        let Some(machine) = &mut host.machine else { return };
        let mut outputs = std::mem::take(&mut self.outputs);
        machine.handle(local, input, &mut outputs);
        self.observer.stepped(self.now, at, machine, local, &outputs);
        let (boots, rest) = (host.boots, host.rest_next.take());
        self.mix(outputs.len() as u64);
        if let Some(length) = rest {
            self.hosts[at].unfinished.append(&mut outputs);
            self.rest(at, Rest::PausedMidStep, length);
        }
        for output in outputs.drain(..) {
            // Nothing that a daemon does after it has stopped happens.
            if self.hosts[at].boots == boots {
                self.perform(at, output);
            }
        }
        self.outputs = outputs;
        self.plan_timer(at);
    }

    fn perform(&mut self, at: usize, output: Output<Blocks>) {
        let upcall = match output {
            Output::Send { to, packet } => return self.send(at, to, packet),
            Output::Disk { drive, ticket, operation } => {
                return self.begin(at, drive, ticket, operation);
            }
            Output::Store(batch) => {
                let host = &mut self.hosts[at];
                host.store.begin(batch);
                let boots = host.boots;
                let takes = self.store_takes / 2 + self.random.around(self.store_takes / 2);
                let stored = Happening::Stored { host: at as u32, boots };
                return self.queue.push(self.now + takes, stored);
            }
            Output::Story(_) => return,
            Output::Completed { token, completion, .. } => Upcall::Completed { token, completion },
            Output::Attached { tag, result } => Upcall::Attached { tag, result },
            Output::Detached { generation, .. } => Upcall::Detached { generation },
            Output::Answered { tag, result } => Upcall::Answered { tag, result },
            Output::Stop { why } => {
                self.crash(at, false);
                Upcall::Stopped { host: at, why }
            }
        };
        self.upcalls.push(upcall);
    }

    fn send(&mut self, from: usize, to: NodeId, packet: Packet<Blocks>) {
        let to = to.0 as usize - 1;
        let fate = self.network.send(self.now, from, to);
        self.observer.sent(self.now, from, to, &packet, fate);
        let (from, to) = (from as u32, to as u32);
        if let Some(time) = fate.second {
            self.queue.push(time, Happening::Arrival { from, to, packet: packet.clone() });
        }
        if let Some(time) = fate.first {
            self.queue.push(time, Happening::Arrival { from, to, packet });
        }
    }

    fn begin(&mut self, at: usize, uuid: Uuid, ticket: Ticket, what: DiskOperation<Blocks>) {
        let mut drives = self.drives.iter();
        let here = |drive: &Drive| drive.label.uuid == uuid && drive.host == Some(at);
        let Some(found) = drives.position(here) else {
            let boots = self.hosts[at].boots;
            let input = Input::Disk { drive: uuid, ticket, result: DiskResult::Failed };
            let reach = Happening::Reach { host: at as u32, boots, input };
            return self.queue.push(self.now + 10_000, reach);
        };
        let (work, takes) = self.drives[found].begin(ticket, what);
        self.queue.push(self.now + takes, Happening::DriveEnds { drive: found as u32, work });
    }

    /// Starts a daemon. It finds its drives a little later, one by one.
    pub fn start(&mut self, at: usize) {
        let origin = self.random.draw();
        let all: Vec<NodeId> = self.hosts.iter().map(|host| host.node).collect();
        let host = &mut self.hosts[at];
        host.clear();
        let mut settings = Settings::new(host.node);
        (self.settings)(&mut settings);
        let start = Start {
            node: host.node,
            uuid: host.uuid,
            origin,
            addresses: vec![format!("{}:4420", host.node)],
            domains: host.domains.clone(),
            peers: all.into_iter().filter(|node| *node != host.node).collect(),
            token: host.token,
            found: std::mem::take(&mut host.founds),
            restored: Some(host.store.open()),
            settings,
        };
        host.machine = Some(M::start(start, host.clock.read(self.now)));
        host.activity = Activity::Up;
        let boots = host.boots;
        self.observer.started(self.now, at);
        self.plan_timer(at);
        for drive in 0..self.drives.len() {
            if self.drives[drive].host == Some(at) {
                let open = Happening::Open { host: at as u32, boots, drive: drive as u32 };
                let takes = self.random.between(1_000_000, 20_000_000);
                self.queue.push(self.now + takes, open);
            }
        }
    }
}
