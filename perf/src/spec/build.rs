//! Makes the devices of a spec in a registry: one small function for each kind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use weft::base::{BlockCount, BlockSize, ByteCount, Error, Geometry, Result, Uuid};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::leaf::null::Null;
use weft::bdev::leaf::nvme::Controllers;
use weft::bdev::leaf::uring::{Uring, UringOptions};
use weft::bdev::leaf::virtio::{self, VirtioOptions};
use weft::bdev::vbdev::delay::LatencyKind;
use weft::bdev::vbdev::error::{Fault, Injection, Target};
use weft::bdev::vbdev::raid::{RaidLevel, RaidSpec};
use weft::bdev::vbdev::split::SplitSpec;
use weft::bdev::vbdev::{Raids, delay, error, passthru, split};
use weft::bdev::{ConfigEntry, Device, Opcode, Registry};
use weft::memory::RegionOptions;
use weft::nvme::Place;
use weft::rpc::Services;

use super::parse::Node;

/// A device in the making.
pub type Making<'a> = Pin<Box<dyn Future<Output = Result<Arc<Device>>> + 'a>>;

/// Makes the device of a node over those of its children.
pub type Build = for<'a> fn(&'a Builder, &'a Node, &'a [Arc<Device>]) -> Making<'a>;

/// Makes devices and gives them names.
pub struct Builder {
    registry: Registry,
    raids: Raids,
    memory: RegionOptions,
    nvme: Controllers,
    virtio: virtio::Controllers,
    cores: usize,
    /// The names of controllers, by place.
    controllers: RefCell<BTreeMap<String, String>>,
    /// How many of each kind there are.
    counts: RefCell<BTreeMap<&'static str, usize>>,
}

impl Builder {
    /// A builder that registers devices where the other devices of the services are.
    pub fn new(services: &Services) -> Builder {
        Builder {
            registry: services.bdevs.clone(),
            raids: services.raids.clone(),
            memory: services.memory,
            nvme: services.nvme.clone(),
            virtio: services.virtio.clone(),
            cores: services.reactors.len(),
            controllers: RefCell::default(),
            counts: RefCell::default(),
        }
    }

    /// Makes the device and all it stands on.
    ///
    /// # Errors
    /// What the device said, with the kind that it is of.
    pub async fn build(&self, node: &Node) -> Result<Arc<Device>> {
        let mut children = Vec::new();
        for child in &node.children {
            children.push(Box::pin(self.build(child)).await?);
        }
        (node.kind.build)(self, node, &children)
            .await
            .map_err(|error| error.context(format_args!("--bdev {}", node.kind.name)))
    }

    /// The name given, or the kind and a number, as SPDK names its devices.
    fn name(&self, node: &Node) -> String {
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(node.kind.name).or_default();
        let number = *count;
        *count += 1;
        match node.text("name") {
            Some(name) => name.into(),
            None => {
                let (first, rest) = node.kind.name.split_at(1);
                format!("{}{rest}{number}", first.to_uppercase())
            }
        }
    }
}

/// Kinds that are made at once.
macro_rules! at_once {
    ($($name:ident = $make:ident;)*) => {
        $(pub(super) fn $name<'a>(
            builder: &'a Builder,
            node: &'a Node,
            bases: &'a [Arc<Device>],
        ) -> Making<'a> {
            Box::pin(std::future::ready($make(builder, node, bases)))
        })*
    };
}

at_once! {
    malloc = make_malloc;
    null = make_null;
    passthru = make_passthru;
    split = make_split;
    delay = make_delay;
}

fn geometry(node: &Node) -> Result<Geometry> {
    let bytes = node.size("size").unwrap_or(1 << 30);
    let block_size = BlockSize::new(node.size("block").unwrap_or(4096))?;
    if bytes == 0 || !bytes.is_multiple_of(u64::from(block_size.bytes())) {
        return Err(Error::invalid(format!(
            "a size of {bytes} is no whole number of blocks of {} bytes",
            block_size.bytes()
        )));
    }
    let unbounded = Geometry { block_size, blocks: BlockCount(0) };
    Geometry::new(block_size, unbounded.blocks_in(ByteCount(bytes)))
}

fn make_malloc(builder: &Builder, node: &Node, _: &[Arc<Device>]) -> Result<Arc<Device>> {
    let name = builder.name(node);
    let bdev = Malloc::create(&name, None, geometry(node)?, builder.memory)?;
    builder.registry.register(bdev, Vec::new())
}

