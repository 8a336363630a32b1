//! Layouts of virtqueues: split (VIRTIO 2.7) and packed (2.8).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest queue, in descriptors (2.7; 2.8).
pub const QUEUE_SIZE_MAX: u16 = 32768;

/// A descriptor of a split virtqueue, and of an indirect table of one (2.7.5).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C, align(16))]
pub struct SplitDescriptor {
    /// Guest address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// [`descriptor_flags`].
    pub flags: u16,
    /// Index of the next one of the chain.
    pub next: u16,
}

/// A descriptor of a packed virtqueue, and of an indirect table of one (2.8.13).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C, align(16))]
pub struct PackedDescriptor {
    /// Guest address of the buffer.
    pub address: u64,
    /// Its length in bytes; in a used descriptor, how many were written.
    pub length: u32,
    /// Buffer id.
    pub id: u16,
    /// [`descriptor_flags`].
    pub flags: u16,
}

/// An element of the used ring of a split virtqueue (2.7.8).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C, align(8))]
pub struct UsedElement {
    /// Index of the chain's first descriptor.
    pub id: u32,
    /// Bytes written to the chain.
    pub length: u32,
}

/// Flags of a descriptor.
pub mod descriptor_flags {
    /// The chain goes on.
    pub const NEXT: u16 = 1 << 0;
    /// The device writes the buffer (else it reads it).
    pub const WRITE: u16 = 1 << 1;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 1 << 2;
    /// Packed: equal to the driver's wrap counter when made available.
    pub const AVAILABLE: u16 = 1 << 7;
    /// Packed: equal to `AVAILABLE` when used.
    pub const USED: u16 = 1 << 15;
}

/// In `flags` of the available ring: the driver wants no interrupts (2.7.6).
pub const AVAIL_NO_INTERRUPT: u16 = 1;
/// In `flags` of the used ring: the device wants no notifications (2.7.8).
pub const USED_NO_NOTIFY: u16 = 1;

/// Flags of an event suppression structure of a packed virtqueue (2.8.14).
pub mod event_flags {
    /// Tell.
    pub const ENABLE: u16 = 0;
    /// Do not tell.
    pub const DISABLE: u16 = 1;
    /// Tell when the descriptor at the given place and wrap counter is reached.
    pub const DESCRIPTOR: u16 = 2;
}

/// Length of the descriptor area of a queue of `size` descriptors, split or packed.
pub const fn descriptor_area(size: u16) -> usize {
    16 * size as usize
}

/// Length of a split queue's driver area: flags, index, ring, `used_event` (2.7.6).
pub const fn split_driver_area(size: u16) -> usize {
    2 + 2 + 2 * size as usize + 2
}

/// Length of a split queue's device area: flags, index, ring, `avail_event` (2.7.8).
pub const fn split_device_area(size: u16) -> usize {
    2 + 2 + 8 * size as usize + 2
}

/// Length of a packed queue's driver area and of its device area (2.8.14).
pub const PACKED_EVENT_AREA: usize = 4;
