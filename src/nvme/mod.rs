//! NVMe controllers: the specification's structures, the ways to reach a controller, and the driver.
//!
//! From the outside in: a [`Controller`] is attached by a [`Transport`] and lives on the control reactor; a [`Queue`] is one
//! user's share of a queue pair, on the reactor that opened it. Between them, [`spec`] is the vocabulary.

mod admin;
mod bell;
mod commands;
mod controller;
mod link;
mod memory;
pub mod model;
mod pair;
mod payload;
pub mod pci;
mod place;
pub mod qtest;
mod queue;
mod regions;
mod ring;
mod slots;
pub mod spec;
mod transport;
mod trouble;
pub mod vfio;
pub mod vfio_user;

pub use controller::{
    Controller, ControllerOptions, Namespace, Notice, ResetPolicy, State, TimeoutAction, Watcher,
};
pub use place::Place;
pub use queue::{Batch, Done, Push, Queue, QueueOpener};
pub use slots::Tag;
pub use transport::{ControlFuture, Doorbell, Iova, Post, Transport};
pub use trouble::{Injection, PairStats};
