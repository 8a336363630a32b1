//! The controller's registers: enabling, disabling, shutting down (Base Specification, section 3.5).

use std::time::Duration;

use crate::base::{Error, ErrorKind, Result};
use crate::nvme::spec::{
    Capabilities, ControllerConfiguration, ControllerStatus, Register, ShutdownNotification,
    ShutdownStatus, Version, admin_queue_attributes, is_all_ones,
};
use crate::nvme::transport::Transport;
use crate::reactor::{Context, Tsc};

/// How often a status is looked at while it is waited for.
const LOOK: Duration = Duration::from_micros(500);
/// What a controller gets at least, whatever CAP.TO says: some say 0.
const PATIENCE_MIN: Duration = Duration::from_secs(2);

/// What a controller says of itself before it is enabled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Properties {
    pub(super) cap: Capabilities,
    pub(super) version: Version,
}

impl Properties {
    /// Reads and checks them.
    ///
    /// # Errors
    /// `NoDevice` when nothing is there; `Unsupported` for a controller that this driver cannot drive.
    pub(super) async fn read(cx: &Context, transport: &dyn Transport) -> Result<Properties> {
        let address = transport.address();
        let cap = Capabilities(transport.read64(cx, Register::CAP).await?);
        let version = Version(transport.read32(cx, Register::VS).await?);
        let unsupported =
            |what: String| Err(Error::new(ErrorKind::Unsupported, format!("{address}: {what}")));
        if cap.0 == u64::MAX || is_all_ones(version.0) {
            return Err(gone(transport));
        }
        if cap.0 == 0 {
            return unsupported("the controller reports no capabilities".into());
        }
        if !cap.nvm_command_set() {
            return unsupported("the controller does not support the NVM command set".into());
        }
        if cap.page_size_min() > 4096 {
            return unsupported(format!(
                "the controller wants memory pages of {} bytes, 4096 are what there is",
                cap.page_size_min()
            ));
        }
        if cap.queue_entries_max() < 2 {
            return unsupported("the controller's queues hold less than two entries".into());
        }
        Ok(Properties { cap, version })
    }

    fn patience(&self) -> Duration {
        self.cap.timeout().max(PATIENCE_MIN)
    }

    /// Disables the controller: it lets go of all memory and forgets its queues.
    ///
    /// # Errors
    /// `NoDevice` when it is gone; `TimedOut` when it does not become idle within CAP.TO.
    pub(super) async fn disable(&self, cx: &Context, transport: &dyn Transport) -> Result<()> {
        let cc = ControllerConfiguration(read(cx, transport, Register::CC).await?);
        let status = self.status(cx, transport).await?;
        if cc.is_enabled() {
            // While it becomes ready it must not be disabled (section 3.1.3.5, EN), unless it never will be.
            if !status.is_ready() && !status.is_fatal() {
                let _ = self.wait(cx, transport, |status| status.is_ready()).await;
            }
            transport.write32(cx, Register::CC, cc.with_enable(false).0).await?;
        }
        self.wait(cx, transport, |status| !status.is_ready()).await
    }

    /// Enables the controller with these admin queues.
    ///
    /// # Errors
    /// As [`Properties::disable`]; `Io` when it reports a fatal status.
    pub(super) async fn enable(
        &self,
        cx: &Context,
        transport: &dyn Transport,
        (submission_size, submission, completion_size, completion): (u32, u64, u32, u64),
    ) -> Result<()> {
        let attributes = admin_queue_attributes(submission_size, completion_size);
        transport.write32(cx, Register::AQA, attributes).await?;
        transport.write64(cx, Register::ASQ, submission).await?;
        transport.write64(cx, Register::ACQ, completion).await?;
        let cc = ControllerConfiguration::default()
            .with_command_set(ControllerConfiguration::CSS_NVM)
            .with_page_log2(0)
            .with_entry_sizes(6, 4)
            .with_enable(true);
        transport.write32(cx, Register::CC, cc.0).await?;
        self.wait(cx, transport, |status| status.is_ready()).await
    }

    /// Tells the controller to get ready for power-off, and waits until it is: cached writes are on the medium then.
    ///
    /// # Errors
    /// As [`Properties::disable`].
    pub(super) async fn shut_down(
        &self,
        cx: &Context,
        transport: &dyn Transport,
        patience: Duration,
    ) -> Result<()> {
        let cc = ControllerConfiguration(read(cx, transport, Register::CC).await?);
        let cc = cc.with_shutdown(ShutdownNotification::Normal);
        transport.write32(cx, Register::CC, cc.0).await?;
        let done = |status: ControllerStatus| status.shutdown() == ShutdownStatus::Complete;
        self.wait_for(cx, transport, done, patience).await
    }

    /// The status register.
    ///
    /// # Errors
    /// `NoDevice` when the device is gone.
    pub(super) async fn status(
        &self,
        cx: &Context,
        transport: &dyn Transport,
    ) -> Result<ControllerStatus> {
        Ok(ControllerStatus(read(cx, transport, Register::CSTS).await?))
    }

    async fn wait(
        &self,
        cx: &Context,
        transport: &dyn Transport,
        done: impl Fn(ControllerStatus) -> bool,
    ) -> Result<()> {
        self.wait_for(cx, transport, done, self.patience()).await
    }

    async fn wait_for(
        &self,
        cx: &Context,
        transport: &dyn Transport,
        done: impl Fn(ControllerStatus) -> bool,
        patience: Duration,
    ) -> Result<()> {
        let deadline = Tsc::read().after(Tsc::ticks(patience));
        loop {
            let status = self.status(cx, transport).await?;
            if done(status) {
                return Ok(());
            }
            if status.is_fatal() && !done(ControllerStatus(0)) {
                return Err(Error::new(
                    ErrorKind::Io,
                    format!("{}: the controller reports a fatal status", transport.address()),
                ));
            }
            if Tsc::read() > deadline {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!(
                        "{}: the controller does not get anywhere within {patience:?} ({status:?})",
                        transport.address()
                    ),
                ));
            }
            cx.sleep(LOOK).await;
        }
    }
}

/// Reads a register that is never all ones on a device that is there.
async fn read(cx: &Context, transport: &dyn Transport, register: u32) -> Result<u32> {
    let value = transport.read32(cx, register).await?;
    if is_all_ones(value) || transport.is_gone() { Err(gone(transport)) } else { Ok(value) }
}

/// The error of a device that is gone.
pub(super) fn gone(transport: &dyn Transport) -> Error {
    Error::new(
        ErrorKind::NoDevice,
        format!("{}: the device is gone (its registers read as all ones)", transport.address()),
    )
}
