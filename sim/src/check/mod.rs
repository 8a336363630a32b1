//! Judges of a run.

pub mod authority;
pub mod block;
pub mod history;
pub mod layout;
pub mod replicas;
mod search;
pub mod split;
mod zones;
