//! What is under way in a session.

use crate::base::Time;
use crate::mesh::ids::Sequence;

/// Most I/O in flight in a session.
pub const WINDOW: usize = 128;

/// How far the oldest unanswered I/O of a session may lie behind the newest: a target need not remember more.
const SPAN: u64 = 2 * WINDOW as u64;

/// An I/O in flight.
#[derive(Clone, Copy)]
pub struct Sent {
    /// The piece's slot.
    pub piece: u32,
    /// The piece's number: what is in the slot may be another by now.
    pub order: u64,
    /// When it was sent, or the target said last that it holds it.
    pub heard: Time,
    /// Its blocks.
    pub blocks: u32,
}

/// The I/O of a session that has not been answered, by sequence number.
#[derive(Default)]
pub struct Flight {
    ring: Vec<Option<Sent>>,
    oldest: u64,
    next: u64,
    count: usize,
    blocks: u64,
}

impl Flight {
    /// Forgets all, and numbers from 1.
    pub fn restart(&mut self) {
        self.forget();
        self.oldest = 1;
        self.next = 1;
    }

    /// Forgets all.
    pub fn forget(&mut self) {
        self.ring.clear();
        self.ring.resize(SPAN as usize, None);
        self.oldest = self.next;
        self.count = 0;
        self.blocks = 0;
    }

    /// Whether another I/O may be sent.
    pub fn has_room(&self) -> bool {
        self.count < WINDOW && self.next - self.oldest < SPAN
    }

    /// Whether nothing waits for an answer.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Blocks in flight.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Adds an I/O and gives its number. Only when there is room.
    pub fn push(&mut self, sent: Sent) -> Sequence {
        let sequence = self.next;
        self.ring[(sequence % SPAN) as usize] = Some(sent);
        self.next += 1;
        self.count += 1;
        self.blocks += u64::from(sent.blocks);
        Sequence(sequence)
    }

    fn slot(&mut self, sequence: Sequence) -> Option<&mut Option<Sent>> {
        let known = (self.oldest..self.next).contains(&sequence.0);
        if known { self.ring.get_mut((sequence.0 % SPAN) as usize) } else { None }
    }

    /// Takes the I/O of this number out, if it waits for its answer.
    pub fn take(&mut self, sequence: Sequence) -> Option<Sent> {
        let sent = self.slot(sequence)?.take()?;
        self.count -= 1;
        self.blocks -= u64::from(sent.blocks);
        while self.oldest < self.next && self.ring[(self.oldest % SPAN) as usize].is_none() {
            self.oldest += 1;
        }
        Some(sent)
    }

    /// The target holds this I/O.
    pub fn held(&mut self, sequence: Sequence, now: Time) {
        if let Some(Some(sent)) = self.slot(sequence) {
            sent.heard = now;
        }
    }

    /// When what was heard of longest ago was heard of; [`Time::NEVER`] when nothing is in flight.
    pub fn oldest_heard(&self) -> Time {
        if self.count == 0 {
            return Time::NEVER;
        }
        self.ring.iter().flatten().map(|sent| sent.heard).min().unwrap_or(Time::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(piece: u32) -> Sent {
        Sent { piece, order: piece.into(), heard: Time(piece.into()), blocks: 1 }
    }

    #[test]
    fn the_window_closes_when_the_oldest_hangs() {
        let mut flight = Flight::default();
        flight.restart();
        assert_eq!(flight.push(sent(1)), Sequence(1));
        let mut last = 1;
        while flight.has_room() {
            last = flight.push(sent(2)).0;
            assert!(flight.take(Sequence(last)).is_some());
            assert!(flight.take(Sequence(last)).is_none());
        }
        assert_eq!(last, SPAN);
        assert_eq!(flight.oldest_heard(), Time(1));
        assert_eq!(flight.take(Sequence(1)).map(|sent| sent.piece), Some(1));
        assert!(flight.has_room() && flight.is_empty());
        assert!(flight.take(Sequence(0)).is_none() && flight.take(Sequence(u64::MAX)).is_none());
    }
}
