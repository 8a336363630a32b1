//! What a front end asks, message by message.

use std::os::fd::OwnedFd;

use zerocopy::IntoBytes;

use super::message::Message;
use super::payload::{
    ConfigHeader, Inflight, MemoryRegion, MemoryTable, SharedArea, SingleMemoryRegion,
    VringAddresses, VringState, leading,
};
use super::protocol_features::ProtocolFeatures;
use super::wire::{CONFIG_SIZE_MAX, MEMORY_TABLE_MAX, RequestCode, VRINGS_MAX, malformed};
use crate::base::{Error, Result};
use crate::virtio::spec::ring::QUEUE_SIZE_MAX;
use crate::virtio::spec::{DeviceStatus, Features};

/// A virtqueue, and the descriptor that it is given: an eventfd to be signalled, or none if nobody listens.
#[derive(Debug)]
pub struct VringFile {
    /// Index of the virtqueue.
    pub index: u16,
    /// The descriptor.
    pub file: Option<OwnedFd>,
}

impl VringFile {
    const INDEX_MASK: u64 = 0xff;
    const NO_FILE: u64 = 1 << 8;

    fn parse(mut message: Message, name: &str) -> Result<VringFile> {
        let number: u64 = super::payload::exactly(&message.payload, name)?;
        let wanted = usize::from(number & VringFile::NO_FILE == 0);
        if message.descriptors.len() != wanted {
            return Err(malformed(format!(
                "{name} of vring {}: {} descriptors instead of {wanted}",
                number & VringFile::INDEX_MASK,
                message.descriptors.len()
            )));
        }
        let index = (number & VringFile::INDEX_MASK) as u16;
        Ok(VringFile { index, file: message.descriptors.pop() })
    }

    fn encode(self) -> (Vec<u8>, Vec<OwnedFd>) {
        let none = if self.file.is_none() { VringFile::NO_FILE } else { 0 };
        let number = u64::from(self.index) & VringFile::INDEX_MASK | none;
        (number.as_bytes().to_vec(), self.file.into_iter().collect())
    }
}

/// A request of a front end.
#[derive(Debug)]
pub enum Request {
    /// Answered with [`Message::reply_number`].
    GetFeatures,
    /// The features in use.
    SetFeatures(Features),
    /// A session starts.
    SetOwner,
    /// Disables all virtqueues.
    ResetOwner,
    /// All of the guest's memory, and the files that it is in.
    SetMemTable(Vec<(MemoryRegion, OwnedFd)>),
    /// Where dirty pages are logged: not in shared memory, if it is none. Answered with [`Message::reply_log_base`] if
    /// LOG_SHMFD is in use.
    SetLogBase(Option<(SharedArea, OwnedFd)>),
    /// What to signal after logging.
    SetLogFd(Option<OwnedFd>),
    /// Size of a virtqueue: from 1 to [`QUEUE_SIZE_MAX`].
    SetVringNum {
        /// Index of the virtqueue.
        index: u16,
        /// In descriptors.
        size: u16,
    },
    /// Where a virtqueue is.
    SetVringAddr(VringAddresses),
    /// Where to start in a virtqueue.
    SetVringBase {
        /// Index of the virtqueue.
        index: u16,
        /// See [`RingPlace::base`](crate::virtio::ring::device::RingPlace::base).
        base: u32,
    },
    /// Stops a virtqueue. Answered with [`Message::reply_vring_base`].
    GetVringBase {
        /// Index of the virtqueue.
        index: u16,
    },
    /// What the driver signals; starts the virtqueue.
    SetVringKick(VringFile),
    /// What the device signals.
    SetVringCall(VringFile),
    /// What the device signals when the ring is broken.
    SetVringErr(VringFile),
    /// Answered with [`Message::reply_number`].
    GetProtocolFeatures,
    /// The protocol features in use.
    SetProtocolFeatures(ProtocolFeatures),
    /// Answered with [`Message::reply_number`].
    GetQueueNum,
    /// Enables or disables a virtqueue.
    SetVringEnable {
        /// Index of the virtqueue.
        index: u16,
        /// Which of it.
        enable: bool,
    },
    /// The socket for requests of the back end.
    SetBackendReqFd(OwnedFd),
    /// A part of the configuration space. Answered with [`Message::reply_config`].
    GetConfig(ConfigHeader),
    /// A change of the configuration space.
    SetConfig {
        /// Where.
        offset: u32,
        /// [`config_flags`](super::config_flags).
        flags: u32,
        /// The bytes, [`CONFIG_SIZE_MAX`] at most.
        bytes: Vec<u8>,
    },
    /// Memory to track requests in flight in. Answered with [`Message::reply_inflight`].
    GetInflightFd {
        /// Virtqueues that it is for.
        queues: u16,
        /// Size of these.
        queue_size: u16,
    },
    /// That memory, maybe of a back end that is no more.
    SetInflightFd(Inflight, OwnedFd),
    /// Resets the device.
    ResetDevice,
    /// A notification of a virtqueue.
    VringKick {
        /// Index of the virtqueue.
        index: u16,
    },
    /// Answered with [`Message::reply_number`].
    GetMaxMemSlots,
    /// More memory of the guest.
    AddMemReg(MemoryRegion, OwnedFd),
    /// Less of it. Guest address, user address and size say which.
    RemMemReg(MemoryRegion),
    /// The device status.
    SetStatus(DeviceStatus),
    /// The device status. Answered with [`Message::reply_number`].
    GetStatus,
    /// A request that only devices of another kind have, or extensions that nobody here offers.
    Other(u32),
}

