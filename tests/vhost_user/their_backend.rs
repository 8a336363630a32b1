//! Our front end, against the back end of the vhost crate in another thread.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::message::*;
use vhost::vhost_user::{
    Backend, BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
    VhostUserFrontendReqHandler,
};
use weft::base::ErrorKind;
use weft::virtio::spec::Features;
use weft::virtio::vhost_user::{Agreement, BackendChannel, ProtocolFeatures, SharedMemory, Vring};

use crate::{PATIENCE, context, front_end, shared_region, turn_until};

const FEATURES: u64 = 1 << 30 | 1 << 32 | 1 << 9;

/// A device that writes down what it is asked.
struct Device {
    asked: Arc<Mutex<Vec<String>>>,
    protocol: VhostUserProtocolFeatures,
    backend: Option<Backend>,
}

impl Device {
    fn note(&self, what: impl Into<String>) -> Result<()> {
        self.asked.lock().unwrap().push(what.into());
        Ok(())
    }
}

fn inode(file: &File) -> u64 {
    file.metadata().unwrap().ino()
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        self.note("owner")
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.note("reset owner")
    }

    fn reset_device(&mut self) -> Result<()> {
        self.note("reset device")
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.note(format!("features {features:#x}"))
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        assert_eq!(regions.len(), files.len());
        self.note(format!("{} regions", regions.len()))?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.note(format!("vring {index}: {num} descriptors"))
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let flags = flags.bits();
        self.note(format!("vring {index}: {flags} {descriptor:#x} {used:#x} {available:#x} {log}"))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.note(format!("vring {index}: from {base}"))
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.note(format!("vring {index}: stop"))?;
        Ok(VhostUserVringState::new(index, 0x1234))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.note(format!("vring {index}: kick {}", file.is_some()))
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.note(format!("vring {index}: call {}", file.is_some()))
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.note(format!("vring {index}: err {}", file.is_some()))
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(self.protocol)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        self.note(format!("protocol features {features:#x}"))
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(12)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.note(format!("vring {index}: enable {enable}"))
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        match offset {
            60 => Err(Error::InvalidParam),
            _ => Ok((offset..offset + size).map(|at| at as u8).collect()),
        }
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        match offset {
            60 => Err(Error::InvalidParam),
            _ => self.note(format!("config {offset} {bytes:?}")),
        }
    }

    fn set_backend_req_fd(&mut self, backend: Backend) {
        self.backend = Some(backend);
    }

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> Result<()> {
        Err(Error::InvalidParam)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidParam)
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let file = File::from(memfd_create("inflight", MemfdFlags::CLOEXEC).unwrap());
        self.note(format!("inflight {}", inode(&file)))?;
        Ok((VhostUserInflight::new(8192, 0, asked.num_queues, asked.queue_size), file))
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Result<()> {
        let (size, queues, length) = (given.mmap_size, given.num_queues, given.queue_size);
        self.note(format!("inflight {} {size} {queues} {length}", inode(&file)))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(2)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        let (guest, user) = (region.guest_phys_addr, region.user_addr);
        let (size, offset) = (region.memory_size, region.mmap_offset);
        self.note(format!("add {guest:#x} {user:#x} {size} {offset} {}", inode(&file)))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let guest = region.guest_phys_addr;
        self.note(format!("remove {guest:#x}"))
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidParam)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidParam)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidParam)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(Error::InvalidParam)
    }
}

