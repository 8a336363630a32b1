//! The exercises of a process: started on a device by name, looked at, stopped.
//!
//! Control work on the control reactor; each exercise itself runs on a reactor of its own choice.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::exercise::{Exercise, ExercisePlan, Mode, Progress, Snapshot};
use crate::base::{Error, ErrorKind, Result};
use crate::bdev::{Claim, Event, Registry};
use crate::reactor::{PollerId, Reactors};

/// How often the end of an exercise is looked for.
const END_POLL: Duration = Duration::from_millis(2);

/// All exercises by name. Cloning gives another handle.
#[derive(Clone)]
pub struct Loads(Rc<Inner>);

struct Inner {
    registry: Registry,
    reactors: Reactors,
    running: RefCell<BTreeMap<String, Running>>,
    next: Cell<u64>,
}

struct Running {
    bdev: String,
    progress: Arc<Progress>,
}

/// How one exercise stands.
#[derive(Clone, Debug)]
pub struct LoadStatus {
    /// Its name.
    pub name: String,
    /// The device.
    pub bdev: String,
    /// What it has done.
    pub snapshot: Snapshot,
}

impl Loads {
    /// No exercises yet.
    pub fn new(registry: &Registry, reactors: &Reactors) -> Loads {
        Loads(Rc::new(Inner {
            registry: registry.clone(),
            reactors: reactors.clone(),
            running: RefCell::default(),
            next: Cell::new(0),
        }))
    }

    /// Starts an exercise on reactor `reactor` and returns its name. It stays in the list when it has
    /// ended, until [`Loads::stop`].
    ///
    /// # Errors
    /// `NoDevice` and `NotPermitted` as for any opener; `Invalid` for a plan that does not fit the
    /// device, or a reactor that is not there.
    pub async fn start(&self, bdev: &str, reactor: usize, plan: ExercisePlan) -> Result<String> {
        let inner = &self.0;
        let count = inner.reactors.len();
        if reactor >= count {
            return Err(Error::invalid(format!("reactor {reactor} (there are {count})")));
        }
        let progress = Arc::new(Progress::default());
        let claim = match plan.mode {
            Mode::WriteVerify { .. } => Claim::Write,
            Mode::Check { .. } => Claim::Read,
        };
        let stop = Arc::clone(&progress);
        let descriptor = inner.registry.open(bdev, claim, move |event| {
            if *event == Event::Removing {
                stop.stop();
            }
        })?;
        let device = Arc::clone(descriptor.device());
        let theirs = Arc::clone(&progress);
        let start = move |cx: &crate::reactor::Context| -> Result<PollerId> {
            let channel = device.open_channel(cx, plan.depth)?;
            let exercise = Exercise::new(cx, channel, plan, theirs)?;
            Ok(cx.add_poller("exercise", None, Box::new(exercise)))
        };
        let poller = inner.reactors.call(reactor, start).await??;
        let number = inner.next.replace(inner.next.get() + 1);
        let name = format!("load{number}");
        let running = Running { bdev: bdev.into(), progress: Arc::clone(&progress) };
        inner.running.borrow_mut().insert(name.clone(), running);
        let cx = inner.registry.context().clone();
        let reactors = inner.reactors.clone();
        cx.clone().spawn(async move {
            while !progress.is_finished() {
                cx.sleep(END_POLL).await;
            }
            // A reactor that is gone has dropped the poller itself.
            reactors.call(reactor, move |cx| cx.remove_poller(poller)).await.ok();
            drop(descriptor);
        });
        Ok(name)
    }

    /// How all exercises stand, or the one of this name.
    ///
    /// # Errors
    /// `NotFound` when there is none of this name.
    pub fn status(&self, name: Option<&str>) -> Result<Vec<LoadStatus>> {
        let running = self.0.running.borrow();
        let status = |(name, running): (&String, &Running)| LoadStatus {
            name: name.clone(),
            bdev: running.bdev.clone(),
            snapshot: running.progress.snapshot(),
        };
        match name {
            None => Ok(running.iter().map(status).collect()),
            Some(name) => {
                let (name, running) =
                    running.get_key_value(name).ok_or_else(|| Self::unknown(name))?;
                Ok(vec![status((name, running))])
            }
        }
    }

    /// Ends an exercise and takes it off the list.
    ///
    /// # Errors
    /// `NotFound` when there is none of this name.
    pub async fn stop(&self, name: &str) -> Result<LoadStatus> {
        let progress = {
            let running = self.0.running.borrow();
            let load = running.get(name).ok_or_else(|| Self::unknown(name))?;
            Arc::clone(&load.progress)
        };
        progress.stop();
        while !progress.is_finished() {
            self.0.registry.context().sleep(END_POLL).await;
        }
        let mut status = self.status(Some(name))?;
        self.0.running.borrow_mut().remove(name);
        status.pop().ok_or_else(|| Self::unknown(name))
    }

    fn unknown(name: &str) -> Error {
        Error::new(ErrorKind::NotFound, format!("no load is named '{name}'"))
    }
}
