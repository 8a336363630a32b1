//! What every message starts with, and the numbers of requests.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::base::{Error, Result};
use crate::socket::DESCRIPTORS_MAX;

/// Length of [`Header`].
pub const HEADER_SIZE: usize = size_of::<Header>();

/// Longest payload that is accepted; the longest that anybody sends is a table of memory regions.
pub const PAYLOAD_MAX: usize = 4096;

/// Longest configuration space of a device.
pub const CONFIG_SIZE_MAX: usize = 256;

/// Most regions in one table of memory ("Memory regions description" has 8; some front ends send more).
pub const MEMORY_TABLE_MAX: usize = 32;

/// Most virtqueues of a device: a message with a descriptor for one has eight bits for its index.
pub const VRINGS_MAX: u16 = 256;

const _: () = assert!(MEMORY_TABLE_MAX <= DESCRIPTORS_MAX);

/// A message cannot be what it claims to be.
pub(super) fn malformed(what: impl Into<String>) -> Error {
    Error::invalid(what)
}

/// What stands in front of every message ("Header").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Header {
    /// Number of the request; a reply repeats it.
    pub request: u32,
    /// Version (bits 1:0), reply (bit 2), need reply (bit 3).
    pub flags: u32,
    /// Length of the payload.
    pub size: u32,
}

const _: () = assert!(HEADER_SIZE == 12);

impl Header {
    const VERSION_MASK: u32 = 0x3;
    const VERSION: u32 = 1;
    const REPLY: u32 = 1 << 2;
    const NEED_REPLY: u32 = 1 << 3;

    /// The header of a request with `payload` bytes behind it.
    pub fn request(number: u32, payload: usize) -> Header {
        Header { request: number, flags: Header::VERSION, size: payload as u32 }
    }

    /// The same, but it is to be acknowledged ("REPLY_ACK") if `wanted`.
    #[must_use]
    pub fn with_acknowledgement(self, wanted: bool) -> Header {
        Header { flags: self.flags | if wanted { Header::NEED_REPLY } else { 0 }, ..self }
    }

    /// The header of the reply to this request, with `payload` bytes behind it.
    #[must_use]
    pub fn reply(self, payload: usize) -> Header {
        Header { flags: Header::VERSION | Header::REPLY, size: payload as u32, ..self }
    }

    /// Whether it is a reply.
    pub fn is_reply(self) -> bool {
        self.flags & Header::REPLY != 0
    }

    /// Whether the sender wants to hear how it went, even of a request that has no reply of its own.
    pub fn wants_acknowledgement(self) -> bool {
        self.flags & Header::NEED_REPLY != 0
    }

    /// The header that `bytes` hold.
    ///
    /// # Errors
    /// When it is of another version of the protocol, or announces an impossible length.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Header> {
        let header: Header = zerocopy::transmute!(*bytes);
        if header.flags & Header::VERSION_MASK != Header::VERSION {
            return Err(malformed(format!(
                "message {} is of version {} of the protocol; this is version {}",
                header.request,
                header.flags & Header::VERSION_MASK,
                Header::VERSION
            )));
        }
        if header.size as usize > PAYLOAD_MAX {
            return Err(malformed(format!(
                "message {} claims a payload of {} bytes ({PAYLOAD_MAX} are possible)",
                header.request, header.size
            )));
        }
        Ok(header)
    }
}

macro_rules! codes {
    ($(#[$about:meta])* $kind:ident: $($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl $kind {
            /// All of them.
            pub const ALL: &[$kind] = &[$($kind::$name),*];

            /// The request of this number, if the protocol has it.
            pub fn from_number(number: u32) -> Option<$kind> {
                match number {
                    $($number => Some($kind::$name),)*
                    _ => None,
                }
            }

            /// Its name in the protocol's document, without the prefix.
            pub fn name(self) -> &'static str {
                match self {
                    $($kind::$name => $text,)*
                }
            }

            /// Its number.
            pub fn number(self) -> u32 {
                self as u32
            }
        }
    };
}

