//! Many runs, one thread for each job. Each run has one thread, and its seed decides all of it.

use std::cell::Cell;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

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

thread_local! {
    /// What to say when this thread panics.
    static PANICS_TO: Cell<Option<(Sender<Message>, u64, String)>> = const { Cell::new(None) };
}

enum Message {
    Done(Done),
    /// The thread of this run has panicked.
    Panicked(Done),
    /// A thread has nothing left to do.
    Idle,
}

/// Makes runs on `threads` threads and gives each to `take` as it ends, until there are no more or `take` says that it is enough.
pub fn run_all(
    jobs: impl Iterator<Item = Job> + Send + 'static,
    threads: usize,
    mut take: impl FnMut(Done) -> bool,
) {
    report_panics();
    let source: Source = Arc::new(Mutex::new(jobs));
    let enough = Arc::new(AtomicBool::new(false));
    let (sender, receiver): (Sender<Message>, Receiver<Message>) = mpsc::channel();
    let spawn = || work(Arc::clone(&source), Arc::clone(&enough), sender.clone());
    (0..threads.max(1)).for_each(|_| spawn());
    let mut working = threads.max(1);
    while working > 0 {
        let Ok(message) = receiver.recv() else { return };
        match message {
            Message::Idle => working -= 1,
            Message::Done(done) => enough_if(!take(done), &enough),
            Message::Panicked(done) => {
                enough_if(!take(done), &enough);
                spawn();
            }
        }
    }
}

fn enough_if(is_enough: bool, enough: &AtomicBool) {
    if is_enough {
        enough.store(true, Ordering::Relaxed);
    }
}

fn work(source: Source, enough: Arc<AtomicBool>, sender: Sender<Message>) {
    thread::spawn(move || {
        while !enough.load(Ordering::Relaxed) {
            let next = source.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(Job { seed, plan, broken }) = next else { break };
            let name = plan.name.clone();
            PANICS_TO.set(Some((sender.clone(), seed, name.clone())));
            let outcome = run(plan, broken, None);
            PANICS_TO.set(None);
            if sender.send(Message::Done(Done { seed, name, outcome })).is_err() {
                return;
            }
        }
        let _ = sender.send(Message::Idle);
    });
}

/// A run that panics is a run that went wrong. Release builds abort when a panic's hook returns, so that of a run's thread never does: another thread
/// takes its place.
fn report_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let Some((sender, seed, name)) = PANICS_TO.take() else { return usual(info) };
        let wrong = Some(format!("panicked: {info}"));
        let outcome = Outcome { wrong, ..Outcome::default() };
        let _ = sender.send(Message::Panicked(Done { seed, name, outcome }));
        loop {
            thread::park();
        }
    }));
}
