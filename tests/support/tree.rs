//! Stacks of bdevs: a description that proptest makes and shrinks, and the devices it stands for.

use std::sync::Arc;

use proptest::prelude::*;
use weft::base::{BlockCount, BlockSize, Geometry, Uuid};
use weft::bdev::leaf::{malloc::Malloc, null::Null};
use weft::bdev::vbdev::mirror::MirrorKind;
use weft::bdev::vbdev::raid::{RaidLevel, RaidSpec};
use weft::bdev::vbdev::split::{self, SplitSpec};
use weft::bdev::vbdev::{Raids, delay, error, linear, passthru, stripe};
use weft::bdev::{Device, Registry};
use weft::memory::HugePages;

/// A stack.
#[derive(Clone, Debug)]
pub enum Tree {
    /// Memory of this many KiB.
    Malloc(u64),
    /// Nothing, of this many KiB.
    Null(u64),
    Passthru(Box<Tree>),
    Error(Box<Tree>),
    /// With this latency in microseconds.
    Delay(Box<Tree>, u64),
    /// Part number `.2` of `.1` parts.
    Split(Box<Tree>, u32, u32),
    Linear(Vec<Tree>),
    /// With a strip of this many KiB.
    Stripe(Vec<Tree>, u32),
    Mirror(Vec<Tree>),
}

/// Makes stacks of one kind over the stacks that another strategy makes.
type Over = fn(BoxedStrategy<Tree>) -> BoxedStrategy<Tree>;

/// The kinds of virtual bdev that stacks are made of.
const KINDS: [Over; 7] = [
    |base| base.prop_map(|base| Tree::Passthru(Box::new(base))).boxed(),
    |base| base.prop_map(|base| Tree::Error(Box::new(base))).boxed(),
    |base| (base, 0_u64..150).prop_map(|(base, us)| Tree::Delay(Box::new(base), us)).boxed(),
    |base| {
        let part = (1_u32..=3).prop_flat_map(|count| (Just(count), 0..count));
        (base, part).prop_map(|(base, (n, part))| Tree::Split(Box::new(base), n, part)).boxed()
    },
    |base| prop::collection::vec(base, 1..=3).prop_map(Tree::Linear).boxed(),
    |base| prop::collection::vec(base, 2..=4).prop_map(Tree::Mirror).boxed(),
    |base| {
        let bases = prop::collection::vec(base, 1..=4);
        (bases, 0_u32..5).prop_map(|(bases, shift)| Tree::Stripe(bases, 4 << shift >> 2)).boxed()
    },
];

/// Any stack of at most `depth` virtual bdevs on top of each other.
pub fn any_tree(depth: u32) -> impl Strategy<Value = Tree> {
    // Small enough to be quick, large enough for a strip on the smallest part of a part of a part.
    let kib = 512_u64..1500;
    let leaf = prop_oneof![9 => kib.clone().prop_map(Tree::Malloc), 1 => kib.prop_map(Tree::Null)];
    leaf.prop_recursive(depth, 10, 3, |base| {
        proptest::strategy::Union::new(KINDS.map(|over| over(base.clone())))
    })
}

/// The devices of a stack.
pub struct Built {
    pub top: Arc<Device>,
    /// Names of all devices, bases before what is over them.
    pub all: Vec<String>,
    /// Names of the error devices.
    pub errors: Vec<String>,
    /// Whether what is written can be read again.
    pub stores: bool,
    /// Held for the mirrors in it.
    _raids: Raids,
}

pub fn build(registry: &Registry, tree: &Tree, block_size: BlockSize) -> Built {
    let raids = Raids::new(registry);
    raids.add_kind(MirrorKind::new(registry, &raids));
    let mut builder = Builder {
        registry,
        raids,
        block_size,
        count: 0,
        all: Vec::new(),
        errors: Vec::new(),
        stores: true,
    };
    let top = builder.build(tree);
    let top = registry.get(&top).unwrap();
    let Builder { raids, all, errors, stores, .. } = builder;
    Built { top, all, errors, stores, _raids: raids }
}

struct Builder<'a> {
    registry: &'a Registry,
    raids: Raids,
    block_size: BlockSize,
    count: u32,
    all: Vec<String>,
    errors: Vec<String>,
    stores: bool,
}

impl Builder<'_> {
    fn name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}{}", self.count)
    }

    fn geometry(&self, kib: u64) -> Geometry {
        Geometry::new(self.block_size, BlockCount((kib << 10) >> self.block_size.shift())).unwrap()
    }

    fn raid(&mut self, level: RaidLevel, strip_size_kb: u32, bases: &[Tree]) -> Arc<Device> {
        let base_bdevs = bases.iter().map(|base| self.build(base)).collect();
        let name = self.name(level.name());
        // A strip is at least a block.
        let strip_size_kb = match level {
            RaidLevel::Concat | RaidLevel::Raid1 => strip_size_kb,
            RaidLevel::Raid0 => strip_size_kb.max(self.block_size.bytes() >> 10),
        };
        let uuid = Uuid::new_v4();
        let spec = RaidSpec { name, uuid, level, strip_size_kb, base_bdevs, superblock: false };
        match level {
            RaidLevel::Concat => linear::create(self.registry, spec).unwrap(),
            RaidLevel::Raid0 => stripe::create(self.registry, spec).unwrap(),
            RaidLevel::Raid1 => {
                let name = spec.name.clone();
                self.registry.context().block_on(self.raids.create(spec)).unwrap();
                self.registry.get(&name).unwrap()
            }
        }
    }

    fn build(&mut self, tree: &Tree) -> String {
        let registry = self.registry;
        let device = match tree {
            Tree::Malloc(kib) => {
                let (name, geometry) = (self.name("malloc"), self.geometry(*kib));
                let malloc = Malloc::create(&name, None, geometry, HugePages::Never).unwrap();
                registry.register(malloc, Vec::new()).unwrap()
            }
            Tree::Null(kib) => {
                self.stores = false;
                let null = Null::create(&self.name("null"), None, self.geometry(*kib));
                registry.register(null, Vec::new()).unwrap()
            }
            Tree::Passthru(base) => {
                let base = self.build(base);
                passthru::create(registry, &self.name("passthru"), &base, None).unwrap()
            }
            Tree::Error(base) => {
                let base = self.build(base);
                let device = error::create(registry, &base, None).unwrap();
                self.errors.push(device.name().into());
                device
            }
            Tree::Delay(base, micros) => {
                let base = self.build(base);
                let latencies = [*micros, micros * 3, *micros, micros * 3];
                delay::create(registry, &self.name("delay"), &base, None, latencies).unwrap()
            }
            Tree::Split(base, count, part) => {
                let base = self.build(base);
                let parts =
                    split::create(registry, &SplitSpec { base, count: *count, size_mib: 0 })
                        .unwrap();
                Arc::clone(&parts[*part as usize])
            }
            Tree::Linear(bases) => self.raid(RaidLevel::Concat, 0, bases),
            Tree::Mirror(bases) => self.raid(RaidLevel::Raid1, 0, bases),
            Tree::Stripe(bases, strip_size_kb) => {
                self.raid(RaidLevel::Raid0, *strip_size_kb, bases)
            }
        };
        self.all.push(device.name().into());
        device.name().into()
    }
}
