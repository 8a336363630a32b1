//! The picture of the mesh: what each command does to it.
use std::collections::BTreeSet;

use weft::base::Uuid;
use weft::mesh::ids::*;
use weft::mesh::picture::*;
use weft::mesh::route::Route;

/// A picture with its log.
struct Mesh {
    picture: Picture,
    log: Vec<Command>,
    changes: Vec<Change>,
}

fn uuid(raw: u128) -> Uuid {
    Uuid::from_u128(raw)
}

fn drive_spec() -> DriveSpec {
    DriveSpec {
        block_shift: 12,
        extent_blocks: 64,
        extents: 64,
        class: "tlc".into(),
        tags: BTreeSet::new(),
    }
}

fn volume_spec(copies: u8) -> VolumeSpec {
    VolumeSpec {
        block_shift: 12,
        blocks: 100,
        copies,
        layout: Layout::Concatenated,
        spread: Spread::Host,
        class: String::new(),
        tags: BTreeSet::new(),
        region_shift: 16,
        write_back: false,
    }
}

impl Mesh {
    /// `nodes` started nodes that all reach each other, each with an open drive of the same number.
    fn new(nodes: u32) -> Mesh {
        let mut mesh = Mesh { picture: Picture::default(), log: Vec::new(), changes: Vec::new() };
        mesh.ok(Command::AddNode {
            node: NodeId(1),
            uuid: uuid(1),
            domains: Domains::default(),
            token: None,
        });
        if nodes > 1 {
            mesh.ok(Command::AddToken { digest: [7; 32], uses: nodes - 1 });
        }
        for node in 2..=nodes {
            mesh.ok(Command::AddNode {
                node: NodeId(node),
                uuid: uuid(node.into()),
                domains: Domains::default(),
                token: Some([7; 32]),
            });
        }
        for node in 1..=nodes {
            mesh.start(node);
            let added = mesh.ok(Command::AddDrive {
                node: NodeId(node),
                uuid: uuid(1000 + u128::from(node)),
                spec: drive_spec(),
            });
            assert_eq!(added, Reply::Drive(DriveId(node)));
            mesh.open(node, node);
        }
        for node in 1..=nodes {
            mesh.reach(node, (1..=nodes).filter(|&peer| peer != node));
        }
        mesh.tick(1..=nodes);
        mesh
    }

    fn apply(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.log.push(command.clone());
        self.changes.clear();
        let index = Index(self.log.len() as u64);
        self.picture.apply(index, &command, &mut self.changes)
    }

    #[track_caller]
    fn ok(&mut self, command: Command) -> Reply {
        let shown = format!("{command:?}");
        self.apply(command).unwrap_or_else(|refusal| panic!("{shown}: {refusal:?}"))
    }

    /// Whether the picture is the same but for the index after this refusal.
    #[track_caller]
    fn refused(&mut self, command: Command, refusal: Refusal) {
        let before: Vec<_> = self.picture.groups().cloned().collect();
        assert_eq!(self.apply(command), Err(refusal));
        assert_eq!(before, self.picture.groups().cloned().collect::<Vec<_>>());
        assert!(self.changes.is_empty());
    }

    fn start(&mut self, node: u32) -> Incarnation {
        let origin = self.log.len() as u64;
        let reply = self.ok(Command::StartNode {
            node: NodeId(node),
            uuid: uuid(node.into()),
            origin,
            addresses: vec![format!("10.0.0.{node}")],
            domains: Domains::default(),
        });
        let Reply::Incarnation(incarnation) = reply else { panic!("{reply:?}") };
        incarnation
    }

    fn opening(&self, drive: u32, node: u32) -> OpenDrive {
        let known = self.picture.drive(DriveId(drive)).unwrap();
        OpenDrive {
            uuid: known.uuid,
            node: NodeId(node),
            incarnation: self.node(node),
            open_count: known.open_count + 1,
            nonce: known.nonce + 100,
            previous: known.nonce,
        }
    }

