//! The bdev: its options, its RPC configuration, rescan.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use io_uring::opcode;
use rustix::fs::{SeekFrom, seek};
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::facts::Facts;
use super::medium::{Medium, MediumKind, OpenMode};
use super::queue::{QueueOptions, UringQueue};
use super::ring::{FILE, Ring, RingOptions};
use crate::base::{BlockCount, BlockSize, Error, ErrorKind, Geometry, Result, Uuid};
use crate::bdev::{Bdev, ConfigEntry, Info, IoLimits, Opcode, OpcodeSet, Queue, Registry};
use crate::memory::{HugePages, Region};
use crate::reactor::Context;

/// The RPC method that made the device: under which name it is listed and saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `bdev_uring_create`.
    Uring,
    /// `bdev_aio_create`: the same device in the words of SPDK's other file bdev.
    Aio {
        /// Whether unmap and write-zeroes go to the file system.
        fallocate: bool,
    },
}

/// What to open, and how.
#[derive(Clone, Debug)]
pub struct UringOptions {
    /// Name of the bdev.
    pub name: String,
    /// Path of the regular file or block device.
    pub filename: String,
    /// Block size in bytes; that of the medium where there is none.
    pub block_size: Option<u32>,
    /// UUID of the bdev; a random one where there is none.
    pub uuid: Option<Uuid>,
    /// The RPC method.
    pub method: Method,
    /// Only reads; the lock on the file is then shared with other readers.
    pub readonly: bool,
    /// Bypass the page cache (O_DIRECT) where the file system allows.
    pub direct: bool,
    /// A kernel thread per queue takes submissions (SQPOLL). Pays only with a core to spare for each.
    pub sqpoll: bool,
    /// Poll the device for completions (IOPOLL) where it has queues for that.
    pub iopoll: bool,
    /// Register payload memory with the kernel (fixed buffers).
    pub fixed_buffers: bool,
    /// How long to wait for the lock of another process, which may be about to end.
    pub lock_patience: Duration,
}

impl UringOptions {
    /// The usual options for a file.
    pub fn new(name: impl Into<String>, filename: impl Into<String>) -> UringOptions {
        UringOptions {
            name: name.into(),
            filename: filename.into(),
            block_size: None,
            uuid: None,
            method: Method::Uring,
            readonly: false,
            direct: true,
            sqpoll: false,
            iopoll: false,
            fixed_buffers: true,
            lock_patience: Duration::from_millis(500),
        }
    }
}

/// A file or block device.
pub struct Uring {
    info: Info,
    medium: Arc<Medium>,
    facts: Facts,
    options: UringOptions,
}

