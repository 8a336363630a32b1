//! The mesh protocol: state machines without I/O for the picture, targets, clients and routes.

pub mod ids;

pub mod route;

pub mod mutations;

pub mod picture;

pub mod disk;

pub mod request;

pub mod story;

pub mod message;

pub mod payload;

pub mod target;

pub mod client;

pub mod node;

pub mod wire;
