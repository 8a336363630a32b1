//! The process's reactors as everyone sees them: calls, statistics, policy, shutdown.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use futures_channel::oneshot;

use super::context::{Call, Context, Remote};
use super::idle::IdlePolicy;
use super::remote::Refused;
use super::stats::{CpuTimes, ReactorStats};
use super::topology::Topology;
use crate::base::{Error, ErrorKind, Result};
use crate::memory::Registry;

/// A handle to all reactors of the process, usable from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Reactors(Arc<Group>);

struct Group {
    remotes: Vec<Arc<Remote>>,
    /// Read once: it takes many small files on a large machine.
    topology: OnceLock<Topology>,
    regions: Arc<Registry>,
    shutdown: AtomicBool,
    /// Who waits for the request to shut down.
    waiting: Mutex<Vec<Waker>>,
}

/// The name of a reactor's thread.
pub(super) fn thread_name(index: usize) -> String {
    format!("reactor_{index}")
}

impl Reactors {
    pub(super) fn new(remotes: Vec<Arc<Remote>>, regions: Arc<Registry>) -> Reactors {
        Reactors(Arc::new(Group {
            remotes,
            topology: OnceLock::new(),
            regions,
            shutdown: AtomicBool::new(false),
            waiting: Mutex::default(),
        }))
    }

    /// How many there are; at least one.
    #[allow(clippy::len_without_is_empty, reason = "there is never none")]
    pub fn len(&self) -> usize {
        self.0.remotes.len()
    }

    /// The core that a reactor is pinned to.
    ///
    /// # Panics
    /// When there is no reactor `index`.
    pub fn core_of(&self, index: usize) -> usize {
        self.0.remotes[index].core
    }

    /// The reactor on a core.
    pub fn on_core(&self, core: usize) -> Option<usize> {
        self.0.remotes.iter().position(|remote| remote.core == core)
    }

    /// The machine's cores, NUMA nodes and caches.
    pub fn topology(&self) -> &Topology {
        self.0.topology.get_or_init(Topology::read)
    }

    /// The registry of the memory regions that all reactors' pools are in.
    pub fn regions(&self) -> &Arc<Registry> {
        &self.0.regions
    }

    fn remote(&self, index: usize) -> Result<&Arc<Remote>> {
        self.0.remotes.get(index).ok_or_else(|| {
            Error::invalid(format!("no reactor {index} (there are {})", self.0.remotes.len()))
        })
    }

    /// Runs `function` on a reactor, without waiting for it. From any thread.
    ///
    /// # Errors
    /// `Busy` when the reactor has too many calls waiting; `Canceled` when it has stopped; `Invalid` when
    /// there is none of this index.
    pub fn post(
        &self,
        index: usize,
        function: impl FnOnce(&Context) + Send + 'static,
    ) -> Result<()> {
        self.remote(index)?.post(Box::new(function)).map_err(|refused| match refused {
            Refused::Full(_) => Error::new(
                ErrorKind::Busy,
                format!("reactor {index} has too many calls waiting; try again"),
            ),
            Refused::Stopped => stopped(index),
        })
    }

