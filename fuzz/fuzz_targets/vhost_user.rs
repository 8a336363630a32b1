//! What either side of a vhost-user connection may send: any bytes, cut in any way, give the same messages, and no panic.
//! What is understood as a request is understood in the same way when it is sent on, and within its limits.
#![no_main]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use weft::virtio::vhost_user::{
    BackendRequest, CONFIG_SIZE_MAX, Header, MEMORY_TABLE_MAX, Message, MessageStream, Received,
    Request, VRINGS_MAX,
};

/// All messages of a stream that arrives in pieces of `size` bytes.
fn messages(stream: &[u8], size: usize) -> Vec<(Header, Vec<u8>)> {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let mut ours = MessageStream::new(ours);
    let mut found = Vec::new();
    for piece in stream.chunks(size) {
        theirs.write_all(piece).unwrap();
        loop {
            match ours.receive() {
                Ok(Received::Message(message)) => found.push((message.header, message.payload)),
                Ok(_) => break,
                Err(_) => return found,
            }
        }
    }
    found
}

/// The number of descriptors is a part of the input, too; which they are is of no interest.
fn message(header: Header, payload: &[u8], descriptors: usize) -> Message {
    let (file, _) = UnixStream::pair().unwrap();
    let file = OwnedFd::from(file);
    let descriptors = (0..descriptors).map(|_| file.try_clone().unwrap()).collect();
    Message { header, payload: payload.to_vec(), descriptors }
}

fn check(request: &Request) {
    match request {
        Request::SetMemTable(regions) => {
            assert!(regions.len() <= MEMORY_TABLE_MAX);
            for (region, _) in regions {
                assert!(region.size > 0 && region.guest_address.checked_add(region.size).is_some());
            }
        }
        Request::AddMemReg(region, _) | Request::RemMemReg(region) => {
            assert!(region.size > 0 && region.offset.checked_add(region.size).is_some());
        }
        Request::SetVringNum { index, size } => {
            assert!(*index < VRINGS_MAX && (1..=32768).contains(size));
        }
        Request::SetConfig { offset, bytes, .. } => {
            assert!(*offset as usize + bytes.len() <= CONFIG_SIZE_MAX && !bytes.is_empty());
        }
        Request::GetConfig(asked) => {
            let reply = Message::reply_config(Header::default(), *asked, &[1; 72]);
            assert_eq!(reply.payload.len(), 12 + asked.size as usize);
        }
        _ => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&knobs, stream)) = input.split_first() else { return };
    // No more than a socket takes at once.
    let stream = &stream[..stream.len().min(16 << 10)];
    let whole = messages(stream, stream.len().max(1));
    assert_eq!(whole, messages(stream, usize::from(knobs / 8).max(1)));
    for (header, payload) in whole {
        let descriptors = usize::from(knobs % 8);
        let _ = BackendRequest::parse(&message(header, &payload, descriptors));
        let Ok(request) = Request::parse(message(header, &payload, descriptors)) else { continue };
        check(&request);
        if matches!(request, Request::Other(_)) {
            continue;
        }
        let (name, again) = (request.name(), Request::parse(request.encode()).unwrap());
        assert_eq!(again.name(), name);
        check(&again);
    }
});
