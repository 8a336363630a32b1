//! An NVMe controller behind a connection, as a [`Transport`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zerocopy::{FromBytes, IntoBytes};

use super::capabilities::{self, Capabilities};
use super::connection::Connection;
use super::dialogue::Reply;
use super::mapped_memory::address_of;
use super::region_info::{
    Area, REGION_BAR0, REGION_CONFIG, RegionInfo, RegionReply, parse_region_info,
};
use super::window::Window;
use super::wire::{Command, DeviceInfo, DmaMap, DmaUnmap, RegionAccess};
use crate::base::{Error, ErrorKind, Result};
use crate::memory::RegionView;
use crate::nvme::transport::beyond_window;
use crate::nvme::{ControlFuture, Doorbell, Iova, Post, Transport};
use crate::reactor::Context;

/// Length of region information that is offered first: enough for a few areas.
const REGION_INFO_FIRST: u32 = 256;

/// The least window: the controller properties and a pair of doorbells (PCIe Transport Specification, section 3.1.2).
const WINDOW_MIN: u64 = 0x1008;

/// Offsets in the PCI configuration space (PCI Local Bus Specification, section 6.1).
mod config {
    /// Command register, two bytes.
    pub const COMMAND: u64 = 0x04;
    /// Memory space enable, bus master enable, interrupt disable: completions are polled for.
    pub const COMMAND_BITS: u16 = 1 << 1 | 1 << 2 | 1 << 10;
    /// Revision, programming interface, subclass and base class, a byte each.
    pub const CLASS: u64 = 0x08;
    /// Mass storage, non-volatile memory controller, NVM Express I/O controller (PCIe Transport Specification,
    /// section 3.8.1.5).
    pub const CLASS_NVME: u32 = 0x01_08_02;
}

/// A controller.
pub struct Device {
    connection: Arc<Connection>,
    capabilities: Capabilities,
    info: DeviceInfo,
    window: Window,
    doorbells_posted: AtomicUsize,
}

impl Device {
    /// Negotiates over a fresh connection, and finds out what is behind it.
    ///
    /// # Errors
    /// When the server does not speak the protocol, or its device is no NVMe controller.
    pub async fn negotiate(
        cx: &Context,
        connection: Arc<Connection>,
        map_registers: bool,
    ) -> Result<Device> {
        let proposal = capabilities::proposal();
        let version = connection.request(cx, Command::Version, &proposal, None);
        let reply = version.await.map_err(|error| match error.kind() {
            ErrorKind::TimedOut => error.context("a server talks to one client at a time"),
            _ => error,
        })?;
        let capabilities = understand(&connection, capabilities::parse(&reply.payload))?;
        if capabilities.max_data_xfer_size < 4 {
            let most = capabilities.max_data_xfer_size;
            let what =
                format!("the server takes {most} bytes of data in one message; 4 are needed");
            return Err(connection.fail(ErrorKind::Unsupported, what));
        }
        let asked = DeviceInfo { argsz: size_of::<DeviceInfo>() as u32, ..DeviceInfo::default() };
        let reply = connection.request(cx, Command::DeviceGetInfo, asked.as_bytes(), None).await?;
        let info = understand(&connection, DeviceInfo::parse(&reply.payload))?;
        if info.flags & DeviceInfo::PCI == 0 || info.regions <= REGION_CONFIG {
            let what = "the device is no PCI function";
            return Err(connection.fail(ErrorKind::Unsupported, what));
        }
        let window = Window::new(&RegionInfo::default(), &[], &[])?;
        let doorbells_posted = AtomicUsize::new(0);
        let mut device = Device { connection, capabilities, info, window, doorbells_posted };
        device.configure(cx).await?;
        device.window = device.open_window(cx, map_registers).await?;
        Ok(device)
    }

    /// Checks what kind of device it is, and lets it reach memory.
    async fn configure(&self, cx: &Context) -> Result<()> {
        let (config, _, _) = self.region_info(cx, REGION_CONFIG).await?;
        if config.size < 64 {
            let what = format!("a configuration space of {} bytes", config.size);
            return Err(self.connection.fail(ErrorKind::Unsupported, what));
        }
        let class = self.region_read::<u32>(cx, REGION_CONFIG, config::CLASS).await? >> 8;
        if class != config::CLASS_NVME {
            let what = format!(
                "the device is no NVMe controller: its class code is {class:06x} and not {:06x}",
                config::CLASS_NVME
            );
            return Err(self.connection.fail(ErrorKind::Unsupported, what));
        }
        let command = self.region_read::<u16>(cx, REGION_CONFIG, config::COMMAND).await?;
        self.region_write(cx, REGION_CONFIG, config::COMMAND, command | config::COMMAND_BITS).await
    }

