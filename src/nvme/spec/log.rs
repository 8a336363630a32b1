//! Log pages.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{CompletionEntry, printable};
use crate::base::Status;

/// Log page identifiers (Base Specification, section 5.16.1, figure 202).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPage;

impl LogPage {
    /// Supported Log Pages.
    pub const SUPPORTED: u8 = 0x00;
    /// Error Information.
    pub const ERROR: u8 = 0x01;
    /// SMART / Health Information.
    pub const SMART: u8 = 0x02;
    /// Firmware Slot Information.
    pub const FIRMWARE_SLOT: u8 = 0x03;
    /// Changed Namespace List.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands Supported and Effects.
    pub const COMMAND_EFFECTS: u8 = 0x05;
    /// Device Self-test.
    pub const SELF_TEST: u8 = 0x06;
    /// Telemetry Host-Initiated.
    pub const TELEMETRY_HOST: u8 = 0x07;
    /// Telemetry Controller-Initiated.
    pub const TELEMETRY_CONTROLLER: u8 = 0x08;
    /// Endurance Group Information.
    pub const ENDURANCE_GROUP: u8 = 0x09;
    /// Asymmetric Namespace Access.
    pub const ANA: u8 = 0x0c;
    /// Persistent Event Log.
    pub const PERSISTENT_EVENT: u8 = 0x0d;
    /// Sanitize Status.
    pub const SANITIZE_STATUS: u8 = 0x81;

    /// Command dwords 10 and 11 of Get Log Page for `bytes` (a multiple of four) of page `id`: log identifier, Retain
    /// Asynchronous Event, and the number of dwords, 0's based.
    pub const fn command_dwords(id: u8, retain_event: bool, bytes: u32) -> (u32, u32) {
        let dwords = (bytes / 4).saturating_sub(1);
        (id as u32 | (retain_event as u32) << 15 | (dwords & 0xffff) << 16, dwords >> 16)
    }
}

/// SMART / Health Information (Base Specification, section 5.16.1.3, figure 207).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SmartLog {
    /// Critical Warning.
    pub critical_warning: u8,
    /// Composite Temperature, in kelvins.
    pub composite_temperature: [u8; 2],
    /// Available Spare, in percent.
    pub available_spare: u8,
    /// Available Spare Threshold, in percent.
    pub available_spare_threshold: u8,
    /// Percentage Used; may exceed 100.
    pub percentage_used: u8,
    /// Endurance Group Critical Warning Summary.
    pub endurance_group_warning: u8,
    /// Reserved.
    pub reserved7: [u8; 25],
    /// Data Units Read, in thousands of 512 bytes.
    pub data_units_read: [u8; 16],
    /// Data Units Written, in thousands of 512 bytes.
    pub data_units_written: [u8; 16],
    /// Host Read Commands.
    pub host_read_commands: [u8; 16],
    /// Host Write Commands.
    pub host_write_commands: [u8; 16],
    /// Controller Busy Time, in minutes.
    pub controller_busy_time: [u8; 16],
    /// Power Cycles.
    pub power_cycles: [u8; 16],
    /// Power On Hours.
    pub power_on_hours: [u8; 16],
    /// Unsafe Shutdowns.
    pub unsafe_shutdowns: [u8; 16],
    /// Media and Data Integrity Errors.
    pub media_errors: [u8; 16],
    /// Number of Error Information Log Entries over the life of the controller.
    pub error_log_entries: [u8; 16],
    /// Warning Composite Temperature Time, in minutes.
    pub warning_temperature_time: u32,
    /// Critical Composite Temperature Time, in minutes.
    pub critical_temperature_time: u32,
    /// Temperature Sensors 1 to 8, in kelvins; 0 for one that is not there.
    pub temperature_sensors: [u16; 8],
    /// Thermal Management Temperature 1 and 2 Transition Count.
    pub thermal_transitions: [u32; 2],
    /// Total Time For Thermal Management Temperature 1 and 2, in seconds.
    pub thermal_time: [u32; 2],
    /// Reserved.
    pub reserved232: [u8; 280],
}

const _: () = {
    assert!(size_of::<SmartLog>() == 512);
    assert!(std::mem::offset_of!(SmartLog, data_units_read) == 32);
    assert!(std::mem::offset_of!(SmartLog, temperature_sensors) == 200);
};

impl SmartLog {
    /// Critical warning: spare capacity is below the threshold.
    pub const SPARE_LOW: u8 = 1 << 0;
    /// Critical warning: a temperature is beyond a threshold.
    pub const TEMPERATURE: u8 = 1 << 1;
    /// Critical warning: reliability is degraded by media or internal errors.
    pub const RELIABILITY_DEGRADED: u8 = 1 << 2;
    /// Critical warning: all media is in read-only mode.
    pub const READ_ONLY: u8 = 1 << 3;
    /// Critical warning: the backup of volatile memory failed.
    pub const BACKUP_FAILED: u8 = 1 << 4;
    /// Critical warning: the persistent memory region is read-only or unreliable.
    pub const PERSISTENT_MEMORY: u8 = 1 << 5;

    /// Composite temperature in degrees Celsius; `None` when not reported.
    pub fn temperature_celsius(&self) -> Option<i32> {
        celsius(u16::from_le_bytes(self.composite_temperature))
    }

