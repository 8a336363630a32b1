//! Identify Namespace, and what else names namespaces: id lists and identification descriptors.

use std::fmt;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Namespace id that stands for all namespaces.
pub const NSID_ALL: u32 = 0xffff_ffff;

/// The Identify Namespace data structure (NVM Command Set Specification, section 4.1.5.1, figure 97).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Namespace Size (NSZE), in blocks.
    pub nsze: u64,
    /// Namespace Capacity (NCAP), in blocks.
    pub ncap: u64,
    /// Namespace Utilization (NUSE), in blocks.
    pub nuse: u64,
    /// Namespace Features (NSFEAT).
    pub nsfeat: u8,
    /// Number of LBA Formats (NLBAF), 0's based.
    pub nlbaf: u8,
    /// Formatted LBA Size (FLBAS).
    pub flbas: u8,
    /// Metadata Capabilities (MC).
    pub mc: u8,
    /// End-to-end Data Protection Capabilities (DPC).
    pub dpc: u8,
    /// End-to-end Data Protection Type Settings (DPS).
    pub dps: u8,
    /// Namespace Multi-path I/O and Namespace Sharing Capabilities (NMIC).
    pub nmic: u8,
    /// Reservation Capabilities (RESCAP).
    pub rescap: u8,
    /// Format Progress Indicator (FPI).
    pub fpi: u8,
    /// Deallocate Logical Block Features (DLFEAT).
    pub dlfeat: u8,
    /// Namespace Atomic Write Unit Normal (NAWUN), 0's based.
    pub nawun: u16,
    /// Namespace Atomic Write Unit Power Fail (NAWUPF), 0's based.
    pub nawupf: u16,
    /// Namespace Atomic Compare & Write Unit (NACWU), 0's based.
    pub nacwu: u16,
    /// Namespace Atomic Boundary Size Normal (NABSN), 0's based.
    pub nabsn: u16,
    /// Namespace Atomic Boundary Offset (NABO).
    pub nabo: u16,
    /// Namespace Atomic Boundary Size Power Fail (NABSPF), 0's based.
    pub nabspf: u16,
    /// Namespace Optimal I/O Boundary (NOIOB), in blocks.
    pub noiob: u16,
    /// NVM Capacity (NVMCAP), in bytes.
    pub nvmcap: [u8; 16],
    /// Namespace Preferred Write Granularity (NPWG), 0's based.
    pub npwg: u16,
    /// Namespace Preferred Write Alignment (NPWA), 0's based.
    pub npwa: u16,
    /// Namespace Preferred Deallocate Granularity (NPDG), 0's based.
    pub npdg: u16,
    /// Namespace Preferred Deallocate Alignment (NPDA), 0's based.
    pub npda: u16,
    /// Namespace Optimal Write Size (NOWS), 0's based.
    pub nows: u16,
    /// Maximum Single Source Range Length (MSSRL).
    pub mssrl: u16,
    /// Maximum Copy Length (MCL).
    pub mcl: u32,
    /// Maximum Source Range Count (MSRC), 0's based.
    pub msrc: u8,
    /// Reserved.
    pub reserved81: [u8; 11],
    /// ANA Group Identifier (ANAGRPID).
    pub anagrpid: u32,
    /// Reserved.
    pub reserved96: [u8; 3],
    /// Namespace Attributes (NSATTR).
    pub nsattr: u8,
    /// NVM Set Identifier (NVMSETID).
    pub nvmsetid: u16,
    /// Endurance Group Identifier (ENDGID).
    pub endgid: u16,
    /// Namespace Globally Unique Identifier (NGUID).
    pub nguid: [u8; 16],
    /// IEEE Extended Unique Identifier (EUI64).
    pub eui64: [u8; 8],
    /// LBA Format Support (LBAF0 to LBAF63).
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vendor: [u8; 3712],
}

const _: () = {
    assert!(size_of::<IdentifyNamespace>() == 4096);
    assert!(std::mem::offset_of!(IdentifyNamespace, nvmcap) == 48);
    assert!(std::mem::offset_of!(IdentifyNamespace, anagrpid) == 92);
    assert!(std::mem::offset_of!(IdentifyNamespace, nguid) == 104);
    assert!(std::mem::offset_of!(IdentifyNamespace, lbaf) == 128);
};

