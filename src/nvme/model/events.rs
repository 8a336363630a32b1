//! Asynchronous events, the error log and the counters.

use super::queues::Outcome;
use super::state::Controller;
use crate::nvme::spec::{
    AsyncEvent, AsyncEventConfiguration, AsyncEventKind, AsyncNotice, CompletionEntry,
    ErrorLogEntry, FeatureId, IoOpcode, LogPage, SubmissionEntry,
};

/// Entries that the error log keeps.
pub(super) const ERROR_LOG_ENTRIES: usize = 64;

/// Namespaces that changed, beyond which the list says "all".
pub(super) const CHANGED_MAX: usize = 1024;

/// Events that wait for a request; the host has stopped to ask.
const PENDING_MAX: usize = 64;

impl Controller {
    /// An event happened. It is reported if the host configured so.
    pub(super) fn raise(&mut self, event: AsyncEvent) {
        let configured = AsyncEventConfiguration(self.feature(FeatureId::ASYNC_EVENTS));
        let wanted = match event.kind {
            AsyncEventKind::Health(_) => {
                configured.0 & AsyncEventConfiguration::SMART_WARNINGS != 0
            }
            AsyncEventKind::Notice(AsyncNotice::NamespaceAttribute) => {
                configured.contains(AsyncEventConfiguration::NAMESPACE_NOTICES)
            }
            AsyncEventKind::Notice(AsyncNotice::FirmwareActivation) => {
                configured.contains(AsyncEventConfiguration::FIRMWARE_NOTICES)
            }
            _ => true,
        };
        let known = self.events.pending.contains(&event);
        if wanted && !known && self.events.pending.len() < PENDING_MAX {
            self.events.pending.push_back(event);
        }
    }

    /// A namespace came, went or changed.
    pub(super) fn namespace_changed(&mut self, nsid: u32) {
        self.logs.changed.insert(nsid);
        self.raise(AsyncEvent {
            kind: AsyncEventKind::Notice(AsyncNotice::NamespaceAttribute),
            log_page: LogPage::CHANGED_NAMESPACES,
        });
    }

    /// Completes requests for events with those that happened.
    pub(super) fn deliver_events(&mut self) {
        let events = &mut self.events;
        if events.requests.is_empty() || events.pending.is_empty() {
            return;
        }
        let mut kept = 0;
        while kept < self.events.pending.len() && !self.events.requests.is_empty() {
            let event = self.events.pending[kept];
            // One of a kind, until the host has read the log page.
            if !self.events.masked.insert(event.log_page) {
                kept += 1;
                continue;
            }
            self.events.pending.remove(kept);
            if let Some(command_id) = self.events.requests.pop_front() {
                let request = SubmissionEntry { command_id, ..SubmissionEntry::default() };
                self.complete(0, &request, Ok(event.encode()));
            }
        }
    }

    /// Counts a command that is done, and logs it if it failed.
    pub(super) fn count(&mut self, queue: u16, command: &SubmissionEntry, outcome: Outcome) {
        let logs = &mut self.logs;
        if queue != 0 {
            match command.opcode {
                IoOpcode::READ | IoOpcode::COMPARE => logs.reads += 1,
                IoOpcode::WRITE => logs.writes += 1,
                _ => {}
            }
        }
        let Err(failure) = outcome else { return };
        if failure.status.is_media_error() {
            logs.media_errors += 1;
        }
        logs.error_count += 1;
        logs.errors.truncate(ERROR_LOG_ENTRIES - 1);
        logs.errors.push_front(ErrorLogEntry {
            error_count: logs.error_count,
            sq_id: queue,
            command_id: command.command_id,
            status: CompletionEntry::status_field(failure.status, failure.do_not_retry),
            parameter_location: 0xffff,
            lba: u64::from(command.cdw11) << 32 | u64::from(command.cdw10),
            nsid: command.nsid,
            vendor_log: 0,
            transport_type: 0,
            reserved30: [0; 2],
            command_information: 0,
            transport_information: 0,
            reserved42: [0; 22],
        });
    }
}
