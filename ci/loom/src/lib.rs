//! Explores the interleavings of the modules below, the very files of the daemon:
//! `RUSTFLAGS="--cfg loom" cargo test --release`, in this folder.
#![cfg(loom)]
#![allow(dead_code, unused_imports)]

#[path = "../../../src/base/mod.rs"]
pub mod base;

#[path = "."]
pub mod bdev {
    #[path = "../../../src/bdev/range_lock/mod.rs"]
    pub mod range_lock;
}
