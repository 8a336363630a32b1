//! What a client does.

use crate::mesh::ids::NodeId;
use crate::mesh::message::ToTarget;
use crate::mesh::picture::Command;
use crate::mesh::request::{Completion, Token};
use crate::mesh::route::Route;
use crate::mesh::story;

/// What a client wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the text of a variant tells of its fields")]
pub enum Effect<P> {
    /// Send a message, with its payload if it has one. It may be lost.
    Send {
        /// Whom.
        to: NodeId,
        /// Which way.
        route: Route,
        /// What.
        message: ToTarget,
        /// What a write writes.
        payload: Option<P>,
    },
    /// A request has ended; each one does exactly once.
    Complete {
        /// Which.
        token: Token,
        /// How.
        completion: Completion<P>,
    },
    /// Propose a command to the mesh log. It may be lost: the client proposes again while its reason lasts.
    Propose(Command),
    /// For people.
    Story(story::Event),
    /// The attachment is gone from the picture: the client does nothing any more and can be dropped.
    Ended,
}
