//! Resetting a controller, giving it up, putting it down.

use std::time::Duration;

use tracing::{error, info, warn};

use super::registers::gone;
use super::{Controller, ResetPolicy, State};
use crate::base::{Error, ErrorKind, Result, Status};
use crate::nvme::pair::QueuePair;
use crate::nvme::trouble::Outstanding;
use crate::reactor::Tsc;

/// How often a reset is tried before the controller is given up,
const ATTEMPTS: u32 = 3;
/// and how long after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an orderly shutdown may take where the drive does not say (RTD3E).
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
/// The most that it may take, whatever the drive says.
const SHUTDOWN_PATIENCE_MAX: Duration = Duration::from_secs(60);

/// What commands of a controller that is gone or given up end with.
const LOST: Status = Status::INTERNAL_PATH_ERROR;

impl Controller {
    /// Resets the controller: every queue starts over, and what was outstanding is sent again or fails, as the
    /// policy says.
    pub(super) async fn reset(&self, why: &str) -> Result<()> {
        if self.is_over() {
            return Err(Error::new(
                ErrorKind::NoDevice,
                format!("{}: the controller is gone", self.transport.address()),
            ));
        }
        warn!(controller = self.transport.address(), "reset: {why}");
        self.enter(State::Resetting).await;
        // After this no reactor writes a doorbell.
        self.link.freeze(&self.cx).await;
        let mut attempt = 1;
        let error = loop {
            match self.restart().await {
                Ok(()) => break None,
                Err(error) if self.is_gone(&error) => {
                    self.remove().await;
                    return Err(error);
                }
                Err(error) if attempt == ATTEMPTS => break Some(error),
                Err(error) => {
                    warn!(%error, attempt, "the reset failed and is tried again");
                    attempt += 1;
                    self.cx.sleep(PAUSE).await;
                }
            }
        };
        if let Some(error) = error {
            self.give_up(&error).await;
            return Err(error);
        }
        let outstanding = match self.options.borrow().reset_policy {
            ResetPolicy::Retry => Outstanding::Retried,
            ResetPolicy::Fail => Outstanding::Ended(Status::ABORTED_BY_REQUEST),
        };
        self.enter(State::Ready).await;
        self.link
            .thaw(&self.cx, move |pair: &mut QueuePair| pair.thaw(outstanding, Tsc::read().0))
            .await;
        info!(controller = self.transport.address(), "reset done");
        if let Err(error) = self.rescan().await {
            warn!(%error, "namespaces after a reset");
        }
        Ok(())
    }

    /// One attempt: disable, enable, create the queues.
    async fn restart(&self) -> Result<()> {
        self.properties.disable(&self.cx, &*self.transport).await?;
        // Disabled, the controller has let go of all memory.
        self.admin.set_live(false);
        self.link.for_each(&self.cx, QueuePair::start_over).await;
        self.enable().await?;
        self.create_queues().await
    }

    fn is_gone(&self, error: &Error) -> bool {
        self.transport.is_gone() || error.kind() == ErrorKind::NoDevice
    }

    /// Resets do not help: I/O fails from now on, until the operator resets the controller with success.
    async fn give_up(&self, why: &Error) {
        error!(controller = self.transport.address(), %why, "the controller is given up");
        self.admin.set_live(false);
        self.link.die(&self.cx, LOST).await;
        self.enter(State::Failed).await;
    }

    /// The device is gone.
    pub(super) async fn remove(&self) {
        if self.is_over() {
            return;
        }
        warn!("{}", gone(&*self.transport));
        self.state.set(State::Removed);
        self.admin.set_live(false);
        self.link.die(&self.cx, LOST).await;
        self.notify(super::Notice::State(State::Removed)).await;
        self.drop_namespaces().await;
        self.release_memory().await;
    }

    /// The operator takes the controller away: its namespaces go first, then it is shut down in order.
    pub(super) async fn take_away(&self) {
        let over = self.is_over();
        self.state.set(State::Detached);
        if !over {
            self.drop_namespaces().await;
            self.link.freeze(&self.cx).await;
            self.shut_down().await;
            self.link.die(&self.cx, LOST).await;
            self.put_down().await;
        }
        self.notify(super::Notice::State(State::Detached)).await;
        self.watcher.replace(None);
    }

    async fn shut_down(&self) {
        let stated = Duration::from_micros(u64::from(self.identify.borrow().rtd3e));
        let patience = if stated.is_zero() { SHUTDOWN_PATIENCE } else { stated };
        let patience = patience.clamp(SHUTDOWN_PATIENCE, SHUTDOWN_PATIENCE_MAX);
        let done = self.properties.shut_down(&self.cx, &*self.transport, patience).await;
        if let Err(error) = done {
            warn!(%error, "orderly shutdown");
        }
    }

    /// Makes sure that the device uses no memory of ours, and unmaps it.
    pub(super) async fn put_down(&self) {
        if let Err(error) = self.properties.disable(&self.cx, &*self.transport).await {
            // Unmapping takes the memory out of its reach all the same, where there is an IOMMU.
            warn!(%error, "disable");
        }
        self.admin.set_live(false);
        self.release_memory().await;
    }

    async fn release_memory(&self) {
        self.unmap_regions().await;
        let memory: Vec<_> = self.memory.borrow().iter().map(|m| m.view().clone()).collect();
        for view in memory {
            self.transport.unmap(&self.cx, &view).await;
        }
    }
}
