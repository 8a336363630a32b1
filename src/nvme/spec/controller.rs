//! Identify Controller.

use std::fmt;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{Version, printable};

/// The Identify Controller data structure (Base Specification, section 5.17.2.1, figure 275). The fields that the
/// NVM Command Set Specification defines (section 4.1.5.2) are among them.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI Vendor ID (VID).
    pub vid: u16,
    /// PCI Subsystem Vendor ID (SSVID).
    pub ssvid: u16,
    /// Serial Number (SN).
    pub sn: [u8; 20],
    /// Model Number (MN).
    pub mn: [u8; 40],
    /// Firmware Revision (FR).
    pub fr: [u8; 8],
    /// Recommended Arbitration Burst (RAB).
    pub rab: u8,
    /// IEEE OUI Identifier (IEEE).
    pub ieee: [u8; 3],
    /// Controller Multi-Path I/O and Namespace Sharing Capabilities (CMIC).
    pub cmic: u8,
    /// Maximum Data Transfer Size (MDTS): a power of two, in pages of CAP.MPSMIN; 0 is no limit.
    pub mdts: u8,
    /// Controller ID (CNTLID).
    pub cntlid: u16,
    /// Version (VER).
    pub ver: u32,
    /// RTD3 Resume Latency (RTD3R), in microseconds.
    pub rtd3r: u32,
    /// RTD3 Entry Latency (RTD3E), in microseconds: how long a normal shutdown may take.
    pub rtd3e: u32,
    /// Optional Asynchronous Events Supported (OAES).
    pub oaes: u32,
    /// Controller Attributes (CTRATT).
    pub ctratt: u32,
    /// Read Recovery Levels Supported (RRLS).
    pub rrls: u16,
    /// Reserved.
    pub reserved102: [u8; 9],
    /// Controller Type (CNTRLTYPE).
    pub cntrltype: u8,
    /// FRU Globally Unique Identifier (FGUID).
    pub fguid: [u8; 16],
    /// Command Retry Delay Times 1 to 3 (CRDT), in units of 100 ms.
    pub crdt: [u16; 3],
    /// Reserved.
    pub reserved134: [u8; 119],
    /// NVM Subsystem Report (NVMSR).
    pub nvmsr: u8,
    /// VPD Write Cycle Information (VWCI).
    pub vwci: u8,
    /// Management Endpoint Capabilities (MEC).
    pub mec: u8,
    /// Optional Admin Command Support (OACS).
    pub oacs: u16,
    /// Abort Command Limit (ACL), 0's based.
    pub acl: u8,
    /// Asynchronous Event Request Limit (AERL), 0's based.
    pub aerl: u8,
    /// Firmware Updates (FRMW).
    pub frmw: u8,
    /// Log Page Attributes (LPA).
    pub lpa: u8,
    /// Error Log Page Entries (ELPE), 0's based.
    pub elpe: u8,
    /// Number of Power States Support (NPSS), 0's based.
    pub npss: u8,
    /// Admin Vendor Specific Command Configuration (AVSCC).
    pub avscc: u8,
    /// Autonomous Power State Transition Attributes (APSTA).
    pub apsta: u8,
    /// Warning Composite Temperature Threshold (WCTEMP), in kelvins.
    pub wctemp: u16,
    /// Critical Composite Temperature Threshold (CCTEMP), in kelvins.
    pub cctemp: u16,
    /// Maximum Time for Firmware Activation (MTFA), in units of 100 ms.
    pub mtfa: u16,
    /// Host Memory Buffer Preferred Size (HMPRE), in units of 4 KiB.
    pub hmpre: u32,
    /// Host Memory Buffer Minimum Size (HMMIN), in units of 4 KiB.
    pub hmmin: u32,
    /// Total NVM Capacity (TNVMCAP), in bytes.
    pub tnvmcap: [u8; 16],
    /// Unallocated NVM Capacity (UNVMCAP), in bytes.
    pub unvmcap: [u8; 16],
    /// Replay Protected Memory Block Support (RPMBS).
    pub rpmbs: u32,
    /// Extended Device Self-test Time (EDSTT), in minutes.
    pub edstt: u16,
    /// Device Self-test Options (DSTO).
    pub dsto: u8,
    /// Firmware Update Granularity (FWUG).
    pub fwug: u8,
    /// Keep Alive Support (KAS), in units of 100 ms.
    pub kas: u16,
    /// Host Controlled Thermal Management Attributes (HCTMA).
    pub hctma: u16,
    /// Minimum Thermal Management Temperature (MNTMT), in kelvins.
    pub mntmt: u16,
    /// Maximum Thermal Management Temperature (MXTMT), in kelvins.
    pub mxtmt: u16,
    /// Sanitize Capabilities (SANICAP).
    pub sanicap: u32,
    /// Host Memory Buffer Minimum Descriptor Entry Size (HMMINDS), in units of 4 KiB.
    pub hmminds: u32,
    /// Host Memory Maximum Descriptors Entries (HMMAXD).
    pub hmmaxd: u16,
    /// NVM Set Identifier Maximum (NSETIDMAX).
    pub nsetidmax: u16,
    /// Endurance Group Identifier Maximum (ENDGIDMAX).
    pub endgidmax: u16,
    /// ANA Transition Time (ANATT), in seconds.
    pub anatt: u8,
    /// Asymmetric Namespace Access Capabilities (ANACAP).
    pub anacap: u8,
    /// ANA Group Identifier Maximum (ANAGRPMAX).
    pub anagrpmax: u32,
    /// Number of ANA Group Identifiers (NANAGRPID).
    pub nanagrpid: u32,
    /// Persistent Event Log Size (PELS), in units of 64 KiB.
    pub pels: u32,
    /// Domain Identifier.
    pub domain_identifier: u16,
    /// Reserved.
    pub reserved358: [u8; 10],
    /// Max Endurance Group Capacity (MEGCAP), in bytes.
    pub megcap: [u8; 16],
    /// Reserved.
    pub reserved384: [u8; 128],
    /// Submission Queue Entry Size (SQES): required in bits 3:0, largest in bits 7:4, powers of two.
    pub sqes: u8,
    /// Completion Queue Entry Size (CQES), likewise.
    pub cqes: u8,
    /// Maximum Outstanding Commands (MAXCMD); 0 when not reported.
    pub maxcmd: u16,
    /// Number of Namespaces (NN): the largest namespace id.
    pub nn: u32,
    /// Optional NVM Command Support (ONCS).
    pub oncs: u16,
    /// Fused Operation Support (FUSES).
    pub fuses: u16,
    /// Format NVM Attributes (FNA).
    pub fna: u8,
    /// Volatile Write Cache (VWC).
    pub vwc: u8,
    /// Atomic Write Unit Normal (AWUN), 0's based, in blocks.
    pub awun: u16,
    /// Atomic Write Unit Power Fail (AWUPF), 0's based, in blocks.
    pub awupf: u16,
    /// I/O Command Set Vendor Specific Command Configuration (ICSVSCC; NVSCC in older revisions).
    pub icsvscc: u8,
    /// Namespace Write Protection Capabilities (NWPC).
    pub nwpc: u8,
    /// Atomic Compare & Write Unit (ACWU), 0's based, in blocks.
    pub acwu: u16,
    /// Copy Descriptor Formats Supported.
    pub copy_formats: u16,
    /// SGL Support (SGLS).
    pub sgls: u32,
    /// Maximum Number of Allowed Namespaces (MNAN).
    pub mnan: u32,
    /// Maximum Domain Namespace Attachments (MAXDNA).
    pub maxdna: [u8; 16],
    /// Maximum I/O Controller Namespace Attachments (MAXCNA).
    pub maxcna: u32,
    /// Reserved.
    pub reserved564: [u8; 204],
    /// NVM Subsystem NVMe Qualified Name (SUBNQN), ended by a zero byte.
    pub subnqn: [u8; 256],
    /// Reserved.
    pub reserved1024: [u8; 768],
    /// I/O Queue Command Capsule Supported Size (IOCCSZ), in units of 16 bytes. Fabrics only, as the next five.
    pub ioccsz: u32,
    /// I/O Queue Response Capsule Supported Size (IORCSZ), in units of 16 bytes.
    pub iorcsz: u32,
    /// In Capsule Data Offset (ICDOFF), in units of 16 bytes.
    pub icdoff: u16,
    /// Fabrics Controller Attributes (FCATT).
    pub fcatt: u8,
    /// Maximum SGL Data Block Descriptors (MSDBD).
    pub msdbd: u8,
    /// Optional Fabric Commands Support (OFCS).
    pub ofcs: u16,
    /// Reserved.
    pub reserved1806: [u8; 242],
    /// Power State Descriptors (PSD0 to PSD31), as they are.
    pub psd: [[u8; 32]; 32],
    /// Vendor specific.
    pub vendor: [u8; 1024],
}

