//! What each message does, and what it is answered with (vhost-user, "Front-end message types").

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tracing::debug;
use zerocopy::IntoBytes;

use super::Session;
use super::rings::{Kick, Vring};
use crate::base::{Error, ErrorKind, Result};
use crate::memory::Region;
use crate::vhost::disk::QUEUES_MAX;
use crate::vhost::queue::{Command, SharedFd};
use crate::virtio::dirty_log::DirtyLog;
use crate::virtio::inflight::{InflightArea, InflightLayout};
use crate::virtio::memory::{GuestMemory, GuestRegion};
use crate::virtio::spec::block::Config;
use crate::virtio::spec::{DeviceStatus, Features};
use crate::virtio::vhost_user::{
    ConfigHeader, Inflight, MemoryRegion, Message, MessageStream, ProtocolFeatures, Request,
    SharedArea, VringAddresses, VringFile, config_flags,
};

/// Most regions of guest memory.
const MEMORY_SLOTS: u64 = 256;

/// The protocol features that there are.
const PROTOCOL_FEATURES: ProtocolFeatures = ProtocolFeatures::MQ
    .with(ProtocolFeatures::LOG_SHMFD)
    .with(ProtocolFeatures::REPLY_ACK)
    .with(ProtocolFeatures::BACKEND_REQ)
    .with(ProtocolFeatures::CONFIG)
    .with(ProtocolFeatures::INFLIGHT_SHMFD)
    .with(ProtocolFeatures::RESET_DEVICE)
    .with(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .with(ProtocolFeatures::STATUS);

/// What a message is answered with.
enum Answer {
    /// Nothing, but that it was done, if the front end wants to hear that.
    Done,
    /// A number.
    Number(u64),
    /// Where a queue stopped.
    VringBase(u16, u32),
    /// A part of the configuration space, or that there is none.
    Config(ConfigHeader, Option<Config>),
    /// Memory for records of requests in flight.
    Inflight(Inflight, OwnedFd),
    /// Where dirty pages are logged.
    Log(SharedArea),
}

use Answer::{Done, Number};

/// A descriptor that must be an eventfd: anything else might block whoever writes it.
fn eventfd(file: Option<OwnedFd>) -> Result<SharedFd> {
    let Some(file) = file else { return Ok(None) };
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let target = std::fs::read_link(&link).map_err(|error| Error::os(&link, error))?;
    if target.to_string_lossy() != "anon_inode:[eventfd]" {
        return Err(Error::invalid(format!("{} where an eventfd should be", target.display())));
    }
    // A counter that nobody reads must not hold up whoever adds to it.
    let flags = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::NONBLOCK));
    flags.map_err(|errno| Error::os("an eventfd that does not block", errno))?;
    Ok(Some(Arc::new(file)))
}

impl Session {
    /// Does what a message says, and answers it.
    ///
    /// # Errors
    /// When the session cannot go on: the message makes no sense, or what it asks failed and nobody wants to hear of that.
    pub(super) async fn obey(&self, message: Message, stream: &mut MessageStream) -> Result<()> {
        let header = message.header;
        let request = Request::parse(message)?;
        let name = request.name();
        debug!(controller = self.facts.controller, session = self.id, "{name}");
        let done = self.execute(request).await;
        // Not before: a front end may want to hear of the very request that lets it.
        let acknowledge = {
            let state = self.state.borrow();
            state.protocol.has(ProtocolFeatures::REPLY_ACK) && header.wants_acknowledgement()
        };
        let answer = match done {
            Ok(answer) => answer,
            Err(error) if acknowledge => {
                tracing::warn!(
                    controller = self.facts.controller,
                    session = self.id,
                    "{name}: {error}"
                );
                return stream.send(Message::reply_outcome(header, false));
            }
            Err(error) => return Err(error.context(name)),
        };
        let reply = match answer {
            Done if acknowledge => Message::reply_outcome(header, true),
            Done => return Ok(()),
            Number(number) => Message::reply_number(header, number),
            Answer::VringBase(index, base) => Message::reply_vring_base(header, index, base),
            Answer::Config(asked, Some(space)) => {
                Message::reply_config(header, asked, space.as_bytes())
            }
            Answer::Config(asked, None) => Message::reply_no_config(header, asked),
            Answer::Inflight(inflight, file) => {
                Message::reply_inflight(header, inflight, Some(file))
            }
            Answer::Log(area) => Message::reply_log_base(header, area),
        };
        stream.send(reply)
    }