    async fn open_window(&self, cx: &Context, map: bool) -> Result<Window> {
        let (info, areas, files) = self.region_info(cx, REGION_BAR0).await?;
        let both = RegionInfo::READ | RegionInfo::WRITE;
        if info.size < WINDOW_MIN || info.flags & both != both {
            let what = format!(
                "{} bytes of registers with flags {:#x}: no NVMe controller has so few",
                info.size, info.flags
            );
            return Err(self.connection.fail(ErrorKind::Unsupported, what));
        }
        let files = if map { files } else { Vec::new() };
        understand(&self.connection, Window::new(&info, &areas, &files))
    }

    async fn region_info(
        &self,
        cx: &Context,
        index: u32,
    ) -> Result<(RegionInfo, Vec<Area>, Vec<OwnedFd>)> {
        let mut argsz = REGION_INFO_FIRST;
        for _ in 0..2 {
            let asked = RegionInfo { argsz, index, ..RegionInfo::default() };
            let request =
                self.connection.request(cx, Command::DeviceGetRegionInfo, asked.as_bytes(), None);
            let Reply { payload, descriptors } = request.await?;
            match understand(&self.connection, parse_region_info(&payload, index, argsz))? {
                RegionReply::Whole(info, areas) => return Ok((info, areas, descriptors)),
                RegionReply::Longer(needed) => argsz = needed,
            }
        }
        let what = format!("the information about region {index} grows with every request");
        Err(self.connection.fail(ErrorKind::Io, what))
    }

    async fn region_read<T: FromBytes>(&self, cx: &Context, region: u32, offset: u64) -> Result<T> {
        let count = size_of::<T>() as u32;
        let access = RegionAccess { offset, region, count };
        let request = self.connection.request(cx, Command::RegionRead, access.as_bytes(), None);
        let reply = request.await?;
        let data = understand(&self.connection, access.read_data(&reply.payload))?;
        T::read_from_bytes(data).map_err(|_| unreachable_length(count))
    }

    async fn region_write<T: IntoBytes + zerocopy::Immutable>(
        &self,
        cx: &Context,
        region: u32,
        offset: u64,
        value: T,
    ) -> Result<()> {
        let access = RegionAccess { offset, region, count: size_of::<T>() as u32 };
        let message = [access.as_bytes(), value.as_bytes()].concat();
        let request = self.connection.request(cx, Command::RegionWrite, &message, None);
        let reply = request.await?;
        understand(&self.connection, access.check_written(&reply.payload))
    }

    fn check(&self, offset: u32) -> Result<()> {
        if self.window.has(offset) { Ok(()) } else { Err(beyond_window(self, offset)) }
    }

    /// Whether the server would take this region, and why not.
    fn check_region(&self, region: &RegionView) -> Result<()> {
        let (address, length) = (address_of(region), region.region.len() as u64);
        let refused = |kind: ErrorKind, what: String| {
            let path = self.connection.address();
            Err(Error::new(kind, format!("vfio-user {path}: {length} bytes of memory {what}")))
        };
        if region.region.backing().is_none() {
            return refused(
                ErrorKind::Unsupported,
                "have no file behind them, without which another process cannot reach them; \
                 use huge pages (/proc/sys/vm/nr_hugepages), or --shared-memory"
                    .into(),
            );
        }
        if self.capabilities.max_msg_fds == 0 {
            return refused(
                ErrorKind::Unsupported,
                "cannot be shared: the server takes no file descriptors".into(),
            );
        }
        let page = 1_u64.checked_shl(self.capabilities.pgsizes.trailing_zeros()).unwrap_or(0);
        if page == 0 || !address.is_multiple_of(page) || !length.is_multiple_of(page) {
            return refused(
                ErrorKind::Unsupported,
                format!(
                    "at {address:#x} are not whole pages to the server (sizes {:#x})",
                    self.capabilities.pgsizes
                ),
            );
        }
        self.connection.memory(|memory| {
            if memory.contains(region) {
                return refused(ErrorKind::Exists, format!("at {address:#x} are mapped already"));
            }
            if memory.len() as u64 >= self.capabilities.max_dma_maps {
                let most = self.capabilities.max_dma_maps;
                return refused(
                    ErrorKind::NoSpace,
                    format!("are too much: the server takes {most} pieces; use larger regions"),
                );
            }
            Ok(())
        })
    }
}

