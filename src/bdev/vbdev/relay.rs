//! The queue core of a device that holds requests back on their way to, or from, its one base.
//!
//! Every request has a slot from when it is taken until it completes; the base knows it by the slot's
//! number. Sized at open; the channel to the base has room for all slots, or they wait in `pending`.

use std::sync::Arc;

use crate::base::{Lba, Result, Status};
use crate::bdev::request::{Completion, Completions, Request, RequestFlags};
use crate::bdev::{Channel, Device, Queue};
use crate::reactor::{Activity, Context};

pub(super) struct Relay {
    channel: Channel,
    /// The requests as they came.
    slots: Vec<Request>,
    free: Vec<u32>,
    depth: usize,
    /// For the base, which has not taken them yet.
    pending: Vec<Request>,
    /// What came back from the base and was not looked at yet.
    returned: Completions,
    /// What goes to the submitter.
    finished: Vec<Completion>,
    /// How many are with the base.
    inflight: usize,
}

impl Relay {
    pub(super) fn open(base: &Arc<Device>, cx: &Context, depth: u32) -> Result<Relay> {
        let channel = base.open_channel(cx, depth)?;
        let depth = depth as usize;
        Ok(Relay {
            channel,
            slots: Vec::with_capacity(depth),
            free: Vec::with_capacity(depth),
            depth,
            pending: Vec::with_capacity(depth),
            returned: Completions::with_capacity(depth),
            finished: Vec::with_capacity(depth),
            inflight: 0,
        })
    }

    /// How many more requests it takes.
    pub(super) fn room(&self) -> usize {
        self.depth - (self.slots.len() - self.free.len()) - self.finished.len()
    }

    /// How many requests are with the base.
    pub(super) fn inflight(&self) -> usize {
        self.inflight
    }

    /// Gives a request a slot. There is [`Relay::room`].
    pub(super) fn take(&mut self, request: &Request) -> u32 {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = *request;
                slot
            }
            None => {
                self.slots.push(*request);
                self.slots.len() as u32 - 1
            }
        }
    }

    /// The request in a slot, as it came.
    pub(super) fn request(&self, slot: u32) -> &Request {
        &self.slots[slot as usize]
    }

    /// Sends the request in a slot to the base, as it came.
    pub(super) fn forward(&mut self, slot: u32) {
        let request = *self.request(slot);
        self.forward_as(slot, request);
    }

    /// Sends `request` to the base in place of the one in a slot.
    pub(super) fn forward_as(&mut self, slot: u32, request: Request) {
        let flags = request.ticket.flags.without(RequestFlags::PART.with(RequestFlags::DETOUR));
        let lba: Lba = request.lba;
        self.pending.push(request.child(lba, u64::from(slot)).with_flags(flags));
        self.inflight += 1;
    }

    /// Hands what is pending to the base.
    pub(super) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let accepted = self.channel.submit(&mut self.pending);
        self.pending.drain(..accepted);
    }

    /// Polls the base; what came back is for [`Relay::returned`].
    pub(super) fn poll_base(&mut self) -> Activity {
        self.flush();
        self.returned.clear();
        if self.inflight == 0 {
            return Activity::Idle;
        }
        let activity = self.channel.poll(&mut self.returned);
        self.inflight -= self.returned.len();
        activity
    }

    /// The completions that the last [`Relay::poll_base`] brought: their tokens are slots.
    pub(super) fn returned(&self, index: usize) -> Option<Completion> {
        self.returned.as_slice().get(index).copied()
    }

    /// Completes the request in a slot with `status`.
    pub(super) fn finish(&mut self, slot: u32, status: Status) {
        let blocks = self.slots[slot as usize].ticket.blocks;
        self.finish_as(slot, status, blocks);
    }

    /// Completes the request in a slot as the base did.
    pub(super) fn finish_as(&mut self, slot: u32, status: Status, blocks: u32) {
        let ticket = self.slots[slot as usize].ticket;
        self.free.push(slot);
        debug_assert!(
            self.finished.len() < self.depth,
            "more requests were taken than there is room"
        );
        // For all but passthrough commands `blocks` is what the ticket says anyway.
        self.finished.push(ticket.complete_passthrough(status, blocks));
    }

    /// Gives what finished to the submitter.
    pub(super) fn deliver(&mut self, completions: &mut Completions) -> Activity {
        completions.take_from(&mut self.finished)
    }
}
