//! The intent map: which regions of a device may differ between its copies.
//!
//! Whoever writes to several copies sets the bit of a region, durably on all of them, before it
//! issues the first write there. After a crash only those regions can differ. A copy that is away
//! misses only what lies in regions whose bit was set since, as long as no bit is cleared meanwhile.
//! A second bit says that a region was written ever: what a new copy needs.
//!
//! | part | job |
//! | --- | --- |
//! | [`MapLayout`] | which region a block is in, which page of the map a region is in |
//! | [`page`] | a page of the map as bytes |
//! | [`IntentMap`] | the map in memory, and which pages must be written: no I/O of its own |
//! | [`Tracker`], [`Writer`] | what every queue sees of it without a lock: which bits are durable, and which regions are in use |
//!
//! It knows nothing of what the copies are. It does no I/O: bytes go in and out, and who owns it
//! promises that a page is durable on every copy before it says so.

mod layout;
mod map;
pub mod page;
mod tracker;

#[cfg(test)]
mod tests;

pub use layout::MapLayout;
pub use map::{IntentMap, PageWrite};
pub use tracker::{Mark, Tracker, Writer};
