//! The whole driver against the device model behind a socket, in another thread: attach, I/O, failures, detach.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde_json::json;
use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend};
use weft::base::{ByteCount, Lba, Status};
use weft::nvme::vfio::VfioOptions;

use weft::bdev::leaf::nvme::Controllers;
use weft::bdev::{Channel, Completions, ConfigEntry, Opcode, Queue, Registry, Request};
use weft::memory::{Buffer, HugePages, PoolOptions, Region, Registry as Regions, Sharing};
use weft::nvme::model::{Action, Model, ModelOptions, NamespaceOptions, Pick, Running};
use weft::nvme::{ControllerOptions, State};
use weft::reactor::Context;

use crate::published::region;
use crate::{PATIENCE, connect, turn_until};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 1024;

/// The doorbells start here; the controller registers are before.
const DOORBELLS: u64 = 0x1000;
/// Controller configuration.
const CC: u64 = 0x14;

/// A file that is mapped, for as long as this lives.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to no thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: impl AsFd, offset: u64, length: usize) -> io::Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let address = std::ptr::null_mut();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(address, length, protection, MapFlags::SHARED, file, offset) }?;
        Ok(Mapping { start: NonNull::new(start.cast()).unwrap(), length })
    }

    fn word(&self, offset: usize) -> *mut u32 {
        assert!(offset + 4 <= self.length);
        self.start.as_ptr().wrapping_add(offset).cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, once.
        unsafe { munmap(self.start.as_ptr().cast(), self.length) }.unwrap();
    }
}

/// The doorbells that the client maps, and what they said when they were looked at last.
struct Doorbells {
    mapping: Mapping,
    last: Vec<u32>,
}

/// The server's side: the model, and the client's memory.
struct Backend {
    model: Arc<Model>,
    memory: BTreeMap<u64, (Arc<Region>, Mapping)>,
    doorbells: Option<Arc<Mutex<Doorbells>>>,
    crash: Arc<AtomicBool>,
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if self.crash.load(Ordering::Relaxed) {
            // Ends the thread, and the connection with it.
            std::panic::resume_unwind(Box::new("crashed"));
        }
        let value = match (region, offset) {
            (0, offset) => self.model.read_register(offset as u32),
            (7, 8) => 0x0108_0200,
            _ => 0,
        };
        data.copy_from_slice(&value.to_ne_bytes()[..data.len()]);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if region == 0 {
            let value = u32::from_ne_bytes(data.try_into().map_err(io::Error::other)?);
            if let (CC, Some(doorbells)) = (offset, &self.doorbells)
                && value & 1 == 0
            {
                // A reset sets them to zero.
                let mut doorbells = doorbells.lock().unwrap_or_else(PoisonError::into_inner);
                for index in 0..doorbells.last.len() {
                    // SAFETY: a word of the mapping; the driver rings none meanwhile.
                    unsafe { doorbells.mapping.word(4 * index).write_volatile(0) };
                    doorbells.last[index] = 0;
                }
            }
            self.model.write_register(offset as u32, value);
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        _: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        let mapping = Mapping::new(file.unwrap(), offset, size as usize)?;
        // SAFETY: the mapping stays until the model has let go of the region, in `dma_unmap` or at the end.
        let region = Arc::new(unsafe { Region::foreign(mapping.start, mapping.length) });
        if !self.model.map_at(&region, address) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.memory.insert(address, (region, mapping));
        Ok(())
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, address: u64, _: u64) -> io::Result<()> {
        let (region, mapping) = self.memory.remove(&address).ok_or(io::ErrorKind::NotFound)?;
        self.model.unmap(&region);
        drop(mapping);
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.model.write_register(CC as u32, 0);
        Ok(())
    }

    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        for (region, _) in self.memory.values() {
            self.model.unmap(region);
        }
    }
}

/// A model that is served.
struct Served {
    model: Arc<Model>,
    folder: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    crash: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _running: Running,
}

