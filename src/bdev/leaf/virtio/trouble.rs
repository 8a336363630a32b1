//! What a virtqueue cannot mend itself, on its way to the controller.

use futures_channel::mpsc::UnboundedSender;

use crate::memory::RegionId;
use crate::virtio::ring::driver::DeviceFault;

/// Something for the controller to deal with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A request waits for this region, which the device was not told of.
    RegionBehind(RegionId),
    /// A request was refused, since its memory is in a region that the device cannot be told of.
    Unreachable(RegionId),
    /// The device did on this queue what cannot be.
    Fault(u16, DeviceFault),
    /// Somebody gave an order.
    Order,
}

/// The way there.
#[derive(Clone, Debug)]
pub(super) struct TroubleSender(UnboundedSender<Trouble>);

impl TroubleSender {
    pub(super) fn new(sender: UnboundedSender<Trouble>) -> TroubleSender {
        TroubleSender(sender)
    }

    /// Tells the controller.
    pub(super) fn send(&self, trouble: Trouble) {
        // When the controller is gone, so is the reason to tell it.
        let _ = self.0.unbounded_send(trouble);
    }
}