/// An LBA format (NVM Command Set Specification, section 4.1.5.1, figure 98).
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LbaFormat(pub u32);

impl LbaFormat {
    /// A format of blocks of two to the power of `data_log2` bytes with `metadata` bytes each.
    pub const fn new(data_log2: u8, metadata: u16) -> LbaFormat {
        LbaFormat((data_log2 as u32) << 16 | metadata as u32)
    }

    /// Metadata Size (MS): bytes of metadata per block.
    pub const fn metadata_size(self) -> u16 {
        self.0 as u16
    }

    /// LBA Data Size (LBADS): two to which power a block's data bytes are; 0 for a format that is not available.
    pub const fn data_log2(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Bytes of data per block; `None` when the device says what cannot be (less than 512 bytes, or beyond 32 bits).
    pub const fn data_size(self) -> Option<u32> {
        match self.data_log2() {
            log2 @ 9..=31 => Some(1 << log2),
            _ => None,
        }
    }

    /// Relative Performance (RP): 0 best to 3 degraded.
    pub const fn relative_performance(self) -> u8 {
        (self.0 >> 24 & 0b11) as u8
    }
}

impl fmt::Debug for LbaFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LbaFormat(2^{} + {})", self.data_log2(), self.metadata_size())
    }
}

/// What a deallocated block reads as (DLFEAT bits 2:0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeallocatedRead {
    /// Not reported.
    Unknown,
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
}

/// Layout of metadata, as formatted (FLBAS bit 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataPlace {
    /// In a buffer of its own.
    Separate,
    /// After each block's data: an extended LBA.
    Extended,
}

impl IdentifyNamespace {
    /// All zeros, which is also what an inactive namespace reports.
    pub fn zeroed() -> Box<IdentifyNamespace> {
        Box::new(FromZeros::new_zeroed())
    }

    /// Number of LBA formats that the structure lists, at most its 64.
    pub fn format_count(&self) -> usize {
        (usize::from(self.nlbaf) + 1).min(self.lbaf.len())
    }

    /// Index of the LBA format in use: bits 3:0 of FLBAS, and bits 6:5 above them where there are more than 16 formats.
    pub fn format_index(&self) -> usize {
        let low = usize::from(self.flbas & 0xf);
        if self.nlbaf < 16 { low } else { low | usize::from(self.flbas >> 5 & 0b11) << 4 }
    }

    /// The LBA format in use; `None` when the device names one that it does not list.
    pub fn format(&self) -> Option<LbaFormat> {
        let index = self.format_index();
        (index < self.format_count()).then(|| self.lbaf[index])
    }

    /// Bytes of data per block; `None` when the device says what cannot be.
    pub fn data_size(&self) -> Option<u32> {
        self.format()?.data_size()
    }

    /// Bytes of metadata per block.
    pub fn metadata_size(&self) -> u16 {
        self.format().map_or(0, LbaFormat::metadata_size)
    }

    /// Where the metadata of a block are.
    pub fn metadata_place(&self) -> MetadataPlace {
        if self.flbas & 1 << 4 != 0 { MetadataPlace::Extended } else { MetadataPlace::Separate }
    }

    /// Type of end-to-end data protection that is in use: 0 for none, or 1 to 3 (DPS bits 2:0).
    pub fn protection_type(&self) -> u8 {
        self.dps & 0b111
    }

    /// Thin provisioning (NSFEAT bit 0).
    pub fn thin_provisioned(&self) -> bool {
        self.nsfeat & 1 << 0 != 0
    }

    /// NAWUN, NAWUPF and NACWU are defined for this namespace (NSFEAT bit 1).
    pub fn own_atomic_units(&self) -> bool {
        self.nsfeat & 1 << 1 != 0
    }

    /// Reading deallocated or unwritten blocks can be made an error (NSFEAT bit 2).
    pub fn deallocated_error(&self) -> bool {
        self.nsfeat & 1 << 2 != 0
    }

    /// NPWG, NPWA, NPDG, NPDA and NOWS are defined for this namespace (NSFEAT bit 4).
    pub fn optimal_performance_fields(&self) -> bool {
        self.nsfeat & 1 << 4 != 0
    }

