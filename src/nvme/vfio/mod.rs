//! VFIO: controllers on PCIe that the kernel leaves to this process.
//!
//! [`open`] takes a function that is bound to vfio-pci, by its address. Its IOMMU group goes into a container
//! ([`container`]), its registers are mapped ([`window`]), and memory regions are mapped for it when the driver asks.
//! What blocks in the kernel runs on threads of its own ([`offload`]).
//!
//! Without an IOMMU the kernel has a mode in which devices are given physical addresses and can reach all memory. It is
//! off unless [`VfioOptions::no_iommu`] asks for it, and then only huge pages can be used ([`pagemap`]).
//!
//! A function whose removal is announced or that is pulled out reads as all ones from then on, and
//! [`Transport::is_gone`] tells ([`function`], [`Watch`](crate::memory::Watch)). The kernel completes the removal when the transport and all
//! its doorbells are dropped.

mod capability;
mod container;
mod function;
mod ioctl;
mod iova;
mod offload;
mod pagemap;
mod sysfs;
mod window;

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{debug, warn};

use self::container::GroupShare;
use self::function::Function;
use self::sysfs::Sysfs;
use super::transport::{ControlFuture, Doorbell, Iova, Post, Transport, beyond_window};
use crate::base::{Error, ErrorKind, Result};
use crate::memory::{DeviceAddresses, RegionView};
use crate::reactor::Context;

/// How to open a function.
#[derive(Clone, Copy, Debug, Default)]
pub struct VfioOptions {
    /// Allow a function without an IOMMU. A fault of the drive, its firmware or this program can then overwrite any
    /// memory of the machine.
    pub no_iommu: bool,
}

/// How long the last user of a function may take to close it, which resets it, before another opens it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// The functions that this process has open, or is about to close.
static OPEN: Mutex<Vec<(String, Use)>> = Mutex::new(Vec::new());
static CLOSED: Condvar = Condvar::new();

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Open,
    Closing,
}

fn uses() -> MutexGuard<'static, Vec<(String, Use)>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the NVMe controller at a PCI address, such as `0000:00:04.0`.
///
/// # Errors
/// `NoDevice` when there is none; `Busy` when it is not bound to vfio-pci, its IOMMU group has others in it
/// that are not, or it is open already; `AccessDenied`; `Unsupported` without an IOMMU, unless the options allow that.
pub async fn open(address: &str, options: VfioOptions) -> Result<Arc<dyn Transport>> {
    let address = address.to_string();
    let transport = offload::run(move || VfioTransport::open(&address, options)).await?;
    Ok(Arc::new(transport))
}

/// A function of VFIO's.
struct VfioTransport {
    address: String,
    numa_node: Option<u32>,
    /// Present until the drop.
    resources: Option<Arc<Resources>>,
}

/// What is shared with the threads that do the blocking work; the last owner closes the function.
struct Resources {
    // In the order of the drop: the place is free when all else is closed.
    function: Function,
    group: GroupShare,
    /// By start and length of a region: how often this function has mapped it.
    mapped: Mutex<HashMap<(usize, usize), usize>>,
    _place: Place,
}

impl VfioTransport {
    fn open(address: &str, options: VfioOptions) -> Result<VfioTransport> {
        let place = Place::take(address)?;
        let found = Sysfs::system().function(address)?;
        if found.no_iommu {
            if !options.no_iommu {
                return Err(sysfs::no_iommu(address));
            }
            warn!(
                address,
                "NO IOMMU: the drive at {address} can read and overwrite ALL memory of this machine, by a fault of its own, \
                 of its firmware or of Weft"
            );
        }
        let group = GroupShare::open(found.group, found.no_iommu)
            .map_err(|error| error.context(address))?;
        let function = Function::new(address, group.device(address)?)?;
        debug!(address, group = found.group, registers = function.length(), "opened by VFIO");
        Ok(VfioTransport {
            address: address.into(),
            numa_node: found.numa_node,
            resources: Some(Arc::new(Resources {
                function,
                group,
                mapped: Mutex::default(),
                _place: place,
            })),
        })
    }

    fn resources(&self) -> &Arc<Resources> {
        self.resources.as_ref().expect("present until the drop")
    }

    fn function(&self) -> &Function {
        &self.resources().function
    }

    fn check(&self, offset: u32) -> Result<()> {
        if u64::from(offset) + 4 > self.function().length() || !offset.is_multiple_of(4) {
            return Err(beyond_window(self, offset));
        }
        Ok(())
    }
}

impl Resources {
    fn mapped(&self) -> MutexGuard<'_, HashMap<(usize, usize), usize>> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn map(&self, view: &RegionView) -> Result<Iova> {
        let region = &view.region;
        let container = self.group.container();
        if container.is_no_iommu() {
            // Memory from DPDK says where it is.
            if let Some(DeviceAddresses::Physical(pages)) = region.device_addresses() {
                return Ok(Iova::Pages(Arc::clone(pages)));
            }
            return pagemap::physical_pages(region).map(Iova::Pages);
        }
        let iova = container.map(region)?;
        *self.mapped().entry((region.start().as_ptr() as usize, region.len())).or_default() += 1;
        Ok(Iova::Linear(iova))
    }

    fn unmap(&self, view: &RegionView) {
        let key = (view.region.start().as_ptr() as usize, view.region.len());
        let mut mapped = self.mapped();
        let Some(times) = mapped.get_mut(&key) else { return };
        *times -= 1;
        if *times == 0 {
            mapped.remove(&key);
        }
        drop(mapped);
        self.group.container().unmap(key.0, key.1);
    }
}

