//! One controller of the machine.

use std::sync::Arc;

use super::bus::{Slot, read_memory, write_memory};
use super::machine::{Bar, Machine};
use crate::base::Result;
use crate::memory::RegionView;
use crate::nvme::transport::{ControlFuture, Doorbell, Iova, Post, Transport, beyond_window};
use crate::reactor::Context;

pub(super) struct Device {
    machine: Arc<Machine>,
    address: String,
    bar: Bar,
}

impl Machine {
    /// The way to the controller at `slot`: its registers are given a place, its access to memory is turned on.
    ///
    /// # Errors
    /// When there is no NVMe controller, its registers are not where they should be, or QEMU does not answer.
    pub async fn transport(
        self: &Arc<Self>,
        cx: &Context,
        slot: Slot,
    ) -> Result<Arc<dyn Transport>> {
        let bar = self.open(cx, slot).await?;
        let Slot { device, function } = slot;
        let address = format!("{}/0000:00:{device:02x}.{function}", self.ports.name());
        Ok(Arc::new(Device { machine: Arc::clone(self), address, bar }))
    }
}

impl Device {
    fn check(&self, offset: u32) -> Result<u64> {
        if u64::from(offset) + 4 > self.bar.length || !offset.is_multiple_of(4) {
            return Err(beyond_window(self, offset));
        }
        Ok(self.bar.address + u64::from(offset))
    }
}

impl Transport for Device {
    fn address(&self) -> &str {
        &self.address
    }

    fn kind(&self) -> &'static str {
        "PCIE"
    }

    fn window(&self) -> u64 {
        self.bar.length
    }

    fn read32<'a>(&'a self, cx: &'a Context, offset: u32) -> ControlFuture<'a, Result<u32>> {
        Box::pin(async move { read_memory(cx, &self.machine.ports, self.check(offset)?).await })
    }

    fn write32<'a>(
        &'a self,
        cx: &'a Context,
        offset: u32,
        value: u32,
    ) -> ControlFuture<'a, Result<()>> {
        Box::pin(
            async move { write_memory(cx, &self.machine.ports, self.check(offset)?, value).await },
        )
    }

    fn map<'a>(
        &'a self,
        cx: &'a Context,
        region: &'a RegionView,
    ) -> ControlFuture<'a, Result<Iova>> {
        Box::pin(async move { Ok(Iova::Linear(self.machine.module(cx, &region.region).await?)) })
    }

    fn unmap<'a>(&'a self, _cx: &'a Context, _region: &'a RegionView) -> ControlFuture<'a, ()> {
        // See the module's documentation: a module stays.
        Box::pin(std::future::ready(()))
    }

    fn doorbell(self: Arc<Self>, offset: u32) -> Result<Doorbell> {
        self.check(offset)?;
        Ok(Doorbell::posted(offset, self))
    }

    fn is_gone(&self) -> bool {
        self.machine.ports.is_broken()
    }
}

impl Post for Device {
    fn post(&self, offset: u32, value: u32) {
        let address = self.bar.address + u64::from(offset);
        self.machine.ports.post(format_args!("writel {address:#x} {value:#x}"));
    }
}
