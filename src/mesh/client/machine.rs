//! The client of one attached volume.

use super::effect::Effect;
use super::view::View;
use crate::base::Time;
use crate::mesh::ids::{Generation, NodeId, VolumeId};
use crate::mesh::message::{Sender, ToClient};
use crate::mesh::payload::Payload;
use crate::mesh::picture::Change;
use crate::mesh::request::{Request, Token};

/// One node's use of one attached volume, for as long as the attachment lasts.
pub struct Client<P> {
    volume: VolumeId,
    generation: Generation,
    _payload: std::marker::PhantomData<P>,
}

#[allow(unused_variables)]
impl<P: Payload> Client<P> {
    /// A client of an attachment that the picture has, made by `node`; `None` if it has none of this number.
    pub fn new(
        node: NodeId,
        volume: VolumeId,
        generation: Generation,
        picture: &impl View,
        now: Time,
        effects: &mut Vec<Effect<P>>,
    ) -> Option<Client<P>> {
        Some(Client { volume, generation, _payload: std::marker::PhantomData })
    }

    /// Takes a request. It ends with [`Effect::Complete`], now or later.
    pub fn submit(
        &mut self,
        now: Time,
        token: Token,
        request: Request<P>,
        effects: &mut Vec<Effect<P>>,
    ) {
    }

    /// Takes a message of a target.
    pub fn message(
        &mut self,
        now: Time,
        from: Sender,
        message: ToClient,
        payload: Option<P>,
        effects: &mut Vec<Effect<P>>,
    ) {
    }

    /// Follows the picture, after each batch of entries that was applied; `now` was sampled after applying it.
    pub fn picture_changed(
        &mut self,
        now: Time,
        picture: &impl View,
        changes: &[Change],
        effects: &mut Vec<Effect<P>>,
    ) {
    }

    /// Does what is due. To be called at [`Client::next_timer`] or later; earlier does no harm.
    pub fn timer(&mut self, now: Time, effects: &mut Vec<Effect<P>>) {}

    /// When [`Client::timer`] is wanted. Costs nothing.
    pub fn next_timer(&self) -> Time {
        Time::NEVER
    }

    /// Takes no requests any more, and gives up the attachment when what it has is done.
    pub fn detach(&mut self, now: Time, effects: &mut Vec<Effect<P>>) {}

    /// Takes back the list of a [`Completion::Data`](crate::mesh::request::Completion::Data) that has been used up, so that
    /// the next read does not allocate one.
    pub fn recycle(&mut self, list: Vec<P>) {}

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The attachment.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        true
    }

    /// Whether the attachment is gone.
    pub fn has_ended(&self) -> bool {
        false
    }
}
