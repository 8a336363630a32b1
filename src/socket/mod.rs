//! Unix sockets without blocking: the [`Listener`] that one process has at a path, [`connect()`], and streams
//! whose bytes have descriptors beside them ([`receive`], [`send`]).
//!
//! What is said over them is the business of the protocols above.

mod connect;
mod listener;
mod stream;

pub use connect::connect;
pub use listener::Listener;
pub use stream::{DESCRIPTORS_MAX, ReceiveError, Received, receive, send};
