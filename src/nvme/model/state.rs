//! The state of the model, behind one lock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::dma::{Dma, Fault, Window};
use super::doorbells::Doorbells;
use super::namespace::Namespace;
use super::options::ModelOptions;
use super::payload::Rules;
use super::queues::{CompletionQueue, SubmissionQueue};
use super::script::Script;
use crate::nvme::spec::{
    AsyncEvent, CompletionEntry, ControllerConfiguration, ControllerStatus, ErrorLogEntry,
    SubmissionEntry,
};

/// A change that shows in CSTS after some reads.
#[derive(Clone, Copy)]
pub(super) enum Change {
    Ready,
    NotReady,
    ShutDown,
}

#[derive(Default)]
pub(super) struct Registers {
    pub(super) cc: ControllerConfiguration,
    pub(super) csts: ControllerStatus,
    pub(super) interrupt_mask: u32,
    pub(super) aqa: u32,
    pub(super) asq: u64,
    pub(super) acq: u64,
    pub(super) change: Option<(Change, u32)>,
}

/// A command that waits, by the script.
pub(super) struct Held {
    pub(super) queue: u16,
    pub(super) entry: SubmissionEntry,
    /// The step in which it is executed; `None` for never.
    pub(super) due: Option<u64>,
}

/// A completion that comes late, by the script.
pub(super) struct Late {
    pub(super) due: u64,
    pub(super) submission_queue: u16,
    pub(super) completion_queue: u16,
    pub(super) entry: CompletionEntry,
    /// Its submission queue head is that of the queue, not one of the script.
    pub(super) own_head: bool,
}

/// The buffers of Doorbell Buffer Config.
pub(super) struct Shadow {
    pub(super) addresses: (u64, u64),
    pub(super) doorbells: Window,
    pub(super) event_indexes: Window,
}

#[derive(Default)]
pub(super) struct Events {
    /// Command identifiers of the requests that wait.
    pub(super) requests: VecDeque<u16>,
    pub(super) pending: VecDeque<AsyncEvent>,
    /// Log pages that the host has to read before the next event that names them.
    pub(super) masked: BTreeSet<u8>,
}

/// What the log pages tell. Survives resets.
#[derive(Default)]
pub(super) struct Logs {
    pub(super) errors: VecDeque<ErrorLogEntry>,
    pub(super) error_count: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) media_errors: u64,
    pub(super) unsafe_shutdowns: u64,
    pub(super) critical_warning: u8,
    pub(super) changed: BTreeSet<u32>,
}

/// Identify data that are overwritten.
pub(super) struct Overlay {
    pub(super) cns: u8,
    pub(super) nsid: Option<u32>,
    pub(super) offset: usize,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Controller {
    pub(super) options: ModelOptions,
    pub(super) dma: Dma,
    pub(super) registers: Registers,
    pub(super) submission: Vec<Option<SubmissionQueue>>,
    pub(super) completion: Vec<Option<CompletionQueue>>,
    pub(super) namespaces: BTreeMap<u32, Namespace>,
    pub(super) features: BTreeMap<u8, u32>,
    pub(super) events: Events,
    pub(super) logs: Logs,
    pub(super) shadow: Option<Shadow>,
    pub(super) script: Script,
    pub(super) held: Vec<Held>,
    pub(super) late: Vec<Late>,
    pub(super) overlays: Vec<Overlay>,
    /// Registers that read as something else.
    pub(super) forced: BTreeMap<u32, u32>,
    /// Reads of any register that are answered still; all ones afterwards.
    pub(super) reads_left: Option<u64>,
    /// CC.EN changes nothing.
    pub(super) stuck: bool,
    pub(super) unplugged: bool,
    pub(super) removal_announced: bool,
    pub(super) step: u64,
    pub(super) posted: usize,
    /// Commands that were fetched.
    pub(super) commands: u64,
    random: u64,
}

impl Controller {
    pub(super) fn new(options: ModelOptions) -> Controller {
        let namespaces = options
            .namespaces
            .iter()
            .map(|namespace| (namespace.nsid, Namespace::new(namespace.clone())))
            .collect();
        Controller {
            random: options.reorder.unwrap_or(0) | 1,
            options,
            dma: Dma::new(),
            registers: Registers::default(),
            submission: Vec::new(),
            completion: Vec::new(),
            namespaces,
            features: BTreeMap::new(),
            events: Events::default(),
            logs: Logs::default(),
            shadow: None,
            script: Script::default(),
            held: Vec::new(),
            late: Vec::new(),
            overlays: Vec::new(),
            forced: BTreeMap::new(),
            reads_left: None,
            stuck: false,
            unplugged: false,
            removal_announced: false,
            step: 0,
            posted: 0,
            commands: 0,
        }
    }

    /// How data pointers are read.
    pub(super) fn rules(&self) -> Rules {
        Rules { page: self.registers.cc.page_size(), sgl: self.options.sgl }
    }

    /// Whether it processes commands.
    pub(super) fn is_running(&self) -> bool {
        // Neither fatal nor shut down, nor on the way.
        !self.unplugged
            && self.registers.csts.0 & 0b1111 == ControllerStatus::READY
            && self.registers.change.is_none()
    }

    /// Reports a fatal error (CSTS.CFS) and stops.
    pub(super) fn fail(&mut self) {
        self.registers.csts.0 |= ControllerStatus::FATAL;
    }

    pub(super) fn configuration_fault(&mut self, what: &'static str) {
        self.dma.record(Fault::Configuration(what));
        self.fail();
    }

    /// What a controller reset forgets: everything but the namespaces and the logs.
    pub(super) fn reset(&mut self, doorbells: &Doorbells) {
        self.submission.clear();
        self.completion.clear();
        self.features.clear();
        self.events = Events::default();
        self.shadow = None;
        self.held.clear();
        self.late.clear();
        doorbells.clear();
    }

    /// xorshift64: what is out of order is the same for the same seed.
    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
