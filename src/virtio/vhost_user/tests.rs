//! Messages there and back, and what no honest peer sends.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::virtio::spec::{DeviceStatus, Features};

fn file() -> OwnedFd {
    memfd_create("file", MemfdFlags::CLOEXEC).unwrap()
}

fn region(address: u64) -> MemoryRegion {
    MemoryRegion { guest_address: address, size: 4096, user_address: address + 1, offset: 7 }
}

/// One of every request, and requests at the edges.
fn requests() -> Vec<Request> {
    let addresses =
        VringAddresses { index: 3, flags: 1, descriptors: 4, used: 5, available: 6, log: 7 };
    let inflight = Inflight { size: 1, offset: 2, queues: 256, queue_size: 32768, padding: 0 };
    vec![
        Request::GetFeatures,
        Request::SetFeatures(Features(u64::MAX)),
        Request::SetOwner,
        Request::ResetOwner,
        Request::SetMemTable(Vec::new()),
        Request::SetMemTable((0..32).map(|at| (region(at << 20), file())).collect()),
        Request::SetLogBase(None),
        Request::SetLogBase(Some((SharedArea { size: 4096, offset: 1 }, file()))),
        Request::SetLogFd(None),
        Request::SetLogFd(Some(file())),
        Request::SetVringNum { index: 255, size: 32768 },
        Request::SetVringAddr(addresses),
        Request::SetVringBase { index: 1, base: u32::MAX },
        Request::GetVringBase { index: 2 },
        Request::SetVringKick(VringFile { index: 255, file: Some(file()) }),
        Request::SetVringCall(VringFile { index: 0, file: None }),
        Request::SetVringErr(VringFile { index: 7, file: Some(file()) }),
        Request::GetProtocolFeatures,
        Request::SetProtocolFeatures(ProtocolFeatures(1 << 63 | 1)),
        Request::GetQueueNum,
        Request::SetVringEnable { index: 9, enable: true },
        Request::SetVringEnable { index: 9, enable: false },
        Request::SetBackendReqFd(file()),
        Request::GetConfig(ConfigHeader { offset: 0, size: 256, flags: 0 }),
        Request::SetConfig { offset: 32, flags: config_flags::MIGRATION, bytes: vec![1, 2] },
        Request::GetInflightFd { queues: 1, queue_size: 128 },
        Request::SetInflightFd(inflight, file()),
        Request::ResetDevice,
        Request::VringKick { index: 4 },
        Request::GetMaxMemSlots,
        Request::AddMemReg(region(u64::MAX - 8192), file()),
        Request::RemMemReg(region(0)),
        Request::SetStatus(DeviceStatus(0xcf)),
        Request::GetStatus,
    ]
}

