//! The controller's task: what happens, one thing at a time.

use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_lite::{StreamExt, future};
use tracing::{debug, info, warn};

use super::{Controller, Order, State, TimeoutAction};
use crate::base::{Error, ErrorKind, Result};
use crate::nvme::commands;
use crate::nvme::link::Event;
use crate::nvme::spec::{
    AsyncEvent, AsyncEventKind, AsyncNotice, ControllerStatus, LogPage, NSID_ALL,
};
use crate::nvme::trouble::Trouble;
use crate::reactor::Tsc;

/// How often the status register is looked at.
const STATUS_PERIOD: Duration = Duration::from_secs(1);
/// How often time-outs are looked for, at the least and at the most.
const TIMEOUT_PERIOD: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How long an Abort may take.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);

/// When what is looked at every now and then is due.
struct Due {
    status: Tsc,
    timeouts: Tsc,
}

impl Controller {
    /// Asks the task for a reset and waits for its end.
    ///
    /// # Errors
    /// When the reset fails, or the controller is gone.
    pub async fn request_reset(&self) -> Result<()> {
        self.order(Order::Reset).await?
    }

    /// Asks the task to look at the namespaces again.
    ///
    /// # Errors
    /// When the controller does not answer, or is gone.
    pub async fn request_rescan(&self) -> Result<()> {
        self.order(Order::Rescan).await?
    }

