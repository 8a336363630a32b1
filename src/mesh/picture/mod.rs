//! The picture of the mesh that follows from a prefix of the log: deterministic, the same on every node that has applied the same prefix.
//!
//! [`Picture::apply`] takes one entry after the other and says what it has changed; everything else looks things up. Numbers of drives,
//! volumes, groups and replicas are counted by the picture and never used again; incarnations and generations are indices of entries.
//!
//! | file | job |
//! | --- | --- |
//! | `command`, `spec`, `state`, `timing` | the vocabulary |
//! | `tables`, `table` | what there is, and its digest |
//! | `apply` | which command is whose |
//! | `nodes`, `drives`, `volumes`, `attach`, `sync`, `moves`, `tick` | the commands |
//! | `rounds` | what a change of replica states does to a group |
//! | `placement`, `extents`, [`footprint`] | where replicas go and what they take |
//! | `matrix` | who reaches whom over which relays |
//! | `snapshot` | everything as bytes |
//! | `soundness` | what always holds |
//!
//! What always holds: extents of a drive are free or in one replica; a group has a holder unless an operator gave it up; the source of
//! a round is a holder of the same group, and in sync if anybody reconciles; epochs only rise.

mod apply;
mod attach;
mod change;
mod command;
mod drives;
mod extents;
pub mod footprint;
pub mod limits;
mod matrix;
mod moves;
mod nodes;
mod placement;
mod rounds;
mod snapshot;
mod soundness;
mod spec;
mod state;
mod sync;
mod table;
mod tables;
mod tick;
mod timing;
mod volumes;

pub use change::Change;
pub use command::{
    Beat, Command, Eviction, Evidence, Nonce, OpenDrive, Refusal, Reply, SyncEnd, SyncStart, Tick,
};
pub use snapshot::BadPicture;
pub use spec::{AttachMode, Domains, DriveSpec, Layout, Spread, VolumeSpec};
pub use state::{
    Attachment, Drive, Group, Node, Part, Replica, ReplicaState, Round, Unfenced, Volume,
};
pub use tables::Picture;
pub use timing::Timing;
