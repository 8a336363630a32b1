//! Our front end, against back ends that hang up, keep silent, or say what nobody asked.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use weft::base::{Error, ErrorKind};
use weft::reactor::Context;
use weft::virtio::vhost_user::{Frontend, HEADER_SIZE, Header, Message, RequestCode};

use crate::{PATIENCE, context, front_end, turn_until};

/// Asks the back end for its features, which does with the request what `answer` does.
fn asked(
    patience: Duration,
    answer: impl FnOnce(&mut UnixStream, Header),
) -> (Context, Frontend, Error) {
    let (cx, readiness) = context();
    let (frontend, mut socket) = front_end(&cx, &readiness, patience);
    let start = Instant::now();
    let error = cx.block_on(async {
        let request = frontend.offered();
        let peer = async {
            cx.yield_now().await;
            let mut header = [0; HEADER_SIZE];
            socket.read_exact(&mut header).unwrap();
            let header = Header::parse(&header).unwrap();
            assert_eq!(header.request, RequestCode::GetFeatures.number());
            answer(&mut socket, header);
        };
        let (result, ()) = futures_lite::future::zip(request, peer).await;
        result.unwrap_err()
    });
    assert!(start.elapsed() < PATIENCE);
    (cx, frontend, error)
}

/// What later requests and whoever waits for the end are told.
fn is_over(cx: &Context, frontend: &Frontend, error: &Error) {
    assert!(frontend.is_closed());
    let later = cx.block_on(frontend.offered()).unwrap_err();
    assert_eq!(later.to_string(), error.to_string());
    assert_eq!(cx.block_on(frontend.closed()).to_string(), error.to_string());
    assert!(error.to_string().starts_with("vhost-user test: "), "{error}");
}

#[test]
fn silence_is_not_endured_for_ever() {
    let (cx, frontend, error) = asked(Duration::from_millis(20), |_, _| {});
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("no reply to GET_FEATURES within 20ms"), "{error}");
    is_over(&cx, &frontend, &error);
}

#[test]
fn a_back_end_that_hangs_up_is_noticed_by_whoever_waits() {
    let (cx, frontend, error) = asked(PATIENCE, |socket, _| {
        socket.shutdown(std::net::Shutdown::Both).unwrap();
    });
    assert_eq!(error.kind(), ErrorKind::NoDevice);
    assert!(error.to_string().contains("hung up"), "{error}");
    is_over(&cx, &frontend, &error);
}

#[test]
fn a_back_end_that_goes_away_is_noticed_without_a_request() {
    let (cx, readiness) = context();
    let (frontend, socket) = front_end(&cx, &readiness, PATIENCE);
    for _ in 0..100 {
        cx.turn();
    }
    assert!(!frontend.is_closed());
    drop(socket);
    turn_until(&cx, "the end", || frontend.is_closed());
    let error = cx.block_on(frontend.closed());
    assert!(error.to_string().contains("hung up"), "{error}");
}

#[test]
fn answers_to_something_else_end_the_connection() {
    type Answer = fn(Header) -> Vec<u8>;
    let replies: [(&str, Answer); 7] = [
        ("with a reply to 2", |header| {
            Message::reply_number(Header { request: 2, ..header }, 0).bytes()
        }),
        ("with request 1", |header| {
            Message::request(header.request, vec![0; 8], Vec::new()).bytes()
        }),
        ("12 bytes of payload instead of 8", |header| {
            Message { header: header.reply(12), payload: vec![0; 12], descriptors: Vec::new() }
                .bytes()
        }),
        ("0 bytes of payload instead of 8", |header| {
            Message { header: header.reply(0), payload: Vec::new(), descriptors: Vec::new() }
                .bytes()
        }),
        ("version 0", |header| {
            Message {
                header: Header { flags: 4, ..header.reply(8) },
                payload: vec![0; 8],
                descriptors: Vec::new(),
            }
            .bytes()
        }),
        ("4294967295 bytes", |header| {
            Message {
                header: Header { size: u32::MAX, ..header.reply(8) },
                payload: vec![0; 8],
                descriptors: Vec::new(),
            }
            .bytes()
        }),
        ("in the middle of a message", |header| {
            let mut bytes = Message::reply_number(header, 0).bytes();
            bytes.pop();
            bytes
        }),
    ];
    for (what, reply) in replies {
        let (_, _, error) = asked(PATIENCE, |socket, header| {
            socket.write_all(&reply(header)).unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
}

#[test]
fn what_nobody_asked_for_ends_the_connection() {
    let (cx, readiness) = context();
    let (frontend, mut socket) = front_end(&cx, &readiness, PATIENCE);
    let reply = Message::reply_number(Header::request(1, 0), 0);
    socket.write_all(&reply.bytes()).unwrap();
    turn_until(&cx, "the end", || frontend.is_closed());
    let error = cx.block_on(frontend.closed());
    assert!(error.to_string().contains("unasked"), "{error}");
}

#[test]
fn a_request_that_was_given_up_leaves_the_next_its_own_reply() {
    let (cx, readiness) = context();
    let (frontend, mut socket) = front_end(&cx, &readiness, PATIENCE);
    cx.block_on(async {
        // Sent, but its reply is of no interest any more.
        futures_lite::future::poll_once(frontend.offered()).await;
        let peer = async {
            cx.yield_now().await;
            for number in [5, 6] {
                let mut header = [0; HEADER_SIZE];
                socket.read_exact(&mut header).unwrap();
                let header = Header::parse(&header).unwrap();
                socket.write_all(&Message::reply_number(header, number).bytes()).unwrap();
            }
        };
        let (offered, ()) = futures_lite::future::zip(frontend.offered(), peer).await;
        assert_eq!(offered.unwrap().0, 6);
    });
}
