//! JSON-RPC 2.0 over a unix socket, as SPDK frames and names it.
//!
//! The [`Decoder`] turns the bytes of a client into requests, the method table says what each does,
//! and the [`Server`] carries both on the control reactor. Each subsystem has one file of methods
//! below `methods`. [`Client`] is the other end, for the command line.
//!
//! Nothing here starts or stops the daemon: what methods need of it comes in [`Services`].

mod address;
mod batch;
mod client;
mod connection;
mod decoder;
mod dispatch;
mod error;
mod framework;
mod message;
mod method;
pub mod methods;
mod params;
mod reference;
mod scanner;
mod server;
mod services;

pub use address::default_socket;
pub use client::{CallError, Client};
pub use decoder::{Decoded, Decoder, Message};
pub use dispatch::call;
pub use error::RpcError;
pub use framework::{Framework, Stage};
pub use message::{Answer, Call, Id, Rejected};
pub use method::{Method, Outcome, Running, States};
pub use params::{Field, Kind};
pub use reference::{help as method_help, page as reference_page};
pub use server::Server;
pub use services::{BdevOptions, LogControl, LogLevel, Services};
