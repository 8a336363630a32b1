//! The link under the engine: in order, without duplicates, and what is lost is noticed.
//!
//! Each direction counts its ordered messages within a session. What comes early waits; what is missing for longer than
//! a heartbeat makes the receiver ask for a new session, which is announced to the engine on both sides.

use std::collections::BTreeMap;
use std::time::Duration;

use omnipaxos::messages::Message as EngineMessage;
use omnipaxos::messages::ballot_leader_election::{BLEMessage, HeartbeatMsg};

use super::entry::Entry;
use super::message::{Frame, Session};
use crate::base::Time;

/// Most messages that wait for an earlier one.
const EARLY_MAX: usize = 64;

/// Both directions between this node and a peer.
#[derive(Debug, Default)]
pub struct Link {
    sending: Session,
    sent: u64,
    receiving: Option<Session>,
    received: u64,
    early: BTreeMap<u64, EngineMessage<Entry>>,
    missing_since: Option<Time>,
    /// A session of which something was left out, as this node did not vote yet.
    left_out: Option<Session>,
    reply_round: u32,
}

impl Link {
    /// A link of the store's opening of this count.
    pub fn new(opened: u64) -> Link {
        Link { sending: Session { opened, number: 0 }, ..Link::default() }
    }

    /// Puts a message into a frame.
    pub(super) fn send(&mut self, message: EngineMessage<Entry>) -> (Session, Frame) {
        let frame = match message {
            EngineMessage::BLE(_) => Frame::Loose(self.sent, Box::new(message)),
            EngineMessage::SequencePaxos(_) => {
                self.sent += 1;
                Frame::Ordered(self.sent - 1, Box::new(message))
            }
        };
        (self.sending, frame)
    }

    /// Begins another session, when `session` is the one that something is missing of, or in any case.
    pub(super) fn renew(&mut self, session: Option<Session>) -> bool {
        let is_due = session.is_none_or(|session| session == self.sending);
        if is_due {
            self.sending.number += 1;
            self.sent = 0;
        }
        is_due
    }

    /// A frame of this session is left out.
    pub(super) fn leave_out(&mut self, session: Session) {
        self.left_out = self.left_out.max(Some(session));
    }

    /// The session that must be begun anew before its sender can be followed.
    pub(super) fn take_left_out(&mut self) -> Option<Session> {
        self.left_out.take()
    }

    /// Takes a frame, gives out what is in order, and says whether a session began with it.
    pub(super) fn receive(
        &mut self,
        now: Time,
        session: Session,
        frame: Frame,
        messages: &mut Vec<EngineMessage<Entry>>,
    ) -> bool {
        if self.receiving > Some(session) {
            return false;
        }
        let is_new = self.receiving != Some(session);
        if is_new {
            self.receiving = Some(session);
            self.received = 0;
            self.early.clear();
            self.missing_since = None;
            self.reply_round = 0;
        }
        match frame {
            Frame::Ordered(place, message) if place == self.received => {
                self.received += 1;
                messages.push(*message);
                while let Some(message) = self.early.remove(&self.received) {
                    self.received += 1;
                    messages.push(message);
                }
                self.missing_since = None;
            }
            Frame::Ordered(place, message) if place > self.received => {
                self.missing_since.get_or_insert(now);
                if self.early.len() < EARLY_MAX {
                    self.early.insert(place, *message);
                }
            }
            Frame::Ordered(..) => {}
            Frame::Loose(sent, message) => {
                if sent > self.received {
                    self.missing_since.get_or_insert(now);
                }
                if self.is_fresh(&message) {
                    messages.push(*message);
                }
            }
        }
        if !self.early.is_empty() {
            self.missing_since.get_or_insert(now);
        }
        is_new
    }

    /// The engine counts the replies of a round without looking whose they are.
    fn is_fresh(&mut self, message: &EngineMessage<Entry>) -> bool {
        match message {
            EngineMessage::BLE(BLEMessage { msg: HeartbeatMsg::Reply(reply), .. }) => {
                let is_fresh = reply.round > self.reply_round;
                self.reply_round = self.reply_round.max(reply.round);
                is_fresh
            }
            _ => true,
        }
    }

    /// The session of which something has been missing for longer than `patience`.
    pub(super) fn overdue(&mut self, now: Time, patience: Duration) -> Option<Session> {
        let since = self.missing_since?;
        (now.since(since) >= patience).then(|| {
            self.missing_since = Some(now);
            self.receiving
        })?
    }
}