    /// The namespace may be attached to several controllers (NMIC bit 0).
    pub fn shared(&self) -> bool {
        self.nmic & 1 != 0
    }

    /// What a deallocated block reads as.
    pub fn deallocated_read(&self) -> DeallocatedRead {
        match self.dlfeat & 0b111 {
            0b001 => DeallocatedRead::Zeros,
            0b010 => DeallocatedRead::Ones,
            _ => DeallocatedRead::Unknown,
        }
    }

    /// Write Zeroes may deallocate (DLFEAT bit 3).
    pub fn write_zeroes_deallocates(&self) -> bool {
        self.dlfeat & 1 << 3 != 0
    }

    /// NVM capacity in bytes; 0 when not reported.
    pub fn nvm_capacity(&self) -> u128 {
        u128::from_le_bytes(self.nvmcap)
    }

    /// Blocks between boundaries that I/O should not cross, or `None` (NOIOB).
    pub fn optimal_boundary_blocks(&self) -> Option<u32> {
        (self.noiob != 0).then_some(self.noiob.into())
    }

    /// NGUID, unless the namespace has none.
    pub fn nguid(&self) -> Option<[u8; 16]> {
        (self.nguid != [0; 16]).then_some(self.nguid)
    }

    /// EUI64, unless the namespace has none.
    pub fn eui64(&self) -> Option<[u8; 8]> {
        (self.eui64 != [0; 8]).then_some(self.eui64)
    }
}

impl fmt::Debug for IdentifyNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentifyNamespace")
            .field("nsze", &self.nsze)
            .field("ncap", &self.ncap)
            .field("nuse", &self.nuse)
            .field("format", &self.format())
            .field("noiob", &self.noiob)
            .finish_non_exhaustive()
    }
}

/// The ids in a namespace list (Base Specification, section 5.17.2.2): increasing, up to the first 0. A list that does
/// not increase, which no honest device returns, ends there.
pub fn namespace_ids(list: &[u8]) -> impl Iterator<Item = u32> {
    let mut last = 0;
    list.chunks_exact(4).map_while(move |bytes| {
        let nsid = u32::from_le_bytes(bytes.try_into().ok()?);
        (nsid > last && nsid < 0xffff_fffe).then(|| {
            last = nsid;
            nsid
        })
    })
}

/// One entry of a namespace identification descriptor list (Base Specification, section 5.17.2.3, figure 277).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceIdentifier {
    /// IEEE Extended Unique Identifier (NIDT 1h).
    Eui64([u8; 8]),
    /// Namespace Globally Unique Identifier (NIDT 2h).
    Nguid([u8; 16]),
    /// Namespace UUID (NIDT 3h).
    Uuid([u8; 16]),
    /// Command Set Identifier (NIDT 4h).
    CommandSet(u8),
    /// A type that this driver does not know, or one with a length that is not its own.
    Unknown {
        /// Namespace Identifier Type (NIDT).
        kind: u8,
        /// Namespace Identifier Length (NIDL).
        length: u8,
    },
}

/// The entries of a namespace identification descriptor list, up to the first of length 0 or the first that runs over
/// the end.
pub fn namespace_identifiers(list: &[u8]) -> impl Iterator<Item = NamespaceIdentifier> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let (&[kind, length, _, _], tail) = rest.split_first_chunk::<4>()?;
        if length == 0 {
            return None;
        }
        let (value, tail) = tail.split_at_checked(length.into())?;
        rest = tail;
        let unknown = NamespaceIdentifier::Unknown { kind, length };
        Some(match kind {
            1 => value.try_into().map_or(unknown, NamespaceIdentifier::Eui64),
            2 => value.try_into().map_or(unknown, NamespaceIdentifier::Nguid),
            3 => value.try_into().map_or(unknown, NamespaceIdentifier::Uuid),
            4 if length == 1 => NamespaceIdentifier::CommandSet(value[0]),
            _ => unknown,
        })
    })
}

