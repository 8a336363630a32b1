//! Starting and stopping all reactors of the process.
//!
//! Reactor 0 runs on the calling thread, each other on a thread of its own; each is pinned to its core. They
//! stop in the reverse order of their numbers: each drops its pollers and tasks on its own thread, which
//! then ends and is joined; reactor 0 is the last.
//!
//! A panic on a reactor stops the process: it is not known what state it leaves behind. In builds that
//! unwind, a panic of reactor 0 first stops the others and then goes on to the caller of [`run`].

use std::io::Write;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use super::context::{Context, Message, Remote};
use super::cores::{CoreList, Pinned};
use super::idle::IdlePolicy;
use super::links::{Links, connect};
use super::reactors::{Reactors, thread_name};
use crate::base::{Error, Result};
use crate::memory::{Pool, PoolOptions, Registry};

/// How late the kernel may end a reactor's sleep, in nanoseconds (50 µs by default).
const TIMER_SLACK: NonZeroU64 = NonZeroU64::new(1000).unwrap();

/// How reactors are to run.
#[derive(Clone, Debug)]
pub struct ReactorOptions {
    /// One reactor on each.
    pub cores: CoreList,
    /// What they do when idle; can be changed while they run.
    pub idle: IdlePolicy,
    /// Who runs for longer than this at a time is named in the log.
    pub hog_limit: Duration,
    /// Their buffer pools; each on the NUMA node of its core, unless a node is named.
    pub pool: PoolOptions,
}

impl ReactorOptions {
    /// Adaptive reactors on `cores`.
    pub fn new(cores: CoreList) -> ReactorOptions {
        ReactorOptions {
            cores,
            idle: IdlePolicy::default(),
            hog_limit: Duration::from_millis(50),
            pool: PoolOptions::default(),
        }
    }
}

/// Starts the reactors, runs `main` on reactor 0, and stops the reactors when it returns.
///
/// # Errors
/// When a core is not allowed or a thread cannot be started. Then `main` has not run.
pub fn run<T>(
    options: ReactorOptions,
    main: impl AsyncFnOnce(Context, Reactors) -> T,
) -> Result<T> {
    options.cores.check_allowed()?;
    let remotes: Vec<Arc<Remote>> = options
        .cores
        .cores()
        .iter()
        .map(|&core| Arc::new(Remote::new(core, options.idle)))
        .collect();
    let signals: Vec<_> = remotes.iter().map(|remote| Arc::clone(&remote.signal)).collect();
    let mut links = connect(&signals).into_iter().enumerate();
    let (_, own_links) = links.next().expect("a core list is never empty");
    let reactors = Reactors::new(remotes.clone(), Registry::new());
    // Now, while no thread is pinned.
    let topology = reactors.topology();
    let pool_of = |core| PoolOptions {
        numa_node: options.pool.numa_node.or_else(|| topology.numa_node(core)),
        ..options.pool
    };

    let mut threads = Threads(Vec::with_capacity(remotes.len()));
    let (report, reports) = mpsc::channel();
    for (index, links) in links {
        let seed = Seed {
            index,
            remote: Arc::clone(&remotes[index]),
            links,
            reactors: reactors.clone(),
            pool: pool_of(remotes[index].core),
            hog_limit: options.hog_limit,
        };
        let report = report.clone();
        let thread = std::thread::Builder::new()
            .name(thread_name(index))
            .spawn(move || abort_on_panic(index, || run_thread(seed, &report)))
            .map_err(|error| {
                Error::os(format!("cannot start the thread of reactor {index}"), error)
            })?;
        threads.0.push((Arc::clone(&remotes[index]), thread));
    }
    drop(report);
    for started in reports.iter().take(threads.0.len()) {
        started?;
    }

    let seed = Seed {
        index: 0,
        remote: Arc::clone(&remotes[0]),
        links: own_links,
        reactors: reactors.clone(),
        pool: pool_of(remotes[0].core),
        hog_limit: options.hog_limit,
    };
    let before = ThreadBefore::note();
    let (_pinned, cx) = seed.grow()?;
    let own = Closing(cx.clone());
    // Rebound to be dropped first, should `main` panic: the others stop before reactor 0.
    let threads = threads;
    let output = cx.block_on(main(cx.clone(), reactors));
    drop(threads);
    drop(own);
    drop(before);
    Ok(output)
}

/// What a reactor is made from, on its own thread.
struct Seed {
    index: usize,
    remote: Arc<Remote>,
    links: Links<Message>,
    reactors: Reactors,
    pool: PoolOptions,
    hog_limit: Duration,
}

impl Seed {
    fn grow(self) -> Result<(Pinned, Context)> {
        let Seed { index, remote, links, reactors, pool, hog_limit } = self;
        let pinned = Pinned::to(remote.core)?;
        if let Ok(name) = std::ffi::CString::new(thread_name(index)) {
            // Names and slack are comfort: a system that refuses them is no obstacle.
            let _ = rustix::thread::set_name(&name);
        }
        let _ = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK));
        remote.set_tid(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
        let pool = Pool::new(Arc::clone(reactors.regions()), pool);
        let cx = Context::new(index, remote, links, pool, hog_limit);
        if cx.sleeper().is_none() {
            return Err(Error::new(
                crate::base::ErrorKind::NoSpace,
                format!("no descriptors for reactor {index} (raise the limit of open files)"),
            ));
        }
        Ok((pinned, cx))
    }
}

fn run_thread(seed: Seed, report: &mpsc::Sender<Result<()>>) {
    // The receiver waits for every report.
    match seed.grow() {
        Err(error) => {
            let _ = report.send(Err(error));
        }
        Ok((_pinned, cx)) => {
            let closing = Closing(cx.clone());
            let _ = report.send(Ok(()));
            cx.run_until_stopped();
            drop(closing);
        }
    }
}

/// Closes a reactor on its own thread.
struct Closing(Context);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The threads of reactors 1 and up; dropping it stops them, last one first.
struct Threads(Vec<(Arc<Remote>, JoinHandle<()>)>);

impl Drop for Threads {
    fn drop(&mut self) {
        while let Some((remote, thread)) = self.0.pop() {
            remote.signal.request_stop();
            // It cannot have panicked: that ends the process.
            let _ = thread.join();
        }
    }
}

/// Gives the calling thread its name and timer slack back.
struct ThreadBefore {
    name: Option<std::ffi::CString>,
    slack: Option<NonZeroU64>,
}

impl ThreadBefore {
    fn note() -> ThreadBefore {
        ThreadBefore {
            name: rustix::thread::name().ok(),
            slack: rustix::thread::current_timer_slack().ok().and_then(NonZeroU64::new),
        }
    }
}

impl Drop for ThreadBefore {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = rustix::thread::set_name(name);
        }
        let _ = rustix::thread::set_current_timer_slack(self.slack);
    }
}

/// Ends the process when `run` panics, with the reason on standard error: past any capture of
/// output by a test harness, which would be lost.
fn abort_on_panic(index: usize, run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no text");
        let _ = writeln!(
            std::io::stderr().lock(),
            "reactor {index} panicked ({text}); the process stops here, in an unknown state"
        );
        std::process::abort();
    }
}