/// Ends the connection when what the server sent makes no sense.
fn understand<T>(connection: &Connection, parsed: Result<T>) -> Result<T> {
    parsed.map_err(|error| connection.fail(error.kind(), format!("the server sent {error}")))
}

/// For lengths that were compared a line before.
fn unreachable_length(count: u32) -> Error {
    Error::new(ErrorKind::Io, format!("{count} bytes of registers that are not as many"))
}

impl Drop for Device {
    fn drop(&mut self) {
        // A driver has shut the controller down by now; a controller whose driver could not must not go on with
        // commands that name memory which is about to be used for something else.
        if self.info.flags & DeviceInfo::RESET != 0 {
            self.connection.send_without_reply(Command::DeviceReset);
        }
        self.connection.close();
    }
}

impl Post for Device {
    fn post(&self, offset: u32, value: u32) {
        self.connection.post(offset, value);
    }
}

impl Transport for Device {
    fn address(&self) -> &str {
        self.connection.address()
    }

    fn kind(&self) -> &'static str {
        "VFIOUSER"
    }

    fn window(&self) -> u64 {
        self.window.size()
    }

    fn read32<'a>(&'a self, cx: &'a Context, offset: u32) -> ControlFuture<'a, Result<u32>> {
        Box::pin(async move {
            self.check(offset)?;
            match self.window.read(offset) {
                Some(value) => Ok(value),
                None => self.region_read(cx, REGION_BAR0, offset.into()).await,
            }
        })
    }

    fn write32<'a>(
        &'a self,
        cx: &'a Context,
        offset: u32,
        value: u32,
    ) -> ControlFuture<'a, Result<()>> {
        Box::pin(async move {
            self.check(offset)?;
            if self.window.write(offset, value) {
                return Ok(());
            }
            self.region_write(cx, REGION_BAR0, offset.into(), value).await
        })
    }

    fn map<'a>(
        &'a self,
        cx: &'a Context,
        region: &'a RegionView,
    ) -> ControlFuture<'a, Result<Iova>> {
        Box::pin(async move {
            self.check_region(region)?;
            let backing = region.region.backing().cloned();
            let address = address_of(region);
            let message = DmaMap {
                argsz: size_of::<DmaMap>() as u32,
                flags: DmaMap::READ | DmaMap::WRITE,
                offset: backing.as_ref().map_or(0, |backing| backing.offset()),
                address,
                size: region.region.len() as u64,
            };
            // From the moment that the server knows of it, it may ask for what is there.
            self.connection.memory(|memory| memory.insert(region.clone()));
            let mapped =
                self.connection.request(cx, Command::DmaMap, message.as_bytes(), backing).await;
            if let Err(error) = mapped {
                self.connection.memory(|memory| memory.remove(region));
                return Err(error);
            }
            Ok(Iova::Linear(address))
        })
    }

    fn unmap<'a>(&'a self, cx: &'a Context, region: &'a RegionView) -> ControlFuture<'a, ()> {
        Box::pin(async move {
            if !self.connection.memory(|memory| memory.contains(region)) {
                return;
            }
            let message = DmaUnmap {
                argsz: size_of::<DmaUnmap>() as u32,
                flags: 0,
                address: address_of(region),
                size: region.region.len() as u64,
            };
            let unmapped =
                self.connection.request(cx, Command::DmaUnmap, message.as_bytes(), None).await;
            self.connection.memory(|memory| memory.remove(region));
            if let Err(error) = unmapped {
                tracing::warn!("taking back memory: {error}");
            }
        })
    }

    fn doorbell(self: Arc<Self>, offset: u32) -> Result<Doorbell> {
        self.check(offset)?;
        let Some(register) = self.window.writable(offset) else {
            let posted = self.doorbells_posted.fetch_add(1, Ordering::Relaxed) + 1;
            self.connection.reserve_doorbells(posted);
            return Ok(Doorbell::posted(offset, self));
        };
        // SAFETY: aligned, since the offset is and the mapping is to a page, and mapped for writing as long as the
        // window, which the transport keeps.
        Ok(unsafe { Doorbell::mapped(register, self) })
    }

    fn is_gone(&self) -> bool {
        self.connection.has_failed()
    }
}
