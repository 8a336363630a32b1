//! The messages of the vfio-user protocol, version 0.9.2 of its specification: their layout, and the checks on
//! what a peer sends. Pure: no socket, no state. Every number is in the byte order of the host ("Protocol
//! Specification").
//!
//! Sections are named as the specification names them; it does not number them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::base::{Error, ErrorKind, Result};

/// Length of [`Header`].
pub const HEADER_SIZE: usize = size_of::<Header>();

/// Most bytes of data in one read or write message that this client takes ("Version"; the default there).
pub const TRANSFER_MAX: u32 = 1 << 20;

/// Longest message that is accepted: a write of [`TRANSFER_MAX`] bytes.
pub const MESSAGE_MAX: u32 = (HEADER_SIZE + size_of::<RegionAccess>()) as u32 + TRANSFER_MAX;

/// A message cannot be what it claims to be.
pub(super) fn malformed(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Io, what)
}

/// Reads a structure from the front of `bytes`.
pub(super) fn read<'a, T: FromBytes + KnownLayout + Immutable>(
    bytes: &'a [u8],
    what: &str,
) -> Result<(T, &'a [u8])> {
    T::read_from_prefix(bytes).map_err(|_| {
        let (got, needed) = (bytes.len(), size_of::<T>());
        malformed(format!("{what} of {got} bytes instead of at least {needed}"))
    })
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What a message asks for ("Commands").
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Command {
            $($(#[$doc])* $name = $number,)*
        }

        impl Command {
            /// The command of this number, if this client knows it.
            pub fn from_number(number: u16) -> Option<Command> {
                match number {
                    $($number => Some(Command::$name),)*
                    _ => None,
                }
            }

            /// Its name in the specification, without the prefix.
            pub fn name(self) -> &'static str {
                match self {
                    $(Command::$name => $text,)*
                }
            }
        }
    };
}

commands! {
    /// Proposes a version and capabilities.
    Version = 1, "VERSION";
    /// Gives the server memory.
    DmaMap = 2, "DMA_MAP";
    /// Takes it back.
    DmaUnmap = 3, "DMA_UNMAP";
    /// Asks what the device is.
    DeviceGetInfo = 4, "DEVICE_GET_INFO";
    /// Asks for one region of it.
    DeviceGetRegionInfo = 5, "DEVICE_GET_REGION_INFO";
    /// Reads registers.
    RegionRead = 9, "REGION_READ";
    /// Writes registers.
    RegionWrite = 10, "REGION_WRITE";
    /// The server reads memory of ours.
    DmaRead = 11, "DMA_READ";
    /// The server writes memory of ours.
    DmaWrite = 12, "DMA_WRITE";
    /// Resets the device.
    DeviceReset = 13, "DEVICE_RESET";
}

/// What stands in front of every message ("Header").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Header {
    /// Message ID: chosen by who asks, repeated in the reply.
    pub id: u16,
    /// Number of the command.
    pub command: u16,
    /// Length of the message, header included.
    pub size: u32,
    /// Type (bits 3:0), no reply (bit 4), error (bit 5).
    pub flags: u32,
    /// In a reply with the error flag, an errno, or 0.
    pub error: u32,
}

const _: () = assert!(size_of::<Header>() == 16);

impl Header {
    const TYPE_MASK: u32 = 0xf;
    const TYPE_COMMAND: u32 = 0;
    const TYPE_REPLY: u32 = 1;
    const NO_REPLY: u32 = 1 << 4;
    const ERROR: u32 = 1 << 5;

    /// The header of a command with `payload` bytes behind it.
    pub fn command(id: u16, command: Command, payload: usize) -> Header {
        let size = (HEADER_SIZE + payload) as u32;
        Header { id, command: command as u16, size, flags: Header::TYPE_COMMAND, error: 0 }
    }

    /// The same, but nobody is to answer.
    #[must_use]
    pub fn without_reply(self) -> Header {
        Header { flags: self.flags | Header::NO_REPLY, ..self }
    }

    /// The header of the answer to this command, with `payload` bytes behind it.
    #[must_use]
    pub fn reply(self, payload: usize) -> Header {
        let size = (HEADER_SIZE + payload) as u32;
        Header { size, flags: Header::TYPE_REPLY, error: 0, ..self }
    }

    /// The answer that this command failed: only a header.
    #[must_use]
    pub fn failure(self, errno: u32) -> Header {
        Header { flags: Header::TYPE_REPLY | Header::ERROR, error: errno, ..self.reply(0) }
    }

    /// The header that `bytes` hold.
    ///
    /// # Errors
    /// When it is neither command nor reply, or announces an impossible length.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Header> {
        let (header, _) = read::<Header>(bytes, "a header")?;
        if !(HEADER_SIZE as u32..=MESSAGE_MAX).contains(&header.size) {
            return Err(malformed(format!(
                "a message that claims to be {} bytes long (from {HEADER_SIZE} to {MESSAGE_MAX} are possible)",
                header.size
            )));
        }
        match header.flags & Header::TYPE_MASK {
            Header::TYPE_COMMAND | Header::TYPE_REPLY => Ok(header),
            other => {
                Err(malformed(format!("a message of type {other}, neither command nor reply")))
            }
        }
    }

    /// Whether it answers a command.
    pub fn is_reply(&self) -> bool {
        self.flags & Header::TYPE_MASK == Header::TYPE_REPLY
    }

    /// The errno of a reply that tells of a failure; 0 where the peer named none.
    pub fn failed(&self) -> Option<u32> {
        (self.flags & Header::ERROR != 0).then_some(self.error)
    }

    /// Whether a command is to be answered.
    pub fn wants_reply(&self) -> bool {
        self.flags & Header::NO_REPLY == 0
    }

    /// How many bytes follow.
    pub fn payload(&self) -> usize {
        (self.size as usize).saturating_sub(HEADER_SIZE)
    }
}

