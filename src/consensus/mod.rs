//! The metadata quorum: one replicated log, decided by the members, that reaches every node.
//!
//! A node drives one [`Log`]: events go in, effects come out. It does no I/O, reads no clock, draws no random number
//! and starts no thread; its order of effects depends on the order of events only. `docs/consensus.md` tells what
//! the engine (OmniPaxos) does and what is ours.
//!
//! | part | job |
//! | --- | --- |
//! | `log` | [`Log`]: dispatch, and the applied prefix |
//! | `member`, `role` | voting, deciding alone, joining |
//! | `admission` | whether a store is what it was, before its member votes |
//! | `feed`, `source` | entries and snapshots to and from other nodes |
//! | `proposals`, `waiting` | proposals to the leader |
//! | `engine`, `image`, `link` | OmniPaxos, its storage, and the FIFO links under it |
//! | `commit` | group commit, and what messages wait for |
//! | `state`, `requests`, `history` | what was applied |
//! | [`store`] | what is durable, and where |

mod admission;
mod commit;
mod engine;
mod entry;
mod event;
mod feed;
mod history;
pub mod ids;
mod image;
mod link;
mod log;
mod member;
mod message;
mod peer;
mod proposals;
mod requests;
mod role;
mod settings;
mod source;
mod state;
pub mod store;
mod waiting;

pub use entry::{Configuration, Member, Opening};
pub use event::{Effect, Event, Failure, Refusal};
pub use ids::{BatchId, Index, NodeId, RequestId};
pub use log::Log;
pub use message::Message;
#[doc(hidden)]
pub use settings::Mutations;
pub use settings::Settings;
