//! Virtual bdevs: devices over other devices. One file each.
//!
//! They all have the same shape. A `create` function opens the bases with an exclusive claim, derives
//! the new device's facts from theirs, and registers it. Its queue owns one channel per base on
//! the same reactor. A device that only passes requests on hands the batch through in place, with the
//! submitter's tokens; one that spreads them keeps an array of requests per child
//! (`spread`), which it submits as a batch.
//!
//! They stack in any order. None outlives a base, except for a mirror.

mod bases;
mod corrupt;
mod raids;
mod relay;
mod spread;
mod waiting;

pub mod delay;
pub mod error;
pub mod linear;
pub mod mirror;
pub mod passthru;
pub mod raid;
pub mod split;
pub mod stripe;

pub use raids::{RAID_CLAIM, Raids};
pub use waiting::{VirtualSpec, WaitingList};
