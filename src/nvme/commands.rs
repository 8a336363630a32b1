//! The commands that the driver sends, field by field.

use super::spec::{AdminOpcode, DsmRange, IoOpcode, LogPage, SubmissionEntry};

/// Identify (Base Specification, section 5.17).
pub(super) fn identify(cns: u8, nsid: u32) -> SubmissionEntry {
    SubmissionEntry { cdw10: u32::from(cns), ..SubmissionEntry::new(AdminOpcode::IDENTIFY, nsid) }
}

/// Get Log Page (section 5.16) of `bytes` at `offset`.
pub(super) fn log_page(id: u8, nsid: u32, offset: u64, bytes: u32) -> SubmissionEntry {
    let (cdw10, cdw11) = LogPage::command_dwords(id, false, bytes);
    SubmissionEntry {
        cdw10,
        cdw11,
        cdw12: offset as u32,
        cdw13: (offset >> 32) as u32,
        ..SubmissionEntry::new(AdminOpcode::GET_LOG_PAGE, nsid)
    }
}

/// Set Features (section 5.27).
pub(super) fn set_feature(feature: u8, value: u32) -> SubmissionEntry {
    SubmissionEntry {
        cdw10: u32::from(feature),
        cdw11: value,
        ..SubmissionEntry::new(AdminOpcode::SET_FEATURES, 0)
    }
}

/// Get Features (section 5.15), the current value.
pub(super) fn get_feature(feature: u8) -> SubmissionEntry {
    SubmissionEntry {
        cdw10: u32::from(feature),
        ..SubmissionEntry::new(AdminOpcode::GET_FEATURES, 0)
    }
}

/// Create I/O Completion Queue (section 5.5): contiguous, without interrupts.
pub(super) fn create_completion_queue(id: u16, size: u32, iova: u64) -> SubmissionEntry {
    const PHYSICALLY_CONTIGUOUS: u32 = 1;
    let mut command = SubmissionEntry {
        cdw10: (size - 1) << 16 | u32::from(id),
        cdw11: PHYSICALLY_CONTIGUOUS,
        ..SubmissionEntry::new(AdminOpcode::CREATE_IO_CQ, 0)
    };
    command.data.prp1 = iova;
    command
}

/// Create I/O Submission Queue, contiguous, that completes on the queue of the same identifier.
pub(super) fn create_submission_queue(id: u16, size: u32, iova: u64) -> SubmissionEntry {
    const PHYSICALLY_CONTIGUOUS: u32 = 1;
    let mut command = SubmissionEntry {
        cdw10: (size - 1) << 16 | u32::from(id),
        cdw11: u32::from(id) << 16 | PHYSICALLY_CONTIGUOUS,
        ..SubmissionEntry::new(AdminOpcode::CREATE_IO_SQ, 0)
    };
    command.data.prp1 = iova;
    command
}

/// Abort (section 5.1) of a command on an I/O queue.
pub(super) fn abort(queue: u16, command: u16) -> SubmissionEntry {
    SubmissionEntry {
        cdw10: u32::from(command) << 16 | u32::from(queue),
        ..SubmissionEntry::new(AdminOpcode::ABORT, 0)
    }
}

/// Doorbell Buffer Config (section 5.8): where the shadows and the event indices are.
pub(super) fn doorbell_buffers(values: u64, events: u64) -> SubmissionEntry {
    let mut command = SubmissionEntry::new(AdminOpcode::DOORBELL_BUFFER_CONFIG, 0);
    command.data.prp1 = values;
    command.data.prp2 = events;
    command
}

/// Dataset Management with the Deallocate attribute (NVM Command Set Specification, section 3.2.3) for `ranges`
/// ranges.
pub(super) fn deallocate(nsid: u32, ranges: u32) -> SubmissionEntry {
    SubmissionEntry {
        cdw10: ranges - 1,
        cdw11: DsmRange::DEALLOCATE,
        ..SubmissionEntry::new(IoOpcode::DATASET_MANAGEMENT, nsid)
    }
}
