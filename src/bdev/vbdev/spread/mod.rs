//! Devices whose blocks are spread over their bases by a fixed rule: what stripe and linear share.
//!
//! The rule is a [`Layout`]. A spread device keeps its size when a base is resized, since where data lie
//! may depend on it. It does not offer compare-and-write, which must not be split: the channel in
//! front makes one from a compare and a write, wherever the range lies.

mod layout;
mod queue;
mod rows;

use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

pub(super) use self::layout::{Layout, Place};
use self::queue::SpreadQueue;
use super::bases::{self, OnResize};
use super::raid::{
    Raid, RaidBase, RaidFuture, RaidKind, RaidLevel, RaidSpec, RaidState, RaidSummary,
};
use crate::base::{BlockCount, Error, ErrorKind, Result};
use crate::bdev::{Bdev, ConfigEntry, Descriptor, Device, Info, Opcode, Queue, Registry};
use crate::reactor::Context;

/// A spread device.
struct Spread<L> {
    info: Info,
    spec: RaidSpec,
    bases: Vec<Arc<Device>>,
    layout: L,
    /// Blocks in use on each base.
    used: Vec<u64>,
}

impl<L> Spread<L> {
    fn summary(&self) -> RaidSummary {
        let slots = self.bases.iter().zip(&self.used);
        let slots = slots.map(|(base, used)| RaidBase::configured(base, 0, *used));
        RaidSummary::new(&self.spec, RaidState::Online, slots.collect())
    }
}

impl<L: Layout> Bdev for Spread<L> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(SpreadQueue::open(self.layout, &self.bases, cx, depth)?))
    }

    fn driver_specific(&self) -> Value {
        self.summary().driver_specific()
    }

    fn config(&self) -> Vec<ConfigEntry> {
        self.spec.config()
    }
}

impl<L: Layout> Raid for Arc<Spread<L>> {
    fn summary(&self) -> RaidSummary {
        Spread::summary(self)
    }
}

/// A spread device, and how the table of raids sees it.
pub(super) type Built = (Arc<Device>, Rc<dyn Raid>);

/// Builds and registers a spread device. `lay_out` says, from the capacities of the bases in blocks and
/// the block size, how much of each is used and by which rule.
pub(super) fn create<L: Layout>(
    registry: &Registry,
    spec: RaidSpec,
    product_name: &'static str,
    lay_out: impl FnOnce(&[u64], u32) -> Result<(L, Vec<u64>)>,
) -> Result<Built> {
    if spec.superblock {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("raid '{}': a {} has no superblock", spec.name, spec.level.name()),
        ));
    }
    let names: Vec<&str> = spec.base_bdevs.iter().map(String::as_str).collect();
    let descriptors = bases::open(registry, &names, "raid", &[&spec.name], OnResize::Keep)?;
    let bases: Vec<Arc<Device>> = descriptors.iter().map(device_of).collect();
    let capacities: Vec<u64> = bases.iter().map(|base| base.geometry().blocks.0).collect();
    let Some(first) = bases.first() else {
        return Err(Error::invalid(format!("raid '{}' has no base bdevs", spec.name)));
    };
    let (layout, used) = lay_out(&capacities, first.info().geometry.block_size.bytes())?;
    let blocks = BlockCount(used.iter().sum());
    let mut info = bases::derive_info(&spec.name, product_name, &descriptors, blocks)?;
    info.uuid = spec.uuid;
    info.native = info.native.without(Opcode::CompareAndWrite);
    let bdev = Arc::new(Spread { info, spec, bases, layout, used });
    let device = registry.register(Arc::clone(&bdev) as Arc<dyn Bdev>, descriptors)?;
    Ok((device, Rc::new(bdev)))
}

/// A level of raid whose devices are spread: there is nothing to wait for when one is built.
pub(super) struct SpreadKind {
    pub(super) level: RaidLevel,
    pub(super) check: fn(&RaidSpec) -> Result<()>,
    pub(super) build: fn(&Registry, RaidSpec) -> Result<Built>,
}

impl RaidKind for SpreadKind {
    fn level(&self) -> RaidLevel {
        self.level
    }

    fn check(&self, spec: &RaidSpec) -> Result<()> {
        (self.check)(spec)
    }

    fn create(&self, registry: Registry, spec: RaidSpec) -> RaidFuture<'static, Rc<dyn Raid>> {
        let result = (self.build)(&registry, spec).map(|(_, raid)| raid);
        Box::pin(std::future::ready(result))
    }
}

fn device_of(descriptor: &Descriptor) -> Arc<Device> {
    Arc::clone(descriptor.device())
}
