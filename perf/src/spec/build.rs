//! Makes the devices of a spec in a registry: one small function for each kind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use weft::base::{BlockCount, BlockSize, ByteCount, Error, Geometry, Result, Uuid};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::leaf::null::Null;
use weft::bdev::leaf::uring::{Uring, UringOptions};
use weft::bdev::vbdev::delay::LatencyKind;
use weft::bdev::vbdev::error::{Fault, Injection, Target};
use weft::bdev::vbdev::raid::{RaidLevel, RaidSpec};
use weft::bdev::vbdev::split::SplitSpec;
use weft::bdev::vbdev::{delay, error, linear, passthru, split, stripe};
use weft::bdev::{Device, Opcode, Registry};
use weft::memory::HugePages;

use super::parse::Node;

/// Makes the device of a node over those of its children.
pub type Build = fn(&Builder, &Node, &[Arc<Device>]) -> Result<Arc<Device>>;

/// Makes devices and gives them names.
pub struct Builder {
    registry: Registry,
    huge_pages: HugePages,
    /// How many of each kind there are.
    counts: RefCell<BTreeMap<&'static str, usize>>,
}

impl Builder {
    /// A builder that registers devices in `registry`.
    pub fn new(registry: Registry, huge_pages: HugePages) -> Builder {
        Builder { registry, huge_pages, counts: RefCell::default() }
    }

    /// Makes the device and all it stands on.
    ///
    /// # Errors
    /// What the device said, with the kind that it is of.
    pub fn build(&self, node: &Node) -> Result<Arc<Device>> {
        let children = node.children.iter().map(|child| self.build(child));
        let children = children.collect::<Result<Vec<_>>>()?;
        (node.kind.build)(self, node, &children)
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

pub(super) fn malloc(builder: &Builder, node: &Node, _: &[Arc<Device>]) -> Result<Arc<Device>> {
    let name = builder.name(node);
    let bdev = Malloc::create(&name, None, geometry(node)?, builder.huge_pages)?;
    builder.registry.register(bdev, Vec::new())
}

pub(super) fn null(builder: &Builder, node: &Node, _: &[Arc<Device>]) -> Result<Arc<Device>> {
    let bdev = Null::create(&builder.name(node), None, geometry(node)?);
    builder.registry.register(bdev, Vec::new())
}

pub(super) fn uring(builder: &Builder, node: &Node, _: &[Arc<Device>]) -> Result<Arc<Device>> {
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
    builder.registry.register(Uring::create(options)?, Vec::new())
}

fn raid_spec(builder: &Builder, node: &Node, level: RaidLevel, bases: &[Arc<Device>]) -> RaidSpec {
    RaidSpec {
        name: builder.name(node),
        uuid: Uuid::new_v4(),
        level,
        strip_size_kb: 0,
        base_bdevs: bases.iter().map(|base| base.name().into()).collect(),
        superblock: false,
    }
}

pub(super) fn stripe(builder: &Builder, node: &Node, bases: &[Arc<Device>]) -> Result<Arc<Device>> {
    let mut spec = raid_spec(builder, node, RaidLevel::Raid0, bases);
    let unit = node.size("unit").unwrap_or(64 << 10);
    if !unit.is_multiple_of(1024) || unit == 0 {
        return Err(Error::invalid(format!("unit={unit}: whole KiB are possible")));
    }
    spec.strip_size_kb = u32::try_from(unit / 1024)
        .map_err(|_| Error::invalid(format!("unit={unit}: less than 4T is possible")))?;
    stripe::create(&builder.registry, spec)
}

pub(super) fn linear(builder: &Builder, node: &Node, bases: &[Arc<Device>]) -> Result<Arc<Device>> {
    linear::create(&builder.registry, raid_spec(builder, node, RaidLevel::Concat, bases))
}

pub(super) fn passthru(
    builder: &Builder,
    node: &Node,
    bases: &[Arc<Device>],
) -> Result<Arc<Device>> {
    passthru::create(&builder.registry, &builder.name(node), bases[0].name(), None)
}

pub(super) fn split(builder: &Builder, node: &Node, bases: &[Arc<Device>]) -> Result<Arc<Device>> {
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

pub(super) fn delay(builder: &Builder, node: &Node, bases: &[Arc<Device>]) -> Result<Arc<Device>> {
    let read = node.number("read").unwrap_or(0);
    let write = node.number("write").unwrap_or(0);
    let mut latencies = [0; 4];
    latencies[LatencyKind::AverageRead as usize] = read;
    latencies[LatencyKind::P99Read as usize] = node.number("p99_read").unwrap_or(read);
    latencies[LatencyKind::AverageWrite as usize] = write;
    latencies[LatencyKind::P99Write as usize] = node.number("p99_write").unwrap_or(write);
    delay::create(&builder.registry, &builder.name(node), bases[0].name(), None, latencies)
}

pub(super) fn error(builder: &Builder, node: &Node, bases: &[Arc<Device>]) -> Result<Arc<Device>> {
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
    let device = error::create(&builder.registry, bases[0].name(), None)?;
    let injection = Injection { fault, count, queue_depth: 0 };
    error::inject(&builder.registry, device.name(), target, injection)?;
    Ok(device)
}
