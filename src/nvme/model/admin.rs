//! Admin commands (Base Specification, section 5), but for Identify, features and log pages.

use super::queues::{CompletionQueue, Outcome, SubmissionQueue};
use super::state::{Controller, Shadow};
use crate::base::Status;
use crate::nvme::spec::{AdminOpcode, NSID_ALL, SubmissionEntry};

impl Controller {
    /// Executes an admin command. `None`: it completes later.
    pub(super) fn execute_admin(&mut self, entry: &SubmissionEntry) -> Option<Outcome> {
        let outcome = match entry.opcode {
            AdminOpcode::ASYNC_EVENT_REQUEST => {
                if self.events.requests.len() < usize::from(self.options.async_event_limit) {
                    self.events.requests.push_back(entry.command_id);
                    return None;
                }
                Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED)
            }
            AdminOpcode::DELETE_IO_SQ => self.delete_submission_queue(entry),
            AdminOpcode::CREATE_IO_SQ => self.create_submission_queue(entry),
            AdminOpcode::GET_LOG_PAGE => self.get_log_page(entry),
            AdminOpcode::DELETE_IO_CQ => self.delete_completion_queue(entry),
            AdminOpcode::CREATE_IO_CQ => self.create_completion_queue(entry),
            AdminOpcode::IDENTIFY => self.identify(entry),
            AdminOpcode::ABORT => Ok(self.abort(entry)),
            AdminOpcode::SET_FEATURES => self.set_features(entry),
            AdminOpcode::GET_FEATURES => self.get_features(entry),
            AdminOpcode::KEEP_ALIVE => Ok(0),
            AdminOpcode::DOORBELL_BUFFER_CONFIG => self.doorbell_buffer_config(entry),
            AdminOpcode::FORMAT_NVM => self.format(entry),
            _ => Err(Status::INVALID_OPCODE),
        };
        Some(outcome.map_err(Into::into))
    }

    /// Queue identifier, number of entries and address of a queue to create.
    fn queue_parameters(
        &self,
        entry: &SubmissionEntry,
        exists: bool,
    ) -> Result<(usize, u32), Status> {
        let id = entry.cdw10 as u16;
        let entries = (entry.cdw10 >> 16) + 1;
        if id == 0 || id > self.options.io_queues || exists {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        if entries < 2 || entries > self.options.queue_entries_max {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        // Physically contiguous (PC), as CAP.CQR demands.
        if entry.cdw11 & 1 == 0 {
            return Err(Status::INVALID_FIELD);
        }
        if !entry.data.prp1.is_multiple_of(self.registers.cc.page_size()) {
            return Err(Status::INVALID_PRP_OFFSET);
        }
        Ok((id.into(), entries))
    }

    fn create_completion_queue(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let exists = self.completion.get(entry.cdw10 as u16 as usize).is_some_and(Option::is_some);
        let (id, entries) = self.queue_parameters(entry, exists)?;
        if self.registers.cc.io_completion_entry_log2() != 4 {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        // Interrupts enabled (IEN): a vector that exists. There are as many as queues.
        if entry.cdw11 & 1 << 1 != 0 && entry.cdw11 >> 16 > u32::from(self.options.io_queues) {
            return Err(Status::INVALID_INTERRUPT_VECTOR);
        }
        let queue = CompletionQueue::new(&mut self.dma, entry.data.prp1, entries)?;
        self.completion[id] = Some(queue);
        Ok(0)
    }

    fn create_submission_queue(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let exists = self.submission.get(entry.cdw10 as u16 as usize).is_some_and(Option::is_some);
        let (id, entries) = self.queue_parameters(entry, exists)?;
        if self.registers.cc.io_submission_entry_log2() != 6 {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        let completion_queue = (entry.cdw11 >> 16) as u16;
        if completion_queue == 0 {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        let completion = self.completion.get_mut(usize::from(completion_queue));
        let completion =
            completion.and_then(Option::as_mut).ok_or(Status::COMPLETION_QUEUE_INVALID)?;
        let queue =
            SubmissionQueue::new(&mut self.dma, entry.data.prp1, entries, completion_queue)?;
        completion.users += 1;
        self.submission[id] = Some(queue);
        Ok(0)
    }

    fn delete_submission_queue(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let id = entry.cdw10 as u16;
        let queue = self.submission.get(usize::from(id)).and_then(Option::as_ref);
        let Some(completion_queue) = queue.filter(|_| id != 0).map(|queue| queue.completion_queue)
        else {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        };
        self.abort_queue(id);
        self.submission[usize::from(id)] = None;
        if let Some(completion) = &mut self.completion[usize::from(completion_queue)] {
            completion.users -= 1;
        }
        Ok(0)
    }

    fn delete_completion_queue(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let id = entry.cdw10 as u16;
        let queue = self.completion.get_mut(usize::from(id)).filter(|_| id != 0);
        match queue {
            Some(Some(queue)) if queue.users > 0 => Err(Status::INVALID_QUEUE_DELETION),
            Some(queue @ Some(_)) => {
                *queue = None;
                Ok(0)
            }
            _ => Err(Status::INVALID_QUEUE_IDENTIFIER),
        }
    }

    /// Section 5.1. Bit 0 of the result: the command was not aborted.
    fn abort(&mut self, entry: &SubmissionEntry) -> u32 {
        let (queue, command_id) = (entry.cdw10 as u16, (entry.cdw10 >> 16) as u16);
        if !self.options.abort_works {
            return 1;
        }
        if self.abort_command(queue, command_id) {
            return 0;
        }
        let request = self.events.requests.iter().position(|&waiting| waiting == command_id);
        if let Some(at) = request.filter(|_| queue == 0) {
            self.events.requests.remove(at);
            let request = SubmissionEntry { command_id, ..SubmissionEntry::default() };
            self.complete(0, &request, Err(Status::ABORTED_BY_REQUEST.into()));
            return 0;
        }
        1
    }

    /// Section 5.8: PRP entry 1 is the shadow doorbells, PRP entry 2 the event indexes, a page each.
    fn doorbell_buffer_config(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        if !self.options.shadow_doorbells {
            return Err(Status::INVALID_OPCODE);
        }
        let page = self.registers.cc.page_size();
        let addresses = (entry.data.prp1, entry.data.prp2);
        if !(addresses.0 | addresses.1).is_multiple_of(page) {
            return Err(Status::INVALID_FIELD);
        }
        // All doorbells have to fit in the page.
        let bytes = (u64::from(self.options.io_queues) + 1) * 8;
        if bytes << self.options.doorbell_stride_log2 > page {
            return Err(Status::INTERNAL_ERROR);
        }
        let doorbells = self.dma.window(addresses.0, page as usize)?;
        let event_indexes = self.dma.window(addresses.1, page as usize)?;
        self.shadow = Some(Shadow { addresses, doorbells, event_indexes });
        Ok(0)
    }

    /// Section 5.14.
    fn format(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let index = (entry.cdw10 & 0xf | entry.cdw10 >> 8 & 0x30) as usize;
        // Secure erase settings (SES): none or user data erase.
        if entry.cdw10 >> 9 & 0b111 > 1 {
            return Err(Status::INVALID_FIELD);
        }
        // Protection information (PI) is not supported.
        if entry.cdw10 >> 5 & 0b111 != 0 {
            return Err(Status::INVALID_FORMAT);
        }
        let nsids: Vec<u32> = match entry.nsid {
            NSID_ALL => self.namespaces.keys().copied().collect(),
            nsid => vec![nsid],
        };
        for nsid in &nsids {
            let namespace = self.namespaces.get(nsid).ok_or(Status::INVALID_NAMESPACE)?;
            let format = namespace.options.formats.get(index).ok_or(Status::INVALID_FORMAT)?;
            format.data_size().ok_or(Status::INVALID_FORMAT)?;
        }
        for nsid in nsids {
            if let Some(namespace) = self.namespaces.get_mut(&nsid) {
                namespace.reformat(index, entry.cdw10 & 1 << 4 != 0);
            }
        }
        Ok(0)
    }
}