    fn open(&mut self, drive: u32, node: u32) {
        let open = self.opening(drive, node);
        self.ok(Command::OpenDrive(open));
    }

    fn reach(&mut self, node: u32, peers: impl Iterator<Item = u32>) {
        self.ok(Command::Report {
            node: NodeId(node),
            incarnation: self.node(node),
            reach: peers.map(NodeId).collect(),
            load: 0,
        });
    }

    fn node(&self, node: u32) -> Incarnation {
        self.picture.node(NodeId(node)).unwrap().incarnation.unwrap()
    }

    fn drive(&self, drive: u32) -> Incarnation {
        self.picture.drive(DriveId(drive)).unwrap().incarnation.unwrap()
    }

    fn tick(&mut self, nodes: impl Iterator<Item = u32>) {
        let applied = Index(self.log.len() as u64);
        self.tick_of(nodes, Some(250), applied);
    }

    fn tick_of(
        &mut self,
        nodes: impl Iterator<Item = u32>,
        elapsed_ms: Option<u32>,
        applied: Index,
    ) {
        let counter = self.log.len() as u64;
        let beats = nodes
            .map(|node| Beat {
                node: NodeId(node),
                incarnation: self.node(node),
                nonce: Nonce { origin: node.into(), counter },
                applied,
            })
            .collect();
        self.ok(Command::Tick(Tick { elapsed_ms, beats }));
    }

    fn create(&mut self, spec: VolumeSpec) -> VolumeId {
        let name = format!("v{}", self.log.len());
        let Reply::Volume(volume) = self.ok(Command::CreateVolume { name, spec }) else {
            panic!("no volume")
        };
        volume
    }

    fn attach(&mut self, volume: VolumeId, node: u32, mode: AttachMode) -> Generation {
        let reply = self.ok(self.attaching(volume, node, mode, false));
        let Reply::Generation(generation) = reply else { panic!("{reply:?}") };
        generation
    }

    fn attaching(&self, volume: VolumeId, node: u32, mode: AttachMode, preempt: bool) -> Command {
        Command::Attach { volume, node: NodeId(node), incarnation: self.node(node), mode, preempt }
    }

    fn group(&self, group: u32) -> &Group {
        self.picture.group(GroupId(group)).unwrap()
    }

    fn states(&self, group: u32) -> Vec<ReplicaState> {
        self.group(group).replicas.iter().map(|replica| replica.state).collect()
    }

    fn eviction(&self, replica: u32, evidence: Evidence) -> Command {
        let group = self
            .picture
            .groups()
            .find(|group| group.replica(ReplicaId(replica)).is_some())
            .unwrap();
        Command::Evict {
            proposer: NodeId(1),
            evictions: vec![Eviction {
                group: group.id,
                epoch: group.epoch,
                replica: ReplicaId(replica),
                evidence,
            }],
        }
    }

