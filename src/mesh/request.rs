//! What users of an attached volume ask, and get.

use super::message::Run;

/// A request to an attached volume. Blocks are the volume's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the text of a variant tells of its fields")]
pub enum Request<P> {
    /// Reads blocks.
    Read(Run),
    /// Writes the payload, which has as many blocks as the run.
    Write(Run, P),
    /// Writes zeroes; with `unmap` the space may be given up where it then reads as zeroes.
    Zero { run: Run, unmap: bool },
    /// Makes stable what has been answered.
    Flush,
}

/// Names a request for who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion<P> {
    /// A write, zeroing or flush was done on every replica that counts.
    Done,
    /// What was read, in the order of its blocks (a part for each piece that lies in another group).
    Data(Vec<P>),
    /// No copy of some of the blocks can be read.
    Unreadable,
    /// The attachment has ended. A write may have been done on some replicas, or all; the next attachment finds them equal again.
    Detached,
    /// Outside of the volume, or a write to a volume attached for reading.
    Invalid,
}
