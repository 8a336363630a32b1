//! Whether what was done to one block can be put in one order: as if each request had happened at one moment between asking and answer.
//!
//! Where every value is written once, a value with its reads is a zone, and two conditions on zones decide (Gibbons and Korach, "Testing
//! shared memories", 1997): [`zones`]. Zeroes are written often; blocks that were zeroed are decided by
//! [`search`].

use super::{search, zones};
use crate::payload::ZERO;

/// Whether it reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Gives the value.
    Read,
    /// Leaves the value.
    Write,
}

/// What was done to a block. Moments are in the order of all asking and answering; none comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOperation {
    /// Whether it reads or writes.
    pub kind: Kind,
    /// What it wrote, or has read.
    pub value: u64,
    /// When it was asked.
    pub invoked: u64,
    /// When it was answered; never for writes without an answer, which may happen at any time after they were asked, or not at all.
    pub ended: u64,
    /// Which request.
    pub number: usize,
}

/// Why a block's history has no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disorder {
    /// A read has given what nobody had written.
    FromNowhere {
        /// The read's request.
        read: usize,
    },
    /// A read has given what was asked to be written only later.
    FromTheFuture {
        /// The read's request.
        read: usize,
    },
    /// Two values: each was there before and after, or within, the other's time. These are requests that show it.
    Interleaved {
        /// Requests that show it.
        shown_by: Vec<usize>,
    },
    /// At the end of this request no order explains all answers so far.
    NoOrder {
        /// The request.
        at: usize,
    },
}

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Ordered,
    /// There is none.
    Disordered(Disorder),
    /// Too many orders to try.
    Undecided,
}

/// Checks what was done to a block that began as zeroes.
pub fn check(operations: &[BlockOperation]) -> Verdict {
    let is_zeroed = |done: &BlockOperation| done.kind == Kind::Write && done.value == ZERO;
    if operations.iter().any(is_zeroed) {
        search::check(operations)
    } else {
        zones::check(operations)
    }
}

#[cfg(test)]
mod tests;
