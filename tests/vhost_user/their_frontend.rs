//! The front end of the vhost crate, against a small back end on our stream of messages.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::message::{
    VHOST_USER_CONFIG_OFFSET, VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight,
    VhostUserProtocolFeatures,
};
use vhost::vhost_user::{
    Frontend, FrontendReqHandler, HandlerResult, VhostUserFrontend, VhostUserFrontendReqHandler,
};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;
use weft::reactor::{Context, Readiness};
use weft::virtio::vhost_user::{
    BackendRequest, Inflight, Message, MessageStream, ProtocolFeatures, Received, Request,
};

use crate::{context, turn_until};

/// What the back end says of itself.
const FEATURES: u64 = 1 << 30 | 1 << 32 | 1 << 26 | 1;
const PROTOCOL: ProtocolFeatures = ProtocolFeatures::MQ
    .with(ProtocolFeatures::LOG_SHMFD)
    .with(ProtocolFeatures::REPLY_ACK)
    .with(ProtocolFeatures::BACKEND_REQ)
    .with(ProtocolFeatures::CONFIG)
    .with(ProtocolFeatures::INFLIGHT_SHMFD)
    .with(ProtocolFeatures::RESET_DEVICE)
    .with(ProtocolFeatures::CONFIGURE_MEM_SLOTS);
const SPACE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// Answers as a back end would, but for a status that it refuses. Writes down what it is asked.
async fn serve(readiness: Readiness, socket: UnixStream, asked: Rc<RefCell<Vec<String>>>) {
    let mut stream = MessageStream::new(socket);
    let watched = readiness.watch(stream.socket()).unwrap();
    loop {
        let message = match stream.receive().unwrap() {
            Received::Nothing => {
                watched.readable().await;
                continue;
            }
            Received::End => return,
            Received::Message(message) => message,
        };
        let header = message.header;
        let request = Request::parse(message).unwrap();
        asked.borrow_mut().push(without_numbers_of_files(&format!("{request:?}")));
        let has_reply = request.has_reply();
        let reply = match request {
            Request::GetFeatures => Message::reply_number(header, FEATURES),
            Request::GetProtocolFeatures => Message::reply_number(header, PROTOCOL.0),
            Request::GetQueueNum => Message::reply_number(header, 4),
            Request::GetMaxMemSlots => Message::reply_number(header, 64),
            Request::GetVringBase { index } => Message::reply_vring_base(header, index, 77),
            Request::GetConfig(part) => Message::reply_config(header, part, &SPACE),
            Request::GetInflightFd { queues, queue_size } => {
                let inflight = Inflight { size: 4096, offset: 0, queues, queue_size, padding: 0 };
                Message::reply_inflight(header, inflight, Some(file()))
            }
            Request::SetLogBase(Some((area, _))) => Message::reply_log_base(header, area),
            Request::SetBackendReqFd(channel) => {
                stream.send(Message::reply_outcome(header, true)).unwrap();
                notify(&readiness, channel).await;
                continue;
            }
            // One to refuse.
            Request::SetVringNum { size: 3, .. } => Message::reply_outcome(header, false),
            _ if header.wants_acknowledgement() => Message::reply_outcome(header, true),
            _ => continue,
        };
        assert!(has_reply || header.wants_acknowledgement() || reply.payload.len() == 16);
        stream.send(reply).unwrap();
    }
}

/// Tells of a new configuration, and waits until that was heard.
async fn notify(readiness: &Readiness, channel: OwnedFd) {
    let mut channel = MessageStream::new(channel);
    let watched = readiness.watch(channel.socket()).unwrap();
    channel.send(BackendRequest::ConfigChange.encode().with_acknowledgement(true)).unwrap();
    loop {
        match channel.receive().unwrap() {
            Received::Nothing => watched.readable().await,
            Received::Message(message) => {
                assert!(message.header.is_reply());
                assert_eq!(message.payload, 0_u64.to_ne_bytes());
                return;
            }
            Received::End => panic!("the front end does not listen"),
        }
    }
}

fn without_numbers_of_files(text: &str) -> String {
    let mut pieces = text.split("OwnedFd { fd: ");
    let first = pieces.next().unwrap().to_owned();
    pieces.fold(first, |text, piece| {
        text + "OwnedFd { fd: _" + piece.trim_start_matches(|digit: char| digit.is_ascii_digit())
    })
}

