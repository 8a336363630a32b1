//! The connection of one command to the daemon.

use std::path::PathBuf;

use serde_json::Value;

use super::output::Format;
use crate::base::Result;
use crate::rpc::Client;

/// A connection, made at the first call, and how the command prints.
pub struct Session {
    socket: PathBuf,
    format: Format,
    client: Option<Client>,
}

impl Session {
    /// A session with the daemon behind `socket`.
    pub fn new(socket: PathBuf, format: Format) -> Session {
        Session { socket, format, client: None }
    }

    /// How to print.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// When the daemon cannot be reached, and what it answers.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(Client::connect(&self.socket)?),
        };
        client.call(method, &params)
    }
}
