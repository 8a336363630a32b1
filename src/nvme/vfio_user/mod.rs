//! Controllers that another process emulates and serves over a socket: a client of the vfio-user protocol.
//!
//! [`connect`] gives a [`Transport`]. Registers are read and written by messages, doorbells in memory that the
//! server shares where it does (else by messages that nobody answers), and the server reaches our memory through
//! the files behind it. The files here, bottom up: `wire` the messages, `region_info` one of them, `capabilities` what
//! is negotiated, `inbox` and `outbox` the two directions of the stream, `mapped_memory` what the server may reach,
//! `dialogue` what is said, `connection` who asks, `socket` the way to the server, `window` the mapped registers,
//! `device` the transport.
//!
//! The server is not trusted to speak the protocol: whatever it sends is checked, every reply has a time limit, and
//! a connection on which anything else arrives is given up, with the reason, and reported as
//! [gone](Transport::is_gone). It is trusted with the memory that it is given, and with the file of its registers
//! (see `window`).

pub mod capabilities;
mod connection;
mod device;
mod dialogue;
pub mod inbox;
mod mapped_memory;
mod outbox;
pub mod region_info;
mod socket;
mod window;
pub mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Result;
use crate::nvme::Transport;
use crate::reactor::Context;

use connection::Connection;
use device::Device;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long the server may take to accept, and for each reply. A server that takes longer is given up.
    pub message_timeout: Duration,
    /// Use the registers that the server offers to share, doorbells above all. Without, every doorbell is a
    /// message: slow, but safe from a server that cuts its file short.
    pub map_registers: bool,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions { message_timeout: Duration::from_secs(10), map_registers: true }
    }
}

/// Connects to the controller at `path`: a socket, or a directory with a socket `cntrl` in it, as SPDK's target
/// makes them. From then on the reactor of `cx` moves the messages.
///
/// # Errors
/// When nobody listens there, the server does not speak the protocol or takes too long, or what it serves is no
/// NVMe controller.
pub async fn connect(
    cx: &Context,
    path: &Path,
    options: &ConnectOptions,
) -> Result<Arc<dyn Transport>> {
    let socket_path = socket::path_of(path);
    let patience = options.message_timeout;
    let socket = crate::socket::connect(cx, "vfio-user", &socket_path, patience).await?;
    let address = path.display().to_string();
    let connection = Arc::new(Connection::new(address, socket, options.message_timeout));
    socket::watch(cx, &connection)?;
    match Device::negotiate(cx, Arc::clone(&connection), options.map_registers).await {
        Ok(device) => Ok(Arc::new(device)),
        Err(error) => {
            connection.close();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