fn file() -> OwnedFd {
    memfd_create("file", MemfdFlags::CLOEXEC).unwrap()
}

/// Counts changes of the configuration.
struct Changes(AtomicU32);

impl VhostUserFrontendReqHandler for Changes {
    fn handle_config_change(&self) -> HandlerResult<u64> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(0)
    }
}

/// Runs `front_end` in a thread against the back end. Gives what that was asked.
fn conversation(
    acknowledged: bool,
    front_end: impl FnOnce(Frontend) + Send + 'static,
) -> Vec<String> {
    let (cx, readiness): (Context, Readiness) = context();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let asked = Rc::new(RefCell::new(Vec::new()));
    cx.spawn(serve(readiness, ours, Rc::clone(&asked)));
    let thread = std::thread::spawn(move || {
        let mut frontend = Frontend::from_stream(theirs, 4);
        if acknowledged {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        frontend.set_owner().unwrap();
        assert_eq!(frontend.get_features().unwrap(), FEATURES);
        let protocol = frontend.get_protocol_features().unwrap();
        assert_eq!(protocol.bits(), PROTOCOL.0);
        frontend.set_protocol_features(protocol).unwrap();
        front_end(frontend);
    });
    turn_until(&cx, "the end of the front end", || thread.is_finished());
    thread.join().unwrap();
    cx.close();
    asked.take()
}

#[test]
fn a_front_end_of_others_is_understood() {
    let asked = conversation(true, |mut frontend| {
        frontend.set_features(FEATURES & !1).unwrap();
        assert_eq!(frontend.get_queue_num().unwrap(), 4);
        assert_eq!(frontend.get_max_mem_slots().unwrap(), 64);
        let flags = VhostUserConfigFlags::WRITABLE;
        let config = frontend.get_config(VHOST_USER_CONFIG_OFFSET + 2, 4, flags, &[0; 4]).unwrap();
        assert_eq!(config.1, SPACE[2..6]);
        frontend.set_config(VHOST_USER_CONFIG_OFFSET + 32, flags, &[1]).unwrap();
        let (memory, log) = (file(), file());
        let region = |address: u64| VhostUserMemoryRegionInfo {
            guest_phys_addr: address,
            memory_size: 4096,
            userspace_addr: address + 1,
            mmap_offset: 8,
            mmap_handle: memory.as_raw_fd(),
        };
        let table: Vec<_> = (0..32).map(|at| region(at << 20)).collect();
        frontend.set_mem_table(&table).unwrap();
        frontend.add_mem_region(&region(1 << 30)).unwrap();
        frontend.remove_mem_region(&region(1 << 30)).unwrap();
        let area = VhostUserDirtyLogRegion {
            mmap_size: 4096,
            mmap_offset: 1,
            mmap_handle: log.as_raw_fd(),
        };
        frontend.set_log_base(0, Some(area)).unwrap();
        frontend.set_log_fd(log.as_raw_fd()).unwrap();
        let inflight = VhostUserInflight::new(0, 0, 2, 64);
        let (inflight, shared) = frontend.get_inflight_fd(&inflight).unwrap();
        assert_eq!((inflight.mmap_size, inflight.num_queues, inflight.queue_size), (4096, 2, 64));
        frontend.set_inflight_fd(&inflight, shared.as_fd().as_raw_fd()).unwrap();
        let event = EventFd::new(0).unwrap();
        frontend.set_vring_call(0, &event).unwrap();
        assert!(frontend.set_vring_num(0, 3).is_err(), "refused");
        frontend.set_vring_num(0, 64).unwrap();
        frontend.set_vring_base(0, 5).unwrap();
        let place = VringConfigData {
            queue_max_size: 64,
            queue_size: 64,
            flags: 1,
            desc_table_addr: 0x1000,
            used_ring_addr: 0x3000,
            avail_ring_addr: 0x2000,
            log_addr: Some(0x4000),
        };
        frontend.set_vring_addr(0, &place).unwrap();
        frontend.set_vring_err(0, &event).unwrap();
        frontend.set_vring_kick(0, &event).unwrap();
        frontend.set_vring_enable(0, true).unwrap();
        assert_eq!(frontend.get_vring_base(0).unwrap(), 77);
        frontend.reset_device().unwrap();
        frontend.reset_owner().unwrap();
    });
    let region = |address: u64| {
        format!(
            "MemoryRegion {{ guest_address: {address}, size: 4096, user_address: {}, offset: 8 }}",
            address + 1
        )
    };
    let file = "OwnedFd { fd: _ }";
    let vring = format!("VringFile {{ index: 0, file: Some({file}) }}");
    let table: Vec<_> = (0..32).map(|at| format!("({}, {file})", region(at << 20))).collect();
    let expected = [
        "SetOwner".into(),
        "GetFeatures".into(),
        "GetProtocolFeatures".into(),
        format!("SetProtocolFeatures({PROTOCOL:?})"),
        "SetFeatures({LOG_ALL, PROTOCOL_FEATURES, VERSION_1})".into(),
        "GetQueueNum".into(),
        "GetMaxMemSlots".into(),
        "GetConfig(ConfigHeader { offset: 258, size: 4, flags: 1 })".into(),
        "SetConfig { offset: 32, flags: 1, bytes: [1] }".into(),
        format!("SetMemTable([{}])", table.join(", ")),
        format!("AddMemReg({}, {file})", region(1 << 30)),
        format!("RemMemReg({})", region(1 << 30)),
        format!("SetLogBase(Some((SharedArea {{ size: 4096, offset: 1 }}, {file})))"),
        format!("SetLogFd(Some({file}))"),
        "GetInflightFd { queues: 2, queue_size: 64 }".into(),
        format!(
            "SetInflightFd(Inflight {{ size: 4096, offset: 0, queues: 2, queue_size: 64, padding: 0 }}, {file})"
        ),
        format!("SetVringCall({vring})"),
        "SetVringNum { index: 0, size: 3 }".into(),
        "SetVringNum { index: 0, size: 64 }".into(),
        "SetVringBase { index: 0, base: 5 }".into(),
        "SetVringAddr(VringAddresses { index: 0, flags: 1, descriptors: 4096, used: 12288, available: 8192, log: 16384 })"
            .into(),
        format!("SetVringErr({vring})"),
        format!("SetVringKick({vring})"),
        "SetVringEnable { index: 0, enable: true }".into(),
        "GetVringBase { index: 0 }".into(),
        "ResetDevice".into(),
        "ResetOwner".into(),
    ];
    for (asked, expected) in asked.iter().zip(&expected) {
        assert_eq!(asked, expected);
    }
    assert_eq!(asked.len(), expected.len());
}

#[test]
fn a_front_end_that_wants_no_acknowledgements_is_understood() {
    let asked = conversation(false, |mut frontend| {
        frontend.set_features(FEATURES).unwrap();
        frontend.set_vring_num(1, 8).unwrap();
        frontend.set_vring_enable(1, false).unwrap();
        assert_eq!(frontend.get_queue_num().unwrap(), 4);
    });
    assert_eq!(
        asked[5..],
        [
            "SetVringNum { index: 1, size: 8 }",
            "SetVringEnable { index: 1, enable: false }",
            "GetQueueNum"
        ]
    );
}

#[test]
fn a_change_of_the_configuration_reaches_a_front_end_of_others() {
    let asked = conversation(true, |mut frontend| {
        let changes = Arc::new(Changes(AtomicU32::new(0)));
        let mut handler = FrontendReqHandler::new(Arc::clone(&changes)).unwrap();
        handler.set_reply_ack_flag(true);
        // SAFETY: the handler keeps the descriptor open.
        let channel = unsafe { std::os::fd::BorrowedFd::borrow_raw(handler.get_tx_raw_fd()) };
        frontend.set_backend_request_fd(&channel).unwrap();
        handler.handle_request().unwrap();
        assert_eq!(changes.0.load(Ordering::Relaxed), 1);
        assert_eq!(frontend.get_queue_num().unwrap(), 4);
    });
    assert_eq!(asked[4..], ["SetBackendReqFd(OwnedFd { fd: _ })", "GetQueueNum"]);
}
