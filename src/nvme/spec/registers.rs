//! Controller properties: the registers of BAR0 (Base Specification, section 3.1.3) and the doorbells
//! (NVMe over PCIe Transport Specification, section 3.1.2).

use std::fmt;
use std::time::Duration;

/// Offsets of the controller properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register;

impl Register {
    /// Controller Capabilities (CAP), 64 bits.
    pub const CAP: u32 = 0x00;
    /// Version (VS).
    pub const VS: u32 = 0x08;
    /// Interrupt Mask Set (INTMS).
    pub const INTMS: u32 = 0x0c;
    /// Interrupt Mask Clear (INTMC).
    pub const INTMC: u32 = 0x10;
    /// Controller Configuration (CC).
    pub const CC: u32 = 0x14;
    /// Controller Status (CSTS).
    pub const CSTS: u32 = 0x1c;
    /// NVM Subsystem Reset (NSSR).
    pub const NSSR: u32 = 0x20;
    /// Admin Queue Attributes (AQA).
    pub const AQA: u32 = 0x24;
    /// Admin Submission Queue Base Address (ASQ), 64 bits.
    pub const ASQ: u32 = 0x28;
    /// Admin Completion Queue Base Address (ACQ), 64 bits.
    pub const ACQ: u32 = 0x30;
    /// Controller Memory Buffer Location (CMBLOC).
    pub const CMBLOC: u32 = 0x38;
    /// Controller Memory Buffer Size (CMBSZ).
    pub const CMBSZ: u32 = 0x3c;
    /// The first doorbell: the submission queue tail of the admin queue.
    pub const DOORBELLS: u32 = 0x1000;
    /// What is written to [`Register::NSSR`] to reset the subsystem: "NVMe".
    pub const NSSR_RESET: u32 = 0x4e56_4d65;
}

/// Which doorbell of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DoorbellKind {
    /// Submission queue y tail (SQyTDBL).
    SubmissionTail,
    /// Completion queue y head (CQyHDBL).
    CompletionHead,
}

/// Offset of a doorbell register; `stride` is [`Capabilities::doorbell_stride_bytes`].
///
/// The largest stride puts the last queue beyond 32 bits: `None` then.
pub fn doorbell_offset(queue_id: u16, kind: DoorbellKind, stride: u32) -> Option<u32> {
    let index = u32::from(queue_id) * 2 + u32::from(kind == DoorbellKind::CompletionHead);
    index.checked_mul(stride)?.checked_add(Register::DOORBELLS)
}

/// Whether a register read as all ones, which is what the bus answers for a device that is gone.
pub const fn is_all_ones(value: u32) -> bool {
    value == u32::MAX
}

