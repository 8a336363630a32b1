//! Virtqueues, split and packed, polled in place.

pub mod device;
pub mod driver;
mod position;

pub use position::Position;
