//! Reactors as a whole.

mod group;
mod round;

use super::*;
use crate::memory::{HugePages, PoolOptions, Registry};

/// So long that a test which has to wait for it does not end.
const FOREVER: std::time::Duration = std::time::Duration::from_secs(10_000);

fn pool() -> PoolOptions {
    PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() }
}

fn detached() -> Context {
    Context::detached(Registry::new(), pool())
}
