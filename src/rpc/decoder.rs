//! Bytes of one client in, requests out. No I/O: the server, the tests and the fuzzer drive it.
//!
//! SPDK frames requests by nothing but their own syntax: objects, or arrays of objects for batches,
//! follow one another with whitespace between them or none. So nothing tells where the next request
//! starts once one is broken; then the decoder says so once and stays silent.
//!
//! However the bytes are cut into pieces, the same comes out.

use serde_json::value::RawValue;

use super::error::RpcError;
use super::message::{Call, Rejected};
use super::scanner::{Scanner, Step};
use crate::base::limits::{
    RPC_REQUEST_DEPTH_MAX, RPC_REQUEST_SIZE_MAX, RPC_REQUESTS_IN_FLIGHT_MAX,
};

/// A request, or what stands in its place.
pub type Decoded = Result<Call, Rejected>;

/// What the stream holds next.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// One request.
    Single(Decoded),
    /// Requests whose answers go back together.
    Batch(Vec<Decoded>),
    /// The stream is broken from here on: answer this with id null, and close.
    Broken(RpcError),
}

impl Message {
    /// How many requests it holds.
    pub fn requests(&self) -> usize {
        match self {
            Message::Single(_) => 1,
            Message::Batch(batch) => batch.len(),
            Message::Broken(_) => 0,
        }
    }
}

/// The decoder of one client's stream.
#[derive(Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Where in `bytes` the next message starts; what is before was given out.
    start: usize,
    /// Up to where the scanner has seen `bytes`.
    scanned: usize,
    scanner: Scanner,
    /// Position of `bytes[0]` in the stream.
    position: u64,
    broken: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Decoder {
        Decoder {
            bytes: Vec::new(),
            start: 0,
            scanned: 0,
            scanner: Scanner::new(),
            position: 0,
            broken: false,
        }
    }

    /// Takes more bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.broken {
            return;
        }
        // Moves what is left only when it is at most half, so each byte is moved once on average.
        if self.start >= self.bytes.len() - self.start {
            self.bytes.drain(..self.start);
            self.position += self.start as u64;
            self.scanned -= self.start;
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether bytes are left that no message was made of yet.
    pub fn has_rest(&self) -> bool {
        self.start < self.bytes.len()
    }

    fn fail(&mut self, error: RpcError) -> Option<Message> {
        self.broken = true;
        self.bytes = Vec::new();
        self.start = 0;
        self.scanned = 0;
        Some(Message::Broken(error))
    }

    /// The next message, or `None` until more bytes come (or for ever, once the stream is broken).
    pub fn next_message(&mut self) -> Option<Message> {
        while let Some(&byte) = self.bytes.get(self.scanned) {
            let step = self.scanner.step(byte);
            self.scanned += 1;
            match step {
                Step::Blank => self.start = self.scanned,
                Step::More | Step::End if self.scanned - self.start > RPC_REQUEST_SIZE_MAX => {
                    return self.fail(RpcError::invalid_request(format!(
                        "it is longer than {RPC_REQUEST_SIZE_MAX} bytes"
                    )));
                }
                Step::More => {}
                Step::End => {
                    let message = read_message(&self.bytes[self.start..self.scanned]);
                    self.start = self.scanned;
                    return match message {
                        Message::Broken(error) => self.fail(error),
                        message => Some(message),
                    };
                }
                Step::Unexpected(what) => {
                    let at = self.position + self.scanned as u64;
                    return self.fail(RpcError::parse_error(format!("{what} at byte {at}")));
                }
                Step::TooDeep => {
                    return self.fail(RpcError::invalid_request(format!(
                        "it is nested deeper than {RPC_REQUEST_DEPTH_MAX} levels"
                    )));
                }
            }
        }
        None
    }
}

