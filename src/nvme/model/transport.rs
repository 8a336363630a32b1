//! The way to a model, as the driver sees it.

use std::future::ready;
use std::ptr::NonNull;
use std::sync::Arc;

use super::shared::Shared;
use crate::base::Result;
use crate::memory::RegionView;
use crate::nvme::transport::{ControlFuture, Doorbell, Iova, Transport, beyond_window};
use crate::reactor::Context;

/// One connection to a model; what it mapped is unmapped when it goes.
pub(super) struct ModelTransport {
    shared: Arc<Shared>,
    address: String,
    id: u64,
}

impl ModelTransport {
    pub(super) fn new(shared: Arc<Shared>, id: u64) -> ModelTransport {
        let address = shared.lock().options.address.clone();
        ModelTransport { shared, address, id }
    }

    fn register(&self, offset: u32) -> Result<NonNull<u32>> {
        self.shared.doorbells.register(offset).ok_or_else(|| beyond_window(self, offset))
    }
}

impl Transport for ModelTransport {
    fn address(&self) -> &str {
        &self.address
    }

    fn kind(&self) -> &'static str {
        "MODEL"
    }

    fn window(&self) -> u64 {
        self.shared.doorbells.window()
    }

    fn read32<'a>(&'a self, _cx: &'a Context, offset: u32) -> ControlFuture<'a, Result<u32>> {
        Box::pin(ready(Ok(self.shared.lock().read_register(offset))))
    }

    fn write32<'a>(
        &'a self,
        _cx: &'a Context,
        offset: u32,
        value: u32,
    ) -> ControlFuture<'a, Result<()>> {
        self.shared.lock().write_register(offset, value, &self.shared.doorbells);
        Box::pin(ready(Ok(())))
    }

    fn map<'a>(
        &'a self,
        _cx: &'a Context,
        region: &'a RegionView,
    ) -> ControlFuture<'a, Result<Iova>> {
        let mut state = self.shared.lock();
        let iova = if state.options.scattered {
            Iova::Pages(state.dma.map_pages(&region.region, self.id).into())
        } else {
            Iova::Linear(state.dma.map(&region.region, self.id))
        };
        Box::pin(ready(Ok(iova)))
    }

    fn unmap<'a>(&'a self, _cx: &'a Context, region: &'a RegionView) -> ControlFuture<'a, ()> {
        self.shared.lock().dma.unmap(Some(&region.region), self.id);
        Box::pin(ready(()))
    }

    fn doorbell(self: Arc<Self>, offset: u32) -> Result<Doorbell> {
        let register = self.register(offset)?;
        // SAFETY: the register is a word of `shared.doorbells`, which lives as long as the transport does, and the
        // model looks at it by atomic operations only.
        Ok(unsafe { Doorbell::mapped(register, self) })
    }

    fn is_gone(&self) -> bool {
        self.shared.lock().removal_announced
    }
}

impl Drop for ModelTransport {
    fn drop(&mut self) {
        self.shared.lock().dma.unmap(None, self.id);
    }
}