/// A request as text, but for the numbers of descriptors.
fn text(request: &Request) -> String {
    let text = format!("{request:?}");
    let mut pieces = text.split("OwnedFd { fd: ");
    let first = pieces.next().unwrap().to_owned();
    pieces.fold(first, |text, piece| {
        text + "file" + piece.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

fn message(request: Request) -> Message {
    request.encode()
}

fn refusal(message: Message) -> String {
    Request::parse(message).unwrap_err().to_string()
}

/// What comes of `message` when it is sent.
fn through_a_socket(message: Message) -> Message {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut ours, mut theirs) = (MessageStream::new(ours), MessageStream::new(theirs));
    ours.send(message).unwrap();
    match theirs.receive().unwrap() {
        Received::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_request_arrives_as_it_was_sent() {
    let mut seen: Vec<u32> = Vec::new();
    for request in requests() {
        let (sent, name) = (text(&request), request.name());
        seen.push(request.number());
        let arrived = through_a_socket(message(request).with_acknowledgement(true));
        assert!(arrived.header.wants_acknowledgement() && !arrived.header.is_reply());
        let arrived = Request::parse(arrived).unwrap();
        assert_eq!((text(&arrived), arrived.name()), (sent, name));
    }
    // All others are none of ours.
    for &code in RequestCode::ALL {
        assert_eq!(RequestCode::from_number(code.number()), Some(code));
        if !seen.contains(&code.number()) {
            let other = Request::parse(Message::request(code.number(), vec![1; 40], vec![file()]));
            assert_eq!(text(&other.unwrap()), format!("Other({})", code.number()));
        }
    }
    for number in [0, 45, u32::MAX] {
        let other = Request::parse(Message::request(number, Vec::new(), Vec::new())).unwrap();
        assert_eq!((text(&other), other.has_reply()), (format!("Other({number})"), false));
    }
}

#[test]
fn every_backend_request_arrives_as_it_was_sent() {
    for request in [
        BackendRequest::ConfigChange,
        BackendRequest::VringCall(255),
        BackendRequest::VringErr(0),
        BackendRequest::Other(3),
        BackendRequest::Other(77),
    ] {
        let arrived = through_a_socket(request.encode());
        assert_eq!(BackendRequest::parse(&arrived).unwrap(), request);
    }
    let long = Message::request(2, vec![0], Vec::new());
    assert!(BackendRequest::parse(&long).unwrap_err().to_string().contains("CONFIG_CHANGE_MSG"));
    let far = Message::request(4, vec![0, 1, 0, 0, 0, 0, 0, 0], Vec::new());
    assert!(BackendRequest::parse(&far).unwrap_err().to_string().contains("vring 256"));
}

#[test]
fn no_other_length_is_accepted() {
    for request in requests() {
        let (name, number) = (request.name(), request.number());
        let code = RequestCode::from_number(number).unwrap();
        let Message { header, payload, descriptors } = message(request);
        let with = |payload: Vec<u8>, copies: usize| {
            let descriptors = vec![descriptors.as_slice(); copies].concat_files();
            Request::parse(Message { header, payload, descriptors })
        };
        // Longer ones bring space for an answer, or are as long as some always send.
        let may_be_longer = [RequestCode::GetConfig, RequestCode::SetConfig].contains(&code);
        let longer = with([payload.as_slice(), &[0]].concat(), 1);
        match may_be_longer {
            true => assert!(longer.is_ok()),
            false => assert!(longer.unwrap_err().to_string().starts_with(name), "{name}"),
        }
        for length in 0..payload.len() {
            let also = match code {
                RequestCode::GetConfig => length >= 12,
                RequestCode::GetInflightFd | RequestCode::SetInflightFd => length == 20,
                _ => false,
            };
            let shorter = with(payload[..length].to_vec(), 1);
            match also {
                true => assert!(shorter.is_ok(), "{name} {length}"),
                false => {
                    let error = shorter.unwrap_err().to_string();
                    assert!(error.starts_with(name), "{error}");
                }
            }
        }
        if !descriptors.is_empty() {
            for copies in [0, 2] {
                let optional = [RequestCode::SetLogBase, RequestCode::SetLogFd].contains(&code);
                match with(payload.clone(), copies) {
                    Ok(_) => assert!(optional && copies == 0, "{name} with {copies}"),
                    Err(error) => assert!(error.to_string().contains("descriptors"), "{error}"),
                }
            }
        }
    }
}

/// Duplicates of descriptors.
trait ConcatFiles {
    fn concat_files(&self) -> Vec<OwnedFd>;
}

impl ConcatFiles for Vec<&[OwnedFd]> {
    fn concat_files(&self) -> Vec<OwnedFd> {
        self.iter().copied().flatten().map(|file| file.try_clone().unwrap()).collect()
    }
}

#[test]
fn descriptors_that_nobody_asked_for_are_refused() {
    for request in requests() {
        let name = request.name();
        let mut message = message(request);
        let lenient = message.header.request == RequestCode::RemMemReg.number();
        let takes_one = message.header.request == RequestCode::SetLogFd.number();
        if message.descriptors.is_empty() && !takes_one {
            message.descriptors.push(file());
            if lenient {
                assert!(Request::parse(message).is_ok(), "{name}");
                continue;
            }
            let error = refusal(message);
            assert!(error.contains(name) && error.contains("descriptors"), "{error}");
        }
    }
}

#[test]
fn fields_beyond_their_limits_are_refused() {
    let many = (0..33).map(|at| (region(at << 20), file())).collect();
    assert!(refusal(message(Request::SetMemTable(many))).contains("33 memory regions"));
    for bad in [
        MemoryRegion { size: 0, ..region(0) },
        MemoryRegion { guest_address: u64::MAX, ..region(0) },
        MemoryRegion { user_address: u64::MAX - 4095, ..region(0) },
        MemoryRegion { offset: u64::MAX, ..region(0) },
        MemoryRegion { size: u64::MAX, ..region(0) },
    ] {
        for request in [
            Request::AddMemReg(bad, file()),
            Request::RemMemReg(bad),
            Request::SetMemTable(vec![(bad, file())]),
        ] {
            let name = request.name();
            let error = refusal(message(request));
            assert!(error.starts_with(name) && error.contains("memory region"), "{error}");
        }
    }
    assert!(refusal(message(Request::SetVringNum { index: 0, size: 0 })).contains("0 descriptors"));
    let size = refusal(message(Request::SetVringNum { index: 0, size: 32769 }));
    assert!(size.contains("32769 descriptors"), "{size}");
    let far = refusal(message(Request::SetVringBase { index: 256, base: 0 }));
    assert!(far.starts_with("SET_VRING_BASE") && far.contains("256"), "{far}");
    let config = |offset, size| Request::GetConfig(ConfigHeader { offset, size, flags: 0 });
    for (offset, size) in [(0, 257), (512, 1), (0, 0), (u32::MAX, 2), (255, 2), (256, 257)] {
        let mut message = message(config(offset, size.min(300)));
        message.payload[4..8].copy_from_slice(&size.to_ne_bytes());
        assert!(refusal(message).starts_with("GET_CONFIG"), "{offset} {size}");
    }
    for (queues, queue_size) in [(0, 1), (257, 1), (1, 0), (1, 32769)] {
        let error = refusal(message(Request::GetInflightFd { queues, queue_size }));
        assert!(error.starts_with("GET_INFLIGHT_FD"), "{error}");
    }
    let area = SharedArea { size: u64::MAX, offset: 1 };
    let error = refusal(message(Request::SetLogBase(Some((area, file())))));
    assert!(error.starts_with("SET_LOG_BASE"), "{error}");
    let status = Message::request(39, 256_u64.to_ne_bytes().to_vec(), Vec::new());
    assert!(refusal(status).contains("0x100"));
    let reply = Message::reply_number(Header::request(1, 0), 0);
    assert!(refusal(reply).contains("a reply to request 1"));
}

#[test]
fn what_front_ends_send_oddly_is_understood() {
    // A configuration space as long as ever possible, of which two bytes count.
    let mut set = message(Request::SetConfig { offset: 32, flags: 0, bytes: vec![5, 6] });
    set.payload.resize(12 + 256, 0xee);
    match Request::parse(set).unwrap() {
        Request::SetConfig { bytes, .. } => assert_eq!(bytes, [5, 6]),
        other => panic!("{other:?}"),
    }
    // A configuration space behind the registers.
    let behind = ConfigHeader { offset: 0x100 + 1, size: 2, flags: 1 };
    let Request::GetConfig(asked) = Request::parse(message(Request::GetConfig(behind))).unwrap()
    else {
        panic!()
    };
    let reply = Message::reply_config(Header::request(24, 0), asked, &[1, 2, 3]);
    assert_eq!(reply.config("GET_CONFIG", behind).unwrap(), [2, 3]);
    let set = Request::SetConfig { offset: 0x120, flags: 1, bytes: vec![1] };
    assert!(matches!(
        Request::parse(message(set)).unwrap(),
        Request::SetConfig { offset: 0x20, flags: 1, .. }
    ));
    // The address of a log in the front end's memory.
    let base = Message::request(6, 0x7fff_0000_u64.to_ne_bytes().to_vec(), Vec::new());
    assert!(matches!(Request::parse(base).unwrap(), Request::SetLogBase(None)));
}

#[test]
fn replies_are_read_as_they_were_made() {
    let asked = Header::request(24, 0).with_acknowledgement(true);
    let number = through_a_socket(Message::reply_number(asked, 1 << 63));
    assert!(number.header.is_reply() && !number.header.wants_acknowledgement());
    assert_eq!(number.number("GET_FEATURES").unwrap(), 1 << 63);
    assert_eq!(Message::reply_outcome(asked, true).number("X").unwrap(), 0);
    assert_ne!(Message::reply_outcome(asked, false).number("X").unwrap(), 0);
    assert!(Message::reply_vring_base(asked, 1, 2).number("X").is_ok(), "it is as long");
    assert!(
        Message::reply_no_config(asked, ConfigHeader { offset: 0, size: 8, flags: 0 })
            .number("X")
            .is_err()
    );

    let base = through_a_socket(Message::reply_vring_base(asked, 3, 0x8001_8002));
    assert_eq!(base.vring_base("GET_VRING_BASE", 3).unwrap(), 0x8001_8002);
    assert!(base.vring_base("GET_VRING_BASE", 2).unwrap_err().to_string().contains("vring 3"));

    let space: Vec<u8> = (1..=72).collect();
    for (offset, size) in [(0, 72), (70, 2), (0, 256), (71, 5), (72, 1), (200, 56)] {
        let part = ConfigHeader { offset, size, flags: 0 };
        let reply = through_a_socket(Message::reply_config(asked, part, &space));
        let bytes = reply.config("GET_CONFIG", part).unwrap();
        let expected = (offset..offset + size).map(|at| if at < 72 { at as u8 + 1 } else { 0 });
        assert_eq!(bytes, expected.collect::<Vec<u8>>());
        let other = ConfigHeader { offset: offset + 1, ..part };
        assert!(reply.config("GET_CONFIG", other).is_err());
    }
    let part = ConfigHeader { offset: 0, size: 8, flags: 0 };
    for none in [
        Message::reply_no_config(asked, part),
        Message { header: asked.reply(0), payload: Vec::new(), descriptors: Vec::new() },
    ] {
        let error = none.config("GET_CONFIG", part).unwrap_err();
        assert!(error.to_string().contains("has no 8 bytes"), "{error}");
    }

    let inflight = Inflight { size: 4096, offset: 0, queues: 2, queue_size: 64, padding: 0 };
    let reply = through_a_socket(Message::reply_inflight(asked, inflight, Some(file())));
    assert_eq!(reply.inflight("GET_INFLIGHT_FD").unwrap().unwrap().0, inflight);
    let none = Inflight { size: 0, ..inflight };
    let reply = through_a_socket(Message::reply_inflight(asked, none, None));
    assert!(reply.inflight("GET_INFLIGHT_FD").unwrap().is_none());
}

#[test]
fn half_a_message_blocks_nobody_and_is_kept() {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let mut stream = MessageStream::new(ours);
    let bytes = message(Request::SetVringNum { index: 1, size: 128 }).bytes();
    for &byte in &bytes[..bytes.len() - 1] {
        assert!(matches!(stream.receive(), Ok(Received::Nothing)));
        theirs.write_all(&[byte]).unwrap();
    }
    assert!(matches!(stream.receive(), Ok(Received::Nothing)));
    // The end of this one, all of another, and the start of a third.
    let more = [&bytes[bytes.len() - 1..], &bytes, &bytes[..5]].concat();
    theirs.write_all(&more).unwrap();
    for _ in 0..2 {
        let Ok(Received::Message(message)) = stream.receive() else { panic!() };
        assert_eq!(text(&Request::parse(message).unwrap()), "SetVringNum { index: 1, size: 128 }");
    }
    assert!(matches!(stream.receive(), Ok(Received::Nothing)));
    drop(theirs);
    let error = stream.receive().unwrap_err();
    assert!(error.to_string().contains("in the middle of a message"), "{error}");
    assert!(stream.receive().is_err(), "for good");
}

#[test]
fn an_orderly_end_is_none_of_the_errors() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let (mut theirs, mut ours) = (MessageStream::new(theirs), MessageStream::new(ours));
    theirs.send(message(Request::SetOwner)).unwrap();
    drop(theirs);
    assert!(matches!(ours.receive(), Ok(Received::Message(_))));
    assert!(matches!(ours.receive(), Ok(Received::End)));
    let error = ours.send(message(Request::SetOwner)).unwrap_err();
    assert!(error.to_string().contains("hung up"), "{error}");
}

#[test]
fn descriptors_come_with_their_own_message() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let (mut theirs, mut ours) = (MessageStream::new(theirs), MessageStream::new(ours));
    let first = memfd_create("first", MemfdFlags::CLOEXEC).unwrap();
    let inode = |file: &OwnedFd| rustix::fs::fstat(file).unwrap().st_ino;
    let (second, expected) = (file(), inode(&first));
    theirs.send(message(Request::SetOwner)).unwrap();
    theirs.send(message(Request::SetVringKick(VringFile { index: 0, file: Some(first) }))).unwrap();
    theirs.send(message(Request::SetBackendReqFd(second))).unwrap();
    theirs.send(message(Request::GetFeatures)).unwrap();
    let mut next = || match ours.receive() {
        Ok(Received::Message(message)) => Request::parse(message).unwrap(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(next(), Request::SetOwner));
    let Request::SetVringKick(VringFile { index: 0, file: Some(kick) }) = next() else { panic!() };
    assert_eq!(inode(&kick), expected);
    assert!(matches!(next(), Request::SetBackendReqFd(socket) if inode(&socket) != expected));
    assert!(matches!(next(), Request::GetFeatures));
}

#[test]
fn a_peer_that_reads_nothing_is_not_read_from() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let (mut theirs, mut ours) = (MessageStream::new(theirs), MessageStream::new(ours));
    let asked = Header::request(1, 0);
    let mut answers = 0;
    let mut asked_for = 0;
    // It asks all the time, and takes no answer.
    while answers < 1_000_000 {
        if !theirs.has_unsent() {
            theirs.send(message(Request::GetFeatures)).unwrap();
            asked_for += 1;
        }
        theirs.flush().unwrap();
        match ours.receive().unwrap() {
            Received::Message(_) => {
                ours.send(Message::reply_number(asked, 0)).unwrap();
                answers += 1;
            }
            _ if theirs.has_unsent() => break,
            _ => {}
        }
    }
    assert!(answers < 1_000_000 && ours.has_unsent(), "{answers} answers");
    // When it reads at last, nothing is lost.
    let mut replies = 0;
    while replies < asked_for {
        theirs.flush().unwrap();
        ours.flush().unwrap();
        if let Received::Message(_) = ours.receive().unwrap() {
            ours.send(Message::reply_number(asked, 0)).unwrap();
        }
        while let Received::Message(message) = theirs.receive().unwrap() {
            assert!(message.header.is_reply());
            replies += 1;
        }
    }
    assert!(!ours.has_unsent());
}

#[test]
fn absurd_headers_end_the_stream() {
    for (header, what) in [
        (Header { request: 1, flags: 0, size: 0 }, "version 0"),
        (Header { request: 1, flags: 2, size: 0 }, "version 2"),
        (Header { request: 1, flags: 1, size: 4097 }, "4097 bytes"),
        (Header { request: 1, flags: 1, size: u32::MAX }, "bytes"),
    ] {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut stream = MessageStream::new(ours);
        theirs.write_all(zerocopy::IntoBytes::as_bytes(&header)).unwrap();
        let error = stream.receive().unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn descriptors_do_not_pile_up() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let mut stream = MessageStream::new(ours);
    let bytes = Message::request(5, vec![0; 100], Vec::new()).bytes();
    let file = file();
    let many = vec![file.as_fd(); 20];
    for &byte in &bytes[..2] {
        assert_eq!(crate::socket::send(theirs.as_fd(), &[byte], &many), Ok(1));
    }
    let error = stream.receive().unwrap_err();
    assert!(error.to_string().contains("more than 32 descriptors"), "{error}");
}

proptest! {
    #[test]
    fn any_message_is_survived(
        number in 0_u32..50,
        flags in any::<u32>(),
        payload in prop::collection::vec(any::<u8>(), 0..400),
        descriptors in 0_usize..4,
    ) {
        let payload_length = payload.len() as u32;
        let make = || Message {
            header: Header { request: number, flags, size: payload_length },
            payload: payload.clone(),
            descriptors: (0..descriptors).map(|_| file()).collect(),
        };
        let _ = BackendRequest::parse(&make());
        let asked = ConfigHeader { offset: 0, size: 4, flags: 0 };
        let _ = (make().number(""), make().vring_base("", 0), make().inflight(""));
        let _ = make().config("", asked).map(<[u8]>::len);
        if let Ok(request) = Request::parse(make()) {
            // What is understood is understood in the same way again.
            let sent = text(&request);
            if !matches!(request, Request::Other(_)) {
                prop_assert_eq!(text(&Request::parse(message(request)).unwrap()), sent);
            }
        }
    }

    #[test]
    fn any_stream_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..64) {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut stream = MessageStream::new(ours);
        for piece in bytes.chunks(size) {
            if theirs.write_all(piece).is_err() {
                break;
            }
            // What is not read any more would fill the socket.
            loop {
                match stream.receive() {
                    Ok(Received::Message(message)) => drop(Request::parse(message)),
                    Ok(_) => break,
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}