/// The fixed part of a version message, both ways ("VFIO_USER_VERSION"). JSON follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Version {
    /// Has to be the same on both sides.
    pub major: u16,
    /// The lower one of both sides holds.
    pub minor: u16,
}

/// What this client speaks.
pub const VERSION: Version = Version { major: 0, minor: 1 };

/// "VFIO_USER_DMA_MAP".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DmaMap {
    /// Length of this structure.
    pub argsz: u32,
    /// [`DmaMap::READ`] and [`DmaMap::WRITE`].
    pub flags: u32,
    /// Where in the file the memory starts.
    pub offset: u64,
    /// Where the device finds it.
    pub address: u64,
    /// Its length.
    pub size: u64,
}

const _: () = assert!(size_of::<DmaMap>() == 32);

impl DmaMap {
    /// The device may read.
    pub const READ: u32 = 1 << 0;
    /// The device may write.
    pub const WRITE: u32 = 1 << 1;
}

/// "VFIO_USER_DMA_UNMAP".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DmaUnmap {
    /// Longest reply payload that is expected.
    pub argsz: u32,
    /// Unused.
    pub flags: u32,
    /// As it was mapped.
    pub address: u64,
    /// As it was mapped.
    pub size: u64,
}

const _: () = assert!(size_of::<DmaUnmap>() == 24);

/// "VFIO_USER_DEVICE_GET_INFO", both ways.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DeviceInfo {
    /// Length of this structure.
    pub argsz: u32,
    /// [`DeviceInfo::RESET`] and [`DeviceInfo::PCI`].
    pub flags: u32,
    /// How many regions it has.
    pub regions: u32,
    /// How many kinds of interrupts it has.
    pub interrupts: u32,
}

impl DeviceInfo {
    /// It can be reset by a message.
    pub const RESET: u32 = 1 << 0;
    /// It is a PCI function.
    pub const PCI: u32 = 1 << 1;

    /// The reply's payload.
    ///
    /// # Errors
    /// When it is too short.
    pub fn parse(payload: &[u8]) -> Result<DeviceInfo> {
        Ok(read(payload, "device information")?.0)
    }
}

/// "VFIO_USER_REGION_READ" and "VFIO_USER_REGION_WRITE"; data follow in the reply to the one and in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegionAccess {
    /// Where in the region.
    pub offset: u64,
    /// Which region.
    pub region: u32,
    /// How many bytes.
    pub count: u32,
}

const _: () = assert!(size_of::<RegionAccess>() == 16);

impl RegionAccess {
    /// The data of the reply to a read.
    ///
    /// # Errors
    /// When it answers for another place, or with another number of bytes.
    pub fn read_data<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8]> {
        let (reply, data) = read::<RegionAccess>(payload, "a reply to a register read")?;
        if reply != *self || data.len() != self.count as usize {
            return Err(malformed(format!(
                "{} bytes as {} of region {} at {:#x} in answer to a read of {} of region {} at {:#x}",
                data.len(),
                reply.count,
                reply.region,
                reply.offset,
                self.count,
                self.region,
                self.offset
            )));
        }
        Ok(data)
    }

    /// Checks the reply to a write.
    ///
    /// # Errors
    /// When it answers for another place, or less was written.
    pub fn check_written(&self, payload: &[u8]) -> Result<()> {
        let (reply, _) = read::<RegionAccess>(payload, "a reply to a register write")?;
        if reply != *self {
            return Err(malformed(format!(
                "{} bytes of region {} at {:#x} were written instead of {} of region {} at {:#x}",
                reply.count, reply.region, reply.offset, self.count, self.region, self.offset
            )));
        }
        Ok(())
    }
}

/// "VFIO_USER_DMA_READ" and "VFIO_USER_DMA_WRITE"; data follow in the reply to the one and in the other. The
/// specification's table for the write's reply has a count of four bytes at the same place; that is read as a
/// slip, since the field is eight bytes long in the other three and servers take it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DmaAccess {
    /// Where in our memory, by the device's addresses.
    pub address: u64,
    /// How many bytes.
    pub count: u64,
}

impl DmaAccess {
    /// A request to read.
    ///
    /// # Errors
    /// When it is too short, or asks for more than was agreed.
    pub fn parse_read(payload: &[u8]) -> Result<DmaAccess> {
        let (access, _) = read::<DmaAccess>(payload, "a request to read memory")?;
        access.check()?;
        Ok(access)
    }

    /// A request to write, and the data.
    ///
    /// # Errors
    /// When it is too short, brings more than was agreed, or other than it says.
    pub fn parse_write(payload: &[u8]) -> Result<(DmaAccess, &[u8])> {
        let (access, data) = read::<DmaAccess>(payload, "a request to write memory")?;
        access.check()?;
        if data.len() as u64 != access.count {
            return Err(malformed(format!(
                "a request to write {} bytes of memory with {} bytes of data",
                access.count,
                data.len()
            )));
        }
        Ok((access, data))
    }

    fn check(&self) -> Result<()> {
        if self.count > u64::from(TRANSFER_MAX) {
            return Err(malformed(format!(
                "a request for {} bytes of memory at once ({TRANSFER_MAX} were agreed)",
                self.count
            )));
        }
        Ok(())
    }
}