impl Drop for Resources {
    fn drop(&mut self) {
        // In the order in which it is safe: the function can no more reach memory, then the memory is unmapped.
        self.function.stop();
        let mapped = std::mem::take(&mut *self.mapped());
        for ((start, length), times) in mapped {
            (0..times).for_each(|_| self.group.container().unmap(start, length));
        }
    }
}

impl Transport for VfioTransport {
    fn address(&self) -> &str {
        &self.address
    }

    fn kind(&self) -> &'static str {
        "PCIe"
    }

    fn numa_node(&self) -> Option<u32> {
        self.numa_node
    }

    fn window(&self) -> u64 {
        self.function().length()
    }

    fn read32<'a>(&'a self, _cx: &'a Context, offset: u32) -> ControlFuture<'a, Result<u32>> {
        Box::pin(async move {
            self.check(offset)?;
            Ok(self.function().load(offset.into()))
        })
    }

    fn write32<'a>(
        &'a self,
        _cx: &'a Context,
        offset: u32,
        value: u32,
    ) -> ControlFuture<'a, Result<()>> {
        Box::pin(async move {
            self.check(offset)?;
            self.function().store(offset.into(), value);
            Ok(())
        })
    }

    fn map<'a>(
        &'a self,
        _cx: &'a Context,
        region: &'a RegionView,
    ) -> ControlFuture<'a, Result<Iova>> {
        Box::pin(async move {
            let (resources, view) = (Arc::clone(self.resources()), region.clone());
            let mapped = offload::run(move || {
                let mapped = resources.map(&view);
                // Before the result is known: whoever has it may drop the transport and count on the close.
                drop(resources);
                mapped
            });
            mapped.await.map_err(|error| error.context(&self.address))
        })
    }

    fn unmap<'a>(&'a self, _cx: &'a Context, region: &'a RegionView) -> ControlFuture<'a, ()> {
        Box::pin(async move {
            let (resources, view) = (Arc::clone(self.resources()), region.clone());
            let unmapped = offload::run(move || {
                resources.unmap(&view);
                drop(resources);
                Ok(())
            });
            if let Err(error) = unmapped.await {
                warn!(address = self.address, %error, "memory stays mapped for the device");
            }
        })
    }

    fn doorbell(self: Arc<Self>, offset: u32) -> Result<Doorbell> {
        self.check(offset)?;
        match self.function().window().register(offset.into()) {
            // SAFETY: aligned, and mapped as long as the transport lives.
            Some(register) => Ok(unsafe { Doorbell::mapped(register, self) }),
            // On a page that cannot be mapped, beside the MSI-X table: a system call each time, but it works.
            None => Ok(Doorbell::posted(offset, self)),
        }
    }

    fn is_gone(&self) -> bool {
        self.function().is_gone()
    }
}

impl Post for VfioTransport {
    fn post(&self, offset: u32, value: u32) {
        self.function().store(offset.into(), value);
    }
}

impl Drop for VfioTransport {
    fn drop(&mut self) {
        let Some(resources) = self.resources.take() else { return };
        mark_closing(&self.address);
        // Closing resets the function, which takes longer than a reactor may wait. At once, though, it can be kept
        // from its memory, which is the caller's to free now.
        resources.function.stop();
        if let Err(error) = offload::start(move || drop(resources)) {
            // The closure was dropped with what it owns.
            warn!(address = self.address, %error, "closed a device on the spot");
        }
    }
}

/// Lets who wants to open the function wait for the end of its closing.
fn mark_closing(address: &str) {
    for (of, use_) in uses().iter_mut() {
        if of == address {
            *use_ = Use::Closing;
        }
    }
}

/// A function's entry in [`OPEN`].
struct Place(String);

impl Place {
    /// Takes the function for this process, after the one that closes it.
    fn take(address: &str) -> Result<Place> {
        let is_of = |uses: &[(String, Use)], which: Option<Use>| {
            uses.iter().any(|(of, use_)| of == address && which.is_none_or(|which| which == *use_))
        };
        let (mut uses, _) = CLOSED
            .wait_timeout_while(uses(), CLOSE_PATIENCE, |uses| is_of(uses, Some(Use::Closing)))
            .unwrap_or_else(PoisonError::into_inner);
        if is_of(&uses, None) {
            let how =
                if is_of(&uses, Some(Use::Open)) { "is open" } else { "is still being closed" };
            return Err(Error::new(ErrorKind::Busy, format!("{address} {how} in this process")));
        }
        uses.push((address.into(), Use::Open));
        Ok(Place(address.into()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        uses().retain(|(of, _)| *of != self.0);
        CLOSED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_opened_once() {
        let address = "ffff:00:00.0";
        let place = Place::take(address).unwrap();
        assert_eq!(Place::take(address).map(drop).unwrap_err().kind(), ErrorKind::Busy);
        // Who comes while it is being closed waits for the end of that.
        mark_closing(address);
        let next = std::thread::spawn(move || Place::take(address).map(drop));
        drop(place);
        next.join().unwrap().unwrap();
        drop(Place::take(address).unwrap());
    }

    #[test]
    fn a_function_that_is_not_there_leaves_no_trace() {
        for _ in 0..2 {
            let opened =
                futures_lite::future::block_on(open("fffe:00:00.0", VfioOptions::default()));
            assert_eq!(opened.map(drop).unwrap_err().kind(), ErrorKind::NoDevice);
        }
    }
}