fn vring(index: u32, name: &str) -> Result<u16> {
    let index = u16::try_from(index).ok().filter(|&index| index < VRINGS_MAX);
    index.ok_or_else(|| malformed(format!("{name}: a vring beyond the possible {VRINGS_MAX}")))
}

fn one_descriptor(descriptors: Vec<OwnedFd>, name: &str) -> Result<OwnedFd> {
    <[OwnedFd; 1]>::try_from(descriptors).map(|[file]| file).map_err(|descriptors| {
        malformed(format!("{name}: {} descriptors instead of 1", descriptors.len()))
    })
}

fn memory_table(message: Message, name: &str) -> Result<Vec<(MemoryRegion, OwnedFd)>> {
    let (table, rest): (MemoryTable, _) = leading(&message.payload, name)?;
    let count = table.regions as usize;
    if count > MEMORY_TABLE_MAX {
        return Err(malformed(format!(
            "{name}: {count} memory regions ({MEMORY_TABLE_MAX} are possible)"
        )));
    }
    if rest.len() != count * size_of::<MemoryRegion>() {
        return Err(malformed(format!(
            "{name}: {} bytes of payload for {count} memory regions",
            message.payload.len()
        )));
    }
    if message.descriptors.len() != count {
        return Err(malformed(format!(
            "{name}: {} descriptors for {count} memory regions",
            message.descriptors.len()
        )));
    }
    let regions = rest.chunks_exact(size_of::<MemoryRegion>());
    regions
        .zip(message.descriptors)
        .map(|(bytes, file)| {
            let region: MemoryRegion = super::payload::exactly(bytes, name)?;
            region.check(name)?;
            Ok((region, file))
        })
        .collect()
}

fn log_base(message: Message, name: &str) -> Result<Option<(SharedArea, OwnedFd)>> {
    // Without LOG_SHMFD it is an address, which means nothing to another process.
    if message.payload.len() == size_of::<u64>() {
        message.without_descriptors(name)?;
        return Ok(None);
    }
    let area: SharedArea = super::payload::exactly(&message.payload, name)?;
    if message.descriptors.is_empty() {
        return Ok(None);
    }
    if area.size == 0 || area.offset.checked_add(area.size).is_none() {
        return Err(malformed(format!(
            "{name}: a log of {:#x} bytes at offset {:#x}",
            area.size, area.offset
        )));
    }
    Ok(Some((area, one_descriptor(message.descriptors, name)?)))
}

