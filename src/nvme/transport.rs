//! How the driver reaches a controller: its registers, its doorbells, and memory that it can address.
//!
//! Four backends implement [`Transport`]: VFIO, a vfio-user socket, QEMU's qtest socket, and the device model in
//! memory. The driver above is the same for all.

use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::base::{Error, Result};
use crate::memory::RegionView;
use crate::reactor::Context;

/// Control work of a transport: some have to ask another process and wait for its answer, without
/// blocking the reactor.
pub type ControlFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The way to one NVMe controller on a PCIe function. Shared by the reactors that have queues on it.
///
/// Register offsets are those of the controller properties (Base Specification, section 3.1.3), from the start of
/// BAR0. Everything here but the doorbells is control work; it is called on the control reactor only.
/// The memory that [`Transport::map`] was given stays mapped until [`Transport::unmap`] or the drop of the transport.
pub trait Transport: Send + Sync {
    /// What the operator calls it: a PCI address, or a socket's path. Stands in every message.
    fn address(&self) -> &str;

    /// SPDK's name for the transport type: "PCIe", "VFIOUSER", …
    fn kind(&self) -> &'static str;

    /// NUMA node that the device is near, where that is known.
    fn numa_node(&self) -> Option<u32> {
        None
    }

    /// Length of the register window in bytes, doorbells included.
    fn window(&self) -> u64;

    /// Reads a 32-bit register. A device that was unplugged reads as all ones.
    ///
    /// # Errors
    /// When the way to the device is gone.
    fn read32<'a>(&'a self, cx: &'a Context, offset: u32) -> ControlFuture<'a, Result<u32>>;

    /// Writes a 32-bit register.
    ///
    /// # Errors
    /// As [`Transport::read32`].
    fn write32<'a>(
        &'a self,
        cx: &'a Context,
        offset: u32,
        value: u32,
    ) -> ControlFuture<'a, Result<()>>;

    /// Reads a 64-bit register.
    ///
    /// # Errors
    /// As [`Transport::read32`].
    fn read64<'a>(&'a self, cx: &'a Context, offset: u32) -> ControlFuture<'a, Result<u64>> {
        // Two accesses of 32 bits, lower half first, are always allowed (Base Specification, section 3.1.2).
        Box::pin(async move {
            let low = self.read32(cx, offset).await?;
            let high = self.read32(cx, offset + 4).await?;
            Ok(u64::from(high) << 32 | u64::from(low))
        })
    }

    /// Writes a 64-bit register.
    ///
    /// # Errors
    /// As [`Transport::read32`].
    fn write64<'a>(
        &'a self,
        cx: &'a Context,
        offset: u32,
        value: u64,
    ) -> ControlFuture<'a, Result<()>> {
        Box::pin(async move {
            self.write32(cx, offset, value as u32).await?;
            self.write32(cx, offset + 4, (value >> 32) as u32).await
        })
    }

    /// Lets the device address a region of memory.
    ///
    /// # Errors
    /// When the memory is of a kind that this device cannot reach, or the system refuses.
    fn map<'a>(
        &'a self,
        cx: &'a Context,
        region: &'a RegionView,
    ) -> ControlFuture<'a, Result<Iova>>;

    /// Takes that back. The driver has made sure that no command names the region any more. A failure
    /// is logged by the transport: there is nothing that a caller could do.
    fn unmap<'a>(&'a self, cx: &'a Context, region: &'a RegionView) -> ControlFuture<'a, ()>;

    /// The doorbell register at `offset`.
    ///
    /// # Errors
    /// When `offset` lies beyond the window.
    fn doorbell(self: Arc<Self>, offset: u32) -> Result<Doorbell>;

    /// Whether the device is known to be gone for good: its removal was announced, its process hung up.
    fn is_gone(&self) -> bool;
}

/// Where a device finds a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Iova {
    /// In one piece: the region's first byte is at this address.
    Linear(u64),
    /// Scattered over physical memory: where each huge page ([`HUGE_PAGE_SIZE`](crate::memory::HUGE_PAGE_SIZE)) of
    /// the region is.
    Pages(Arc<[u64]>),
}

/// A doorbell register of one queue. Owned, with the queue, by one reactor.
pub struct Doorbell(Kind);

enum Kind {
    Mapped { register: NonNull<u32>, _transport: Arc<dyn Transport> },
    Posted { offset: u32, post: Arc<dyn Post> },
}

/// A way to write a doorbell register that is not mapped into this process.
pub trait Post: Send + Sync {
    /// Sends the write on its way; does not wait. Failures show when the transport reports that the device
    /// is gone.
    fn post(&self, offset: u32, value: u32);
}

// SAFETY: `register` points into a device mapping that the transport, which is `Send + Sync`, keeps; only
// the owner of the doorbell writes there.
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// The doorbell at `register`.
    ///
    /// # Safety
    /// `register` is aligned and stays mapped and writable while `transport` lives.
    pub unsafe fn mapped(register: NonNull<u32>, transport: Arc<dyn Transport>) -> Doorbell {
        Doorbell(Kind::Mapped { register, _transport: transport })
    }

    /// A doorbell that is written by messages.
    pub fn posted(offset: u32, post: Arc<dyn Post>) -> Doorbell {
        Doorbell(Kind::Posted { offset, post })
    }

    /// Tells the device of `value`: every earlier store to memory is visible to it by then.
    #[inline]
    pub fn ring(&self, value: u32) {
        match &self.0 {
            Kind::Mapped { register, .. } => {
                store_barrier();
                // SAFETY: by the contract of `mapped`.
                unsafe { register.as_ptr().write_volatile(value) };
            }
            Kind::Posted { offset, post } => post.post(*offset, value),
        }
    }
}

/// Orders stores to memory before a store to a device register.
#[inline]
fn store_barrier() {
    // x86 keeps stores in order, to uncached memory too: only the compiler must be told.
    #[cfg(target_arch = "x86_64")]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Release);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier reads and writes no memory of its own.
    unsafe {
        std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// The error of a register or doorbell beyond a device's window.
pub(crate) fn beyond_window(transport: &dyn Transport, offset: u32) -> Error {
    Error::invalid(format!(
        "{}: register {offset:#x} lies beyond the {} bytes that the device has",
        transport.address(),
        transport.window()
    ))
}