    #[track_caller]
    fn item(&mut self, command: Command) -> Result<(), Refusal> {
        match self.ok(command) {
            Reply::Items(items) => items[0],
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn evict(&mut self, replica: u32) {
        let command = self.eviction(replica, Evidence::Device);
        assert_eq!(self.item(command), Ok(()));
    }

    fn sync_start(&self, replica: u32) -> Command {
        let group = self
            .picture
            .groups()
            .find(|group| group.replica(ReplicaId(replica)).is_some())
            .unwrap();
        let drive = group.replica(ReplicaId(replica)).unwrap().drive;
        Command::BeginSync {
            proposer: NodeId(1),
            syncs: vec![SyncStart {
                group: group.id,
                epoch: group.epoch,
                replica: ReplicaId(replica),
                incarnation: self.drive(drive.0),
            }],
        }
    }

    fn sync_end(&self, replica: u32) -> Command {
        let group = self
            .picture
            .groups()
            .find(|group| group.replica(ReplicaId(replica)).is_some())
            .unwrap();
        let replica = group.replica(ReplicaId(replica)).unwrap();
        Command::FinishSync {
            proposer: NodeId(1),
            syncs: vec![SyncEnd {
                group: group.id,
                replica: replica.id,
                round: replica.state.round().map_or(Epoch(0), |round| round.epoch),
                incarnation: self.drive(replica.drive.0),
            }],
        }
    }
}

fn reconciling(epoch: u64, source: u32) -> ReplicaState {
    ReplicaState::Reconciling(Round { epoch: Epoch(epoch), source: ReplicaId(source) })
}

fn syncing(epoch: u64, source: u32) -> ReplicaState {
    ReplicaState::Syncing(Round { epoch: Epoch(epoch), source: ReplicaId(source) })
}

use ReplicaState::{InSync, Stale};

#[test]
fn a_replica_is_left_behind_filled_and_in_sync_again() {
    let mut mesh = Mesh::new(3);
    mesh.create(volume_spec(3));
    assert_eq!(mesh.states(1), [InSync, InSync, InSync]);
    mesh.evict(1);
    assert_eq!(mesh.states(1), [Stale, InSync, InSync]);
    assert_eq!(mesh.group(1).epoch, Epoch(2));
    assert_eq!(mesh.group(1).since, mesh.picture.applied());
    let start = mesh.sync_start(1);
    assert_eq!(mesh.item(start.clone()), Ok(()));
    assert_eq!(mesh.states(1), [syncing(3, 2), InSync, InSync]);
    assert_eq!(mesh.item(start), Err(Refusal::Superseded));
    // The source dies: the round starts over.
    mesh.evict(2);
    assert_eq!(mesh.states(1), [syncing(4, 3), Stale, InSync]);
    let command = mesh.eviction(3, Evidence::Device);
    assert_eq!(mesh.item(command), Err(Refusal::LastHolder));
    let end = mesh.sync_end(1);
    assert_eq!(mesh.item(end), Ok(()));
    assert_eq!(mesh.states(1), [InSync, Stale, InSync]);
}

#[test]
fn snapshot_gives_the_same_picture() {
    let mut mesh = Mesh::new(3);
    let volume = mesh.create(volume_spec(2));
    mesh.attach(volume, 1, AttachMode::Exclusive);
    mesh.evict(1);
    let restored = Picture::restore(&mesh.picture.snapshot()).unwrap();
    assert_eq!(restored.digest(), mesh.picture.digest());
    assert_eq!(restored.snapshot(), mesh.picture.snapshot());
}

#[test]
fn a_revoked_writer_leaves_a_reconciliation_and_a_reader_none() {
    let mut mesh = Mesh::new(3);
    let volume = mesh.create(volume_spec(3));
    mesh.evict(3);
    let start = mesh.sync_start(3);
    assert_eq!(mesh.item(start), Ok(()));
    let generation = mesh.attach(volume, 1, AttachMode::Exclusive);
    mesh.ok(Command::Revoke { volume, generation });
    assert_eq!(mesh.states(1), [InSync, reconciling(4, 1), syncing(4, 1)]);
    mesh.evict(1);
    assert_eq!(mesh.states(1), [Stale, InSync, syncing(5, 2)]);
}

#[test]
fn evidence_that_a_target_is_silent_needs_routes_that_were_tried() {
    let mut mesh = Mesh::new(3);
    mesh.create(volume_spec(2));
    let target = mesh.group(1).replicas[1].id.0;
    let since = mesh.picture.applied();
    let unreachable = |tried: Vec<Route>| Evidence::Unreachable { tried, since };
    let command = mesh.eviction(target, unreachable(vec![Route::DIRECT]));
    assert_eq!(mesh.item(command), Err(Refusal::RouteUntried));
    let relayed = Route::through(&[NodeId(3)]).unwrap();
    let command = mesh.eviction(target, unreachable(vec![Route::DIRECT, relayed]));
    assert_eq!(mesh.item(command), Ok(()));
}