/// Serves `model` to one client; `mapped` says whether it may map the doorbells.
fn serve(model: &Arc<Model>, mapped: bool) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cntrl");
    let length = model.window() - DOORBELLS;
    let file = mapped.then(|| {
        let file = memfd_create("doorbells", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, model.window().next_multiple_of(0x1000)).unwrap();
        File::from(file)
    });
    let doorbells = file.as_ref().map(|file| {
        let mapping = Mapping::new(file, DOORBELLS, 0x1000).unwrap();
        Arc::new(Mutex::new(Doorbells { mapping, last: vec![0; length as usize / 4] }))
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    if let Some(doorbells) = doorbells.clone() {
        let (model, stop) = (Arc::clone(model), Arc::clone(&stop));
        threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                carry(&doorbells, &model);
                std::thread::yield_now();
            }
        }));
    }
    let size = model.window();
    let crash = Arc::new(AtomicBool::new(false));
    let mut backend = Backend {
        model: Arc::clone(model),
        memory: BTreeMap::new(),
        doorbells,
        crash: Arc::clone(&crash),
    };
    threads.push(std::thread::spawn({
        let file = file.as_ref().map(|file| file.try_clone().unwrap());
        let regions = (0..9)
            .map(|index| match index {
                0 => region(0, size.next_multiple_of(0x1000), file.as_ref()),
                7 => region(7, 256, None),
                _ => region(index, 0, None),
            })
            .collect();
        let server = vfio_user::Server::new(&path, true, Vec::new(), regions).unwrap();
        move || {
            let _file = file;
            server.run(&mut backend).unwrap();
        }
    }));
    Served { model: Arc::clone(model), folder, stop, crash, threads, _running: model.run() }
}

/// Tells the model which of the shared doorbells have changed.
fn carry(doorbells: &Mutex<Doorbells>, model: &Model) {
    let mut doorbells = doorbells.lock().unwrap_or_else(PoisonError::into_inner);
    for index in 0..doorbells.last.len() {
        // SAFETY: a word of the mapping, which the client writes meanwhile.
        let value = unsafe { doorbells.mapping.word(4 * index).read_volatile() };
        if doorbells.last[index] != value {
            doorbells.last[index] = value;
            model.write_register(DOORBELLS as u32 + 4 * index as u32, value);
        }
    }
}

impl Served {
    /// Waits until the client's end is noticed. The driver is to have done nothing wrong.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let crashed = self.crash.load(Ordering::Relaxed);
        for thread in self.threads {
            assert!(thread.join().is_ok() || crashed);
        }
        // A server that crashes takes the memory from under the commands that it has.
        assert!(crashed || self.model.faults().is_empty());
    }
}

fn model() -> Arc<Model> {
    Model::new(ModelOptions {
        namespaces: vec![
            NamespaceOptions::large_blocks(1, BLOCKS),
            NamespaceOptions::small_blocks(2, BLOCKS),
        ],
        ..ModelOptions::default()
    })
}

/// A reactor with the drives of one controller.
struct Host {
    cx: Context,
    registry: Registry,
    controllers: Controllers,
}

impl Host {
    fn new() -> Host {
        let pool = PoolOptions {
            huge_pages: HugePages::Never,
            sharing: Sharing::Always,
            grow: ByteCount(4 << 20),
            max: ByteCount(64 << 20),
            ..PoolOptions::default()
        };
        let cx = Context::detached(Regions::new(), pool);
        let registry = Registry::new(&cx);
        let controllers = Controllers::new(&registry, None, VfioOptions::default());
        Host { cx, registry, controllers }
    }

    fn attach(&self, served: &Served) -> Vec<String> {
        let transport = connect(&self.cx, served.folder.path()).unwrap();
        let config = ConfigEntry { method: "bdev_nvme_attach_controller", params: json!({}) };
        let options = ControllerOptions::default();
        let attach = self.controllers.attach_transport("Nvme0", transport, options, config);
        self.cx.block_on(attach).unwrap()
    }

    fn drive(&self, name: &str) -> Drive {
        let channel = self.registry.get(name).unwrap().open_channel(&self.cx, 32).unwrap();
        Drive { cx: self.cx.clone(), channel, completions: Completions::with_capacity(64) }
    }

    fn detach(self) {
        self.cx.block_on(self.controllers.detach("Nvme0")).unwrap();
        assert!(self.registry.list().is_empty());
        self.cx.close();
    }
}

struct Drive {
    cx: Context,
    channel: Channel,
    completions: Completions,
}

impl Drive {
    fn buffer(&self, fill: u8, blocks: usize) -> Buffer {
        let mut buffer = self.cx.pool().take(blocks * BLOCK).unwrap();
        buffer.bytes_mut().fill(fill);
        buffer
    }

