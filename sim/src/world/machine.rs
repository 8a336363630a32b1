//! What the world drives, and who watches.

use weft::base::Time;
use weft::mesh::node::{Input, Node, Output, Packet, Start};
use weft::mesh::picture::Picture;

use super::network::Fate;
use crate::payload::Blocks;

/// A node's daemon as the world sees it: events in, effects out.
pub trait Machine: Sized {
    /// A daemon starts.
    fn start(start: Start, now: Time) -> Self;
    /// It takes an event.
    fn handle(&mut self, now: Time, input: Input<Blocks>, outputs: &mut Vec<Output<Blocks>>);
    /// When it wants to be woken.
    fn next_timer(&self) -> Time;
    /// What it knows of the mesh.
    fn picture(&self) -> &Picture;
    /// Whether it may serve.
    fn has_lease(&self, now: Time) -> bool;
}

impl Machine for Node<Blocks> {
    fn start(start: Start, now: Time) -> Self {
        Node::start(start, now)
    }

    fn handle(&mut self, now: Time, input: Input<Blocks>, outputs: &mut Vec<Output<Blocks>>) {
        Node::handle(self, now, input, outputs);
    }

    fn next_timer(&self) -> Time {
        Node::next_timer(self)
    }

    fn picture(&self) -> &Picture {
        Node::picture(self)
    }

    fn has_lease(&self, now: Time) -> bool {
        Node::has_lease(self, now)
    }
}

/// Someone who sees all that goes on, and changes nothing.
pub trait Observer<M> {
    /// A daemon has started.
    fn started(&mut self, now: u64, host: usize);
    /// A daemon has taken an event at `now`, `local` on its own clock, and this is what it does.
    fn stepped(
        &mut self,
        now: u64,
        host: usize,
        machine: &M,
        local: Time,
        outputs: &[Output<Blocks>],
    );
    /// A packet was sent.
    fn sent(&mut self, now: u64, from: usize, to: usize, packet: &Packet<Blocks>, fate: Fate);
}
