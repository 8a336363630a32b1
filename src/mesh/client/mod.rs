//! The client's side of an attached volume: a [`Client`] takes requests for the volume's blocks, sends each to the replicas that must
//! have it, and completes it when their answers allow; it finds ways around broken links, proposes to leave behind what it cannot reach,
//! and waits until what was left behind serves nothing any more.
//!
//! One owner drives it: events and the time go in, [`Effect`]s come out. It holds no connection, no clock and no copy of the picture but
//! of the facts of its own volume, taken through [`View`] whenever they change.
//!
//! What holds at all times:
//! - An answer counts only in the session that it belongs to, and a session belongs to one epoch and one incarnation of a drive.
//! - A write that has started is sent to all replicas of the write set of the current epoch until all have answered in that epoch, or
//!   the attachment is gone from the picture. Only then is it answered, and only when all that could serve what was before are fenced.
//! - No two pieces of I/O that share a block are under way at once, unless both read.
//! - Per I/O nothing is allocated, once slots have been used and lists have their length; a group without I/O costs nothing.

mod effect;
mod slab;
mod view;

mod flight;
mod layout;
mod path;
mod piece;

mod fence;
mod link;

mod group;

mod machine;

mod follow;
mod health;
mod io;
mod requests;
mod sessions;

pub use effect::Effect;
pub use machine::Client;
pub use view::View;