/// A range of Dataset Management (NVM Command Set Specification, section 3.2.3, figure 40).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct DsmRange {
    /// Context Attributes.
    pub attributes: u32,
    /// Length in blocks; not 0's based.
    pub blocks: u32,
    /// Starting LBA (SLBA).
    pub start: u64,
}

const _: () = assert!(size_of::<DsmRange>() == 16);

impl DsmRange {
    /// Most ranges of one command (the Number of Ranges field is 0's based, 8 bits).
    pub const COUNT_MAX: usize = 256;
    /// Attribute of command dword 11: Deallocate (AD).
    pub const DEALLOCATE: u32 = 1 << 2;
}

/// Values of Controller or Namespace Structure (CNS) in Identify (Base Specification, section 5.17.2, figure 273).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentifyCns;

impl IdentifyCns {
    /// Identify Namespace.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active Namespace ID list.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace Identification Descriptor list.
    pub const NAMESPACE_IDENTIFIERS: u8 = 0x03;
    /// NVM Set List.
    pub const NVM_SETS: u8 = 0x04;
    /// I/O Command Set specific Identify Namespace.
    pub const COMMAND_SET_NAMESPACE: u8 = 0x05;
    /// I/O Command Set specific Identify Controller.
    pub const COMMAND_SET_CONTROLLER: u8 = 0x06;
    /// Active Namespace ID list of one I/O Command Set.
    pub const COMMAND_SET_ACTIVE_NAMESPACES: u8 = 0x07;
    /// I/O Command Set Independent Identify Namespace.
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// Allocated Namespace ID list.
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    /// Identify Namespace of an allocated namespace.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// Controllers that a namespace is attached to.
    pub const NAMESPACE_CONTROLLERS: u8 = 0x12;
    /// Controllers in the NVM subsystem.
    pub const SUBSYSTEM_CONTROLLERS: u8 = 0x13;
    /// I/O Command Set data structure.
    pub const COMMAND_SETS: u8 = 0x1c;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formatted_lba_size_has_extension_bits() {
        let mut identify = IdentifyNamespace::zeroed();
        identify.flbas = 0b0100_0001;
        identify.nlbaf = 3;
        identify.lbaf[1] = LbaFormat::new(12, 8);
        identify.lbaf[33] = LbaFormat::new(9, 0);
        assert_eq!((identify.data_size(), identify.metadata_size()), (Some(4096), 8));
        identify.nlbaf = 63;
        assert_eq!((identify.format_index(), identify.data_size()), (33, Some(512)));
        identify.nlbaf = 20;
        assert_eq!(identify.format(), None);
        identify.nlbaf = 255;
        assert_eq!(identify.format_count(), 64);
        for log2 in [0, 8, 32, 255] {
            assert_eq!(LbaFormat::new(log2, 0).data_size(), None);
        }
    }

    #[test]
    fn lists_of_ids_end() {
        let list = |ids: &[u32]| {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            namespace_ids(&bytes).collect::<Vec<_>>()
        };
        assert_eq!(list(&[1, 7, 9, 0, 12]), [1, 7, 9]);
        assert_eq!(list(&[5, 5, 6]), [5]);
        assert_eq!(list(&[3, 0xffff_fffe, 0xffff_ffff]), [3]);
        assert!(list(&[]).is_empty());
    }

    #[test]
    fn identification_descriptors_end() {
        let mut bytes = vec![3, 16, 0, 0];
        bytes.extend([0xaa; 16]);
        bytes.extend([4, 1, 0, 0, 0, 1, 4, 0, 0, 1, 2, 3, 4]);
        let all: Vec<_> = namespace_identifiers(&bytes).collect();
        assert_eq!(
            all,
            [
                NamespaceIdentifier::Uuid([0xaa; 16]),
                NamespaceIdentifier::CommandSet(0),
                NamespaceIdentifier::Unknown { kind: 1, length: 4 },
            ]
        );
        bytes.extend([2, 200, 0, 0, 1]);
        assert_eq!(namespace_identifiers(&bytes).count(), 3);
        assert_eq!(namespace_identifiers(&[0xff; 4096]).count(), 15);
        assert_eq!(namespace_identifiers(&[0; 4096]).count(), 0);
        assert_eq!(namespace_identifiers(&[1, 8, 0]).count(), 0);
    }
}
