//! How fast the picture takes entries, and how long a snapshot takes, at the size that the mesh is built for.

use std::collections::BTreeSet;
use std::time::Instant;

use weft::base::Uuid;
use weft::mesh::ids::{Incarnation, Index, NodeId};
use weft::mesh::picture::{
    AttachMode, Beat, Change, Command, Domains, DriveSpec, Eviction, Evidence, Group, Layout,
    Nonce, OpenDrive, Picture, Reply, Spread, SyncEnd, SyncStart, Tick, VolumeSpec,
};

const NODES: u32 = 300;
const DRIVES: u32 = 3000;
const VOLUMES: u32 = 25_000;
const WIDTH: u16 = 4;
/// Items of a batch: what one drive or node brings together.
const BATCH: usize = 32;

#[derive(Default)]
struct Mesh {
    picture: Picture,
    changes: Vec<Change>,
}

impl Mesh {
    fn apply(&mut self, command: &Command) -> Reply {
        self.changes.clear();
        let index = Index(self.picture.applied().0 + 1);
        self.picture.apply(index, command, &mut self.changes).expect("a command that is accepted")
    }

    fn incarnation(&self, node: u32) -> Incarnation {
        self.picture.node(NodeId(node)).and_then(|node| node.incarnation).expect("a started node")
    }

    fn add_nodes(&mut self) {
        for node in 1..=NODES {
            let (uuid, id) = (Uuid::from_u128(node.into()), NodeId(node));
            let domains = Domains { rack: format!("rack {}", node % 20), zone: String::new() };
            let token = (node > 1).then_some([7; 32]);
            self.apply(&Command::AddNode { node: id, uuid, domains: domains.clone(), token });
            if node == 1 {
                self.apply(&Command::AddToken { digest: [7; 32], uses: NODES });
            }
            let addresses = vec![format!("10.0.{}.{}", node / 256, node % 256)];
            self.apply(&Command::StartNode {
                node: id,
                uuid,
                origin: 1,
                addresses,
                domains,
                store: None,
            });
        }
        for node in 1..=NODES {
            let reach = (1..=NODES).filter(|&peer| peer != node).map(NodeId).collect();
            let incarnation = self.incarnation(node);
            self.apply(&Command::Report { node: NodeId(node), incarnation, reach, load: 0 });
        }
    }

    fn add_drives(&mut self) {
        for drive in 1..=DRIVES {
            let uuid = Uuid::from_u128(u128::from(drive) << 64);
            let node = drive % NODES + 1;
            let spec = DriveSpec {
                block_shift: 12,
                extent_blocks: 1 << 18,
                extents: 4096,
                class: "tlc".into(),
                tags: BTreeSet::from(["fast".to_string()]),
            };
            self.apply(&Command::AddDrive { node: NodeId(node), uuid, spec });
            self.apply(&Command::OpenDrive(OpenDrive {
                uuid,
                node: NodeId(node),
                incarnation: self.incarnation(node),
                open_count: 1,
                nonce: 1,
                previous: Vec::new(),
                identity: 0,
            }));
        }
    }

    fn create(&mut self, number: u32) {
        let spec = VolumeSpec {
            block_shift: 12,
            blocks: 1 << 20,
            copies: 2,
            layout: Layout::Striped { width: WIDTH, strip_blocks: 16 },
            spread: Spread::Rack,
            class: "tlc".into(),
            tags: BTreeSet::from(["fast".to_string()]),
            region_shift: 20,
            write_back: false,
        };
        self.apply(&Command::CreateVolume { name: format!("volume {number}"), spec });
    }

    fn tick(&mut self, counter: u64) {
        let applied = self.picture.applied();
        let beats = self
            .picture
            .nodes()
            .filter_map(|node| {
                let nonce = Nonce { origin: 1, counter };
                Some(Beat { node: node.id, incarnation: node.incarnation?, nonce, applied })
            })
            .collect();
        self.apply(&Command::Tick(Tick { elapsed_ms: Some(250), beats }));
    }

    fn proposals(&self, groups: &[Group]) -> [Command; 3] {
        let proposer = NodeId(1);
        let mut evictions = Vec::new();
        let mut starts = Vec::new();
        let mut ends = Vec::new();
        for group in groups {
            let replica = &group.replicas[0];
            let (group, epoch, replica, drive) = (group.id, group.epoch, replica.id, replica.drive);
            let incarnation = self.picture.drive(drive).and_then(|drive| drive.incarnation);
            let incarnation = incarnation.expect("an open drive");
            evictions.push(Eviction { group, epoch, replica, evidence: Evidence::Device });
            starts.push(SyncStart { group, epoch: epoch.next(), replica, incarnation });
            ends.push(SyncEnd { group, replica, round: epoch.next().next(), incarnation });
        }
        [
            Command::Evict { proposer, evictions },
            Command::BeginSync { proposer, syncs: starts },
            Command::FinishSync { proposer, syncs: ends },
        ]
    }
}

fn timed(what: &str, count: usize, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    let took = start.elapsed();
    let each = took.as_secs_f64() / count.max(1) as f64;
    println!("{what:<44} {count:>8} in {took:>10.3?}: {:>12.0} a second", 1.0 / each);
}

fn main() {
    let mut mesh = Mesh::default();
    mesh.add_nodes();
    timed("drives added and opened", 2 * DRIVES as usize, || mesh.add_drives());
    timed("volumes of 4 groups made", VOLUMES as usize, || {
        for number in 0..VOLUMES {
            mesh.create(number);
        }
    });
    println!("{} groups", mesh.picture.groups().count());
    timed("ticks with 300 beats", 1000, || {
        for counter in 0..1000 {
            mesh.tick(counter);
        }
    });
    mixed(&mut mesh);
    timed("snapshot", 1, || println!("{} bytes", mesh.picture.snapshot().len()));
    let snapshot = mesh.picture.snapshot();
    timed("restore", 1, || {
        let restored = Picture::restore(&snapshot).expect("its own snapshot");
        assert_eq!(restored.digest(), mesh.picture.digest());
    });
}

/// A busy hour: drives fail and come back, volumes are attached and detached, some are made; a tick now and then.
fn mixed(mesh: &mut Mesh) {
    let groups: Vec<Group> = mesh.picture.groups().cloned().collect();
    let volumes: Vec<_> = mesh.picture.volumes().map(|volume| volume.id).collect();
    let mut commands = 0;
    let mut items = 0;
    let start = Instant::now();
    for (round, batch) in groups.chunks(BATCH).enumerate() {
        for command in mesh.proposals(batch) {
            mesh.apply(&command);
            commands += 1;
            items += batch.len();
        }
        for at in 0..8 {
            let volume = volumes[(round * 8 + at) % volumes.len()];
            let node = (round as u32 + at as u32) % NODES + 1;
            let incarnation = mesh.incarnation(node);
            let attach = Command::Attach {
                volume,
                node: NodeId(node),
                incarnation,
                mode: AttachMode::Exclusive,
                preempt: false,
            };
            let Reply::Generation(generation) = mesh.apply(&attach) else { continue };
            mesh.apply(&Command::Detach { volume, generation });
            commands += 2;
            items += 2;
        }
        if round % 10 == 0 {
            mesh.create(VOLUMES + round as u32);
            mesh.tick(1000 + round as u64);
            commands += 2;
            items += 2;
        }
    }
    let took = start.elapsed().as_secs_f64();
    println!(
        "mixed: {commands} entries of {items} commands in {took:.3} s: {:.0} entries, {:.0} commands a second",
        commands as f64 / took,
        items as f64 / took
    );
}
