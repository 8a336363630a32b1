//! Many runs, one thread for each job. Each run has one thread, and its seed decides all of it.

use std::cell::Cell;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use weft::mesh::mutations::{Rule, set_broken};
use weft::mesh::node::Node;

use crate::payload::Blocks;
use crate::plan::Plan;
use crate::run::{Outcome, Run};
use crate::story::Recorder;

/// One run to be made.
pub struct Job {
    /// What it is known by.
    pub seed: u64,
    /// What happens in it.
    pub plan: Plan,
    /// The rule that is broken in it.
    pub broken: Option<Rule>,
}

/// How one went.
pub struct Done {
    /// What it is known by.
    pub seed: u64,
    /// The mix of faults, or the scenario.
    pub name: String,
    /// How it went.
    pub outcome: Outcome,
}

/// Makes one run on this thread.
pub fn run(plan: Plan, broken: Option<Rule>, recorder: Option<Recorder>) -> Outcome {
    set_broken(broken);
    let outcome = Run::<Node<Blocks>>::new(plan, recorder).run();
    set_broken(None);
    outcome
}

/// Where jobs come from.
type Source = Arc<Mutex<dyn Iterator<Item = Job> + Send>>;

/// What a thread is at: since when, and what it is known by.
type Present = Arc<Mutex<Option<(Instant, u64, String)>>>;

thread_local! {
    /// What to say when this thread panics.
    static PANICS_TO: Cell<Option<(Sender<Message>, usize)>> = const { Cell::new(None) };
}

/// What a thread says; the number is the thread's.
enum Message {
    Done(Box<Done>),
    Panicked(usize, String),
    /// It has nothing left to do.
    Idle(usize),
}

/// A run that takes longer than this, in real time, never ends.
const RUN_MAX: Duration = Duration::from_secs(120);

/// The threads that work.
struct Workers {
    source: Source,
    enough: Arc<AtomicBool>,
    sender: Sender<Message>,
    /// By number; nothing for one that is idle or lost.
    present: Vec<Option<Present>>,
}

/// Makes runs on `threads` threads and gives each to `take` as it ends, until there are no more or `take` says that it is enough.
pub fn run_all(
    jobs: impl Iterator<Item = Job> + Send + 'static,
    threads: usize,
    mut take: impl FnMut(Done) -> bool,
) {
    report_panics();
    let (sender, receiver): (Sender<Message>, Receiver<Message>) = mpsc::channel();
    let source: Source = Arc::new(Mutex::new(jobs));
    let enough = Arc::new(AtomicBool::new(false));
    let mut workers = Workers { source, enough, sender, present: Vec::new() };
    (0..threads.max(1)).for_each(|_| workers.spawn());
    while workers.present.iter().any(Option::is_some) {
        let lost = match receiver.recv_timeout(Duration::from_secs(1)) {
            Ok(Message::Idle(worker)) => {
                workers.present[worker] = None;
                continue;
            }
            Ok(Message::Done(done)) => Some(*done),
            Ok(Message::Panicked(worker, why)) => workers.lose(worker, why),
            Err(RecvTimeoutError::Timeout) => workers.find_hung(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if let Some(done) = lost
            && !take(done)
        {
            workers.enough.store(true, Ordering::Relaxed);
        }
    }
}

fn lock<T: ?Sized>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workers {
    fn spawn(&mut self) {
        let (source, enough) = (Arc::clone(&self.source), Arc::clone(&self.enough));
        let (sender, present) = (self.sender.clone(), Present::default());
        let worker = self.present.len();
        self.present.push(Some(Arc::clone(&present)));
        thread::spawn(move || {
            while !enough.load(Ordering::Relaxed) {
                let next = lock(&source).next();
                let Some(Job { seed, plan, broken }) = next else { break };
                let name = plan.name.clone();
                *lock(&present) = Some((Instant::now(), seed, name.clone()));
                PANICS_TO.set(Some((sender.clone(), worker)));
                let outcome = run(plan, broken, None);
                PANICS_TO.set(None);
                let done = Box::new(Done { seed, name, outcome });
                if sender.send(Message::Done(done)).is_err() {
                    return;
                }
            }
            let _ = sender.send(Message::Idle(worker));
        });
    }

    /// A thread does not come back: another takes its place.
    fn lose(&mut self, worker: usize, why: String) -> Option<Done> {
        let (_, seed, name) =
            self.present[worker].take().and_then(|present| lock(&present).take())?;
        self.spawn();
        Some(Done { seed, name, outcome: Outcome { wrong: Some(why), ..Outcome::default() } })
    }

    fn find_hung(&mut self) -> Option<Done> {
        let is_hung = |present: &Option<Present>| {
            let present = present.as_ref().map(|present| lock(present));
            present
                .is_some_and(|at| at.as_ref().is_some_and(|(since, ..)| since.elapsed() > RUN_MAX))
        };
        let worker = self.present.iter().position(is_hung)?;
        self.lose(worker, "does not end: a step of a daemon takes for ever".into())
    }
}

/// A run that panics is a run that went wrong. Release builds abort when a panic's hook returns, so that of a run's thread never does: another thread
/// takes its place.
fn report_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let Some((sender, worker)) = PANICS_TO.take() else { return usual(info) };
        let _ = sender.send(Message::Panicked(worker, format!("panicked: {info}")));
        loop {
            thread::park();
        }
    }));
}