fn make_null(builder: &Builder, node: &Node, _: &[Arc<Device>]) -> Result<Arc<Device>> {
    let bdev = Null::create(&builder.name(node), None, geometry(node)?);
    builder.registry.register(bdev, Vec::new())
}

pub(super) fn uring<'a>(builder: &'a Builder, node: &'a Node, _: &'a [Arc<Device>]) -> Making<'a> {
    Box::pin(async {
        let options = uring_options(builder, node)?;
        builder.registry.register(Uring::open(options).await?, Vec::new())
    })
}

fn uring_options(builder: &Builder, node: &Node) -> Result<UringOptions> {
    let path = node.text("path").ok_or_else(|| Error::invalid("which file? write uring:PATH"))?;
    let mut options = UringOptions::new(builder.name(node), path);
    if let Some(bytes) = node.size("block") {
        options.block_size = Some(BlockSize::new(bytes)?.bytes());
    }
    options.direct = node.flag("direct").unwrap_or(options.direct);
    options.iopoll = node.flag("iopoll").unwrap_or(options.iopoll);
    options.sqpoll = node.flag("sqpoll").unwrap_or(options.sqpoll);
    options.readonly = node.flag("readonly").unwrap_or(options.readonly);
    options.fixed_buffers = node.flag("fixed").unwrap_or(options.fixed_buffers);
    Ok(options)
}

/// Namespaces of one controller share it: it is attached when the first of them is asked for.
pub(super) fn nvme<'a>(builder: &'a Builder, node: &'a Node, _: &'a [Arc<Device>]) -> Making<'a> {
    Box::pin(async {
        let place = match (node.text("pcie"), node.text("vfiouser")) {
            (Some(address), None) => Place::parse("pcie", address)?,
            (None, Some(path)) => Place::parse("vfiouser", path)?,
            _ => {
                return Err(Error::invalid(
                    "which controller? write pcie=ADDRESS or vfiouser=PATH",
                ));
            }
        };
        let known = builder.controllers.borrow().get(&place.to_string()).cloned();
        let name = match known {
            Some(name) => name,
            None => {
                let name = builder.name(node);
                let config =
                    ConfigEntry { method: "bdev_nvme_attach_controller", params: json!({}) };
                let mut options = builder.nvme.options();
                if let Some(entries) = node.number("entries") {
                    options.io_queue_size = u32::try_from(entries).unwrap_or(u32::MAX);
                }
                builder.nvme.attach(&name, &place, options, config).await?;
                builder.controllers.borrow_mut().insert(place.to_string(), name.clone());
                name
            }
        };
        let namespace = node.number("ns").unwrap_or(1);
        builder.registry.get(&format!("{name}n{namespace}"))
    })
}

pub(super) fn virtio<'a>(builder: &'a Builder, node: &'a Node, _: &'a [Arc<Device>]) -> Making<'a> {
    Box::pin(async {
        let socket = node.text("socket").ok_or_else(|| {
            Error::invalid("which back end? write virtio:SOCKET, the path of its vhost-user socket")
        })?;
        let name = builder.name(node);
        let mut options = VirtioOptions::new(socket);
        options.queues = small(node.number("queues").unwrap_or(builder.cores as u64));
        options.queue_size = node.number("entries").map_or(options.queue_size, small);
        options.packed = match node.text("ring") {
            None => None,
            Some("split") => Some(false),
            Some("packed") => Some(true),
            Some(other) => {
                return Err(Error::invalid(format!("ring={other}: split or packed is possible")));
            }
        };
        options.indirect = node.flag("indirect");
        options.event_index = node.flag("event-idx");
        options.reconnect = Duration::from_secs(node.number("reconnect").unwrap_or(0));
        builder.virtio.attach(&name, options).await?;
        builder.registry.get(&name)
    })
}

/// The number, or one that is too great as well.
fn small(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Makes a raid of this level, with strips of `unit` bytes where it has any.
async fn raid(
    builder: &Builder,
    node: &Node,
    bases: &[Arc<Device>],
    level: RaidLevel,
    unit: u64,
) -> Result<Arc<Device>> {
    if !unit.is_multiple_of(1024) {
        return Err(Error::invalid(format!("unit={unit}: whole KiB are possible")));
    }
    let spec = RaidSpec {
        name: builder.name(node),
        uuid: Uuid::new_v4(),
        level,
        strip_size_kb: u32::try_from(unit / 1024)
            .map_err(|_| Error::invalid(format!("unit={unit}: less than 4T is possible")))?,
        base_bdevs: bases.iter().map(|base| base.name().into()).collect(),
        superblock: false,
    };
    let name = spec.name.clone();
    builder.raids.create(spec).await?;
    builder.registry.get(&name)
}

pub(super) fn stripe<'a>(
    builder: &'a Builder,
    node: &'a Node,
    bases: &'a [Arc<Device>],
) -> Making<'a> {
    let unit = node.size("unit").unwrap_or(64 << 10);
    Box::pin(raid(builder, node, bases, RaidLevel::Raid0, unit))
}

