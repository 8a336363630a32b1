//! What the state machines know of a payload: that it can be given to several replicas, and cut at blocks.

/// The blocks of a write or a read. Cloning gives another handle of the same bytes; they do not change any more once the payload
/// has been handed to a client machine (a guest's buffer is captured before, where there are several copies).
pub trait Payload: Clone {
    /// Blocks `first .. first + count` of it.
    fn part(&self, first: u32, count: u32) -> Self;
}