const _: () = {
    assert!(size_of::<IdentifyController>() == 4096);
    assert!(std::mem::offset_of!(IdentifyController, oacs) == 256);
    assert!(std::mem::offset_of!(IdentifyController, kas) == 320);
    assert!(std::mem::offset_of!(IdentifyController, megcap) == 368);
    assert!(std::mem::offset_of!(IdentifyController, sqes) == 512);
    assert!(std::mem::offset_of!(IdentifyController, sgls) == 536);
    assert!(std::mem::offset_of!(IdentifyController, subnqn) == 768);
    assert!(std::mem::offset_of!(IdentifyController, ioccsz) == 1792);
    assert!(std::mem::offset_of!(IdentifyController, psd) == 2048);
};

/// How a controller wants the addresses in SGL descriptors (SGLS bits 1:0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SglSupport {
    /// No SGLs.
    None,
    /// SGLs of any alignment and granularity.
    Bytes,
    /// Addresses and lengths of data blocks are multiples of four.
    Dwords,
}

/// What Flush does with namespace id FFFFFFFFh (VWC bits 2:1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushAll {
    /// Not said: a controller of revision 1.3 or older.
    Unknown,
    /// Not supported.
    Unsupported,
    /// Flushes all namespaces that are attached to the controller.
    Supported,
}