fn read_message(text: &[u8]) -> Message {
    let value: &RawValue = match serde_json::from_slice(text) {
        Ok(value) => value,
        // The scanner took it, so it is the encoding that is wrong.
        Err(error) => return Message::Broken(RpcError::parse_error(error)),
    };
    if value.get().starts_with('{') {
        return Message::Single(Call::read(value));
    }
    let elements: Vec<&RawValue> = match serde_json::from_str(value.get()) {
        Ok(elements) => elements,
        Err(error) => return Message::Broken(RpcError::parse_error(error)),
    };
    let reject = |what: String| {
        let error = RpcError::invalid_request(what);
        Message::Single(Err(Rejected { id: super::message::Id::null(), error }))
    };
    match elements.len() {
        0 => reject("the batch is empty".into()),
        count if count > RPC_REQUESTS_IN_FLIGHT_MAX => reject(format!(
            "{count} requests in one batch ({RPC_REQUESTS_IN_FLIGHT_MAX} are possible)"
        )),
        _ => Message::Batch(elements.into_iter().map(Call::read).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stream: &[u8]) -> Vec<Message> {
        let mut decoder = Decoder::new();
        decoder.feed(stream);
        std::iter::from_fn(|| decoder.next_message()).collect()
    }

    fn only(stream: &str) -> Message {
        let mut messages = all(stream.as_bytes());
        assert_eq!(messages.len(), 1, "{stream}");
        messages.remove(0)
    }

    fn call(message: Message) -> Call {
        match message {
            Message::Single(Ok(call)) => call,
            other => panic!("{:.200}", format!("{other:?}")),
        }
    }

    fn rejection(stream: &str) -> (String, i32) {
        match only(stream) {
            Message::Single(Err(rejected)) => (rejected.id.text().into(), rejected.error.code),
            Message::Broken(error) => ("broken".into(), error.code),
            other => panic!("{:.200}", format!("{other:?}")),
        }
    }

    #[test]
    fn ids_come_back_as_they_came() {
        for id in ["1", "-0.5e3", "123456789012345678901234567890", "\"\\u00e9\"", "null"] {
            let read = call(only(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#)));
            assert_eq!(read.id.unwrap().text(), id);
        }
        assert!(call(only(r#"{"method":"m","params":null}"#)).id.is_none());
    }

    #[test]
    fn what_is_no_request_is_rejected_with_its_id() {
        for (text, id) in [
            (r#"{"id":7}"#, "7"),
            (r#"{"id":7,"method":5}"#, "7"),
            (r#"{"id":7,"method":"m","params":5}"#, "7"),
            (r#"{"id":7,"method":"m","param":{}}"#, "7"),
            (r#"{"id":7,"method":"m","jsonrpc":"1.0"}"#, "7"),
            (r#"{"id":7,"id":8,"method":"m"}"#, "null"),
            (r#"{"id":[1],"method":"m"}"#, "null"),
            (r#"{"id":true,"method":"m"}"#, "null"),
            ("[]", "null"),
        ] {
            assert_eq!(rejection(text), (id.into(), RpcError::INVALID_REQUEST), "{text}");
        }
    }

    #[test]
    fn a_broken_stream_is_reported_once() {
        let messages = all(br#"{"method":"a"} {"method":} {"method":"b"}"#);
        assert_eq!(messages.len(), 2);
        assert!(matches!(&messages[1], Message::Broken(e) if e.code == RpcError::PARSE_ERROR));
        assert_eq!(all(b"{\"method\":\"\xff\"}{}").len(), 1);
    }

    #[test]
    fn batches_keep_what_is_wrong_in_its_place() {
        let Message::Batch(batch) = only(r#"[{"method":"a","id":1},5,{"method":"b"}]"#) else {
            panic!("no batch")
        };
        assert!(batch[0].is_ok() && batch[1].is_err() && batch[2].is_ok());
    }

    #[test]
    fn size_counts_from_the_first_byte_of_the_request() {
        let request = format!(r#"{{"method":"{}"}}"#, "m".repeat(RPC_REQUEST_SIZE_MAX - 13));
        assert_eq!(request.len(), RPC_REQUEST_SIZE_MAX);
        let padded = format!("{}{request}", " ".repeat(100));
        call(only(&padded));
        let longer = format!(r#"{{"method":"{}"}}"#, "m".repeat(RPC_REQUEST_SIZE_MAX - 12));
        assert_eq!(rejection(&longer), ("broken".into(), RpcError::INVALID_REQUEST));
    }
}