fn get_config(message: &Message, name: &str) -> Result<ConfigHeader> {
    message.without_descriptors(name)?;
    // Space for the answer follows, of some length.
    let (config, _): (ConfigHeader, _) = leading(&message.payload, name)?;
    check_config(&config, name)?;
    Ok(config)
}

fn set_config(message: &Message, name: &str) -> Result<Request> {
    message.without_descriptors(name)?;
    let (config, bytes): (ConfigHeader, _) = leading(&message.payload, name)?;
    let start = check_config(&config, name)?;
    // Some front ends always send the longest payload.
    let bytes = bytes.get(..config.size as usize).ok_or_else(|| {
        malformed(format!(
            "{name}: {} bytes of configuration space instead of {}",
            bytes.len(),
            config.size
        ))
    })?;
    Ok(Request::SetConfig { offset: start as u32, flags: config.flags, bytes: bytes.to_vec() })
}

fn check_config(config: &ConfigHeader, name: &str) -> Result<usize> {
    config.start().ok_or_else(|| {
        malformed(format!(
            "{name}: {} bytes at offset {} of a configuration space of {CONFIG_SIZE_MAX} at most",
            config.size, config.offset
        ))
    })
}

fn inflight(payload: &[u8], name: &str) -> Result<Inflight> {
    let inflight = Inflight::parse(payload, name)?;
    if inflight.queues == 0 || inflight.queues > VRINGS_MAX {
        return Err(malformed(format!("{name}: num queues is {}", inflight.queues)));
    }
    if inflight.queue_size == 0 || inflight.queue_size > QUEUE_SIZE_MAX {
        return Err(malformed(format!("{name}: queue size is {}", inflight.queue_size)));
    }
    Ok(inflight)
}

fn set_inflight(message: Message, name: &str) -> Result<Request> {
    let inflight = inflight(&message.payload, name)?;
    if inflight.size == 0 || inflight.offset.checked_add(inflight.size).is_none() {
        return Err(malformed(format!(
            "{name}: an area of {:#x} bytes at offset {:#x}",
            inflight.size, inflight.offset
        )));
    }
    Ok(Request::SetInflightFd(inflight, one_descriptor(message.descriptors, name)?))
}

fn single_region(payload: &[u8], name: &str) -> Result<MemoryRegion> {
    let single: SingleMemoryRegion = super::payload::exactly(payload, name)?;
    single.region.check(name)?;
    Ok(single.region)
}

fn rem_mem_reg(message: &Message, name: &str) -> Result<Request> {
    // A descriptor is of no use, but some front ends send one.
    if message.descriptors.len() > 1 {
        let count = message.descriptors.len();
        return Err(malformed(format!("{name}: {count} descriptors instead of none")));
    }
    Ok(Request::RemMemReg(single_region(&message.payload, name)?))
}

fn vring_num(message: &Message, name: &str) -> Result<Request> {
    let state: VringState = message.alone(name)?;
    let index = vring(state.index, name)?;
    let size = u16::try_from(state.number).ok();
    let size = size.filter(|&size| size > 0 && size <= QUEUE_SIZE_MAX).ok_or_else(|| {
        malformed(format!("{name} of vring {index}: {} descriptors", state.number))
    })?;
    Ok(Request::SetVringNum { index, size })
}

