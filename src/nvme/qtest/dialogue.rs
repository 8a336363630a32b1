//! A conversation over a socket, in lines: each line that we send is answered by one, in order.
//!
//! Nothing here blocks. A question is sent and its answer awaited on the reactor; a post is sent, and its answer dropped
//! when it comes. What does not go out at once goes with the next line or the next wait: the other side reads faster than
//! a driver rings doorbells, and a driver that waits for more asks for a register.

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::{Error, ErrorKind, Result};
use crate::reactor::Context;

/// More than this waits in either direction only when the other side is broken.
const BACKLOG_MAX: usize = 1 << 20;

/// Whether a line is an answer, or something that the other side says by itself.
type IsAnswer = fn(&str) -> bool;

pub(super) struct Dialogue {
    name: String,
    patience: Duration,
    inner: Mutex<Inner>,
}

struct Inner {
    stream: UnixStream,
    is_answer: IsAnswer,
    out: Vec<u8>,
    input: Vec<u8>,
    /// Lines sent, and answers received.
    sent: u64,
    answered: u64,
    /// The questions that somebody waits for, by number; with their answers.
    awaited: BTreeMap<u64, Option<String>>,
    /// Why there is no talking any more.
    broken: Option<String>,
}

impl Dialogue {
    /// Connects to the socket at `path`. Every answer has to come within `patience`.
    pub(super) fn connect(
        path: &Path,
        patience: Duration,
        is_answer: IsAnswer,
    ) -> Result<Dialogue> {
        let name = path.display().to_string();
        let doing = || format!("cannot connect to QEMU at {name}");
        let stream = UnixStream::connect(path).map_err(|error| Error::os(doing(), error))?;
        stream.set_nonblocking(true).map_err(|error| Error::os(doing(), error))?;
        let inner = Inner {
            stream,
            is_answer,
            out: Vec::new(),
            input: Vec::new(),
            sent: 0,
            answered: 0,
            awaited: BTreeMap::new(),
            broken: None,
        };
        Ok(Dialogue { name, patience, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics under the lock with a line half written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a line whose answer nobody needs.
    pub(super) fn post(&self, line: Arguments<'_>) {
        let inner = &mut *self.lock();
        inner.push(line);
        inner.pump();
    }

    /// Sends lines in one piece and waits for the answer to the last.
    pub(super) async fn ask(&self, cx: &Context, lines: &[Arguments<'_>]) -> Result<String> {
        let number = {
            let inner = &mut *self.lock();
            for line in lines {
                inner.push(*line);
            }
            let number = inner.sent.saturating_sub(1);
            inner.awaited.insert(number, None);
            number
        };
        let awaited = Awaited { dialogue: self, number };
        let start = Instant::now();
        loop {
            {
                let inner = &mut *self.lock();
                inner.pump();
                if let Some(answer) = inner.awaited.get_mut(&number).and_then(Option::take) {
                    drop(inner.awaited.remove(&number));
                    std::mem::forget(awaited);
                    return Ok(answer);
                }
                if inner.broken.is_none() && start.elapsed() > self.patience {
                    inner.broken = Some(format!("no answer within {:?}", self.patience));
                }
                if let Some(why) = &inner.broken {
                    let what =
                        format!("{}: the conversation with QEMU has ended: {why}", self.name);
                    return Err(Error::new(ErrorKind::NoDevice, what));
                }
            }
            cx.yield_now().await;
        }
    }

    /// Whether there is no talking any more.
    pub(super) fn is_broken(&self) -> bool {
        let inner = &mut *self.lock();
        inner.pump();
        inner.broken.is_some()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Inner {
    fn push(&mut self, line: Arguments<'_>) {
        if self.out.len() > BACKLOG_MAX {
            self.broken = Some("it reads nothing".into());
        }
        if self.broken.is_none() {
            // Writing to a vector does not fail.
            let _ = writeln!(self.out, "{line}");
        }
        self.sent += 1;
    }

    /// Sends what goes, reads what has come.
    fn pump(&mut self) {
        if self.broken.is_some() {
            return;
        }
        if let Err(why) = self.send().and_then(|()| self.receive()) {
            self.broken = Some(why);
        }
    }

    fn send(&mut self) -> std::result::Result<(), String> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => return Err("it takes nothing".into()),
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == IoErrorKind::WouldBlock => break,
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> std::result::Result<(), String> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err("it hung up".into()),
                Ok(read) => self.input.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == IoErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == IoErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            }
            while let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8_lossy(&self.input[..end]).trim().to_owned();
                self.input.drain(..=end);
                self.take_line(line)?;
            }
            if self.input.len() > BACKLOG_MAX {
                return Err("it sends a line without end".into());
            }
        }
    }

    fn take_line(&mut self, line: String) -> std::result::Result<(), String> {
        if !(self.is_answer)(&line) {
            return Ok(());
        }
        if self.answered == self.sent {
            return Err(format!("it answered what was not asked: {line:?}"));
        }
        if let Some(place) = self.awaited.get_mut(&self.answered) {
            *place = Some(line);
        }
        self.answered += 1;
        Ok(())
    }
}

/// A question whose answer is awaited; dropped, it is not any more.
struct Awaited<'a> {
    dialogue: &'a Dialogue,
    number: u64,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.dialogue.lock().awaited.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::memory::{HugePages, PoolOptions, Registry};

    fn pair(patience: Duration) -> (Context, Dialogue, UnixStream, tempfile::TempDir) {
        let pool = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let is_answer: IsAnswer = |line| line.starts_with("OK");
        let dialogue = Dialogue::connect(&path, patience, is_answer).unwrap();
        let (other, _) = listener.accept().unwrap();
        (Context::detached(Registry::new(), pool), dialogue, other, folder)
    }

    #[test]
    fn answers_find_their_questions() {
        let (cx, dialogue, mut other, _folder) = pair(Duration::from_secs(10));
        dialogue.post(format_args!("first"));
        other.write_all(b"OK 1\nIRQ raise 3\n").unwrap();
        assert!(!dialogue.is_broken());
        // An answer before its question is a violation.
        other.write_all(b"OK 2\n").unwrap();
        assert!(dialogue.is_broken());
        assert!(cx.block_on(dialogue.ask(&cx, &[format_args!("2")])).is_err());

        let (cx, dialogue, mut other, _folder) = pair(Duration::from_secs(10));
        let lines = [format_args!("second"), format_args!("third")];
        let answer = cx.block_on(async {
            let mut ask = Box::pin(dialogue.ask(&cx, &lines));
            assert!(futures_lite::future::poll_once(&mut ask).await.is_none());
            other.write_all(b"OK a\nIRQ raise 3\nOK b\n").unwrap();
            ask.await
        });
        assert_eq!(answer.unwrap(), "OK b");
        let mut sent = [0; 13];
        other.read_exact(&mut sent).unwrap();
        assert_eq!(&sent, b"second\nthird\n");
    }

    #[test]
    fn silence_and_a_hang_up_end_it() {
        let (cx, dialogue, other, _folder) = pair(Duration::from_millis(20));
        assert!(cx.block_on(dialogue.ask(&cx, &[format_args!("x")])).is_err());
        assert!(dialogue.is_broken());
        drop(other);
        let (cx, dialogue, other, _folder) = pair(Duration::from_secs(10));
        drop(other);
        let error = cx.block_on(dialogue.ask(&cx, &[format_args!("x")])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoDevice);
    }
}