impl IdentifyController {
    /// All zeros.
    pub fn zeroed() -> Box<IdentifyController> {
        Box::new(FromZeros::new_zeroed())
    }

    /// Serial number, trimmed, with unprintable characters replaced.
    pub fn serial_number(&self) -> String {
        printable(&self.sn)
    }

    /// Model number, likewise.
    pub fn model_number(&self) -> String {
        printable(&self.mn)
    }

    /// Firmware revision, likewise.
    pub fn firmware_revision(&self) -> String {
        printable(&self.fr)
    }

    /// NVMe qualified name of the subsystem, likewise; empty when the controller is too old to have one.
    pub fn subsystem_nqn(&self) -> String {
        printable(&self.subnqn)
    }

    /// The version that the controller says it complies with.
    pub fn version(&self) -> Version {
        Version(self.ver)
    }

    /// The longest data transfer of one command in bytes, or `None` where there is no limit (MDTS); `page_size_min` is
    /// that of the controller's capabilities.
    pub fn transfer_bytes_max(&self, page_size_min: u64) -> Option<u64> {
        (self.mdts != 0).then(|| {
            page_size_min
                .checked_shl(self.mdts.into())
                .filter(|&bytes| bytes >> self.mdts == page_size_min)
                .unwrap_or(u64::MAX)
        })
    }

    /// How many Abort commands may be outstanding.
    pub fn abort_limit(&self) -> u32 {
        u32::from(self.acl) + 1
    }

    /// How many Asynchronous Event Requests may be outstanding.
    pub fn async_event_limit(&self) -> u32 {
        u32::from(self.aerl) + 1
    }

    /// Number of entries in the error log.
    pub fn error_log_entries(&self) -> u32 {
        u32::from(self.elpe) + 1
    }

    /// How long to wait before a retry, for a completion's Command Retry Delay (1 to 3), in milliseconds.
    pub fn retry_delay_ms(&self, retry_delay: u8) -> u64 {
        match retry_delay {
            index @ 1..=3 => u64::from(self.crdt[usize::from(index) - 1]) * 100,
            _ => 0,
        }
    }

