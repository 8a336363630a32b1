//! Submission queue entries: commands.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A submission queue entry (Base Specification, section 3.3.3.1, figure 87).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct SubmissionEntry {
    /// Opcode (OPC).
    pub opcode: u8,
    /// Fused operation (bits 1:0) and PRP or SGL for data transfer (PSDT, bits 7:6).
    pub flags: u8,
    /// Command identifier (CID).
    pub command_id: u16,
    /// Namespace identifier (NSID).
    pub nsid: u32,
    /// Command dword 2.
    pub cdw2: u32,
    /// Command dword 3.
    pub cdw3: u32,
    /// Metadata pointer (MPTR).
    pub metadata: u64,
    /// Data pointer (DPTR).
    pub data: DataPointer,
    /// Command dword 10.
    pub cdw10: u32,
    /// Command dword 11.
    pub cdw11: u32,
    /// Command dword 12.
    pub cdw12: u32,
    /// Command dword 13.
    pub cdw13: u32,
    /// Command dword 14.
    pub cdw14: u32,
    /// Command dword 15.
    pub cdw15: u32,
}

const _: () = assert!(size_of::<SubmissionEntry>() == 64);

impl SubmissionEntry {
    /// First command of a fused operation (FUSE, figure 86).
    pub const FUSE_FIRST: u8 = 0b01;
    /// Second command of a fused operation.
    pub const FUSE_SECOND: u8 = 0b10;
    /// The data pointer holds an SGL; metadata, if any, is one contiguous buffer (PSDT, figure 86).
    pub const PSDT_SGL: u8 = 0b01 << 6;
    /// The bits of [`SubmissionEntry::flags`] that say what the data pointer holds.
    pub const PSDT_MASK: u8 = 0b11 << 6;

    /// A command of `opcode` for namespace `nsid`, without data.
    #[inline]
    pub fn new(opcode: u8, nsid: u32) -> SubmissionEntry {
        SubmissionEntry { opcode, nsid, ..SubmissionEntry::default() }
    }
}

/// The data pointer of a command: two PRP entries, or one SGL descriptor in the same 16 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct DataPointer {
    /// PRP entry 1, or the first eight bytes of an SGL descriptor.
    pub prp1: u64,
    /// PRP entry 2, or the last eight bytes of an SGL descriptor.
    pub prp2: u64,
}

/// An SGL descriptor (Base Specification, section 4.1.2, figure 111).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct SglDescriptor {
    /// Where the data, or the segment, starts.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// Reserved.
    pub reserved: [u8; 3],
    /// Descriptor type (bits 7:4) and subtype (bits 3:0).
    pub kind: u8,
}

const _: () = assert!(size_of::<SglDescriptor>() == size_of::<DataPointer>());

impl SglDescriptor {
    /// Type of a data block descriptor, with an address.
    pub const DATA_BLOCK: u8 = 0x0 << 4;
    /// Type of a bit bucket descriptor.
    pub const BIT_BUCKET: u8 = 0x1 << 4;
    /// Type of a segment descriptor: more descriptors, and not the last of them.
    pub const SEGMENT: u8 = 0x2 << 4;
    /// Type of a last segment descriptor.
    pub const LAST_SEGMENT: u8 = 0x3 << 4;

    /// The descriptor of `length` bytes at `address`.
    #[inline]
    pub const fn new(kind: u8, address: u64, length: u32) -> SglDescriptor {
        SglDescriptor { address, length, reserved: [0; 3], kind }
    }

    /// The descriptor as a command's data pointer.
    #[inline]
    pub const fn data_pointer(self) -> DataPointer {
        DataPointer { prp1: self.address, prp2: self.length as u64 | (self.kind as u64) << 56 }
    }

    /// The descriptor that a command's data pointer holds.
    #[inline]
    pub const fn from_data_pointer(pointer: DataPointer) -> SglDescriptor {
        SglDescriptor::new((pointer.prp2 >> 56) as u8, pointer.prp1, pointer.prp2 as u32)
    }
}

macro_rules! opcodes {
    ($(#[$doc:meta])* $name:ident { $($(#[$entry:meta])* $constant:ident = $value:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name;

        impl $name {
            $($(#[$entry])* pub const $constant: u8 = $value;)*
        }
    };
}

opcodes! {
    /// Opcodes of admin commands (Base Specification, section 5, figure 138).
    AdminOpcode {
        /// Delete I/O Submission Queue.
        DELETE_IO_SQ = 0x00;
        /// Create I/O Submission Queue.
        CREATE_IO_SQ = 0x01;
        /// Get Log Page.
        GET_LOG_PAGE = 0x02;
        /// Delete I/O Completion Queue.
        DELETE_IO_CQ = 0x04;
        /// Create I/O Completion Queue.
        CREATE_IO_CQ = 0x05;
        /// Identify.
        IDENTIFY = 0x06;
        /// Abort.
        ABORT = 0x08;
        /// Set Features.
        SET_FEATURES = 0x09;
        /// Get Features.
        GET_FEATURES = 0x0a;
        /// Asynchronous Event Request.
        ASYNC_EVENT_REQUEST = 0x0c;
        /// Namespace Management.
        NAMESPACE_MANAGEMENT = 0x0d;
        /// Firmware Commit.
        FIRMWARE_COMMIT = 0x10;
        /// Firmware Image Download.
        FIRMWARE_DOWNLOAD = 0x11;
        /// Device Self-test.
        DEVICE_SELF_TEST = 0x14;
        /// Namespace Attachment.
        NAMESPACE_ATTACHMENT = 0x15;
        /// Keep Alive.
        KEEP_ALIVE = 0x18;
        /// Doorbell Buffer Config.
        DOORBELL_BUFFER_CONFIG = 0x7c;
        /// Fabrics commands.
        FABRICS = 0x7f;
        /// Format NVM.
        FORMAT_NVM = 0x80;
        /// Security Send.
        SECURITY_SEND = 0x81;
        /// Security Receive.
        SECURITY_RECEIVE = 0x82;
        /// Sanitize.
        SANITIZE = 0x84;
    }
}

opcodes! {
    /// Opcodes of I/O commands (NVM Command Set Specification, section 3, figure 11).
    IoOpcode {
        /// Flush.
        FLUSH = 0x00;
        /// Write.
        WRITE = 0x01;
        /// Read.
        READ = 0x02;
        /// Write Uncorrectable.
        WRITE_UNCORRECTABLE = 0x04;
        /// Compare.
        COMPARE = 0x05;
        /// Write Zeroes.
        WRITE_ZEROES = 0x08;
        /// Dataset Management.
        DATASET_MANAGEMENT = 0x09;
        /// Verify.
        VERIFY = 0x0c;
        /// Copy.
        COPY = 0x19;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_fits_in_the_data_pointer() {
        let descriptor = SglDescriptor::new(SglDescriptor::LAST_SEGMENT, 0x1234_5678_9abc, 4096);
        let bytes = descriptor.as_bytes();
        assert_eq!(bytes, descriptor.data_pointer().as_bytes());
        assert_eq!(bytes[15], 0x30);
        assert_eq!(SglDescriptor::from_data_pointer(descriptor.data_pointer()), descriptor);
    }
}