    /// Runs `function` on a reactor and gives back its result. The call is on its way when this
    /// returns, so that several go on at once; when the reactor has too many calls waiting, it goes as
    /// soon as the future is awaited and there is room.
    ///
    /// # Errors
    /// `Canceled` when the reactor has stopped; `Invalid` when there is none of this index.
    pub fn call<T, F>(
        &self,
        index: usize,
        function: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&Context) -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let sent = self.start(
            index,
            Box::new(move |cx| {
                // Nobody waits for the result any more if this fails.
                let _ = sender.send(function(cx));
            }),
        );
        async move {
            sent?.finish(index).await?;
            receiver.await.map_err(|_| stopped(index))
        }
    }

    /// As [`Reactors::call`], for an `async` function: it runs as a task of that reactor.
    ///
    /// # Errors
    /// As [`Reactors::call`].
    pub fn call_async<T, F>(
        &self,
        index: usize,
        function: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: AsyncFnOnce(Context) -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let sent = self.start(
            index,
            Box::new(move |cx| {
                let own = cx.clone();
                cx.spawn(async move {
                    let _ = sender.send(function(own).await);
                });
            }),
        );
        async move {
            sent?.finish(index).await?;
            receiver.await.map_err(|_| stopped(index))
        }
    }

    fn start(&self, index: usize, call: Call) -> Result<Started> {
        let remote = Arc::clone(self.remote(index)?);
        let waiting = match remote.post(call) {
            Ok(()) => None,
            Err(Refused::Full(call)) => Some(call),
            Err(Refused::Stopped) => return Err(stopped(index)),
        };
        Ok(Started { remote, waiting })
    }

    /// What each reactor has done. Waits until each has answered; one that has stopped is left out.
    pub async fn stats(&self) -> Vec<ReactorStats> {
        let calls: Vec<_> = self
            .0
            .remotes
            .iter()
            .enumerate()
            .map(|(index, remote)| {
                let asleep = remote.signal.is_asleep();
                (asleep, self.call(index, Context::stats))
            })
            .collect();
        let mut all = Vec::with_capacity(calls.len());
        for (asleep, call) in calls {
            let Ok(mut stats) = call.await else { continue };
            stats.in_sleep = asleep;
            stats.numa_node = self.topology().numa_node(stats.core).unwrap_or(0);
            stats.cpu = CpuTimes::read(stats.core, stats.tid);
            all.push(stats);
        }
        all
    }

    /// The idle policy of a reactor.
    ///
    /// # Errors
    /// `Invalid` when there is no reactor `index`.
    pub fn idle_policy(&self, index: usize) -> Result<IdlePolicy> {
        Ok(self.remote(index)?.policy.get())
    }

    /// Changes the idle policy of one reactor, or of all.
    ///
    /// # Errors
    /// `Invalid` when there is no reactor `index`.
    pub fn set_idle_policy(&self, index: Option<usize>, policy: IdlePolicy) -> Result<()> {
        match index {
            Some(index) => self.remote(index)?.set_policy(policy),
            None => self.0.remotes.iter().for_each(|remote| remote.set_policy(policy)),
        }
        Ok(())
    }

    /// Asks the main task to come to an end, from any thread. Asking twice is asking once.
    pub fn request_shutdown(&self) {
        self.0.shutdown.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether [`Reactors::request_shutdown`] was called.
    pub fn is_shutdown_requested(&self) -> bool {
        self.0.shutdown.load(Ordering::Acquire)
    }

    /// Completes when [`Reactors::request_shutdown`] was called.
    pub fn shutdown_requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let reactors = self.clone();
        poll_fn(move |task| {
            let mut waiting = reactors.waiting();
            // Under the lock, which the request takes after it has raised the flag.
            if reactors.is_shutdown_requested() {
                return Poll::Ready(());
            }
            if !waiting.iter().any(|waker| waker.will_wake(task.waker())) {
                waiting.push(task.waker().clone());
            }
            Poll::Pending
        })
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Reactors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cores: Vec<usize> = self.0.remotes.iter().map(|remote| remote.core).collect();
        f.debug_struct("Reactors").field("cores", &cores).finish_non_exhaustive()
    }
}

fn stopped(index: usize) -> Error {
    Error::new(ErrorKind::Canceled, format!("reactor {index} has stopped"))
}

/// A call that is on its way, or waits for room.
struct Started {
    remote: Arc<Remote>,
    waiting: Option<Call>,
}

impl Started {
    async fn finish(mut self, index: usize) -> Result<()> {
        poll_fn(move |task| {
            let Some(call) = self.waiting.take() else { return Poll::Ready(Ok(())) };
            match self.remote.post(call) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(Refused::Stopped) => Poll::Ready(Err(stopped(index))),
                Err(Refused::Full(call)) => {
                    // The receiver empties its mailbox in its next rounds: ask again in ours.
                    self.waiting = Some(call);
                    task.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        })
        .await
    }
}
