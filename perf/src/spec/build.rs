//! Makes the devices of a spec in a registry: one small function for each kind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use weft::base::{BlockSize, ByteCount, Error, Geometry, Result};
use weft::bdev::leaf::{malloc::Malloc, null::Null};
use weft::bdev::{Device, Registry};
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
    let unbounded = Geometry { block_size, blocks: weft::base::BlockCount(0) };
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
