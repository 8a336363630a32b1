//! One run of a plan: a mesh is founded, its clients are busy while it is ill-treated, it recovers, and is judged.
//!
//! [`Run`] is the director: it lets the world go on, is told what its daemons say to their users, and decides what the users and the
//! operator do next. It draws its chances from a stream of its own.

mod acts;
mod client;
mod images;
mod operator;
mod recovery;
mod setup;

use std::collections::BTreeMap;

use weft::mesh::ids::VolumeId;

use crate::check::block::{Verdict, check};
use crate::check::history::History;
use crate::payload::Blocks;
use crate::plan::{Plan, SECOND};
use crate::random::Random;
use crate::story::Recorder;
use crate::watch::Watch;
use crate::world::drive::Drive;
use crate::world::machine::Machine;
use crate::world::{Upcall, World};
use client::Client;
use operator::Purpose;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The mesh is being made.
    Setup(setup::Step),
    /// Its clients are busy, and things are done to it.
    Busy,
    /// Nothing is done to it any more; clients go on for a while.
    Recovering { since: u64 },
    /// New clients read everything.
    Reading,
    /// It is over.
    Over,
}

/// What the director has asked to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Poll,
    Act(usize),
    Pulse(usize),
    Attach(usize),
    Start(usize),
    Scribble(usize),
    DeletePassing(usize),
    BusyEnds,
}

/// A volume of the plan.
#[derive(Clone, Copy, Debug, Default)]
struct VolumeState {
    id: Option<VolumeId>,
    blocks: u64,
}

/// More events than these, and some for each second of the world's time, are a storm that does not end.
const STEPS_MIN: u64 = 1_000_000;
const STEPS_PER_SECOND: u64 = 100_000;

/// How a run went.
#[derive(Default)]
pub struct Outcome {
    /// What went wrong, if something did.
    pub wrong: Option<String>,
    /// Nanoseconds of the world's time.
    pub lasted: u64,
    /// How much happened.
    pub steps: u64,
    /// Requests of clients that were answered.
    pub answered: u64,
    /// How long requests took that took longer than the I/O time-out, in nanoseconds.
    pub stalls: Vec<u64>,
    /// The longest that any request took that was answered after the first act, in nanoseconds.
    pub longest: u64,
    /// Blocks whose history has too many orders to try.
    pub undecided: u64,
    /// The same for two runs that are the same.
    pub digest: u64,
    /// The story, if it was wanted.
    pub story: Option<Recorder>,
}

/// A run.
pub struct Run<M> {
    plan: Plan,
    world: World<M, Watch>,
    random: Random,
    history: History,
    /// Who asked each request of the history.
    askers: Vec<usize>,
    clients: Vec<Client>,
    volumes: Vec<VolumeState>,
    /// Buffers that a guest is going to change.
    buffers: BTreeMap<usize, Blocks>,
    phase: Phase,
    wakes: Vec<Wake>,
    tags: BTreeMap<u64, Purpose>,
    next_tag: u64,
    /// Drives of the plan as they are numbered in the world; replaced ones change.
    drives: Vec<usize>,
    drive_images: BTreeMap<usize, images::DriveImage>,
    store_images: BTreeMap<usize, images::StoreImage>,
    members: Vec<usize>,
    passing: Vec<VolumeId>,
    /// Blocks of which a copy was spoilt: these may be lost.
    excused: std::collections::BTreeSet<(usize, u64)>,
    busy_since: u64,
    reading_since: u64,
    whole_since: Option<u64>,
    stalls: Vec<u64>,
    longest: u64,
    answered: u64,
}

impl<M: Machine> Run<M> {
    /// A run that is about to begin. With `recorder` its story is written down.
    pub fn new(plan: Plan, recorder: Option<Recorder>) -> Run<M> {
        let mut random = Random::new(plan.seed);
        let hosts = (0..plan.hosts).map(|host| setup::host(&plan, host, &mut random)).collect();
        let watch = Watch::new(plan.hosts, plan.expects, recorder);
        let mut world = World::new(hosts, random.fork(), watch);
        world.network.mend_all(plan.network);
        let mut drives = Vec::new();
        for drive in &plan.drives {
            let made = Drive::new(
                setup::uuid(&mut random),
                setup::drive_blocks(),
                drive.speed,
                random.fork(),
            );
            let at = world.add_drive(made, Some(setup::drive_spec(&drive.class)));
            world.plug(at, drive.host);
            drives.push(at);
        }
        Run {
            clients: plan.clients.iter().cloned().map(Client::new).collect(),
            volumes: plan
                .volumes
                .iter()
                .map(|spec| VolumeState { id: None, blocks: spec.blocks })
                .collect(),
            members: (0..plan.members).collect(),
            plan,
            world,
            random,
            history: History::default(),
            askers: Vec::new(),
            buffers: BTreeMap::new(),
            phase: Phase::Setup(setup::Step::Founding),
            wakes: Vec::new(),
            tags: BTreeMap::new(),
            next_tag: 1,
            drives,
            drive_images: BTreeMap::new(),
            store_images: BTreeMap::new(),
            passing: Vec::new(),
            excused: Default::default(),
            busy_since: 0,
            reading_since: 0,
            whole_since: None,
            stalls: Vec::new(),
            longest: 0,
            answered: 0,
        }
    }

