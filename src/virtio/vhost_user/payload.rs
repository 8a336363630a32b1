//! The structures behind the header ("Payload").

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{CONFIG_SIZE_MAX, malformed};
use crate::base::Result;

/// "A vring state description".
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VringState {
    /// Index of the virtqueue.
    pub index: u32,
    /// A number: its size, its base, whether it is enabled.
    pub number: u32,
}

const _: () = assert!(size_of::<VringState>() == 8);

/// "A vring address description". Addresses are the front end's own, but for `log`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct VringAddresses {
    /// Index of the virtqueue.
    pub index: u32,
    /// [`VringAddresses::LOG`].
    pub flags: u32,
    /// The descriptor area.
    pub descriptors: u64,
    /// The device area.
    pub used: u64,
    /// The driver area.
    pub available: u64,
    /// Guest address of the device area, for the log of dirty pages.
    pub log: u64,
}

const _: () = assert!(size_of::<VringAddresses>() == 40);

impl VringAddresses {
    /// In `flags`: writes to the device area are logged.
    pub const LOG: u32 = 1 << 0;
}

/// A region of "Memory regions description".
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MemoryRegion {
    /// Its address in the guest.
    pub guest_address: u64,
    /// In bytes.
    pub size: u64,
    /// Its address in the front end.
    pub user_address: u64,
    /// Where in the file it starts.
    pub offset: u64,
}

const _: () = assert!(size_of::<MemoryRegion>() == 32);

impl MemoryRegion {
    /// Checks that it has bytes, all of which have addresses.
    pub(super) fn check(&self, request: &str) -> Result<()> {
        if self.size == 0 {
            return Err(malformed(format!(
                "{request}: the memory region at {:#x} is empty",
                self.guest_address
            )));
        }
        for (what, start) in [
            ("guest address", self.guest_address),
            ("user address", self.user_address),
            ("mmap offset", self.offset),
        ] {
            if start.checked_add(self.size).is_none() {
                return Err(malformed(format!(
                    "{request}: a memory region of {:#x} bytes with {what} {start:#x}",
                    self.size
                )));
            }
        }
        Ok(())
    }
}

/// What a table of memory starts with; regions follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MemoryTable {
    /// How many regions.
    pub regions: u32,
    /// Unused.
    pub padding: u32,
}

const _: () = assert!(size_of::<MemoryTable>() == 8);

/// "Single memory region description".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SingleMemoryRegion {
    /// Unused.
    pub padding: u64,
    /// The region.
    pub region: MemoryRegion,
}

const _: () = assert!(size_of::<SingleMemoryRegion>() == 40);

/// "Log description": a part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SharedArea {
    /// In bytes.
    pub size: u64,
    /// Where in the file it starts.
    pub offset: u64,
}

const _: () = assert!(size_of::<SharedArea>() == 16);

/// The fixed part of "Virtio device config space"; the bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ConfigHeader {
    /// Where in the configuration space.
    pub offset: u32,
    /// How many bytes.
    pub size: u32,
    /// [`config_flags`].
    pub flags: u32,
}

const _: () = assert!(size_of::<ConfigHeader>() == 12);

impl ConfigHeader {
    /// Where the configuration space starts for front ends that count from the start of the registers of a device
    /// (VIRTIO 4.2.2): the vhost crate, and so cloud-hypervisor.
    const REGISTERS: u32 = 0x100;

    /// The part of the configuration space that is meant, if there can be such a part: where it starts.
    pub fn start(&self) -> Option<usize> {
        let start = self.offset.checked_sub(ConfigHeader::REGISTERS).unwrap_or(self.offset);
        let end = start.checked_add(self.size)?;
        (self.size > 0 && end as usize <= CONFIG_SIZE_MAX).then_some(start as usize)
    }
}

/// Flags of a change of the configuration space. QEMU sends these; the vhost crate, and so cloud-hypervisor, sends 1 when
/// a driver writes a field, and 2 for migration.
pub mod config_flags {
    /// The driver writes a field that it may write.
    pub const DRIVER: u32 = 0;
    /// The state of the device is restored: read-only fields may change, too.
    pub const MIGRATION: u32 = 1;
}

/// "Inflight description", with the padding at its end that front ends and back ends send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Inflight {
    /// Length of the area, in bytes.
    pub size: u64,
    /// Where in the file it starts.
    pub offset: u64,
    /// Virtqueues that it is for.
    pub queues: u16,
    /// Size of these.
    pub queue_size: u16,
    /// Unused.
    pub padding: u32,
}

const _: () = assert!(size_of::<Inflight>() == 24);

impl Inflight {
    /// Length without the padding, as the document has it.
    pub(super) const SIZE_MIN: usize = 20;

    /// The description that `payload` holds.
    pub(super) fn parse(payload: &[u8], what: &str) -> Result<Inflight> {
        if payload.len() != Inflight::SIZE_MIN && payload.len() != size_of::<Inflight>() {
            return Err(malformed(format!(
                "{what}: {} bytes of payload instead of {} or {}",
                payload.len(),
                size_of::<Inflight>(),
                Inflight::SIZE_MIN
            )));
        }
        let mut bytes = [0; size_of::<Inflight>()];
        bytes[..Inflight::SIZE_MIN].copy_from_slice(&payload[..Inflight::SIZE_MIN]);
        Ok(zerocopy::transmute!(bytes))
    }
}

/// The structure that `payload` is.
pub(super) fn exactly<T: FromBytes + KnownLayout + Immutable>(
    payload: &[u8],
    what: &str,
) -> Result<T> {
    T::read_from_bytes(payload).map_err(|_| {
        let (got, needed) = (payload.len(), size_of::<T>());
        malformed(format!("{what}: {got} bytes of payload instead of {needed}"))
    })
}

/// The structure that `payload` starts with, and the rest.
pub(super) fn leading<'a, T: FromBytes + KnownLayout + Immutable>(
    payload: &'a [u8],
    what: &str,
) -> Result<(T, &'a [u8])> {
    T::read_from_prefix(payload).map_err(|_| {
        let (got, needed) = (payload.len(), size_of::<T>());
        malformed(format!("{what}: {got} bytes of payload instead of at least {needed}"))
    })
}
