//! Virtqueues, split and packed, polled in place.

pub mod device;
mod position;

pub use position::Position;
