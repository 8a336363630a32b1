//! Judges of a run.

pub mod block;
pub mod history;
mod search;
mod zones;
