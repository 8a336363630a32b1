//! Everything that changes while the model runs, as small as it can be.

use super::{
    history::History,
    picture::{Entry, Pictures},
    scope::{CLIENTS, ENTRIES, Mutations, REPLICAS, Scope},
};

/// A write on its way or in a queue: its value (0 for none) and the epoch of its session.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    /// The value that it writes; 0 when there is no message.
    pub value: u8,
    /// The epoch of the session that it belongs to.
    pub epoch: u8,
}

impl Message {
    /// No message.
    pub const NONE: Self = Self { value: 0, epoch: 0 };

    /// Whether there is a message.
    pub fn some(self) -> bool {
        self.value != 0
    }

    /// Whether it comes from a session that ended before `epoch`.
    pub fn older_than(self, epoch: u8) -> bool {
        self.some() && self.epoch < epoch
    }
}

/// What a client has under way with one target.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    /// The write, in the newest session.
    pub wire: Message,
    /// A copy of a write in an older session, which may still arrive.
    pub late: Message,
}

/// A client: its prefix, and the write that it carries to completion.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// How many entries it has applied.
    pub applied: u8,
    /// The value that it is writing; 0 for none.
    pub value: u8,
    /// The epoch in which it last sent that write.
    pub epoch: u8,
    /// The replicas that answered in that epoch, as a mask.
    pub answered: u8,
}

/// What a target knows of the round that it takes part in; lost when it restarts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Progress {
    /// The round, by the epoch that started it; 0 for none.
    pub round: u8,
    /// Whose maps have arrived, as a mask.
    pub maps: u8,
    /// Whether one of them has the block.
    pub marked: bool,
    /// Whether the union is complete.
    pub union: bool,
    /// Whether a client wrote the block before that.
    pub recorded: bool,
    /// On a joiner: the block is still to be copied. On the source: it is in the union.
    pub left: bool,
    /// The value that was read from the source and is about to be written.
    pub copy: Option<u8>,
    /// On the source: the joiners that reported the block repaired, as a mask.
    pub reported: u8,
}

/// A target with its one replica.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// How many entries it has applied.
    pub applied: u8,
    /// How often it has started.
    pub incarnation: u8,
    /// What is on the drive.
    pub media: u8,
    /// The intent bit: 0 when clear, else the attachment generation that set it, or `FOREIGN`.
    pub bit: u8,
    /// Writes that passed the checks and are not stable yet, by client.
    pub queue: [Message; CLIENTS],
    /// The epoch of the FinishSync that it proposed; 0 for none.
    pub proposal: u8,
    /// Its part in a round.
    pub progress: Progress,
}

/// An intent bit that was set by a resync or before a restart.
pub const FOREIGN: u8 = u8::MAX;

impl Target {
    /// Whether no queued write comes from a session before `epoch`.
    pub fn drained(&self, epoch: u8) -> bool {
        !self.queue.iter().any(|queued| queued.older_than(epoch))
    }
}

/// One state of the whole model.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The decided entries.
    pub log: [Entry; ENTRIES],
    /// How many of them there are.
    pub decided: u8,
    /// All leases that were gained before this entry have ended.
    pub elapsed: u8,
    /// Route switches so far.
    pub switches: u8,
    /// Writes that have begun; also the newest value.
    pub written: u8,
    /// The newest epoch under which a write was acknowledged.
    pub acknowledged: u8,
    /// The targets.
    pub targets: [Target; REPLICAS],
    /// The clients.
    pub clients: [Client; CLIENTS],
    /// What is under way between them, by client and target.
    pub links: [[Link; REPLICAS]; CLIENTS],
    /// What the clients' reads and writes can mean.
    pub history: History,
}

impl State {
    /// Nothing written, everybody at the initial picture.
    pub fn initial() -> Self {
        Self {
            log: [Entry::Free; ENTRIES],
            decided: 0,
            elapsed: 0,
            switches: 0,
            written: 0,
            acknowledged: 0,
            targets: [Target::default(); REPLICAS],
            clients: [Client::default(); CLIENTS],
            links: [[Link::default(); REPLICAS]; CLIENTS],
            history: History::new(),
        }
    }

    /// The decided entries.
    pub fn entries(&self) -> &[Entry] {
        &self.log[..usize::from(self.decided)]
    }

    /// How many entries match.
    pub fn count(&self, wanted: impl Fn(Entry) -> bool) -> u8 {
        self.entries().iter().fold(0, |count, &entry| count + u8::from(wanted(entry)))
    }

    /// The pictures of all prefixes of the log.
    pub fn pictures(&self, scope: &Scope, mutations: &Mutations) -> Pictures {
        Pictures::of(self.entries(), scope.replicas, mutations)
    }
}
