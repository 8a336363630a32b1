//! What reaches a node, and what it does.

use crate::base::Uuid;
use crate::consensus;
use serde::{Deserialize, Serialize};

use crate::mesh::disk::{DiskOperation, DiskResult, Ticket};
use crate::mesh::ids::{Generation, NodeId, VolumeId};
use crate::mesh::message::Message;
use crate::mesh::picture::{AttachMode, Beat, Command, Domains, DriveSpec, Refusal, Reply};
use crate::mesh::request::{Completion, Request, Token};
use crate::mesh::route::Route;
use crate::mesh::story;

/// What reaches a node.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the text of a variant tells of its fields")]
pub enum Input<P> {
    /// The moment of [`next_timer`](super::Node::next_timer) has come.
    Timer,
    /// A packet has come from this neighbour.
    Packet { from: NodeId, packet: Packet<P> },
    /// An operation of a drive has ended.
    Disk { drive: Uuid, ticket: Ticket, result: DiskResult<P> },
    /// A drive is there, and nothing that was asked of it before is under way any more (it was reset); its label has just been rewritten with this open count and nonce, and keeps the nonces of the openings `previous` to it,
    /// because the log may never have learned of the last ones. `identity` is what the device itself says it is. A drive that is not
    /// in the log yet is added to it if `add` says what it is.
    DriveFound {
        uuid: Uuid,
        open_count: u64,
        nonce: u64,
        previous: Vec<u64>,
        identity: u64,
        add: Option<DriveSpec>,
    },
    /// A drive is not there any more. Whatever was asked of it is over; an answer may come or not.
    DriveLost { uuid: Uuid },
    /// The store has made a batch durable.
    Stored { batch: consensus::BatchId },
    /// The store cannot.
    StoreFailed,
    /// Attach a volume here. Answered by [`Output::Attached`]; retried until the mesh has decided.
    Attach { tag: u64, volume: VolumeId, mode: AttachMode, preempt: bool },
    /// Detach it, once nothing is in flight. Answered by [`Output::Answered`].
    Detach { tag: u64, volume: VolumeId },
    /// A request to a volume that is attached here.
    Submit { volume: VolumeId, token: Token, request: Request<P> },
    /// An operator's command. Answered by [`Output::Answered`].
    Ask { tag: u64, command: Command },
    /// Change the members of the quorum to exactly these nodes. Answered by [`Output::Answered`].
    SetMembers { tag: u64, members: Vec<NodeId> },
}

/// What a node does.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the text of a variant tells of its fields")]
pub enum Output<P> {
    /// Send a packet to a neighbour. It may be lost.
    Send { to: NodeId, packet: Packet<P> },
    /// Start an operation on a drive.
    Disk { drive: Uuid, ticket: Ticket, operation: DiskOperation<P> },
    /// Make a batch durable.
    Store(consensus::store::Batch),
    /// A request has ended.
    Completed { volume: VolumeId, token: Token, completion: Completion<P> },
    /// An attachment is made (I/O may start), or cannot be.
    Attached { tag: u64, result: Result<Generation, Refusal> },
    /// An attachment has ended: revoked, preempted, or detached.
    Detached { volume: VolumeId, generation: Generation },
    /// An operator's command was decided.
    Answered { tag: u64, result: Result<Reply, Refusal> },
    /// For people.
    Story(story::Event),
    /// The daemon must stop: nothing that it would say from here on can be relied on.
    Stop { why: String },
}

/// What travels between neighbours.
#[derive(Clone, Debug)]
pub struct Packet<P> {
    /// Who it is from.
    pub from: NodeId,
    /// Who it is for.
    pub to: NodeId,
    /// The way, seen from `from`.
    pub route: Route,
    /// How many relays it has passed.
    pub passed: u8,
    /// What it says.
    pub body: Body<P>,
}

/// What a packet says.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the text of a variant tells of its fields")]
pub enum Body<P> {
    /// Between the logs of two neighbours.
    Log(consensus::Message),
    /// Between clients and targets, with the payload if there is one.
    Data(Message, Option<P>),
    /// Between neighbours, all the time: I am here, and I hear you or not.
    Hello(Hello),
    /// To the leader of the log, over members: a heartbeat. `hops` more members may pass it on.
    Beat { beat: Beat, hops: u8 },
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its number.
    pub node: NodeId,
    /// Its lasting name.
    pub uuid: Uuid,
    /// A random number that no other start of any daemon has.
    pub origin: u64,
    /// Where it can be reached.
    pub addresses: Vec<String>,
    /// Where it is.
    pub domains: Domains,
    /// Nodes that it knows before it knows the log.
    pub peers: Vec<NodeId>,
    /// The secret's digest that admits it, if it is no part of the mesh yet.
    pub token: Option<[u8; 32]>,
    /// Whether it is the first node of a new mesh.
    pub found: bool,
    /// What its store held; `None` without a store.
    pub restored: Option<consensus::store::Restored>,
    /// Timers of the log.
    pub settings: consensus::Settings,
}

/// See [`Body::Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The start of the daemon that says it.
    pub origin: u64,
    /// Counts up, so that what comes late is recognised.
    pub counter: u64,
    /// The sender hears who it is for.
    pub hears: bool,
}
