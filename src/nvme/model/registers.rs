//! The model's registers: enable, disable, shutdown (Base Specification, sections 3.1.3 and 3.6).

use super::doorbells::Doorbells;
use super::queues::{CompletionQueue, SubmissionQueue};
use super::state::{Change, Controller};
use crate::nvme::spec::{
    Capabilities, ControllerConfiguration, ControllerStatus, Register, ShutdownNotification,
};

/// Largest host memory page: 4 KiB times two to this power.
const PAGE_LOG2_MAX: u64 = 4;

impl Controller {
    pub(super) fn capabilities(&self) -> Capabilities {
        let options = &self.options;
        let base = Capabilities::new(
            options.queue_entries_max,
            options.timeout_half_seconds,
            options.doorbell_stride_log2,
        );
        // A subsystem reset (bit 36), and the largest page.
        Capabilities(base.0 | 1 << 36 | PAGE_LOG2_MAX << 52)
    }

    pub(super) fn read_register(&mut self, offset: u32) -> u32 {
        if let Some(left) = &mut self.reads_left {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => self.unplugged = true,
            }
        }
        if self.unplugged {
            return u32::MAX;
        }
        if let Some(&forced) = self.forced.get(&offset) {
            return forced;
        }
        match offset {
            Register::CAP => self.capabilities().0 as u32,
            0x04 => (self.capabilities().0 >> 32) as u32,
            Register::VS => self.options.version.0,
            Register::INTMS | Register::INTMC => self.registers.interrupt_mask,
            Register::CC => self.registers.cc.0,
            Register::CSTS => {
                self.progress();
                self.registers.csts.0
            }
            Register::AQA => self.registers.aqa,
            Register::ASQ => self.registers.asq as u32,
            0x2c => (self.registers.asq >> 32) as u32,
            Register::ACQ => self.registers.acq as u32,
            0x34 => (self.registers.acq >> 32) as u32,
            _ => 0,
        }
    }

    pub(super) fn write_register(&mut self, offset: u32, value: u32, doorbells: &Doorbells) {
        if self.unplugged {
            return;
        }
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        let registers = &mut self.registers;
        match offset {
            Register::INTMS => registers.interrupt_mask |= value,
            Register::INTMC => registers.interrupt_mask &= !value,
            Register::CC => self.configure(ControllerConfiguration(value), doorbells),
            Register::CSTS => {
                // NSSRO is cleared by writing a one.
                registers.csts.0 &= !(value & ControllerStatus::SUBSYSTEM_RESET_OCCURRED);
            }
            Register::NSSR if value == Register::NSSR_RESET => self.subsystem_reset(doorbells),
            Register::AQA => registers.aqa = value & 0x0fff_0fff,
            Register::ASQ => registers.asq = low(registers.asq),
            0x2c => registers.asq = high(registers.asq),
            Register::ACQ => registers.acq = low(registers.acq),
            0x34 => registers.acq = high(registers.acq),
            Register::DOORBELLS.. => doorbells.write(offset, value),
            _ => {}
        }
    }

    fn configure(&mut self, new: ControllerConfiguration, doorbells: &Doorbells) {
        let old = self.registers.cc;
        self.registers.cc = new;
        if old.is_enabled() && new.is_enabled() && {
            let fixed = |cc: ControllerConfiguration| {
                cc.with_shutdown(ShutdownNotification::None).with_entry_sizes(0, 0)
            };
            fixed(old) != fixed(new)
        } {
            self.configuration_fault("CC changed while enabled");
        }
        match (old.is_enabled(), new.is_enabled()) {
            (false, true) => self.enable(doorbells),
            (true, false) => {
                self.reset(doorbells);
                self.begin(Change::NotReady);
            }
            _ => {}
        }
        if new.shutdown() != ShutdownNotification::None && old.shutdown() != new.shutdown() {
            self.registers.csts.0 =
                self.registers.csts.0 & !0b1100 | ControllerStatus::SHUTDOWN_OCCURRING;
            self.begin(Change::ShutDown);
        }
    }

    fn enable(&mut self, doorbells: &Doorbells) {
        let cc = self.registers.cc;
        self.registers.csts.0 &=
            ControllerStatus::SUBSYSTEM_RESET_OCCURRED | ControllerStatus::READY;
        if self.registers.csts.is_ready() {
            return self.configuration_fault("CC.EN set before CSTS.RDY was clear");
        }
        let submission_entries = (self.registers.aqa & 0xfff) + 1;
        let completion_entries = (self.registers.aqa >> 16) + 1;
        let page = cc.page_size();
        let fault = if page > 4096 << PAGE_LOG2_MAX {
            Some("CC.MPS beyond CAP.MPSMAX")
        } else if cc.command_set() != ControllerConfiguration::CSS_NVM {
            Some("CC.CSS of a command set that CAP.CSS does not have")
        } else if cc.arbitration() != 0 {
            Some("CC.AMS of a mechanism that CAP.AMS does not have")
        } else if submission_entries < 2 || completion_entries < 2 {
            Some("admin queues of less than two entries")
        } else if !(self.registers.asq | self.registers.acq).is_multiple_of(page) {
            Some("admin queues that are not page aligned")
        } else {
            None
        };
        if let Some(fault) = fault {
            return self.configuration_fault(fault);
        }
        self.reset(doorbells);
        let (asq, acq) = (self.registers.asq, self.registers.acq);
        let submission = SubmissionQueue::new(&mut self.dma, asq, submission_entries, 0);
        let completion = CompletionQueue::new(&mut self.dma, acq, completion_entries);
        let (Ok(submission), Ok(mut completion)) = (submission, completion) else {
            return self.fail();
        };
        completion.users = 1;
        let queues = usize::from(self.options.io_queues) + 1;
        self.submission.resize_with(queues, || None);
        self.completion.resize_with(queues, || None);
        self.submission[0] = Some(submission);
        self.completion[0] = Some(completion);
        self.begin(Change::Ready);
    }

    fn subsystem_reset(&mut self, doorbells: &Doorbells) {
        self.reset(doorbells);
        self.registers.cc = ControllerConfiguration::default();
        self.registers.change = None;
        self.registers.csts.0 = ControllerStatus::SUBSYSTEM_RESET_OCCURRED;
    }

    fn begin(&mut self, change: Change) {
        self.registers.change = Some((change, self.options.ready_after_reads));
    }

    /// A read of CSTS: a change that was under way may be done.
    fn progress(&mut self) {
        let Some((change, left)) = &mut self.registers.change else { return };
        if let Some(fewer) = left.checked_sub(1) {
            *left = fewer;
            return;
        }
        if self.stuck {
            return;
        }
        match change {
            Change::Ready => self.registers.csts.0 |= ControllerStatus::READY,
            Change::NotReady => {
                self.registers.csts.0 &= ControllerStatus::SUBSYSTEM_RESET_OCCURRED;
            }
            Change::ShutDown => {
                for namespace in self.namespaces.values_mut() {
                    namespace.store.flush();
                }
                self.registers.csts.0 =
                    self.registers.csts.0 & !0b1100 | ControllerStatus::SHUTDOWN_COMPLETE;
            }
        }
        self.registers.change = None;
    }
}
