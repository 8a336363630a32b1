//! Where the daemon is between its start and serving devices.

use std::cell::{Cell, RefCell};

use futures_channel::oneshot;

use super::error::RpcError;
use crate::base;

/// The stages of initialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Methods that set options before initialization can be called.
    Startup,
    /// Options are being set.
    Starting,
    /// Options stand; the devices of the configuration are being made.
    Loading,
    /// Devices can be made.
    Running,
    /// Initialization failed; the daemon is about to stop.
    Failed,
}

/// The stage, who waits for it, and the wish to go on.
pub struct Framework {
    stage: Cell<Stage>,
    start: RefCell<Option<oneshot::Sender<()>>>,
    waiting: RefCell<Vec<oneshot::Sender<()>>>,
}

impl Framework {
    /// At the start. The receiver completes when initialization is to begin.
    pub fn new() -> (Framework, oneshot::Receiver<()>) {
        let (start, started) = oneshot::channel();
        let framework = Framework {
            stage: Cell::new(Stage::Startup),
            start: RefCell::new(Some(start)),
            waiting: RefCell::default(),
        };
        (framework, started)
    }

    /// Where it is.
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Whether options stand and devices can be made.
    pub fn is_running(&self) -> bool {
        matches!(self.stage.get(), Stage::Loading | Stage::Running)
    }

    /// Records that all options stand.
    pub fn load(&self) {
        self.stage.set(Stage::Loading);
    }

    /// Asks for initialization to begin; it can be asked for once.
    ///
    /// # Errors
    /// `INVALID_STATE` when it has begun already.
    pub fn begin(&self) -> Result<(), RpcError> {
        match self.start.borrow_mut().take() {
            Some(start) if self.stage.get() == Stage::Startup => {
                self.stage.set(Stage::Starting);
                // The daemon that waits for it may be on its way out; then nobody needs to know.
                start.send(()).ok();
                Ok(())
            }
            _ => Err(RpcError::new(
                RpcError::INVALID_STATE,
                "framework_start_init was called already",
            )),
        }
    }

    /// Records how initialization ended and lets the waiting go on.
    pub fn finish(&self, outcome: &base::Result<()>) {
        self.stage.set(if outcome.is_ok() { Stage::Running } else { Stage::Failed });
        for waiting in self.waiting.take() {
            // Who no longer waits has gone.
            waiting.send(()).ok();
        }
    }

    /// Completes when initialization has.
    ///
    /// # Errors
    /// `INTERNAL_ERROR` when it failed.
    pub async fn wait(&self) -> Result<(), RpcError> {
        if !matches!(self.stage.get(), Stage::Running | Stage::Failed) {
            let (done, finished) = oneshot::channel();
            self.waiting.borrow_mut().push(done);
            // The sender lives as long as `self`.
            finished.await.ok();
        }
        match self.stage.get() {
            Stage::Running => Ok(()),
            _ => Err(RpcError::new(
                RpcError::INTERNAL_ERROR,
                "initialization failed; the log has the reason",
            )),
        }
    }
}