    /// Several controllers may be in the subsystem (CMIC bit 1).
    pub fn multiple_controllers(&self) -> bool {
        self.cmic & 1 << 1 != 0
    }

    /// Asymmetric namespace access is reported (CMIC bit 3).
    pub fn asymmetric_access(&self) -> bool {
        self.cmic & 1 << 3 != 0
    }

    /// Total NVM capacity in bytes; 0 when not reported.
    pub fn total_capacity(&self) -> u128 {
        u128::from_le_bytes(self.tnvmcap)
    }

    /// Unallocated NVM capacity in bytes.
    pub fn unallocated_capacity(&self) -> u128 {
        u128::from_le_bytes(self.unvmcap)
    }

    /// Security Send and Receive (OACS bit 0).
    pub fn supports_security(&self) -> bool {
        self.oacs & 1 << 0 != 0
    }

    /// Format NVM (OACS bit 1).
    pub fn supports_format(&self) -> bool {
        self.oacs & 1 << 1 != 0
    }

    /// Firmware Commit and Image Download (OACS bit 2).
    pub fn supports_firmware(&self) -> bool {
        self.oacs & 1 << 2 != 0
    }

    /// Namespace Management and Attachment (OACS bit 3).
    pub fn supports_namespace_management(&self) -> bool {
        self.oacs & 1 << 3 != 0
    }

    /// Device Self-test (OACS bit 4).
    pub fn supports_self_test(&self) -> bool {
        self.oacs & 1 << 4 != 0
    }

    /// Doorbell Buffer Config (OACS bit 8).
    pub fn supports_doorbell_buffer(&self) -> bool {
        self.oacs & 1 << 8 != 0
    }

    /// Compare (ONCS bit 0).
    pub fn supports_compare(&self) -> bool {
        self.oncs & 1 << 0 != 0
    }

    /// Write Uncorrectable (ONCS bit 1).
    pub fn supports_write_uncorrectable(&self) -> bool {
        self.oncs & 1 << 1 != 0
    }

    /// Dataset Management (ONCS bit 2).
    pub fn supports_dsm(&self) -> bool {
        self.oncs & 1 << 2 != 0
    }

    /// Write Zeroes (ONCS bit 3).
    pub fn supports_write_zeroes(&self) -> bool {
        self.oncs & 1 << 3 != 0
    }

    /// Features can be saved (ONCS bit 4).
    pub fn supports_saving_features(&self) -> bool {
        self.oncs & 1 << 4 != 0
    }

    /// Reservations (ONCS bit 5).
    pub fn supports_reservations(&self) -> bool {
        self.oncs & 1 << 5 != 0
    }

    /// Verify (ONCS bit 7).
    pub fn supports_verify(&self) -> bool {
        self.oncs & 1 << 7 != 0
    }

    /// Copy (ONCS bit 8).
    pub fn supports_copy(&self) -> bool {
        self.oncs & 1 << 8 != 0
    }

    /// Fused Compare and Write (FUSES bit 0).
    pub fn supports_fused_compare_and_write(&self) -> bool {
        self.fuses & 1 != 0
    }

    /// A format applies to all namespaces (FNA bit 0).
    pub fn format_applies_to_all(&self) -> bool {
        self.fna & 1 << 0 != 0
    }

    /// Format can erase cryptographically (FNA bit 2).
    pub fn supports_cryptographic_erase(&self) -> bool {
        self.fna & 1 << 2 != 0
    }

    /// A volatile write cache is present (VWC bit 0).
    pub fn volatile_write_cache(&self) -> bool {
        self.vwc & 1 != 0
    }

    /// What Flush does with namespace id FFFFFFFFh.
    pub fn flush_all(&self) -> FlushAll {
        match self.vwc >> 1 & 0b11 {
            0b10 => FlushAll::Unsupported,
            0b11 => FlushAll::Supported,
            _ => FlushAll::Unknown,
        }
    }

