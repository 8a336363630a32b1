//! Completion queue entries.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::base::Status;

/// A completion queue entry (Base Specification, section 3.3.3.2, figure 90).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(16))]
pub struct CompletionEntry {
    /// Command-specific result, dword 0.
    pub dw0: u32,
    /// Command-specific result, dword 1.
    pub dw1: u32,
    /// Submission queue head pointer (SQHD): how far the controller has fetched.
    pub sq_head: u16,
    /// Submission queue identifier (SQID).
    pub sq_id: u16,
    /// Command identifier (CID).
    pub command_id: u16,
    /// Phase tag (bit 0) and status field (bits 15:1).
    pub status: u16,
}

const _: () = assert!(size_of::<CompletionEntry>() == 16);

impl CompletionEntry {
    /// The phase tag.
    #[inline]
    pub const fn phase(&self) -> bool {
        self.status & 1 != 0
    }

    /// Status code type and status code.
    #[inline]
    pub const fn status(&self) -> Status {
        Status::new((self.status >> 9) as u8 & 0x7, (self.status >> 1) as u8)
    }

    /// Do Not Retry (DNR): the same command would fail again.
    #[inline]
    pub const fn do_not_retry(&self) -> bool {
        self.status >> 15 != 0
    }

    /// Command Retry Delay (CRD): 0, or which of the controller's three delays to wait.
    #[inline]
    pub const fn retry_delay(&self) -> u8 {
        (self.status >> 12) as u8 & 0x3
    }

    /// The status field for a status, as a device writes it: without phase tag.
    #[inline]
    pub const fn status_field(status: Status, do_not_retry: bool) -> u16 {
        (status.sct() as u16) << 9 | (status.sc() as u16) << 1 | (do_not_retry as u16) << 15
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_field_has_its_parts_in_place() {
        let field = CompletionEntry::status_field(Status::UNRECOVERED_READ_ERROR, true);
        let entry = CompletionEntry { status: field | 1, ..CompletionEntry::default() };
        assert!(entry.phase() && entry.do_not_retry());
        assert_eq!(entry.status(), Status::UNRECOVERED_READ_ERROR);
        assert_eq!(entry.retry_delay(), 0);
    }
}
