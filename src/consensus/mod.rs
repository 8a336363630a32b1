//! The metadata quorum: one replicated log, decided by the members, that reaches every node.
//!
//! A node drives one [`Log`]: events go in, effects come out. It does no I/O, reads no clock, draws no random number
//! and starts no thread; its order of effects depends on the order of events only. `docs/consensus.md` tells what
//! the engine (OmniPaxos) does and what is ours.

mod entry;
mod event;
pub mod ids;
mod log;
mod message;
mod settings;
pub mod store;

pub use entry::{Configuration, Member, Opening};
pub use event::{Effect, Event, Failure, Refusal};
pub use ids::{BatchId, Index, NodeId, RequestId};
pub use log::Log;
pub use message::Message;
#[doc(hidden)]
pub use settings::Mutations;
pub use settings::Settings;