    async fn execute(&self, request: Request) -> Result<Answer> {
        match request {
            Request::GetFeatures => return Ok(Number(self.offered().0)),
            Request::SetFeatures(features) => self.set_features(features).await?,
            Request::GetProtocolFeatures => return Ok(Number(PROTOCOL_FEATURES.0)),
            Request::SetProtocolFeatures(features) => self.set_protocol_features(features)?,
            Request::GetQueueNum => return Ok(Number(QUEUES_MAX.into())),
            Request::GetMaxMemSlots => return Ok(Number(MEMORY_SLOTS)),
            // There is one front end to a connection from the start.
            Request::SetOwner => {}
            Request::ResetOwner | Request::ResetDevice => self.reset().await,
            Request::SetMemTable(table) => self.set_memory(table).await?,
            Request::AddMemReg(region, file) => self.add_memory(&region, file).await?,
            Request::RemMemReg(region) => self.remove_memory(&region).await?,
            Request::SetLogBase(area) => return self.set_log(area).await,
            // The front end looks at the log by itself.
            Request::SetLogFd(_) => {}
            Request::SetVringNum { index, size } => {
                self.stopped_vring(index, "the size", |vring| vring.size = size)?;
            }
            Request::SetVringBase { index, base } => {
                self.stopped_vring(index, "the base", |vring| vring.base = base)?;
            }
            Request::SetVringAddr(addresses) => self.set_addresses(addresses).await?,
            Request::SetVringKick(file) => self.set_kick(file).await?,
            Request::SetVringCall(file) => self.set_call(file)?,
            Request::SetVringErr(VringFile { index, file }) => {
                let error = eventfd(file)?;
                self.vring(index, |vring| vring.error = error)?;
            }
            Request::SetVringEnable { index, enable } => self.set_enabled(index, enable)?,
            Request::GetVringBase { index } => return self.vring_base(index).await,
            // It is polled anyway.
            Request::VringKick { .. } => {}
            Request::GetConfig(asked) => {
                let config = self.disk.config();
                let there = asked.start().is_some_and(|start| start < size_of::<Config>());
                return Ok(Answer::Config(asked, there.then_some(config)));
            }
            Request::SetConfig { offset, flags, bytes } => {
                self.set_config(offset, flags, &bytes)?
            }
            Request::GetInflightFd { queues, queue_size } => {
                return self.make_inflight(queues, queue_size);
            }
            Request::SetInflightFd(inflight, file) => self.adopt_inflight(&inflight, file)?,
            Request::SetBackendReqFd(socket) => {
                self.state.borrow_mut().backend_requests = Some(MessageStream::new(socket));
            }
            Request::SetStatus(status) => self.set_status(status).await,
            Request::GetStatus => {
                return Ok(Number(self.state.borrow().device_status().0.into()));
            }
            Request::Other(number) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("request {number}, which a disk does not have"),
                ));
            }
        }
        Ok(Done)
    }

    /// The features that are offered.
    fn offered(&self) -> Features {
        self.disk
            .features()
            .with(Features::VERSION_1)
            .with(Features::INDIRECT_DESC)
            .with(Features::EVENT_IDX)
            .with(Features::PROTOCOL_FEATURES)
            .with(Features::LOG_ALL)
            .with_if(self.facts.packed_ring, Features::RING_PACKED)
    }

    async fn set_features(&self, features: Features) -> Result<()> {
        let strange = features.without(self.offered());
        if strange != Features::NONE {
            return Err(Error::invalid(format!("features {strange:?}, which were not offered")));
        }
        let old = std::mem::replace(&mut self.state.borrow_mut().features, features);
        if old.has(Features::LOG_ALL) != features.has(Features::LOG_ALL) {
            self.tell_log().await;
        }
        // A driver that cannot flush must find its writes durable; one that can switch the cache does so later
        // (VIRTIO 5.2.5.2).
        if !features.has(Features::BLOCK_FLUSH) && !features.has(Features::BLOCK_CONFIG_WCE) {
            self.disk.set_write_back(false);
        }
        Ok(())
    }

    fn set_protocol_features(&self, features: ProtocolFeatures) -> Result<()> {
        let strange = features.without(PROTOCOL_FEATURES);
        if strange != ProtocolFeatures::NONE {
            return Err(Error::invalid(format!("{strange:?}, which were not offered")));
        }
        self.state.borrow_mut().protocol = features;
        Ok(())
    }

    /// As when the machine is switched on.
    async fn reset(&self) {
        self.disk.reset_write_cache();
        self.facts.write_back.set(None);
        self.stop_for_reset().await;
    }

    async fn stop_for_reset(&self) {
        self.stop_all().await;
        let mut state = self.state.borrow_mut();
        state.status = DeviceStatus::RESET;
        state.forget_fault();
        for vring in state.vrings.values_mut() {
            let (call, error) = (vring.call.take(), vring.error.take());
            *vring = Vring { call, error, ..Vring::default() };
        }
    }

    async fn set_status(&self, status: DeviceStatus) {
        if status == DeviceStatus::RESET {
            // Also what a machine that is paused says: the driver's choice of the write cache stays.
            self.stop_for_reset().await;
        }
        self.state.borrow_mut().status = status;
    }

    /// Changes what is known of a virtqueue.
    fn vring<T>(&self, index: u16, change: impl FnOnce(&mut Vring) -> T) -> Result<T> {
        if index >= QUEUES_MAX {
            return Err(Error::invalid(format!("virtqueue {index} (there are {QUEUES_MAX})")));
        }
        Ok(change(self.state.borrow_mut().vrings.entry(index).or_default()))
    }

    /// The same, for what cannot change while the queue is polled.
    fn stopped_vring(&self, index: u16, what: &str, change: impl FnOnce(&mut Vring)) -> Result<()> {
        let running = self.vring(index, |vring| vring.running.is_some())?;
        if running {
            let text = format!("{what} of virtqueue {index}, which runs");
            return Err(Error::new(ErrorKind::Busy, text));
        }
        self.vring(index, change)
    }

    async fn set_addresses(&self, addresses: VringAddresses) -> Result<()> {
        let index = addresses.index as u16;
        let moved = self.vring(index, |vring| {
            let old = vring.addresses.replace(addresses);
            let place = |it: VringAddresses| (it.descriptors, it.used, it.available);
            vring.running.is_some() && old.map(place) != Some(place(addresses))
        })?;
        if moved {
            self.stop(index).await;
        } else {
            // A front end that starts to migrate sends the same addresses with another flag.
            self.tell_log().await;
        }
        self.start(index).await
    }

    async fn set_kick(&self, VringFile { index, file }: VringFile) -> Result<()> {
        let file = eventfd(file)?;
        let running = self.vring(index, |vring| {
            let kick = match file {
                Some(_) => Kick::Descriptor(file),
                None => Kick::Polled,
            };
            let command = Command::Kick(kick.descriptor());
            vring.kick = Some(kick);
            vring.running.clone().map(|running| (running, command))
        })?;
        match running {
            Some((running, command)) => {
                running.tell(command);
                Ok(())
            }
            None => self.start(index).await,
        }
    }

    fn set_call(&self, VringFile { index, file }: VringFile) -> Result<()> {
        let call = eventfd(file)?;
        let running = self.vring(index, |vring| {
            vring.call.clone_from(&call);
            vring.running.clone()
        })?;
        if let Some(running) = running {
            running.tell(Command::Call(call));
        }
        Ok(())
    }

    fn set_enabled(&self, index: u16, enabled: bool) -> Result<()> {
        let running = self.vring(index, |vring| {
            vring.enabled = Some(enabled);
            vring.running.clone()
        })?;
        if let Some(running) = running {
            running.tell(Command::Enable(enabled));
        }
        Ok(())
    }

    /// Stops a queue and says where it stands.
    async fn vring_base(&self, index: u16) -> Result<Answer> {
        self.stop(index).await;
        let base = self.vring(index, |vring| {
            // It starts again when it gets a new one ("Ring states").
            vring.kick = None;
            vring.base
        })?;
        let mut state = self.state.borrow_mut();
        // A fault was one of queues that ran.
        if state.vrings.values().all(|vring| vring.running.is_none()) {
            state.forget_fault();
        }
        Ok(Answer::VringBase(index, base))
    }

    fn set_config(&self, offset: u32, flags: u32, bytes: &[u8]) -> Result<()> {
        match (offset as usize, bytes) {
            (Config::WRITEBACK_OFFSET, &[writeback]) => {
                self.disk.set_write_back(writeback != 0);
                self.facts.write_back.set(Some(writeback != 0));
                Ok(())
            }
            // After a migration the whole space is restored; what the device itself knows stays.
            _ if flags == config_flags::MIGRATION => Ok(()),
            _ => Err(Error::invalid(format!(
                "{} bytes at offset {offset} of the configuration space: the driver can write one, at {}",
                bytes.len(),
                Config::WRITEBACK_OFFSET
            ))),
        }
    }

    fn map(&self, region: &MemoryRegion, file: OwnedFd) -> Result<Arc<GuestRegion>> {
        let length = usize::try_from(region.size)
            .map_err(|_| Error::invalid(format!("memory of {} bytes", region.size)))?;
        let mapped = Region::map(file, region.offset, length).map_err(|error| {
            error.context(format_args!("the guest's memory at {:#x}", region.guest_address))
        })?;
        let registry = self.shared.reactors.regions();
        GuestRegion::register(registry, Arc::new(mapped), region.guest_address, region.user_address)
    }

    async fn set_memory(&self, table: Vec<(MemoryRegion, OwnedFd)>) -> Result<()> {
        let regions = table.into_iter().map(|(region, file)| self.map(&region, file));
        self.change_memory(regions.collect::<Result<_>>()?).await
    }

    async fn add_memory(&self, region: &MemoryRegion, file: OwnedFd) -> Result<()> {
        let mut regions = self.state.borrow().memory.regions().to_vec();
        if regions.len() as u64 >= MEMORY_SLOTS {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("{MEMORY_SLOTS} regions of guest memory are mapped already"),
            ));
        }
        regions.push(self.map(region, file)?);
        self.change_memory(regions).await
    }

    async fn remove_memory(&self, region: &MemoryRegion) -> Result<()> {
        let mut regions = self.state.borrow().memory.regions().to_vec();
        let same = |other: &Arc<GuestRegion>| {
            (other.guest_address(), other.user_address(), other.len())
                == (region.guest_address, region.user_address, region.size)
        };
        let before = regions.len();
        regions.retain(|other| !same(other));
        if regions.len() == before {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("no memory of the guest is at {:#x}", region.guest_address),
            ));
        }
        self.change_memory(regions).await
    }

    async fn change_memory(&self, regions: Vec<Arc<GuestRegion>>) -> Result<()> {
        let memory = Arc::new(GuestMemory::new(regions)?);
        self.state.borrow_mut().memory = Arc::clone(&memory);
        self.tell_queues(|_| Command::Memory(Arc::clone(&memory)));
        // Once this is answered, a guest may use the memory, or its owner take it back.
        self.settle().await;
        Ok(())
    }

    async fn set_log(&self, area: Option<(SharedArea, OwnedFd)>) -> Result<Answer> {
        let Some((area, file)) = area else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a log of dirty pages that is not in shared memory",
            ));
        };
        let log = DirtyLog::map(file, area.offset, area.size)?;
        self.state.borrow_mut().log = Some(Arc::new(log));
        self.tell_log().await;
        Ok(Answer::Log(area))
    }

    /// Tells all queues whether, and where, they log. When this is answered, nothing is written without being logged.
    async fn tell_log(&self) {
        self.tell_queues(|index| {
            let state = self.state.borrow();
            let vring = state.vrings.get(&index);
            Command::Log(vring.and_then(|vring| state.log_of(vring)))
        });
        self.settle().await;
    }

    fn inflight_layout(&self) -> InflightLayout {
        match self.state.borrow().features.has(Features::RING_PACKED) {
            true => InflightLayout::Packed,
            false => InflightLayout::Split,
        }
    }

    fn make_inflight(&self, queues: u16, queue_size: u16) -> Result<Answer> {
        let area = InflightArea::create(self.inflight_layout(), queues, queue_size)?;
        let file = area.file().try_clone_to_owned().map_err(|error| {
            Error::os("duplicate the memory for records of requests in flight", error)
        })?;
        let inflight =
            Inflight { size: area.length(), offset: area.offset(), queues, queue_size, padding: 0 };
        self.state.borrow_mut().inflight = Some(area);
        Ok(Answer::Inflight(inflight, file))
    }

    fn adopt_inflight(&self, inflight: &Inflight, file: OwnedFd) -> Result<()> {
        let area = InflightArea::adopt(
            file,
            inflight.offset,
            inflight.size,
            self.inflight_layout(),
            inflight.queues,
            inflight.queue_size,
        )?;
        let is_reconnection = self.state.borrow_mut().inflight.replace(area).is_none();
        if is_reconnection {
            // The guest goes on as before, and nobody repeats what it said of the write cache. If it said it to a process
            // before this one, its writes are made durable until it says so again.
            self.disk.set_write_back(self.facts.write_back.get().unwrap_or(false));
        }
        Ok(())
    }
}