/// Controller Capabilities (CAP, section 3.1.3.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    const fn bits(self, high: u32, low: u32) -> u64 {
        self.0 >> low & ((1 << (high - low + 1)) - 1)
    }

    /// Largest I/O queue in entries (MQES is 0's based). A controller that keeps to the specification says 2 at
    /// least.
    pub const fn queue_entries_max(self) -> u32 {
        self.bits(15, 0) as u32 + 1
    }

    /// Queues must be physically contiguous (CQR).
    pub const fn contiguous_queues_required(self) -> bool {
        self.bits(16, 16) != 0
    }

    /// Arbitration mechanisms beside round robin (AMS): bit 0 weighted round robin, bit 1 vendor specific.
    pub const fn arbitration_mechanisms(self) -> u8 {
        self.bits(18, 17) as u8
    }

    /// The longest that a change of CC.EN may take to show in CSTS.RDY (TO, units of 500 ms).
    pub const fn timeout(self) -> Duration {
        Duration::from_millis(self.bits(31, 24) * 500)
    }

    /// Distance between doorbells in bytes (DSTRD).
    pub const fn doorbell_stride_bytes(self) -> u32 {
        4 << self.bits(35, 32)
    }

    /// NVM subsystem reset by register (NSSRS).
    pub const fn subsystem_reset(self) -> bool {
        self.bits(36, 36) != 0
    }

    /// Command sets (CSS): bit 0 NVM, bit 6 one or more by I/O Command Set profiles, bit 7 admin only.
    pub const fn command_sets(self) -> u8 {
        self.bits(44, 37) as u8
    }

    /// The NVM command set can be selected.
    pub const fn nvm_command_set(self) -> bool {
        self.command_sets() & 1 != 0
    }

    /// All I/O command sets that the controller has can be selected together (CSS bit 6).
    pub const fn all_command_sets(self) -> bool {
        self.command_sets() & 1 << 6 != 0
    }

    /// The controller has no I/O command set (CSS bit 7).
    pub const fn admin_only(self) -> bool {
        self.command_sets() & 1 << 7 != 0
    }

    /// Boot partitions (BPS).
    pub const fn boot_partitions(self) -> bool {
        self.bits(45, 45) != 0
    }

    /// Smallest host memory page in bytes (MPSMIN).
    pub const fn page_size_min(self) -> u64 {
        1 << (12 + self.bits(51, 48))
    }

    /// Largest host memory page in bytes (MPSMAX).
    pub const fn page_size_max(self) -> u64 {
        1 << (12 + self.bits(55, 52))
    }

    /// A persistent memory region (PMRS).
    pub const fn persistent_memory_region(self) -> bool {
        self.bits(56, 56) != 0
    }

    /// A controller memory buffer (CMBS).
    pub const fn controller_memory_buffer(self) -> bool {
        self.bits(57, 57) != 0
    }

    /// The register's value for a controller of these properties; the rest can be set by bit operations on it.
    pub const fn new(queue_entries_max: u32, timeout_half_seconds: u8, stride_log2: u8) -> Self {
        Capabilities(
            (queue_entries_max.saturating_sub(1) & 0xffff) as u64
                | 1 << 16
                | (timeout_half_seconds as u64) << 24
                | ((stride_log2 & 0xf) as u64) << 32
                | 1 << 37,
        )
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({:#018x})", self.0)
    }
}

/// Version (VS, section 3.1.3.2), which Identify Controller repeats (VER).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl Version {
    /// The version `major.minor.tertiary`.
    pub const fn new(major: u16, minor: u8, tertiary: u8) -> Version {
        Version((major as u32) << 16 | (minor as u32) << 8 | tertiary as u32)
    }

    /// Major version number (MJR).
    pub const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Minor version number (MNR).
    pub const fn minor(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Tertiary version number (TER).
    pub const fn tertiary(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major(), self.minor(), self.tertiary())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

/// What the host tells the controller of its shutdown (CC.SHN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownNotification {
    /// None; no effect.
    None,
    /// Normal: finish what was begun, write back caches.
    Normal,
    /// Abrupt: power goes soon.
    Abrupt,
}

/// Controller Configuration (CC, section 3.1.3.5).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ControllerConfiguration(pub u32);

impl ControllerConfiguration {
    /// Command set selection (CSS): the NVM command set.
    pub const CSS_NVM: u8 = 0b000;
    /// All I/O command sets that the controller supports.
    pub const CSS_ALL: u8 = 0b110;
    /// Admin command set only.
    pub const CSS_ADMIN_ONLY: u8 = 0b111;

    const fn get(self, high: u32, low: u32) -> u32 {
        self.0 >> low & ((1 << (high - low + 1)) - 1)
    }

    const fn with(self, high: u32, low: u32, value: u32) -> Self {
        let mask = ((1u32 << (high - low + 1)) - 1) << low;
        ControllerConfiguration(self.0 & !mask | value << low & mask)
    }

    /// Enable (EN).
    pub const fn is_enabled(self) -> bool {
        self.get(0, 0) != 0
    }

    /// I/O command set selected (CSS).
    pub const fn command_set(self) -> u8 {
        self.get(6, 4) as u8
    }

    /// Host memory page in bytes (MPS).
    pub const fn page_size(self) -> u64 {
        1 << (12 + self.get(10, 7))
    }

    /// Arbitration mechanism selected (AMS).
    pub const fn arbitration(self) -> u8 {
        self.get(13, 11) as u8
    }

    /// Shutdown notification (SHN); the reserved value counts as none.
    pub const fn shutdown(self) -> ShutdownNotification {
        match self.get(15, 14) {
            0b01 => ShutdownNotification::Normal,
            0b10 => ShutdownNotification::Abrupt,
            _ => ShutdownNotification::None,
        }
    }

    /// I/O submission queue entry size as a power of two (IOSQES).
    pub const fn io_submission_entry_log2(self) -> u8 {
        self.get(19, 16) as u8
    }

    /// I/O completion queue entry size as a power of two (IOCQES).
    pub const fn io_completion_entry_log2(self) -> u8 {
        self.get(23, 20) as u8
    }

    /// The same with EN as given.
    #[must_use]
    pub const fn with_enable(self, enable: bool) -> Self {
        self.with(0, 0, enable as u32)
    }

    /// The same with this command set.
    #[must_use]
    pub const fn with_command_set(self, css: u8) -> Self {
        self.with(6, 4, css as u32)
    }

    /// The same with pages of 4 KiB times two to the power of `log2`.
    #[must_use]
    pub const fn with_page_log2(self, log2: u8) -> Self {
        self.with(10, 7, log2 as u32)
    }

    /// The same with this arbitration mechanism (0: round robin).
    #[must_use]
    pub const fn with_arbitration(self, mechanism: u8) -> Self {
        self.with(13, 11, mechanism as u32)
    }

    /// The same with this shutdown notification.
    #[must_use]
    pub const fn with_shutdown(self, notification: ShutdownNotification) -> Self {
        self.with(
            15,
            14,
            match notification {
                ShutdownNotification::None => 0b00,
                ShutdownNotification::Normal => 0b01,
                ShutdownNotification::Abrupt => 0b10,
            },
        )
    }

    /// The same with entries of two to these powers (6 and 4 for the NVM command set).
    #[must_use]
    pub const fn with_entry_sizes(self, submission_log2: u8, completion_log2: u8) -> Self {
        self.with(19, 16, submission_log2 as u32).with(23, 20, completion_log2 as u32)
    }
}

impl fmt::Debug for ControllerConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControllerConfiguration({:#010x})", self.0)
    }
}

/// How far a shutdown has come (CSTS.SHST).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownStatus {
    /// Normal operation: none asked for.
    Normal,
    /// Under way.
    Occurring,
    /// Complete: power may go.
    Complete,
    /// The reserved value.
    Reserved,
}