impl Request {
    /// What `message` asks.
    ///
    /// # Errors
    /// `Invalid`, with the request and what is wrong: it is a reply, too long or too short, has descriptors that it should
    /// not have, or lacks some, or a field is beyond its limits.
    pub fn parse(message: Message) -> Result<Request> {
        let number = message.header.request;
        let Some(code) = RequestCode::from_number(number) else {
            return match message.header.is_reply() {
                false => Ok(Request::Other(number)),
                true => Err(unexpected_reply(number)),
            };
        };
        if message.header.is_reply() {
            return Err(unexpected_reply(number));
        }
        let name = code.name();
        let bare = |request: Request| {
            message.empty(name)?;
            message.without_descriptors(name)?;
            Ok(request)
        };
        match code {
            RequestCode::GetFeatures => bare(Request::GetFeatures),
            RequestCode::SetFeatures => Ok(Request::SetFeatures(Features(message.alone(name)?))),
            RequestCode::SetOwner => bare(Request::SetOwner),
            RequestCode::ResetOwner => bare(Request::ResetOwner),
            RequestCode::SetMemTable => Ok(Request::SetMemTable(memory_table(message, name)?)),
            RequestCode::SetLogBase => Ok(Request::SetLogBase(log_base(message, name)?)),
            RequestCode::SetLogFd => {
                message.empty(name)?;
                match message.descriptors.len() {
                    0 => Ok(Request::SetLogFd(None)),
                    _ => Ok(Request::SetLogFd(Some(one_descriptor(message.descriptors, name)?))),
                }
            }
            RequestCode::SetVringNum => vring_num(&message, name),
            RequestCode::SetVringAddr => {
                let addresses: VringAddresses = message.alone(name)?;
                vring(addresses.index, name)?;
                Ok(Request::SetVringAddr(addresses))
            }
            RequestCode::SetVringBase => {
                let state: VringState = message.alone(name)?;
                let index = vring(state.index, name)?;
                Ok(Request::SetVringBase { index, base: state.number })
            }
            RequestCode::GetVringBase => {
                let state: VringState = message.alone(name)?;
                Ok(Request::GetVringBase { index: vring(state.index, name)? })
            }
            RequestCode::SetVringKick => {
                Ok(Request::SetVringKick(VringFile::parse(message, name)?))
            }
            RequestCode::SetVringCall => {
                Ok(Request::SetVringCall(VringFile::parse(message, name)?))
            }
            RequestCode::SetVringErr => Ok(Request::SetVringErr(VringFile::parse(message, name)?)),
            RequestCode::GetProtocolFeatures => bare(Request::GetProtocolFeatures),
            RequestCode::SetProtocolFeatures => {
                Ok(Request::SetProtocolFeatures(ProtocolFeatures(message.alone(name)?)))
            }
            RequestCode::GetQueueNum => bare(Request::GetQueueNum),
            RequestCode::SetVringEnable => {
                let state: VringState = message.alone(name)?;
                let index = vring(state.index, name)?;
                Ok(Request::SetVringEnable { index, enable: state.number != 0 })
            }
            RequestCode::SetBackendReqFd => {
                message.empty(name)?;
                Ok(Request::SetBackendReqFd(one_descriptor(message.descriptors, name)?))
            }
            RequestCode::GetConfig => Ok(Request::GetConfig(get_config(&message, name)?)),
            RequestCode::SetConfig => set_config(&message, name),
            RequestCode::GetInflightFd => {
                message.without_descriptors(name)?;
                let Inflight { queues, queue_size, .. } = inflight(&message.payload, name)?;
                Ok(Request::GetInflightFd { queues, queue_size })
            }
            RequestCode::SetInflightFd => set_inflight(message, name),
            RequestCode::ResetDevice => bare(Request::ResetDevice),
            RequestCode::VringKick => {
                let state: VringState = message.alone(name)?;
                Ok(Request::VringKick { index: vring(state.index, name)? })
            }
            RequestCode::GetMaxMemSlots => bare(Request::GetMaxMemSlots),
            RequestCode::AddMemReg => {
                let region = single_region(&message.payload, name)?;
                Ok(Request::AddMemReg(region, one_descriptor(message.descriptors, name)?))
            }
            RequestCode::RemMemReg => rem_mem_reg(&message, name),
            RequestCode::SetStatus => {
                let status: u64 = message.alone(name)?;
                let status = u8::try_from(status)
                    .map_err(|_| malformed(format!("{name}: {status:#x} is no device status")))?;
                Ok(Request::SetStatus(DeviceStatus(status)))
            }
            RequestCode::GetStatus => bare(Request::GetStatus),
            RequestCode::SendRarp
            | RequestCode::NetSetMtu
            | RequestCode::IotlbMsg
            | RequestCode::SetVringEndian
            | RequestCode::CreateCryptoSession
            | RequestCode::CloseCryptoSession
            | RequestCode::PostcopyAdvise
            | RequestCode::PostcopyListen
            | RequestCode::PostcopyEnd
            | RequestCode::GpuSetSocket
            | RequestCode::GetSharedObject
            | RequestCode::SetDeviceStateFd
            | RequestCode::CheckDeviceState
            | RequestCode::GetShmemConfig => Ok(Request::Other(number)),
        }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        let code = match self {
            Request::GetFeatures => RequestCode::GetFeatures,
            Request::SetFeatures(_) => RequestCode::SetFeatures,
            Request::SetOwner => RequestCode::SetOwner,
            Request::ResetOwner => RequestCode::ResetOwner,
            Request::SetMemTable(_) => RequestCode::SetMemTable,
            Request::SetLogBase(_) => RequestCode::SetLogBase,
            Request::SetLogFd(_) => RequestCode::SetLogFd,
            Request::SetVringNum { .. } => RequestCode::SetVringNum,
            Request::SetVringAddr(_) => RequestCode::SetVringAddr,
            Request::SetVringBase { .. } => RequestCode::SetVringBase,
            Request::GetVringBase { .. } => RequestCode::GetVringBase,
            Request::SetVringKick(_) => RequestCode::SetVringKick,
            Request::SetVringCall(_) => RequestCode::SetVringCall,
            Request::SetVringErr(_) => RequestCode::SetVringErr,
            Request::GetProtocolFeatures => RequestCode::GetProtocolFeatures,
            Request::SetProtocolFeatures(_) => RequestCode::SetProtocolFeatures,
            Request::GetQueueNum => RequestCode::GetQueueNum,
            Request::SetVringEnable { .. } => RequestCode::SetVringEnable,
            Request::SetBackendReqFd(_) => RequestCode::SetBackendReqFd,
            Request::GetConfig(_) => RequestCode::GetConfig,
            Request::SetConfig { .. } => RequestCode::SetConfig,
            Request::GetInflightFd { .. } => RequestCode::GetInflightFd,
            Request::SetInflightFd(..) => RequestCode::SetInflightFd,
            Request::ResetDevice => RequestCode::ResetDevice,
            Request::VringKick { .. } => RequestCode::VringKick,
            Request::GetMaxMemSlots => RequestCode::GetMaxMemSlots,
            Request::AddMemReg(..) => RequestCode::AddMemReg,
            Request::RemMemReg(_) => RequestCode::RemMemReg,
            Request::SetStatus(_) => RequestCode::SetStatus,
            Request::GetStatus => RequestCode::GetStatus,
            Request::Other(number) => return *number,
        };
        code.number()
    }

