//! What the state machines know of a payload: that it can be given to several replicas, and cut at blocks.

/// The blocks of a write or a read. Cloning gives another handle of the same bytes.
pub trait Payload: Clone {
    /// How many blocks it has.
    fn blocks(&self) -> u32;

    /// Blocks `first .. first + count` of it.
    fn part(&self, first: u32, count: u32) -> Self;

    /// Blocks that are all zero: what was never written reads as these.
    fn zeroes(count: u32) -> Self;

    /// A handle of bytes that do not change any more, though the guest goes on to change its buffer. Asked once for each write that goes
    /// to more than one replica.
    fn capture(&self) -> Self;
}