    /// Detaches the controller: its namespaces go, then it is shut down. All queues on it are closed by then:
    /// whoever is told of a namespace's removal waits for that.
    ///
    /// # Errors
    /// When it is detached already.
    pub async fn request_detach(&self) -> Result<()> {
        self.order(Order::Detach).await
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T> {
        let gone = || {
            Error::new(
                ErrorKind::NoDevice,
                format!("{}: the controller is detached", self.transport.address()),
            )
        };
        if self.state.get() == State::Detached {
            return Err(gone());
        }
        let (sender, receiver) = oneshot::channel();
        self.orders.borrow_mut().push(order(sender));
        self.link.send(Event::Order);
        receiver.await.map_err(|_| gone())
    }

    /// Runs until the controller is detached.
    pub(super) async fn run(self: Rc<Self>) {
        let Some(mut events) = self.events.borrow_mut().take() else { return };
        let now = Tsc::read();
        let mut due = Due { status: now, timeouts: now };
        while self.state.get() != State::Detached {
            let period = self.options.borrow().admin_poll_period;
            let next = async { events.next().await };
            let tick = async {
                self.cx.sleep(period).await;
                None
            };
            match future::or(next, tick).await {
                Some(Event::Trouble(Trouble::RegionsBehind)) => self.repeat_regions().await,
                Some(Event::Trouble(Trouble::Violation(queue, violation))) => {
                    self.reset_for(&format!("queue {queue}: the device {violation}")).await;
                }
                Some(Event::Order) => self.obey().await,
                None => {}
            }
            if !self.is_over() {
                self.look_around(&mut due).await;
            }
        }
        // Whoever came too late is told by the drop of its sender.
        self.orders.borrow_mut().clear();
    }

    async fn obey(&self) {
        let orders = std::mem::take(&mut *self.orders.borrow_mut());
        for order in orders {
            // Nobody may be waiting any more for the outcome.
            match order {
                Order::Reset(done) => drop(done.send(self.reset("requested").await)),
                Order::Rescan(done) => drop(done.send(self.rescan().await)),
                Order::Detach(done) => {
                    self.take_away().await;
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    async fn reset_for(&self, why: &str) {
        if let Err(error) = self.reset(why).await {
            warn!(%error, "reset");
        }
    }

    async fn look_around(&self, due: &mut Due) {
        if self.transport.is_gone() {
            return self.remove().await;
        }
        self.follow_regions().await;
        if self.state.get() != State::Ready {
            return;
        }
        if self.admin.is_violated() {
            return self
                .reset_for("a completion on the admin queue that belongs to no command")
                .await;
        }
        for event in self.admin.take_events() {
            self.handle_event(AsyncEvent::decode(event)).await;
        }
        let now = Tsc::read();
        if now >= due.status {
            due.status = now.after(Tsc::ticks(STATUS_PERIOD));
            self.look_at_status().await;
        }
        if now >= due.timeouts && self.state.get() == State::Ready {
            let timeout = self.options.borrow().timeout;
            let period = (timeout / 4).clamp(TIMEOUT_PERIOD.0, TIMEOUT_PERIOD.1);
            due.timeouts = now.after(Tsc::ticks(period));
            if !timeout.is_zero() {
                self.look_for_timeouts(timeout).await;
            }
        }
    }

    async fn look_at_status(&self) {
        match self.properties.status(&self.cx, &*self.transport).await {
            Ok(status) if self.needs_reset(status) => {
                self.reset_for(&format!("the controller reports {status:?}")).await;
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NoDevice || self.transport.is_gone() => {
                self.remove().await;
            }
            Err(error) => warn!(%error, "status register"),
        }
    }

    /// Fatal, or not ready although nobody disabled it (it was reset behind our back).
    fn needs_reset(&self, status: ControllerStatus) -> bool {
        status.is_fatal() || !status.is_ready()
    }

    async fn handle_event(&self, event: AsyncEvent) {
        let controller = self.transport.address();
        match event.kind {
            AsyncEventKind::Notice(AsyncNotice::NamespaceAttribute) => {
                // To read the page lets the next event of this type through.
                let page = self.log_page(LogPage::CHANGED_NAMESPACES, NSID_ALL, 4096).await;
                if let Err(error) = page {
                    warn!(%error, "changed namespaces");
                }
                if let Err(error) = self.rescan().await {
                    warn!(%error, "namespaces");
                }
            }
            AsyncEventKind::Health(kind) => match self.health().await {
                Ok(health) => warn!(
                    controller,
                    ?kind,
                    critical_warning = health.critical_warning,
                    "the drive reports on its health"
                ),
                Err(error) => warn!(controller, ?kind, %error, "the drive reports on its health"),
            },
            AsyncEventKind::Error(kind) => {
                warn!(controller, ?kind, "the drive reports an error");
                if let Err(error) = self.log_page(event.log_page, NSID_ALL, 64).await {
                    debug!(%error, "error log");
                }
            }
            other => {
                info!(controller, ?other, "event");
                if event.log_page != 0
                    && let Err(error) = self.log_page(event.log_page, NSID_ALL, 512).await
                {
                    debug!(%error, "log page of an event");
                }
            }
        }
        self.request_events();
    }

    async fn look_for_timeouts(&self, timeout: Duration) {
        let now = Tsc::read().0;
        let limit = now.saturating_sub(Tsc::ticks(timeout));
        let action = self.options.borrow().timeout_action;
        let found = self.link.for_each(&self.cx, move |pair| pair.expired(limit, now)).await;
        let count: usize = found.iter().map(|expired| expired.commands.len()).sum();
        let hung = found.iter().any(|expired| expired.hung);
        if count == 0 && !hung {
            return;
        }
        warn!(
            controller = self.transport.address(),
            "{count} commands have no answer after {timeout:?}"
        );
        match action {
            TimeoutAction::None => {}
            TimeoutAction::Reset => self.reset_for("commands timed out").await,
            TimeoutAction::Abort if hung => {
                self.reset_for("commands outlived their abort").await;
            }
            TimeoutAction::Abort => {
                for expired in found {
                    for command in expired.commands {
                        if !self.abort(expired.queue, command).await {
                            return self.reset_for("an Abort command has no answer").await;
                        }
                    }
                }
            }
        }
    }

    /// Aborts a command. `false` when the controller does not answer.
    async fn abort(&self, queue: u16, command: u16) -> bool {
        let abort = commands::abort(queue, command);
        match self.admin_within(abort, None, 0, ABORT_PATIENCE).await {
            Ok((entry, _)) => {
                // Bit 0 says that the command was not aborted: it may have ended meanwhile, or never will.
                debug!(queue, command, aborted = entry.dw0 & 1 == 0, "abort");
                true
            }
            Err(error) => {
                warn!(%error, queue, command, "abort");
                false
            }
        }
    }
}