impl Uring {
    /// Opens the medium and finds out what it can do. Blocks for as long as the system calls take,
    /// and waits for a lock: on a reactor use [`Uring::open`].
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`; `Invalid` for what is neither a regular file nor a block device,
    /// for an empty one, and for a block size that the medium does not have; `Busy` when another
    /// holds it.
    pub fn create(options: UringOptions) -> Result<Arc<Uring>> {
        let path = Path::new(&options.filename);
        Self::create_at(path, &options)
            .map_err(|error| error.context(format_args!("bdev '{}'", options.name)))
    }

    /// [`Uring::create`] on a thread of its own, so that the reactor goes on meanwhile.
    ///
    /// # Errors
    /// As [`Uring::create`].
    pub async fn open(options: UringOptions) -> Result<Arc<Uring>> {
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new()
            .name("weft-open".into())
            .spawn(move || {
                // Nobody waits any more when the receiver is gone: the file closes again.
                let _ = sender.send(Self::create(options));
            })
            .map_err(|error| Error::os("cannot start a thread to open a file", error))?;
        receiver.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Io, "the thread that opens the file has died"))
        })
    }

    fn create_at(path: &Path, options: &UringOptions) -> Result<Arc<Uring>> {
        let mode = OpenMode {
            readonly: options.readonly,
            direct: options.direct,
            lock_patience: options.lock_patience,
        };
        let medium = Medium::open(path, mode)?;
        let size = medium.size().map_err(|error| Error::os("cannot read the size", error))?;
        let facts = Facts::of(&medium, size)?;
        let block_size = block_size(options, &medium, &facts)?;
        let blocks = BlockCount(size.0 >> block_size.shift());
        if blocks == BlockCount::ZERO {
            return Err(Error::invalid(format!(
                "'{}' holds {size} bytes, less than one block of {} bytes: make it as large as the \
                 device is to be (truncate -s SIZE)",
                options.filename,
                block_size.bytes()
            )));
        }
        let geometry = Geometry::new(block_size, blocks)?;
        let tail = size.0 - geometry.capacity().0;
        if tail > 0 {
            warn!(
                bdev = options.name,
                bytes = tail,
                "the end of the file is no whole block: unused"
            );
        }
        let mut options = options.clone();
        if options.iopoll && !device_polls(&medium, block_size)? {
            warn!(
                bdev = options.name,
                "the device has no queues for polled I/O (IOPOLL): interrupts instead"
            );
            options.iopoll = false;
        }
        let info = info_of(&options, &medium, &facts, geometry);
        info!(
            bdev = options.name,
            filename = options.filename,
            kind = ?medium.kind,
            direct = medium.direct,
            block_size = block_size.bytes(),
            blocks = blocks.0,
            native = ?info.native,
            "opened"
        );
        Ok(Arc::new(Uring { info, medium: Arc::new(medium), facts, options }))
    }

    /// Reads the medium's size again, and tells the registry and all who have the device open when
    /// it has changed. Returns the capacity.
    ///
    /// # Errors
    /// `NoDevice` when no such device is registered, `Invalid` when one of another kind is, or when the
    /// medium is now smaller than one block.
    pub fn rescan(registry: &Registry, name: &str) -> Result<BlockCount> {
        let device = registry.get(name)?;
        let bdev: &dyn Any = &**device.bdev();
        let Some(uring) = bdev.downcast_ref::<Uring>() else {
            return Err(Error::invalid(format!(
                "bdev '{name}' is a {}, not a file or block device",
                device.info().product_name
            )));
        };
        let size = uring.medium.size().map_err(|error| {
            Error::os(format!("cannot read the size of '{}'", uring.options.filename), error)
        })?;
        let blocks = uring.info.geometry.blocks_in(size);
        if blocks == BlockCount::ZERO {
            return Err(Error::invalid(format!(
                "'{}' now holds {size} bytes, less than a block",
                uring.options.filename
            )));
        }
        Geometry::new(uring.info.geometry.block_size, blocks)?;
        let before = device.geometry().blocks;
        if blocks != before {
            info!(bdev = name, before = before.0, now = blocks.0, "the capacity has changed");
        }
        registry.resize(name, blocks)?;
        Ok(blocks)
    }

    /// The options that are in effect.
    pub fn options(&self) -> &UringOptions {
        &self.options
    }

    /// Whether I/O bypasses the page cache.
    pub fn is_direct(&self) -> bool {
        self.medium.direct
    }
}

fn block_size(options: &UringOptions, medium: &Medium, facts: &Facts) -> Result<BlockSize> {
    // SPDK's clients send 0 for "that of the medium".
    let Some(bytes) = options.block_size.filter(|&bytes| bytes != 0) else {
        return BlockSize::new(u64::from(facts.block_size_default));
    };
    let block_size = BlockSize::new(u64::from(bytes))?;
    let least = facts.offset_align.max(1);
    if !bytes.is_multiple_of(least) {
        let what = match medium.kind {
            MediumKind::RegularFile => "the file system takes direct I/O",
            MediumKind::BlockDevice => "the device takes I/O",
        };
        return Err(Error::invalid(format!(
            "block size {bytes}: {what} on '{}' in multiples of {least} bytes only",
            options.filename
        )));
    }
    Ok(block_size)
}

fn info_of(options: &UringOptions, medium: &Medium, facts: &Facts, geometry: Geometry) -> Info {
    let (product_name, fallocate) = match options.method {
        Method::Uring => ("URING bdev", true),
        Method::Aio { fallocate } => ("AIO disk", fallocate),
    };
    let mut info = Info::new(options.name.clone(), product_name, geometry);
    if let Some(uuid) = options.uuid {
        info.uuid = uuid;
    }
    let mut native = OpcodeSet::EMPTY.with(Opcode::Read).with(Opcode::Flush).with(Opcode::Reset);
    if !medium.readonly {
        native = native.with(Opcode::Write);
    }
    if fallocate && facts.punch_hole {
        native = native.with(Opcode::Unmap);
    }
    if fallocate && facts.zero_range {
        native = native.with(Opcode::WriteZeroes);
    }
    info.native = native;
    info.limits = IoLimits { memory_alignment: facts.memory_align, ..IoLimits::NONE };
    info.volatile_write_cache = facts.volatile_write_cache;
    info.physical_block_size = facts.physical_block_size.max(geometry.block_size.bytes());
    info.numa_node = facts.numa_node;
    info
}

/// Whether the device answers a polled read. Devices without poll queues refuse it (EOPNOTSUPP).
/// A file of nothing but holes cannot tell, since no device is read: then it is the queue that finds
/// out.
fn device_polls(medium: &Medium, block_size: BlockSize) -> Result<bool> {
    if !medium.direct {
        return Ok(false);
    }
    let scratch = Region::allocate(block_size.bytes() as usize, HugePages::Never)?;
    let mut ring = match Ring::open(medium, 1, RingOptions { iopoll: true, sqpoll: false }) {
        Ok(ring) => ring,
        Err(_) => return Ok(false),
    };
    let data = seek(&medium.file, SeekFrom::Data(0)).unwrap_or(0);
    let read = opcode::Read::new(FILE, scratch.start().as_ptr(), block_size.bytes())
        .offset(data & !u64::from(block_size.bytes() - 1))
        .build();
    // SAFETY: the region is as long as the read and outlives it: the ring is waited for below.
    let pushed = unsafe { ring.submissions().push(&read) };
    if pushed.is_err() || ring.enter().taken != 1 {
        return Ok(false);
    }
    loop {
        if let Some(entry) = ring.completions().next() {
            return Ok(entry.result() >= 0);
        }
        if let Err(error) = ring.wait()
            && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
        {
            // The read may still be under way: its memory must stay.
            std::mem::forget(scratch);
            return Err(Error::os("cannot wait for a polled read", error));
        }
    }
}

impl Bdev for Uring {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        let options = QueueOptions {
            medium: Arc::clone(&self.medium),
            name: self.info.name.clone(),
            geometry: self.info.geometry,
            granule: self.facts.offset_align.max(self.facts.memory_align),
            rings: RingOptions { sqpoll: self.options.sqpoll, iopoll: self.options.iopoll },
            fixed: self.options.fixed_buffers,
        };
        Ok(Box::new(UringQueue::open(cx, depth, options)?))
    }

    fn driver_specific(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("filename".into(), json!(self.options.filename));
        let kind = match self.options.method {
            Method::Uring => "uring",
            Method::Aio { fallocate } => {
                let named = self.options.block_size.is_some_and(|bytes| bytes != 0);
                fields.insert("block_size_override".into(), json!(named));
                fields.insert("readonly".into(), json!(self.options.readonly));
                fields.insert("fallocate".into(), json!(fallocate));
                fields.insert("nowait".into(), json!(false));
                "aio"
            }
        };
        // Ours: what became of the options on this medium.
        fields.insert("direct".into(), json!(self.medium.direct));
        if kind == "uring" {
            fields.insert("readonly".into(), json!(self.options.readonly));
            fields.insert("sqpoll".into(), json!(self.options.sqpoll));
            fields.insert("iopoll".into(), json!(self.options.iopoll));
        }
        json!({ kind: fields })
    }

    fn config(&self) -> Vec<ConfigEntry> {
        let mut params = Map::new();
        params.insert("name".into(), json!(self.info.name));
        params.insert("block_size".into(), json!(self.info.geometry.block_size.bytes()));
        params.insert("filename".into(), json!(self.options.filename));
        let method = match self.options.method {
            Method::Uring => "bdev_uring_create",
            Method::Aio { fallocate } => {
                params.insert("readonly".into(), json!(self.options.readonly));
                params.insert("fallocate".into(), json!(fallocate));
                "bdev_aio_create"
            }
        };
        params.insert("uuid".into(), json!(self.info.uuid.to_string()));
        if self.options.method == Method::Uring {
            // Parameters of ours, named only where they differ from the default, so that SPDK
            // takes the entry too.
            for (name, value, usual) in [
                ("readonly", self.options.readonly, false),
                ("direct", self.options.direct, true),
                ("sqpoll", self.options.sqpoll, false),
                ("iopoll", self.options.iopoll, false),
            ] {
                if value != usual {
                    params.insert(name.into(), json!(value));
                }
            }
        } else {
            params.insert("nowait".into(), json!(false));
        }
        vec![ConfigEntry { method, params: Value::Object(params) }]
    }
}
