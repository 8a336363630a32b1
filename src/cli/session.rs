//! The connection of one command to the daemon.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::output::Format;
use crate::base::Result;
use crate::rpc::Client;

/// A connection, made at the first call, and how the command prints.
pub struct Session {
    socket: PathBuf,
    format: Format,
    timeout: Option<Duration>,
    client: Option<Client>,
}

impl Session {
    /// A session with the daemon behind `socket`.
    pub fn new(socket: PathBuf, format: Format) -> Session {
        Session { socket, format, timeout: None, client: None }
    }

    /// How to print.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Lets each call from now on take so long.
    pub fn wait_up_to(&mut self, timeout: Duration) {
        if self.timeout.replace(timeout) != Some(timeout) {
            // The time is the connection's.
            self.client = None;
        }
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// When the daemon cannot be reached, and what it answers.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let client = match &mut self.client {
            Some(client) => client,
            None => {
                let client = Client::connect(&self.socket)?;
                self.client.insert(match self.timeout {
                    Some(timeout) => client.with_timeout(timeout),
                    None => client,
                })
            }
        };
        client.call(method, &params)
    }
}