    /// The sensors that report, with their number from 1, in degrees Celsius.
    pub fn sensors_celsius(&self) -> impl Iterator<Item = (usize, i32)> {
        self.temperature_sensors
            .into_iter()
            .enumerate()
            .filter_map(|(index, kelvins)| Some((index + 1, celsius(kelvins)?)))
    }
}

/// Degrees Celsius of a temperature in kelvins, 0 being none.
pub fn celsius(kelvins: u16) -> Option<i32> {
    (kelvins != 0).then(|| i32::from(kelvins) - 273)
}

/// An entry of the Error Information log (Base Specification, section 5.16.1.2, figure 206).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// Error Count: 0 for an entry that is not used.
    pub error_count: u64,
    /// Submission Queue ID; FFFFh for an error that is not of one command.
    pub sq_id: u16,
    /// Command ID; FFFFh likewise.
    pub command_id: u16,
    /// Status Field, with the phase tag.
    pub status: u16,
    /// Parameter Error Location: byte (bits 7:0) and bit (bits 10:8) of the command.
    pub parameter_location: u16,
    /// First LBA that met the error.
    pub lba: u64,
    /// Namespace.
    pub nsid: u32,
    /// Vendor Specific Information Available: a log page, or 0.
    pub vendor_log: u8,
    /// Transport Type (TRTYPE).
    pub transport_type: u8,
    /// Reserved.
    pub reserved30: [u8; 2],
    /// Command Specific Information.
    pub command_information: u64,
    /// Transport Type Specific Information.
    pub transport_information: u16,
    /// Reserved.
    pub reserved42: [u8; 22],
}

const _: () = assert!(size_of::<ErrorLogEntry>() == 64);

impl ErrorLogEntry {
    /// Status code type and status code.
    pub const fn status(&self) -> Status {
        CompletionEntry { dw0: 0, dw1: 0, sq_head: 0, sq_id: 0, command_id: 0, status: self.status }
            .status()
    }
}

/// Firmware Slot Information (Base Specification, section 5.16.1.4, figure 208).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Active Firmware Info: slot in use (bits 2:0), slot after the next reset (bits 6:4).
    pub active: u8,
    /// Reserved.
    pub reserved1: [u8; 7],
    /// Firmware Revision for Slots 1 to 7.
    pub revisions: [[u8; 8]; 7],
    /// Reserved.
    pub reserved64: [u8; 448],
}

const _: () = assert!(size_of::<FirmwareSlotLog>() == 512);

impl FirmwareSlotLog {
    /// Slot that the running firmware came from, from 1.
    pub const fn active_slot(&self) -> u8 {
        self.active & 0b111
    }

    /// Slot that is activated at the next controller reset; 0 when not said.
    pub const fn next_slot(&self) -> u8 {
        self.active >> 4 & 0b111
    }

    /// Revision of the firmware in `slot` (1 to 7); `None` when the slot is empty.
    pub fn revision(&self, slot: u8) -> Option<String> {
        let text = printable(self.revisions.get(usize::from(slot.checked_sub(1)?))?);
        (!text.is_empty()).then_some(text)
    }
}

/// What the Changed Namespace List log says (Base Specification, section 5.16.1.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedNamespaces {
    /// These changed.
    Some(Vec<u32>),
    /// More than the list holds: look at all.
    All,
}

impl ChangedNamespaces {
    /// Bytes of the log page.
    pub const BYTES: u32 = 4096;

    /// Reads the log page.
    pub fn parse(page: &[u8]) -> ChangedNamespaces {
        if page.first_chunk::<4>() == Some(&[0xff; 4]) {
            return ChangedNamespaces::All;
        }
        ChangedNamespaces::Some(super::namespace_ids(page).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_page_dwords() {
        assert_eq!(LogPage::command_dwords(LogPage::SMART, true, 512), (0x007f_8002, 0));
        assert_eq!(LogPage::command_dwords(LogPage::ERROR, false, 1 << 20), (0xffff_0001, 3));
        assert_eq!(LogPage::command_dwords(LogPage::ERROR, false, 0).0 >> 16, 0);
    }

    #[test]
    fn temperatures() {
        let mut log = SmartLog::read_from_bytes(&[0; 512]).unwrap();
        assert_eq!(log.temperature_celsius(), None);
        log.composite_temperature = 310u16.to_le_bytes();
        log.temperature_sensors[2] = 300;
        assert_eq!(log.temperature_celsius(), Some(37));
        assert_eq!(log.sensors_celsius().collect::<Vec<_>>(), [(3, 27)]);
    }

    #[test]
    fn changed_namespaces_overflow() {
        assert_eq!(ChangedNamespaces::parse(&[0xff; 4096]), ChangedNamespaces::All);
        let mut page = [0; 4096];
        page[0] = 2;
        assert_eq!(ChangedNamespaces::parse(&page), ChangedNamespaces::Some(vec![2]));
        assert_eq!(ChangedNamespaces::parse(&[]), ChangedNamespaces::Some(vec![]));
    }

    #[test]
    fn firmware_slots() {
        let mut log = FirmwareSlotLog::read_from_bytes(&[0; 512]).unwrap();
        log.active = 0x21;
        log.revisions[0] = *b"1.0     ";
        assert_eq!((log.active_slot(), log.next_slot()), (1, 2));
        assert_eq!(log.revision(1).as_deref(), Some("1.0"));
        assert_eq!([0, 2, 8, 255].map(|slot| log.revision(slot)), [const { None }; 4]);
    }
}