codes! {
    /// What a front end asks ("Front-end message types").
    RequestCode:
    /// Which features the device has.
    GetFeatures = 1, "GET_FEATURES";
    /// Which of them are used.
    SetFeatures = 2, "SET_FEATURES";
    /// A session starts.
    SetOwner = 3, "SET_OWNER";
    /// Deprecated: disables all rings.
    ResetOwner = 4, "RESET_OWNER";
    /// All of the guest's memory.
    SetMemTable = 5, "SET_MEM_TABLE";
    /// Where dirty pages are logged.
    SetLogBase = 6, "SET_LOG_BASE";
    /// What to signal after logging.
    SetLogFd = 7, "SET_LOG_FD";
    /// Size of a virtqueue.
    SetVringNum = 8, "SET_VRING_NUM";
    /// Where a virtqueue is.
    SetVringAddr = 9, "SET_VRING_ADDR";
    /// Where to start in a virtqueue.
    SetVringBase = 10, "SET_VRING_BASE";
    /// Stops a virtqueue, and asks where.
    GetVringBase = 11, "GET_VRING_BASE";
    /// What the driver signals.
    SetVringKick = 12, "SET_VRING_KICK";
    /// What the device signals.
    SetVringCall = 13, "SET_VRING_CALL";
    /// What the device signals when a ring is broken.
    SetVringErr = 14, "SET_VRING_ERR";
    /// Which extensions of the protocol there are.
    GetProtocolFeatures = 15, "GET_PROTOCOL_FEATURES";
    /// Which of them are used.
    SetProtocolFeatures = 16, "SET_PROTOCOL_FEATURES";
    /// How many virtqueues there may be.
    GetQueueNum = 17, "GET_QUEUE_NUM";
    /// Enables or disables a virtqueue.
    SetVringEnable = 18, "SET_VRING_ENABLE";
    /// Network devices.
    SendRarp = 19, "SEND_RARP";
    /// Network devices.
    NetSetMtu = 20, "NET_SET_MTU";
    /// The way for requests of the back end.
    SetBackendReqFd = 21, "SET_BACKEND_REQ_FD";
    /// Changes of the platform's address translation.
    IotlbMsg = 22, "IOTLB_MSG";
    /// Byte order of a legacy virtqueue.
    SetVringEndian = 23, "SET_VRING_ENDIAN";
    /// The configuration space.
    GetConfig = 24, "GET_CONFIG";
    /// Changes in it.
    SetConfig = 25, "SET_CONFIG";
    /// Crypto devices.
    CreateCryptoSession = 26, "CREATE_CRYPTO_SESSION";
    /// Crypto devices.
    CloseCryptoSession = 27, "CLOSE_CRYPTO_SESSION";
    /// Migration with memory that follows later.
    PostcopyAdvise = 28, "POSTCOPY_ADVISE";
    /// As above.
    PostcopyListen = 29, "POSTCOPY_LISTEN";
    /// As above.
    PostcopyEnd = 30, "POSTCOPY_END";
    /// Memory to track requests in flight in, to outlive the back end.
    GetInflightFd = 31, "GET_INFLIGHT_FD";
    /// Gives it back to a back end.
    SetInflightFd = 32, "SET_INFLIGHT_FD";
    /// Graphics devices.
    GpuSetSocket = 33, "GPU_SET_SOCKET";
    /// Resets the device.
    ResetDevice = 34, "RESET_DEVICE";
    /// A notification without a descriptor.
    VringKick = 35, "VRING_KICK";
    /// How many memory regions there may be.
    GetMaxMemSlots = 36, "GET_MAX_MEM_SLOTS";
    /// More memory of the guest.
    AddMemReg = 37, "ADD_MEM_REG";
    /// Less of it.
    RemMemReg = 38, "REM_MEM_REG";
    /// The device status.
    SetStatus = 39, "SET_STATUS";
    /// The device status.
    GetStatus = 40, "GET_STATUS";
    /// Objects that devices share.
    GetSharedObject = 41, "GET_SHARED_OBJECT";
    /// Migration of what a back end holds.
    SetDeviceStateFd = 42, "SET_DEVICE_STATE_FD";
    /// As above.
    CheckDeviceState = 43, "CHECK_DEVICE_STATE";
    /// Memory that a device shares.
    GetShmemConfig = 44, "GET_SHMEM_CONFIG";
}

codes! {
    /// What a back end asks ("Back-end message types").
    BackendRequestCode:
    /// Misses of the platform's address translation.
    IotlbMsg = 1, "IOTLB_MSG";
    /// The configuration space has changed.
    ConfigChangeMsg = 2, "CONFIG_CHANGE_MSG";
    /// Where a driver may notify hardware.
    VringHostNotifierMsg = 3, "VRING_HOST_NOTIFIER_MSG";
    /// An interrupt without a descriptor.
    VringCall = 4, "VRING_CALL";
    /// A broken ring, without a descriptor.
    VringErr = 5, "VRING_ERR";
    /// Objects that devices share.
    SharedObjectAdd = 6, "SHARED_OBJECT_ADD";
    /// As above.
    SharedObjectRemove = 7, "SHARED_OBJECT_REMOVE";
    /// As above.
    SharedObjectLookup = 8, "SHARED_OBJECT_LOOKUP";
    /// Memory that a device shares.
    ShmemMap = 9, "SHMEM_MAP";
    /// As above.
    ShmemUnmap = 10, "SHMEM_UNMAP";
}
