//! Nodes in one process with a network and drives that never fail, but take their time: a millisecond for everything.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use weft::base::{Time, Uuid};
use weft::consensus::{BatchId, Settings, store::MemoryStore};
use weft::mesh::disk::{DiskOperation, DiskResult};
use weft::mesh::ids::NodeId;
use weft::mesh::node::{Input, Node, Output, Start};
use weft::mesh::payload::Payload;
use weft::mesh::picture::{Domains, DriveSpec};

/// Blocks of one number each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks(pub Vec<u64>);

impl Payload for Blocks {
    fn blocks(&self) -> u32 {
        self.0.len() as u32
    }

    fn part(&self, first: u32, count: u32) -> Self {
        Blocks(self.0[first as usize..(first + count) as usize].to_vec())
    }

    fn zeroes(count: u32) -> Self {
        Blocks(vec![0; count as usize])
    }

    fn capture(&self) -> Self {
        self.clone()
    }
}

/// A drive: what was never written reads as garbage.
#[derive(Default)]
struct Drive {
    blocks: BTreeMap<u64, u64>,
    meta: BTreeMap<u64, Vec<u8>>,
}

const BLOCK: usize = 4096;

impl Drive {
    fn run(&mut self, operation: DiskOperation<Blocks>) -> DiskResult<Blocks> {
        match operation {
            DiskOperation::Read { block, blocks } => {
                let read = |at| self.blocks.get(&at).copied().unwrap_or(0xbad);
                DiskResult::Data(Blocks((block..block + u64::from(blocks)).map(read).collect()))
            }
            DiskOperation::Write { block, payload, .. } => {
                payload
                    .0
                    .iter()
                    .zip(block..)
                    .for_each(|(value, at)| _ = self.blocks.insert(at, *value));
                DiskResult::Done
            }
            DiskOperation::Zero { block, blocks, .. } => {
                (block..block + u64::from(blocks)).for_each(|at| _ = self.blocks.insert(at, 0));
                DiskResult::Done
            }
            DiskOperation::ReadMeta { block, blocks } => {
                let read = |at| self.meta.get(&at).cloned().unwrap_or(vec![0; BLOCK]);
                let bytes: Vec<u8> = (block..block + u64::from(blocks)).flat_map(read).collect();
                DiskResult::Meta(bytes.into())
            }
            DiskOperation::WriteMeta { block, bytes } => {
                bytes
                    .chunks(BLOCK)
                    .zip(block..)
                    .for_each(|(bytes, at)| _ = self.meta.insert(at, bytes.to_vec()));
                DiskResult::Done
            }
            DiskOperation::Poison { .. } | DiskOperation::Flush => DiskResult::Done,
        }
    }
}

/// Nodes, their stores and drives.
pub struct World {
    pub now: Time,
    nodes: BTreeMap<NodeId, Option<Node<Blocks>>>,
    stores: BTreeMap<NodeId, MemoryStore>,
    drives: BTreeMap<Uuid, Drive>,
    coming: BTreeMap<Time, VecDeque<(NodeId, Input<Blocks>)>>,
    starts: u64,
    /// What nodes have said to their users, and for people.
    pub heard: Vec<(Time, NodeId, Output<Blocks>)>,
}

fn drive_of(node: NodeId) -> Uuid {
    Uuid::from_u128(0xd00 + u128::from(node.0))
}

impl World {
    /// `count` nodes with a drive each. The first founds the mesh.
    pub fn new(count: u32) -> World {
        let mut world = World {
            now: Time::from_nanos(1_000_000_000),
            nodes: BTreeMap::new(),
            stores: BTreeMap::new(),
            drives: BTreeMap::new(),
            coming: BTreeMap::new(),
            starts: 0,
            heard: Vec::new(),
        };
        let nodes: Vec<NodeId> = (1..=count).map(NodeId).collect();
        for node in &nodes {
            world.stores.insert(
                *node,
                MemoryStore::new(*node, Uuid::from_u128(0x500 + u128::from(node.0))),
            );
            world.drives.insert(drive_of(*node), Drive::default());
            world.start(*node, &nodes, node.0 == 1);
        }
        world
    }

