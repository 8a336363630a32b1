//! The other end: a blocking client for the command line and for tests.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::RpcError;
use super::scanner::{Scanner, Step};
use crate::base::{self, Error};

/// How long a call may take where nothing else is said, as in SPDK's client.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to a daemon.
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    timeout: Duration,
    next_id: u64,
    received: Vec<u8>,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum CallError {
    /// The daemon refused or failed.
    Refused(RpcError),
    /// There was no answer.
    Transport(Error),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Refused(error) => error.fmt(f),
            CallError::Transport(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CallError {}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        CallError::Transport(error)
    }
}

#[derive(Deserialize)]
struct RawAnswer {
    id: Value,
    #[serde(default)]
    result: Value,
    error: Option<RawError>,
}

#[derive(Deserialize)]
struct RawError {
    code: i32,
    message: String,
}

impl Client {
    /// Connects to the daemon that listens on `path`. Each call may take up to a minute.
    ///
    /// # Errors
    /// When no daemon listens there, with what to do about it.
    pub fn connect(path: &Path) -> base::Result<Client> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    "is weftd running, and on this socket? (-s names another)"
                }
                ErrorKind::PermissionDenied => "the socket belongs to another user",
                _ => "the daemon cannot be reached",
            };
            Error::os(format!("connect to {}: {hint}", path.display()), error)
        })?;
        Ok(Client {
            stream,
            path: path.to_owned(),
            timeout: TIMEOUT,
            next_id: 1,
            received: Vec::new(),
        })
    }

    /// Sets how long each call may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// Runs `method` and gives its result. `params` is an object, or null for none.
    ///
    /// # Errors
    /// What the daemon answered, or why it did not; see [`Client::request`] for its code.
    pub fn call(&mut self, method: &str, params: &Value) -> base::Result<Value> {
        self.request(method, params).map_err(|error| match error {
            CallError::Transport(error) => error,
            CallError::Refused(error) => Error::new(error.kind(), format!("{method}: {error}")),
        })
    }

    /// Runs `method` and gives its result, or the daemon's error as it came.
    ///
    /// # Errors
    /// What the daemon answered, or why it did not.
    pub fn request(&mut self, method: &str, params: &Value) -> Result<Value, CallError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({"jsonrpc": "2.0", "id": id, "method": method});
        if !params.is_null() {
            request["params"] = params.clone();
        }
        let deadline = Instant::now() + self.timeout;
        let doing = |error: io::Error, path: &Path| {
            let what = format!("call {method} at {}", path.display());
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                Error::new(base::ErrorKind::TimedOut, format!("{what}: no answer in time"))
            } else if error.kind() == ErrorKind::UnexpectedEof {
                Error::new(base::ErrorKind::Io, format!("{what}: weftd closed the connection"))
            } else {
                Error::os(what, error)
            }
        };
        self.stream
            .set_write_timeout(Some(self.timeout.max(Duration::from_millis(1))))
            .and_then(|()| self.stream.write_all(request.to_string().as_bytes()))
            .map_err(|error| doing(error, &self.path))?;
        loop {
            let text = self.receive(deadline).map_err(|error| doing(error, &self.path))?;
            let answer: RawAnswer = serde_json::from_slice(&text).map_err(|error| {
                doing(io::Error::new(ErrorKind::InvalidData, error), &self.path)
            })?;
            // A null id answers what the daemon could not read; an older one a call that timed out.
            if answer.id.is_null() || answer.id == json!(id) {
                return match answer.error {
                    Some(error) => {
                        Err(CallError::Refused(RpcError::new(error.code, error.message)))
                    }
                    None => Ok(answer.result),
                };
            }
        }
    }

    /// The next JSON value of the stream.
    fn receive(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut scanner = Scanner::new();
        let mut scanned = 0;
        let mut buffer = [0; 16 << 10];
        loop {
            while let Some(&byte) = self.received.get(scanned) {
                scanned += 1;
                match scanner.step(byte) {
                    Step::End => {
                        let rest = self.received.split_off(scanned);
                        return Ok(std::mem::replace(&mut self.received, rest));
                    }
                    Step::More | Step::Blank => {}
                    Step::Unexpected(what) => {
                        return Err(io::Error::new(ErrorKind::InvalidData, what));
                    }
                    Step::TooDeep => {
                        return Err(io::Error::new(ErrorKind::InvalidData, "nested too deeply"));
                    }
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
