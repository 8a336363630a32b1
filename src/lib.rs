//! Weft: software-defined shared NVMe in user space.
//!
//! The modules below stand in layer order: a module uses only modules in lines above its own.
//! `tests/tidy.rs` holds the tree to that. `ARCHITECTURE.md` follows one write through them.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod base;

pub mod memory;

pub mod reactor;

pub mod socket;

pub mod nvme;

pub mod virtio;

pub mod bdev;

pub mod load;

pub mod vhost;

pub mod consensus;

pub mod mesh;

pub mod rpc;

pub mod daemon;

pub mod cli;