pub(super) fn mirror<'a>(
    builder: &'a Builder,
    node: &'a Node,
    bases: &'a [Arc<Device>],
) -> Making<'a> {
    Box::pin(raid(builder, node, bases, RaidLevel::Raid1, 0))
}

pub(super) fn linear<'a>(
    builder: &'a Builder,
    node: &'a Node,
    bases: &'a [Arc<Device>],
) -> Making<'a> {
    Box::pin(raid(builder, node, bases, RaidLevel::Concat, 0))
}

fn make_passthru(builder: &Builder, node: &Node, bases: &[Arc<Device>]) -> Result<Arc<Device>> {
    passthru::create(&builder.registry, &builder.name(node), bases[0].name(), None)
}

fn make_split(builder: &Builder, node: &Node, bases: &[Arc<Device>]) -> Result<Arc<Device>> {
    let count = node.number("count").unwrap_or(2);
    let part = node.number("part").unwrap_or(0);
    let count = u32::try_from(count)
        .map_err(|_| Error::invalid(format!("count={count} is too many parts")))?;
    let spec = SplitSpec { base: bases[0].name().into(), count, size_mib: 0 };
    let parts = split::create(&builder.registry, &spec)?;
    parts.get(part as usize).cloned().ok_or_else(|| {
        Error::invalid(format!("part={part}: there are {} parts, from 0", parts.len()))
    })
}

fn make_delay(builder: &Builder, node: &Node, bases: &[Arc<Device>]) -> Result<Arc<Device>> {
    let read = node.number("read").unwrap_or(0);
    let write = node.number("write").unwrap_or(0);
    let mut latencies = [0; 4];
    latencies[LatencyKind::AverageRead as usize] = read;
    latencies[LatencyKind::P99Read as usize] = node.number("p99_read").unwrap_or(read);
    latencies[LatencyKind::AverageWrite as usize] = write;
    latencies[LatencyKind::P99Write as usize] = node.number("p99_write").unwrap_or(write);
    delay::create(&builder.registry, &builder.name(node), bases[0].name(), None, latencies)
}

pub(super) fn error<'a>(
    builder: &'a Builder,
    node: &'a Node,
    bases: &'a [Arc<Device>],
) -> Making<'a> {
    Box::pin(async {
        let (target, injection) = fault(node)?;
        let device = error::create(&builder.registry, bases[0].name(), None)?;
        // Those who look for labels on it read it too: the fault is not for them.
        builder.registry.wait_for_examine().await;
        error::inject(&builder.registry, device.name(), target, injection)?;
        Ok(device)
    })
}

fn fault(node: &Node) -> Result<(Target, Injection)> {
    let target = match node.text("io").unwrap_or("all") {
        "all" => Target::All,
        "read" => Target::Opcode(Opcode::Read),
        "write" => Target::Opcode(Opcode::Write),
        "unmap" => Target::Opcode(Opcode::Unmap),
        "flush" => Target::Opcode(Opcode::Flush),
        other => {
            return Err(Error::invalid(format!(
                "io={other}: all, read, write, unmap and flush are possible"
            )));
        }
    };
    let fault = match node.text("type").unwrap_or("failure") {
        "failure" => Fault::Failure,
        "corrupt_data" => {
            let value = node.number("value").unwrap_or(255);
            let value = u8::try_from(value)
                .map_err(|_| Error::invalid(format!("value={value}: 1 to 255 is possible")))?;
            Fault::CorruptData { offset: node.number("offset").unwrap_or(0), value }
        }
        other => {
            return Err(Error::invalid(format!(
                "type={other}: failure and corrupt_data are possible"
            )));
        }
    };
    let count = u32::try_from(node.number("count").unwrap_or(1)).unwrap_or(u32::MAX);
    Ok((target, Injection { fault, count, queue_depth: 0 }))
}