    fn start(&mut self, node: NodeId, nodes: &[NodeId], found: bool) {
        self.starts += 1;
        let start = Start {
            node,
            uuid: Uuid::from_u128(node.0.into()),
            origin: 0x1000 + self.starts,
            addresses: Vec::new(),
            domains: Domains::default(),
            peers: nodes.to_vec(),
            token: Some([7; 32]),
            found,
            restored: self.stores.get_mut(&node).map(MemoryStore::open),
            settings: Settings::new(node),
        };
        self.nodes.insert(node, Some(Node::start(start, self.now)));
        self.give(node, Input::Timer);
        let add = DriveSpec {
            block_shift: 12,
            extent_blocks: 64,
            extents: 64,
            class: "tlc".into(),
            tags: Default::default(),
        };
        let (open_count, nonce) = (self.starts, 0x9000 + self.starts);
        let previous = (1..self.starts).map(|start| 0x9000 + start).collect();
        self.give(
            node,
            Input::DriveFound {
                uuid: drive_of(node),
                open_count,
                nonce,
                previous,
                identity: 1,
                add: Some(add),
            },
        );
    }

    /// The node is gone at once, with everything that it has not made durable.
    pub fn kill(&mut self, node: NodeId) {
        self.nodes.insert(node, None);
    }

    /// A node that is there.
    pub fn node(&self, node: u32) -> &Node<Blocks> {
        self.nodes[&NodeId(node)].as_ref().expect("a node that runs")
    }

    /// Something reaches a node now.
    pub fn give(&mut self, node: NodeId, input: Input<Blocks>) {
        let mut outputs = Vec::new();
        let Some(Some(machine)) = self.nodes.get_mut(&node) else { return };
        machine.handle(self.now, input, &mut outputs);
        let later = self.now + Duration::from_millis(1);
        for output in outputs {
            let (to, input) = match output {
                Output::Send { to, packet } => (to, Input::Packet { from: node, packet }),
                Output::Disk { drive, ticket, operation } => {
                    let result = self.drives.get_mut(&drive).expect("a drive").run(operation);
                    (node, Input::Disk { drive, ticket, result })
                }
                Output::Store(batch) => {
                    self.stores.get_mut(&node).expect("a store").apply(&batch);
                    let batch: BatchId = batch.id;
                    (node, Input::Stored { batch })
                }
                told => {
                    self.heard.push((self.now, node, told));
                    continue;
                }
            };
            self.coming.entry(later).or_default().push_back((to, input));
        }
    }

    /// Time passes until `done`; panics when that takes longer than `limit`.
    pub fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&World) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(
                self.now < end,
                "{what} takes too long; the last that was said: {:#?}",
                self.heard.iter().rev().take(20).collect::<Vec<_>>()
            );
            let timer =
                |node: &Option<Node<Blocks>>| node.as_ref().map_or(Time::NEVER, Node::next_timer);
            let timer =
                self.nodes.iter().map(|(id, node)| (timer(node), *id)).min().expect("nodes");
            let coming = self.coming.first_key_value().map_or(Time::NEVER, |(time, _)| *time);
            self.now = self.now.max(timer.0.min(coming));
            if coming <= timer.0 {
                let (_, inputs) = self.coming.pop_first().expect("looked at");
                inputs.into_iter().for_each(|(node, input)| self.give(node, input));
            } else {
                self.give(timer.1, Input::Timer);
                let next = timer_of(self, timer.1);
                assert!(
                    next > self.now,
                    "{} wants a timer at {next:?}, which is not after {:?}",
                    timer.1,
                    self.now
                );
            }
        }
    }
}

fn timer_of(world: &World, node: NodeId) -> Time {
    world.nodes[&node].as_ref().map_or(Time::NEVER, Node::next_timer)
}
