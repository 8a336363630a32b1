//! What a node knows of another.

use super::entry::Opening;
use super::ids::Index;
use super::link::Link;
use super::message::Status;
use crate::base::Time;

/// Another node.
pub struct Peer {
    /// The engine's link to it.
    pub link: Link,
    /// Whether the transport says that they can talk.
    pub is_up: bool,
    /// When it was last heard.
    pub heard: Time,
    /// What it said of itself.
    pub(super) status: Option<Status>,
    /// The entries that it wants, when it is a subscriber.
    pub cursor: Option<Cursor>,
    /// The last opening of its store that is remembered here durably.
    pub opening: Option<Opening>,
}

/// How far a subscriber was served.
#[derive(Clone, Copy)]
pub struct Cursor {
    /// The next entry for it.
    pub next: Index,
    /// What it said to have applied.
    pub applied: Index,
}

impl Peer {
    /// A peer that was not heard yet.
    pub fn new(opened: u64) -> Peer {
        Peer {
            link: Link::new(opened),
            is_up: false,
            heard: Time::ZERO,
            status: None,
            cursor: None,
            opening: None,
        }
    }

    /// What it said to have applied.
    pub fn applied(&self) -> Index {
        self.status.map_or(Index::ZERO, |status| status.applied)
    }
}