    /// Goes through it.
    pub fn run(mut self) -> Outcome {
        self.world.hosts[0].founds = true;
        self.world.start(0);
        self.wake_in(0, Wake::Poll);
        let mut upcalls = Vec::new();
        while self.phase != Phase::Over && self.world.observer.wrong.is_none() && self.world.step()
        {
            if self.world.steps() > STEPS_MIN + self.world.now() / SECOND * STEPS_PER_SECOND {
                let (steps, now) = (self.world.steps(), self.world.now() / 1_000_000);
                self.blame(format!("a storm: {steps} events in {now} ms"));
            }
            if !self.world.upcalls.is_empty() {
                std::mem::swap(&mut upcalls, &mut self.world.upcalls);
                upcalls.drain(..).for_each(|upcall| self.take(upcall));
            }
        }
        let undecided = self.judge_order();
        Outcome {
            lasted: self.world.now(),
            steps: self.world.steps(),
            answered: self.answered,
            stalls: self.stalls,
            longest: self.longest,
            undecided,
            digest: self.world.digest(),
            wrong: self.world.observer.wrong,
            story: self.world.observer.recorder,
        }
    }

    fn wake_in(&mut self, after: u64, wake: Wake) {
        self.wakes.push(wake);
        self.world.wake_at(self.world.now() + after, self.wakes.len() as u64 - 1);
    }

    fn take(&mut self, upcall: Upcall) {
        match upcall {
            Upcall::Wake(at) => self.woken(self.wakes[at as usize]),
            Upcall::Completed { token, completion } => self.completed(token, completion),
            Upcall::Attached { tag, result } => self.attached(tag, result),
            Upcall::Detached { generation } => self.detached(generation),
            Upcall::Answered { tag, result } => self.answered(tag, result),
            Upcall::Stopped { host, why } => self.stopped(host, &why),
        }
    }

    fn woken(&mut self, wake: Wake) {
        match wake {
            Wake::Poll => self.poll(),
            Wake::Act(at) => {
                let (_, act) = self.plan.acts[at].clone();
                self.act(&act);
            }
            Wake::Pulse(client) => self.pulse(client),
            Wake::Attach(client) => self.try_attach(client),
            Wake::Start(host) => self.start(host),
            Wake::Scribble(number) => {
                if let Some(buffer) = self.buffers.remove(&number) {
                    buffer.scribble(crate::payload::scribbled);
                }
            }
            Wake::DeletePassing(at) => self.delete_passing(at),
            Wake::BusyEnds => self.recover(),
        }
    }

    fn poll(&mut self) {
        let again = match self.phase {
            Phase::Setup(step) => self.set_up(step),
            Phase::Busy => SECOND,
            Phase::Recovering { since } => self.look_after(since),
            Phase::Reading => self.read_all(),
            Phase::Over => return,
        };
        self.wake_in(again, Wake::Poll);
    }

    fn blame(&mut self, why: String) {
        self.world.observer.blame(why);
    }

    /// Judges the order of what clients did. Gives how many blocks could not be judged.
    fn judge_order(&mut self) -> u64 {
        let mut undecided = 0;
        for ((volume, block), operations) in self.history.by_block() {
            match check(&operations) {
                Verdict::Ordered => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Disordered(disorder) => {
                    let why = self.history.explain(volume, block, &disorder, &operations);
                    self.blame(why);
                    break;
                }
            }
        }
        undecided
    }
}

#[cfg(test)]
mod tests {
    use crate::jobs;
    use crate::plan::draw::{Limits, plan};

    #[test]
    fn a_seed_replays_to_the_bit() {
        let limits = Limits { seconds: Some(2), ..Limits::default() };
        for seed in 0..6 {
            let [one, other] = [(); 2].map(|()| jobs::run(plan(seed, limits), None, None));
            assert_eq!(
                (one.digest, one.steps, one.wrong),
                (other.digest, other.steps, other.wrong)
            );
        }
    }
}