/// Controller Status (CSTS, section 3.1.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ControllerStatus(pub u32);

impl ControllerStatus {
    /// Ready (RDY).
    pub const READY: u32 = 1 << 0;
    /// Controller Fatal Status (CFS).
    pub const FATAL: u32 = 1 << 1;
    /// Shutdown status (SHST): under way.
    pub const SHUTDOWN_OCCURRING: u32 = 0b01 << 2;
    /// Shutdown status (SHST): complete.
    pub const SHUTDOWN_COMPLETE: u32 = 0b10 << 2;
    /// NVM Subsystem Reset Occurred (NSSRO).
    pub const SUBSYSTEM_RESET_OCCURRED: u32 = 1 << 4;
    /// Processing Paused (PP).
    pub const PROCESSING_PAUSED: u32 = 1 << 5;

    /// Ready to process commands (RDY).
    pub const fn is_ready(self) -> bool {
        self.0 & Self::READY != 0
    }

    /// The controller met an error that it can report in no other way (CFS).
    pub const fn is_fatal(self) -> bool {
        self.0 & Self::FATAL != 0
    }

    /// How far a shutdown has come (SHST).
    pub const fn shutdown(self) -> ShutdownStatus {
        match self.0 >> 2 & 0b11 {
            0b00 => ShutdownStatus::Normal,
            0b01 => ShutdownStatus::Occurring,
            0b10 => ShutdownStatus::Complete,
            _ => ShutdownStatus::Reserved,
        }
    }

    /// The subsystem was reset while the controller was enabled (NSSRO).
    pub const fn subsystem_reset_occurred(self) -> bool {
        self.0 & Self::SUBSYSTEM_RESET_OCCURRED != 0
    }

    /// The controller has stopped processing commands for a while (PP).
    pub const fn processing_paused(self) -> bool {
        self.0 & Self::PROCESSING_PAUSED != 0
    }

    /// The device is gone.
    pub const fn is_all_ones(self) -> bool {
        is_all_ones(self.0)
    }
}

impl fmt::Debug for ControllerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControllerStatus({:#010x})", self.0)
    }
}

/// Admin Queue Attributes (AQA, section 3.1.3.8) for queues of these many entries (2 to 4096).
pub const fn admin_queue_attributes(submission_entries: u32, completion_entries: u32) -> u32 {
    (completion_entries.saturating_sub(1) & 0xfff) << 16
        | (submission_entries.saturating_sub(1) & 0xfff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_qemu() {
        // As QEMU's controller reports them.
        let cap = Capabilities(0x0040_0820_0f01_07ff);
        assert_eq!(cap.queue_entries_max(), 2048);
        assert!(cap.contiguous_queues_required());
        assert_eq!(cap.timeout(), Duration::from_millis(7500));
        assert_eq!(cap.doorbell_stride_bytes(), 4);
        assert!(cap.nvm_command_set() && !cap.admin_only());
        assert_eq!((cap.page_size_min(), cap.page_size_max()), (4096, 65536));
        assert_eq!(Version(0x0001_0400).to_string(), "1.4.0");
        assert!(Version(0x0001_0400) > Version::new(1, 2, 1));
    }

    #[test]
    fn configuration_fields_do_not_overlap() {
        let cc = ControllerConfiguration::default()
            .with_enable(true)
            .with_command_set(ControllerConfiguration::CSS_ALL)
            .with_page_log2(1)
            .with_entry_sizes(6, 4)
            .with_shutdown(ShutdownNotification::Normal);
        assert_eq!(cc.0, 0x0046_40e1);
        assert_eq!(cc.page_size(), 8192);
        assert_eq!((cc.io_submission_entry_log2(), cc.io_completion_entry_log2()), (6, 4));
        assert_eq!(cc.with_enable(false).shutdown(), ShutdownNotification::Normal);
        assert_eq!(cc.command_set(), 0b110);
    }

    #[test]
    fn doorbells_follow_the_stride() {
        assert_eq!(doorbell_offset(0, DoorbellKind::SubmissionTail, 4), Some(0x1000));
        assert_eq!(doorbell_offset(3, DoorbellKind::CompletionHead, 4), Some(0x101c));
        assert_eq!(doorbell_offset(1, DoorbellKind::SubmissionTail, 64), Some(0x1080));
        let widest = Capabilities(0xf << 32).doorbell_stride_bytes();
        assert_eq!(doorbell_offset(u16::MAX, DoorbellKind::SubmissionTail, widest), None);
        assert_eq!(admin_queue_attributes(32, 64), 63 << 16 | 31);
    }
}
