//! Virtqueues, split and packed, polled in place.

pub mod device;