    /// SGLs in commands of the NVM command set.
    pub fn sgl_support(&self) -> SglSupport {
        match self.sgls & 0b11 {
            0b01 => SglSupport::Bytes,
            0b10 => SglSupport::Dwords,
            _ => SglSupport::None,
        }
    }

    /// Keyed SGL data block descriptors (SGLS bit 2).
    pub fn sgl_keyed(&self) -> bool {
        self.sgls & 1 << 2 != 0
    }

    /// SGL bit bucket descriptors (SGLS bit 16).
    pub fn sgl_bit_bucket(&self) -> bool {
        self.sgls & 1 << 16 != 0
    }

    /// A data SGL may be longer than the data (SGLS bit 18).
    pub fn sgl_longer_than_data(&self) -> bool {
        self.sgls & 1 << 18 != 0
    }

    /// Addresses in SGLs may be offsets (SGLS bit 20).
    pub fn sgl_offset_addresses(&self) -> bool {
        self.sgls & 1 << 20 != 0
    }

    /// Required and largest submission queue entry, as powers of two.
    pub fn submission_entry_log2(&self) -> (u8, u8) {
        (self.sqes & 0xf, self.sqes >> 4)
    }

    /// Required and largest completion queue entry, as powers of two.
    pub fn completion_entry_log2(&self) -> (u8, u8) {
        (self.cqes & 0xf, self.cqes >> 4)
    }

    /// Blocks that are written atomically in normal operation, by namespaces that report no value of their own.
    pub fn atomic_write_blocks(&self) -> u32 {
        u32::from(self.awun) + 1
    }

    /// Blocks that are written atomically even when power fails, likewise.
    pub fn atomic_write_blocks_power_fail(&self) -> u32 {
        u32::from(self.awupf) + 1
    }

    /// Blocks that a fused compare-and-write handles atomically, likewise.
    pub fn atomic_compare_and_write_blocks(&self) -> u32 {
        u32::from(self.acwu) + 1
    }

    /// Namespace attribute notices (OAES bit 8).
    pub fn supports_namespace_notices(&self) -> bool {
        self.oaes & 1 << 8 != 0
    }

    /// Firmware activation notices (OAES bit 9).
    pub fn supports_firmware_notices(&self) -> bool {
        self.oaes & 1 << 9 != 0
    }

    /// SMART / health information per namespace (LPA bit 0).
    pub fn supports_namespace_smart(&self) -> bool {
        self.lpa & 1 << 0 != 0
    }

    /// Get Log Page takes an offset and lengths beyond 12 bits (LPA bit 2).
    pub fn supports_extended_log(&self) -> bool {
        self.lpa & 1 << 2 != 0
    }
}

impl fmt::Debug for IdentifyController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentifyController")
            .field("model_number", &self.model_number())
            .field("serial_number", &self.serial_number())
            .field("firmware_revision", &self.firmware_revision())
            .field("version", &self.version())
            .field("mdts", &self.mdts)
            .field("oacs", &self.oacs)
            .field("oncs", &self.oncs)
            .field("nn", &self.nn)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_trimmed_and_printable() {
        let mut identify = IdentifyController::zeroed();
        identify.sn = *b"S/N 12\x1b[31m3        ";
        identify.mn = [b' '; 40];
        identify.subnqn[..5].copy_from_slice(b"nqn\0x");
        assert_eq!(identify.serial_number(), "S/N 12.[31m3");
        assert_eq!(identify.model_number(), "");
        assert_eq!(identify.subsystem_nqn(), "nqn");
    }

    #[test]
    fn transfer_limit_survives_any_exponent() {
        let mut identify = IdentifyController::zeroed();
        assert_eq!(identify.transfer_bytes_max(4096), None);
        identify.mdts = 5;
        assert_eq!(identify.transfer_bytes_max(4096), Some(128 << 10));
        for mdts in [52, 60, 64, 200, 255] {
            identify.mdts = mdts;
            assert_eq!(identify.transfer_bytes_max(4096), Some(u64::MAX));
        }
        identify.crdt = [1, 2, 3];
        assert_eq!([0, 1, 3, 9].map(|crd| identify.retry_delay_ms(crd)), [0, 100, 300, 0]);
    }
}