    /// Transfers a block between each buffer and the address beside it, all at once. The statuses in that order.
    fn transfer(&mut self, opcode: Opcode, all: &[(u64, Buffer)]) -> Vec<Status> {
        let mut requests: Vec<Request> = all
            .iter()
            .enumerate()
            .map(|(token, (lba, buffer))| {
                // SAFETY: the buffers are borrowed until all requests have completed.
                let segment = unsafe { buffer.segment(BLOCK as u32) };
                Request::new(opcode, Lba(*lba), 1, segment, token as u64)
            })
            .collect();
        let mut statuses = vec![None; all.len()];
        let (mut taken, mut ended) = (0, 0);
        let start = Instant::now();
        while ended < all.len() {
            taken += self.channel.submit(&mut requests[taken..]);
            self.cx.turn();
            self.completions.clear();
            self.channel.poll(&mut self.completions);
            for completion in &self.completions {
                statuses[completion.token as usize] = Some(completion.status);
                ended += 1;
            }
            assert!(start.elapsed() < PATIENCE, "{ended} of {} have completed", all.len());
        }
        statuses.into_iter().map(Option::unwrap).collect()
    }

    /// Writes blocks all over the device, and reads them back.
    fn write_and_verify(&mut self) {
        let lbas = || (0..BLOCKS).step_by(7);
        let written: Vec<_> = lbas().map(|lba| (lba, self.buffer(lba as u8 ^ 0x5a, 1))).collect();
        assert!(self.transfer(Opcode::Write, &written).iter().all(|status| status.is_success()));
        let read: Vec<_> = lbas().map(|lba| (lba, self.buffer(0, 1))).collect();
        assert!(self.transfer(Opcode::Read, &read).iter().all(|status| status.is_success()));
        for (lba, buffer) in &read {
            assert!(buffer.bytes()[..BLOCK].iter().all(|&byte| byte == *lba as u8 ^ 0x5a), "{lba}");
        }
    }
}

#[test]
fn the_driver_attaches_does_io_and_detaches() {
    let model = model();
    for mapped in [true, false] {
        let served = serve(&model, mapped);
        let host = Host::new();
        assert_eq!(host.attach(&served), ["Nvme0n1", "Nvme0n2"]);
        let attached = host.controllers.get("Nvme0").unwrap();
        assert_eq!(attached.controller.transport().kind(), "VFIOUSER");
        let mut drive = host.drive("Nvme0n1");
        drive.write_and_verify();
        assert_eq!(model.block(1, 7).unwrap(), [7 ^ 0x5a; BLOCK]);
        // New memory while the controller is up is given to the server, too.
        let large = drive.buffer(1, 512);
        assert_eq!(large.len(), 512 * BLOCK);
        drive.write_and_verify();
        drop((drive, large));
        assert_eq!(attached.controller.state(), State::Ready);
        drop(attached);
        host.detach();
        served.end();
    }
}

#[test]
fn a_reset_goes_over_the_socket() {
    let model = model();
    let served = serve(&model, true);
    let host = Host::new();
    host.attach(&served);
    let mut drive = host.drive("Nvme0n1");
    drive.write_and_verify();
    model.fail();
    let attached = host.controllers.get("Nvme0").unwrap();
    turn_until(&host.cx, "the reset", || attached.controller.state() == State::Resetting);
    turn_until(&host.cx, "its end", || attached.controller.state() == State::Ready);
    drive.write_and_verify();
    drop((drive, attached));
    host.detach();
    served.end();
}

#[test]
fn a_server_that_goes_takes_its_drives_along() {
    let model = model();
    let served = serve(&model, true);
    let host = Host::new();
    host.attach(&served);
    let mut drive = host.drive("Nvme0n1");
    drive.write_and_verify();
    let attached = host.controllers.get("Nvme0").unwrap();
    // Held by the model: it never answers these.
    model.inject(Pick { nsid: Some(1), ..Pick::default() }, Action::Hold);
    let buffers: Vec<_> = (0..8).map(|lba| (lba, drive.buffer(1, 1))).collect();
    served.crash.store(true, Ordering::Relaxed);
    let statuses = drive.transfer(Opcode::Write, &buffers);
    assert!(statuses.iter().all(|status| !status.is_success()), "{statuses:?}");
    turn_until(&host.cx, "the removal", || attached.controller.state() == State::Removed);
    drop((drive, attached));
    turn_until(&host.cx, "the end of the bdevs", || host.registry.list().is_empty());
    served.end();
}