struct Peer {
    asked: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Peer {
    /// Serves until the front end hangs up.
    fn start(socket: UnixStream, protocol: VhostUserProtocolFeatures) -> Peer {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let device = Device { asked: Arc::clone(&asked), protocol, backend: None };
        let device = Arc::new(Mutex::new(device));
        let thread = std::thread::spawn(move || {
            let mut handler = BackendReqHandler::from_stream(socket, Arc::clone(&device));
            while match handler.handle_request() {
                Ok(()) => true,
                // Refusals, after which it goes on.
                Err(Error::InvalidParam | Error::ReqHandlerError(_)) => true,
                Err(_) => false,
            } {
                // An extension that our front end does not have: it must refuse.
                let backend = device.lock().unwrap().backend.take();
                if let Some(backend) = backend {
                    backend.set_reply_ack_flag(true);
                    backend.set_shared_object_flag(true);
                    let result = backend.shared_object_add(&VhostUserSharedMsg::default());
                    assert!(result.is_err(), "{result:?}");
                    device.lock().unwrap().note("an object was refused").unwrap();
                }
            }
        });
        Peer { asked, thread }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn all_of_ours() -> ProtocolFeatures {
    ProtocolFeatures::MQ
        .with(ProtocolFeatures::REPLY_ACK)
        .with(ProtocolFeatures::BACKEND_REQ)
        .with(ProtocolFeatures::CONFIG)
        .with(ProtocolFeatures::INFLIGHT_SHMFD)
        .with(ProtocolFeatures::RESET_DEVICE)
        .with(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
}

fn wanted() -> Features {
    Features::VERSION_1.with(Features::BLOCK_FLUSH).with(Features::BLOCK_DISCARD)
}

#[test]
fn a_back_end_of_others_is_driven_from_start_to_end() {
    let (cx, readiness) = context();
    let (frontend, socket) = front_end(&cx, &readiness, PATIENCE);
    let peer = Peer::start(socket, VhostUserProtocolFeatures::all());
    let events: Vec<OwnedFd> = (0..3).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect();
    let regions = [shared_region(), shared_region(), shared_region()];
    let address = regions[0].start().as_ptr() as u64;
    cx.block_on(async {
        let agreement = frontend.negotiate(wanted(), all_of_ours()).await.unwrap();
        let expected = Agreement {
            features: Features(FEATURES),
            protocol_features: all_of_ours(),
            queues_max: Some(12),
            memory_slots: 2,
        };
        assert_eq!(agreement, expected);
        let protocol = format!("protocol features {:#x}", all_of_ours().0);
        assert_eq!(peer.take(), [protocol, "owner".into(), format!("features {FEATURES:#x}")]);

        assert_eq!(frontend.get_config(2, 5).await.unwrap(), [2, 3, 4, 5, 6]);
        frontend.set_config(32, &[1]).await.unwrap();
        let error = frontend.set_config(60, &[1]).await.unwrap_err();
        assert!(error.to_string().contains("refused SET_CONFIG"), "{error}");
        let error = frontend.get_config(60, 4).await.unwrap_err();
        assert!(error.to_string().contains("no 4 bytes at offset 60"), "{error}");
        assert_eq!(peer.take(), ["config 32 [1]"]);

        let mut memory = SharedMemory::default();
        memory.set(&frontend, regions[..2].to_vec()).await.unwrap();
        let error = memory.add(&frontend, Arc::clone(&regions[2])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        memory.remove(&frontend, &regions[0]).await.unwrap();
        memory.remove(&frontend, &regions[0]).await.unwrap();
        memory.add(&frontend, Arc::clone(&regions[2])).await.unwrap();
        assert_eq!(memory.regions().len(), 2);
        let asked = peer.take();
        let file = regions[0].backing().unwrap().file();
        let inode = rustix::fs::fstat(file).unwrap().st_ino;
        assert_eq!(asked[0], format!("add {address:#x} {address:#x} {} 0 {inode}", 2 << 20));
        assert_eq!(asked[2], format!("remove {address:#x}"));
        assert_eq!(asked.len(), 4);

        let (inflight, file) = frontend.get_inflight(2, 64).await.unwrap().unwrap();
        assert_eq!((inflight.size, inflight.queues, inflight.queue_size), (8192, 2, 64));
        frontend.set_inflight(inflight, file.as_fd()).await.unwrap();
        let asked = peer.take();
        assert_eq!(asked[1], format!("{} 8192 2 64", asked[0]), "the same file comes back");

        let vring = Vring {
            size: 64,
            descriptors: address,
            driver: address + 0x1000,
            device: address + 0x2000,
            base: 9,
            kick: Some(events[0].as_fd()),
            call: None,
            error: Some(events[2].as_fd()),
        };
        frontend.set_vring(1, &vring).await.unwrap();
        frontend.enable_vring(1, true).await.unwrap();
        assert_eq!(frontend.stop_vring(1).await.unwrap(), 0x1234);
        frontend.reset().await.unwrap();
        assert_eq!(
            peer.take(),
            [
                "vring 1: call false".into(),
                "vring 1: 64 descriptors".into(),
                "vring 1: from 9".into(),
                format!(
                    "vring 1: 0 {address:#x} {:#x} {:#x} 0",
                    address + 0x2000,
                    address + 0x1000
                ),
                "vring 1: err true".into(),
                "vring 1: kick true".into(),
                "vring 1: enable true".into(),
                "vring 1: stop".into(),
                "reset device".into(),
            ]
        );
        // STATUS was not agreed on.
        assert_eq!(frontend.get_status().await.unwrap(), None);
    });
    drop(frontend);
    turn_until(&cx, "the end of the back end", || peer.thread.is_finished());
    peer.thread.join().unwrap();
    cx.close();
}

#[test]
fn requests_of_the_back_end_are_refused_if_they_are_not_known() {
    let (cx, readiness) = context();
    let (frontend, socket) = front_end(&cx, &readiness, PATIENCE);
    let peer = Peer::start(socket, VhostUserProtocolFeatures::all());
    cx.block_on(async {
        frontend.negotiate(wanted(), all_of_ours()).await.unwrap();
        peer.take();
        let mut channel = BackendChannel::open(&frontend, &readiness).await.unwrap();
        // The other side closes after it was refused.
        assert_eq!(channel.next().await.unwrap(), None);
        assert_eq!(peer.take(), ["an object was refused"]);
    });
    drop(frontend);
    turn_until(&cx, "the end of the back end", || peer.thread.is_finished());
    cx.close();
}

#[test]
fn a_back_end_with_few_extensions_will_do() {
    let (cx, readiness) = context();
    let (frontend, socket) = front_end(&cx, &readiness, PATIENCE);
    let peer = Peer::start(socket, VhostUserProtocolFeatures::CONFIG);
    let regions: Vec<_> = (0..9).map(|_| shared_region()).collect();
    cx.block_on(async {
        let ours = all_of_ours().without(ProtocolFeatures::REPLY_ACK);
        let agreement = frontend.negotiate(wanted(), ours).await.unwrap();
        assert_eq!(agreement.protocol_features, ProtocolFeatures::CONFIG);
        assert_eq!((agreement.queues_max, agreement.memory_slots), (None, 8));
        // What is not acknowledged has been obeyed when something later is answered.
        frontend.offered().await.unwrap();
        peer.take();
        let mut memory = SharedMemory::default();
        let error = memory.set(&frontend, regions.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        memory.set(&frontend, regions[..7].to_vec()).await.unwrap();
        memory.add(&frontend, Arc::clone(&regions[7])).await.unwrap();
        memory.remove(&frontend, &regions[3]).await.unwrap();
        assert_eq!(peer.take(), ["7 regions", "8 regions", "7 regions"], "done when it returns");
        frontend.enable_vring(0, true).await.unwrap();
        assert_eq!(peer.take(), ["vring 0: enable true"]);
        for error in [
            frontend.get_inflight(1, 64).await.map(drop).unwrap_err(),
            frontend.reset().await.unwrap_err(),
            BackendChannel::open(&frontend, &readiness).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    });
    drop(frontend);
    turn_until(&cx, "the end of the back end", || peer.thread.is_finished());
    cx.close();
}
