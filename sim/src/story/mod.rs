//! The story of a run: what happened, for people.

pub mod html;
pub mod timeline;

use weft::base::Time;
use weft::mesh::node::{Body, Output, Packet};
use weft::mesh::story::Event;

use crate::payload::Blocks;
use crate::plan::Act;
use crate::world::machine::Machine;
use crate::world::network::Fate;

/// What a packet carries, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Of the mesh log.
    Log,
    /// From a client to a target.
    Request,
    /// From a target to a client.
    Answer,
    /// Between targets.
    Copy,
}

/// A packet between two neighbours.
#[derive(Clone, Debug)]
pub struct Message {
    /// When it was sent, in nanoseconds.
    pub sent: u64,
    /// When it arrived; it may not have.
    pub arrived: Option<u64>,
    /// Who sent it.
    pub from: usize,
    /// Who got it.
    pub to: usize,
    /// What it carries.
    pub kind: Kind,
    /// What it says.
    pub text: String,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum What {
    /// A daemon tells.
    Told(Event),
    /// Someone did something to the mesh, or the director tells.
    Said(String),
    /// A request took so many nanoseconds.
    Stalled(u64, String),
}

/// Something that happened, when and where.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When, in nanoseconds.
    pub time: u64,
    /// On which host; none for what happens to the whole mesh.
    pub host: Option<usize>,
    /// What.
    pub what: What,
}

/// Writes a story down.
#[derive(Default)]
pub struct Recorder {
    /// Whether messages are to be written down as well.
    pub wants_messages: bool,
    /// What happened, in order.
    pub entries: Vec<Entry>,
    /// All packets, in order of sending.
    pub messages: Vec<Message>,
    /// What was done to the mesh.
    pub acts: Vec<(u64, Act)>,
    /// Each host's lease, whenever it changed.
    pub leases: Vec<(u64, usize, bool)>,
    held: Vec<bool>,
}

impl Recorder {
    /// Writes down what happens, and with `messages` all packets.
    pub fn new(messages: bool) -> Recorder {
        Recorder { wants_messages: messages, ..Recorder::default() }
    }

    /// The director tells.
    pub fn say(&mut self, time: u64, host: Option<usize>, text: String) {
        self.entries.push(Entry { time, host, what: What::Said(text) });
    }

    /// Something was done to the mesh.
    pub fn acted(&mut self, time: u64, act: &Act) {
        self.acts.push((time, act.clone()));
    }

    /// A request took long.
    pub fn stalled(&mut self, time: u64, host: usize, took: u64, text: String) {
        self.entries.push(Entry { time, host: Some(host), what: What::Stalled(took, text) });
    }

    /// A daemon has done something.
    pub fn stepped<M: Machine>(
        &mut self,
        time: u64,
        host: usize,
        machine: &M,
        local: Time,
        outputs: &[Output<Blocks>],
    ) {
        if self.held.len() <= host {
            self.held.resize(host + 1, false);
        }
        let held = machine.has_lease(local);
        if held != self.held[host] {
            self.held[host] = held;
            self.leases.push((time, host, held));
        }
        for output in outputs {
            if let Output::Story(event) = output {
                self.entries.push(Entry {
                    time,
                    host: Some(host),
                    what: What::Told(event.clone()),
                });
            }
        }
    }

    /// A packet was sent.
    pub fn sent(&mut self, time: u64, from: usize, to: usize, packet: &Packet<Blocks>, fate: Fate) {
        if self.wants_messages {
            let (kind, text) = describe(&packet.body);
            let arrived = fate.first;
            self.messages.push(Message { sent: time, arrived, from, to, kind, text });
        }
    }
}

fn describe(body: &Body<Blocks>) -> (Kind, String) {
    use weft::mesh::message::Message;
    match body {
        Body::Hello(hello) => (Kind::Log, format!("{hello:?}")),
        Body::Beat { .. } => (Kind::Log, "heartbeat".into()),
        Body::Log(message) => {
            let text = format!("{message:?}");
            (Kind::Log, text.chars().take(60).collect())
        }
        Body::Data(message, payload) => {
            let kind = match message {
                Message::ToTarget(_) => Kind::Request,
                Message::ToClient(_) => Kind::Answer,
                Message::ToPeer(_) => Kind::Copy,
            };
            let mut text = format!("{message:?}");
            if let Some(payload) = payload {
                text += &format!(" {payload:?}");
            }
            (kind, text.chars().take(240).collect())
        }
    }
}
