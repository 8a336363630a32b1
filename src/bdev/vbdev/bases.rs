//! Base bdevs of a virtual device: opening them, deriving facts from them, and going when one goes.
//!
//! A virtual device holds one [`Descriptor`] per base for as long as it is registered. It does not
//! outlive its bases: when one is removed, it is removed first. (The mirror, which does, keeps its legs
//! by itself.)

use std::sync::{Arc, OnceLock, Weak};

use tracing::{info, warn};

use crate::base::{BlockCount, Error, ErrorKind, Geometry, Result, limits};
use crate::bdev::{
    Bdev, Claim, Descriptor, Device, DeviceState, Event, Info, Opcode, OpcodeSet, Registry,
};

/// What a virtual device does when a base changes its capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnResize {
    /// Takes the same capacity.
    Follow,
    /// Keeps its own: where data lie depends on it.
    Keep,
}

/// Opens `names` for the virtual devices `parents`, which go when one of them goes.
///
/// # Errors
/// What [`Registry::open`] says of the first that cannot be opened.
pub(super) fn open(
    registry: &Registry,
    names: &[&str],
    owner: &'static str,
    parents: &[&str],
    on_resize: OnResize,
) -> Result<Vec<Descriptor>> {
    if parents.iter().any(|parent| names.contains(parent)) {
        return Err(Error::invalid(format!("bdev '{}' cannot be its own base", names[0])));
    }
    let open = |name: &&str| {
        let weak = registry.downgrade();
        let parents: Arc<[String]> = parents.iter().map(|&name| name.to_owned()).collect();
        let base = (*name).to_owned();
        registry.open(name, Claim::Exclusive(owner), move |event| {
            let Some(registry) = weak.upgrade() else { return };
            match event {
                Event::Removing => {
                    for parent in parents.iter() {
                        remove_parent(&registry, parent.clone());
                    }
                }
                Event::Resized(blocks) if on_resize == OnResize::Follow => {
                    for parent in parents.iter() {
                        if let Err(error) = registry.resize(parent, *blocks) {
                            warn!("'{parent}' does not follow the resize of '{base}': {error}");
                        }
                    }
                }
                Event::Resized(blocks) => {
                    info!("'{base}' has {blocks} blocks now; {parents:?} keep their size");
                }
            }
        })
    };
    names.iter().map(open).collect()
}

fn remove_parent(registry: &Registry, parent: String) {
    let handle = registry.clone();
    registry.context().spawn(async move {
        match handle.unregister(&parent).await {
            Ok(()) => (),
            // Its removal is under way, or done: several bases may go at once.
            Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::NoDevice) => (),
            Err(error) => warn!("'{parent}' cannot be removed with its base: {error}"),
        }
    });
}

/// The facts of a device of `blocks` blocks over `bases`: what they agree on, and of the rest the
/// careful choice.
///
/// # Errors
/// `Invalid` when the block sizes differ, or for a number of bases that is not possible.
pub(super) fn derive_info(
    name: &str,
    product_name: &'static str,
    bases: &[Descriptor],
    blocks: BlockCount,
) -> Result<Info> {
    let bases: Vec<&Descriptor> = bases.iter().collect();
    derive_info_of(name, product_name, &bases, blocks)
}

/// As [`derive_info`].
pub(super) fn derive_info_of(
    name: &str,
    product_name: &'static str,
    bases: &[&Descriptor],
    blocks: BlockCount,
) -> Result<Info> {
    let (first, others) = bases
        .split_first()
        .filter(|_| bases.len() <= limits::CHILDREN_MAX)
        .ok_or_else(|| Error::invalid(format!("'{name}' has {} base bdevs", bases.len())))?;
    let facts = first.device().info();
    let block_size = facts.geometry.block_size;
    for other in others {
        let other = other.device();
        if other.info().geometry.block_size != block_size {
            return Err(Error::invalid(format!(
                "the block sizes of base bdevs differ: '{}' has {} bytes, '{}' has {}",
                facts.name,
                block_size.bytes(),
                other.name(),
                other.info().geometry.block_size.bytes()
            )));
        }
    }
    if blocks == BlockCount::ZERO {
        return Err(Error::invalid(format!("the base bdevs are too small for '{name}'")));
    }
    let mut info = Info::new(name, product_name, Geometry::new(block_size, blocks)?);
    // The channels of the bases make up for what their drivers lack. NVMe commands name blocks and
    // namespaces of one device and are nobody's to redirect; a device that hands them through unchanged
    // adds them itself.
    info.native = OpcodeSet::BLOCK;
    info.erases = bases.iter().all(|base| base.device().info().erases);
    for base in bases {
        let base = base.device().info();
        info.volatile_write_cache |= base.volatile_write_cache;
        info.physical_block_size = info.physical_block_size.max(base.physical_block_size);
    }
    let node = facts.numa_node;
    info.numa_node = node.filter(|_| others.iter().all(|o| o.device().info().numa_node == node));
    Ok(info)
}

/// The NVMe passthrough opcodes that `base` takes.
pub(super) fn with_passthrough(native: OpcodeSet, base: &Device) -> OpcodeSet {
    [Opcode::NvmeAdmin, Opcode::NvmeIo]
        .into_iter()
        .filter(|&opcode| base.info().native.contains(opcode))
        .fold(native, OpcodeSet::with)
}

/// A virtual bdev's own view of the device that it was registered as, for queues that hold requests back
/// and must let go of them when the device goes.
#[derive(Default)]
pub(super) struct Registered(OnceLock<Weak<Device>>);

impl Registered {
    /// Registers `bdev`, of which this is a part, over `bases`.
    pub(super) fn register(
        &self,
        registry: &Registry,
        bdev: Arc<dyn Bdev>,
        bases: Vec<Descriptor>,
    ) -> Result<Arc<Device>> {
        let device = registry.register(bdev, bases)?;
        // Nobody but this function sets it, once per bdev.
        let _ = self.0.set(Arc::downgrade(&device));
        Ok(device)
    }

    /// Whether the device is going away.
    pub(super) fn is_closing(&self) -> bool {
        self.0
            .get()
            .is_some_and(|device| device.upgrade().is_none_or(|d| d.state() != DeviceState::Online))
    }
}