    /// Its name in the protocol's document, without the prefix.
    pub fn name(&self) -> &'static str {
        RequestCode::from_number(self.number()).map_or("an unknown request", RequestCode::name)
    }

    /// Whether it has a reply of its own, so that [REPLY_ACK](ProtocolFeatures::REPLY_ACK) does not apply to it.
    /// (SET_LOG_BASE has one if LOG_SHMFD is in use.)
    pub fn has_reply(&self) -> bool {
        match self {
            Request::GetFeatures
            | Request::GetVringBase { .. }
            | Request::GetProtocolFeatures
            | Request::GetQueueNum
            | Request::GetConfig(_)
            | Request::GetInflightFd { .. }
            | Request::GetMaxMemSlots
            | Request::GetStatus => true,
            Request::Other(number) => matches!(
                RequestCode::from_number(*number),
                Some(
                    RequestCode::IotlbMsg
                        | RequestCode::CreateCryptoSession
                        | RequestCode::PostcopyAdvise
                        | RequestCode::PostcopyEnd
                        | RequestCode::GetSharedObject
                        | RequestCode::SetDeviceStateFd
                        | RequestCode::CheckDeviceState
                        | RequestCode::GetShmemConfig
                )
            ),
            _ => false,
        }
    }

    /// As a message.
    pub fn encode(self) -> Message {
        let number = self.number();
        let (payload, descriptors) = self.body();
        Message::request(number, payload, descriptors)
    }

    fn body(self) -> (Vec<u8>, Vec<OwnedFd>) {
        let state = |index: u16, number: u32| {
            (VringState { index: index.into(), number }.as_bytes().to_vec(), Vec::new())
        };
        let number = |number: u64| (number.as_bytes().to_vec(), Vec::new());
        let single =
            |region: MemoryRegion| SingleMemoryRegion { padding: 0, region }.as_bytes().to_vec();
        match self {
            Request::GetFeatures
            | Request::SetOwner
            | Request::ResetOwner
            | Request::GetProtocolFeatures
            | Request::GetQueueNum
            | Request::ResetDevice
            | Request::GetMaxMemSlots
            | Request::GetStatus
            | Request::Other(_) => (Vec::new(), Vec::new()),
            Request::SetFeatures(features) => number(features.0),
            Request::SetMemTable(regions) => {
                let table = MemoryTable { regions: regions.len() as u32, padding: 0 };
                let mut payload = table.as_bytes().to_vec();
                let files = regions.into_iter().map(|(region, file)| {
                    payload.extend_from_slice(region.as_bytes());
                    file
                });
                let files = files.collect();
                (payload, files)
            }
            Request::SetLogBase(None) => number(0),
            Request::SetLogBase(Some((area, file))) => (area.as_bytes().to_vec(), vec![file]),
            Request::SetLogFd(file) => (Vec::new(), file.into_iter().collect()),
            Request::SetVringNum { index, size } => state(index, size.into()),
            Request::SetVringAddr(addresses) => (addresses.as_bytes().to_vec(), Vec::new()),
            Request::SetVringBase { index, base } => state(index, base),
            Request::GetVringBase { index } | Request::VringKick { index } => state(index, 0),
            Request::SetVringKick(file)
            | Request::SetVringCall(file)
            | Request::SetVringErr(file) => file.encode(),
            Request::SetProtocolFeatures(features) => number(features.0),
            Request::SetVringEnable { index, enable } => state(index, enable.into()),
            Request::SetBackendReqFd(socket) => (Vec::new(), vec![socket]),
            Request::GetConfig(config) => {
                let mut payload = config.as_bytes().to_vec();
                payload.resize(payload.len() + config.size as usize, 0);
                (payload, Vec::new())
            }
            Request::SetConfig { offset, flags, bytes } => {
                let config = ConfigHeader { offset, size: bytes.len() as u32, flags };
                ([config.as_bytes(), &bytes].concat(), Vec::new())
            }
            Request::GetInflightFd { queues, queue_size } => {
                let inflight = Inflight { size: 0, offset: 0, queues, queue_size, padding: 0 };
                (inflight.as_bytes().to_vec(), Vec::new())
            }
            Request::SetInflightFd(inflight, file) => (inflight.as_bytes().to_vec(), vec![file]),
            Request::AddMemReg(region, file) => (single(region), vec![file]),
            Request::RemMemReg(region) => (single(region), Vec::new()),
            Request::SetStatus(status) => number(status.0.into()),
        }
    }
}

fn unexpected_reply(number: u32) -> Error {
    malformed(format!("a reply to request {number}, which nobody asked for"))
}
