//! Get Log Page (Base Specification, section 5.16).

use zerocopy::{FromZeros, IntoBytes};

use super::events::{CHANGED_MAX, ERROR_LOG_ENTRIES};
use super::payload::deliver;
use super::state::Controller;
use crate::base::Status;
use crate::nvme::spec::{
    ErrorLogEntry, FirmwareSlotLog, LogPage, NSID_ALL, SmartLog, SubmissionEntry,
};

/// The longest piece of a log page that one command reads.
const PIECE_MAX: u64 = 1 << 20;

impl Controller {
    pub(super) fn get_log_page(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let id = entry.cdw10 as u8;
        let retain = entry.cdw10 & 1 << 15 != 0;
        let dwords = u64::from(entry.cdw11 & 0xffff) << 16 | u64::from(entry.cdw10 >> 16);
        let bytes = (dwords + 1) * 4;
        let offset = u64::from(entry.cdw13) << 32 | u64::from(entry.cdw12);
        if bytes > PIECE_MAX || !offset.is_multiple_of(4) {
            return Err(Status::INVALID_FIELD);
        }
        let page = match id {
            LogPage::ERROR => self.error_page(),
            LogPage::SMART if entry.nsid == 0 || entry.nsid == NSID_ALL => self.smart_page(),
            LogPage::SMART => return Err(Status::INVALID_FIELD),
            LogPage::FIRMWARE_SLOT => firmware_page(),
            LogPage::CHANGED_NAMESPACES => self.changed_page(),
            _ => return Err(Status::INVALID_LOG_PAGE),
        };
        if offset > page.len() as u64 {
            return Err(Status::INVALID_FIELD);
        }
        let mut piece = page[offset as usize..].to_vec();
        // What lies beyond the page is undefined; zeros here.
        piece.resize(bytes as usize, 0);
        let rules = self.rules();
        deliver(&mut self.dma, rules, entry, &piece)?;
        if !retain {
            self.events.masked.remove(&id);
            if id == LogPage::CHANGED_NAMESPACES {
                self.logs.changed.clear();
            }
        }
        Ok(0)
    }

    fn error_page(&self) -> Vec<u8> {
        let mut page: Vec<u8> =
            self.logs.errors.iter().flat_map(|error| error.as_bytes().to_vec()).collect();
        page.resize(ERROR_LOG_ENTRIES * size_of::<ErrorLogEntry>(), 0);
        page
    }

    fn smart_page(&self) -> Vec<u8> {
        let logs = &self.logs;
        // Thousands of 512 bytes, rounded up.
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000)).to_le_bytes();
        let number = |count: u64| u128::from(count).to_le_bytes();
        let mut smart = SmartLog::new_zeroed();
        smart.critical_warning = logs.critical_warning;
        smart.composite_temperature = 313_u16.to_le_bytes();
        smart.available_spare = 100;
        smart.available_spare_threshold = 10;
        smart.data_units_read = units(logs.bytes_read);
        smart.data_units_written = units(logs.bytes_written);
        smart.host_read_commands = number(logs.reads);
        smart.host_write_commands = number(logs.writes);
        smart.power_cycles = number(1 + logs.unsafe_shutdowns);
        smart.unsafe_shutdowns = number(logs.unsafe_shutdowns);
        smart.media_errors = number(logs.media_errors);
        smart.error_log_entries = number(logs.error_count);
        smart.temperature_sensors[0] = 313;
        smart.as_bytes().to_vec()
    }

    fn changed_page(&self) -> Vec<u8> {
        let mut page: Vec<u8> = if self.logs.changed.len() > CHANGED_MAX {
            u32::MAX.to_le_bytes().to_vec()
        } else {
            self.logs.changed.iter().flat_map(|nsid| nsid.to_le_bytes()).collect()
        };
        page.resize(4096, 0);
        page
    }
}

fn firmware_page() -> Vec<u8> {
    let mut firmware = FirmwareSlotLog::new_zeroed();
    firmware.active = 1;
    firmware.revisions[0] = *b"1.0     ";
    firmware.as_bytes().to_vec()
}
