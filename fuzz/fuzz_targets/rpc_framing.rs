//! The RPC stream: any bytes, cut in any way, give the same messages, and no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft::rpc::{Decoder, Message};

/// All messages of a stream in pieces of `size` bytes.
fn decode(stream: &[u8], size: usize) -> Vec<Message> {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for piece in stream.chunks(size) {
        decoder.feed(piece);
        messages.extend(std::iter::from_fn(|| decoder.next_message()));
    }
    messages
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, stream)) = input.split_first() else { return };
    let whole = decode(stream, stream.len().max(1));
    assert_eq!(whole, decode(stream, usize::from(size).max(1)));
    let broken = whole.iter().filter(|message| matches!(message, Message::Broken(_))).count();
    assert!(broken <= 1 && (broken == 0 || matches!(whole.last(), Some(Message::Broken(_)))));
    for message in &whole {
        // What is passed on as parameters is JSON.
        if let Message::Single(Ok(call)) = message
            && let Some(params) = &call.params
        {
            assert!(params.get().starts_with(['{', '[']));
        }
    }
});
