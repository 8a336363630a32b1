//! A small mesh to try commands on.

use std::collections::BTreeSet;

use weft::base::Uuid;
use weft::mesh::ids::*;
use weft::mesh::picture::*;

/// A picture with its log.
pub struct Mesh {
    pub picture: Picture,
    pub log: Vec<Command>,
    pub changes: Vec<Change>,
}

pub fn uuid(raw: u128) -> Uuid {
    Uuid::from_u128(raw)
}

pub fn drive_spec() -> DriveSpec {
    DriveSpec {
        block_shift: 12,
        extent_blocks: 64,
        extents: 64,
        class: "tlc".into(),
        tags: BTreeSet::new(),
    }
}

pub fn volume_spec(copies: u8) -> VolumeSpec {
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
    pub fn new(nodes: u32) -> Mesh {
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

    pub fn apply(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.log.push(command.clone());
        self.changes.clear();
        let index = Index(self.log.len() as u64);
        self.picture.apply(index, &command, &mut self.changes)
    }

    #[track_caller]
    pub fn ok(&mut self, command: Command) -> Reply {
        let shown = format!("{command:?}");
        self.apply(command).unwrap_or_else(|refusal| panic!("{shown}: {refusal:?}"))
    }

    /// Whether the picture is the same but for the index after this refusal.
    #[track_caller]
    pub fn refused(&mut self, command: Command, refusal: Refusal) {
        let before: Vec<_> = self.picture.groups().cloned().collect();
        assert_eq!(self.apply(command), Err(refusal));
        assert_eq!(before, self.picture.groups().cloned().collect::<Vec<_>>());
        assert!(self.changes.is_empty());
    }

    pub fn start(&mut self, node: u32) -> Incarnation {
        let origin = self.log.len() as u64;
        let reply = self.ok(Command::StartNode {
            node: NodeId(node),
            uuid: uuid(node.into()),
            origin,
            addresses: vec![format!("10.0.0.{node}")],
            domains: Domains::default(),
            store: None,
        });
        let Reply::Incarnation(incarnation) = reply else { panic!("{reply:?}") };
        incarnation
    }

    pub fn opening(&self, drive: u32, node: u32) -> OpenDrive {
        let known = self.picture.drive(DriveId(drive)).unwrap();
        OpenDrive {
            uuid: known.uuid,
            node: NodeId(node),
            incarnation: self.node(node),
            open_count: known.open_count + 1,
            nonce: known.nonce + 100,
            previous: vec![known.nonce],
            identity: 0,
        }
    }

    pub fn open(&mut self, drive: u32, node: u32) {
        let open = self.opening(drive, node);
        self.ok(Command::OpenDrive(open));
    }

    pub fn reach(&mut self, node: u32, peers: impl Iterator<Item = u32>) {
        self.ok(Command::Report {
            node: NodeId(node),
            incarnation: self.node(node),
            reach: peers.map(NodeId).collect(),
            load: 0,
        });
    }

    pub fn node(&self, node: u32) -> Incarnation {
        self.picture.node(NodeId(node)).unwrap().incarnation.unwrap()
    }

    pub fn drive(&self, drive: u32) -> Incarnation {
        self.picture.drive(DriveId(drive)).unwrap().incarnation.unwrap()
    }

    pub fn tick(&mut self, nodes: impl Iterator<Item = u32>) {
        let applied = Index(self.log.len() as u64);
        self.tick_of(nodes, Some(250), applied);
    }

    pub fn tick_of(
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

    pub fn create(&mut self, spec: VolumeSpec) -> VolumeId {
        let name = format!("v{}", self.log.len());
        let Reply::Volume(volume) = self.ok(Command::CreateVolume { name, spec }) else {
            panic!("no volume")
        };
        volume
    }

    pub fn attach(&mut self, volume: VolumeId, node: u32, mode: AttachMode) -> Generation {
        let reply = self.ok(self.attaching(volume, node, mode, false));
        let Reply::Generation(generation) = reply else { panic!("{reply:?}") };
        generation
    }

    pub fn attaching(
        &self,
        volume: VolumeId,
        node: u32,
        mode: AttachMode,
        preempt: bool,
    ) -> Command {
        Command::Attach { volume, node: NodeId(node), incarnation: self.node(node), mode, preempt }
    }

    pub fn group(&self, group: u32) -> &Group {
        self.picture.group(GroupId(group)).unwrap()
    }

    pub fn states(&self, group: u32) -> Vec<ReplicaState> {
        self.group(group).replicas.iter().map(|replica| replica.state).collect()
    }

    pub fn eviction(&self, replica: u32, evidence: Evidence) -> Command {
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
    pub fn item(&mut self, command: Command) -> Result<(), Refusal> {
        match self.ok(command) {
            Reply::Items(items) => items[0],
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn evict(&mut self, replica: u32) {
        let command = self.eviction(replica, Evidence::Device);
        assert_eq!(self.item(command), Ok(()));
    }

    pub fn sync_start(&self, replica: u32) -> Command {
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

    pub fn sync_end(&self, replica: u32) -> Command {
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
