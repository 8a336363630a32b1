//! What a target does, and what its parts are given to do it with.

use crate::base::{Time, Uuid};
use crate::mesh::disk::{DiskOperation, Ticket};
use crate::mesh::ids::NodeId;
use crate::mesh::message::{Message, Sender, ToClient};
use crate::mesh::picture::{Command, Timing};
use crate::mesh::route::Route;
use crate::mesh::story;

/// What a target does.
#[derive(Clone, Debug)]
pub enum Effect<P> {
    /// Say this to a node, which may be this one.
    Send { to: NodeId, route: Route, message: Message, payload: Option<P> },
    /// Start an operation on a drive.
    Disk { drive: Uuid, ticket: Ticket, operation: DiskOperation<P> },
    /// Ask this of the mesh log. It may get lost; who still wants it asks again.
    Propose(Command),
    /// For people.
    Story(story::Event),
}

/// The world as a replica sees it while it handles one event.
pub(super) struct Port<'a, P> {
    /// This node.
    pub node: NodeId,
    /// Now.
    pub now: Time,
    /// Whether the serve lease is valid now.
    pub lease: bool,
    /// Timing constants of the applied prefix.
    pub timing: Timing,
    /// Where effects go.
    pub out: &'a mut Vec<Effect<P>>,
}

impl<P> Port<'_, P> {
    pub fn answer(&mut self, to: Sender, message: ToClient, payload: Option<P>) {
        let route = to.route.reversed();
        self.out.push(Effect::Send {
            to: to.node,
            route,
            message: Message::ToClient(message),
            payload,
        });
    }

    pub fn story(&mut self, event: story::Event) {
        self.out.push(Effect::Story(event));
    }

    pub fn propose(&mut self, command: Command) {
        self.out.push(Effect::Propose(command));
    }
}
