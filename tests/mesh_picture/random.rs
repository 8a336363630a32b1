//! Random logs: what must hold after any of them.

use proptest::prelude::*;
use weft::mesh::ids::*;
use weft::mesh::picture::*;
use weft::mesh::route::Route;

use crate::fixture::*;

/// A small generator, so that a log follows from one seed: xorshift64* (Marsaglia 2003, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn flip(&mut self) -> bool {
        self.roll(2) == 0
    }

    fn pick<T>(&mut self, choices: impl Iterator<Item = T>) -> Option<T> {
        let mut choices: Vec<T> = choices.collect();
        if choices.is_empty() {
            return None;
        }
        let at = self.roll(choices.len() as u64) as usize;
        Some(choices.swap_remove(at))
    }
}

const NODES: u32 = 5;

/// A command that has a chance, or `None`.
fn random_command(mesh: &Mesh, dice: &mut Dice) -> Option<Command> {
    let picture = &mesh.picture;
    let node = dice.roll(NODES.into()) as u32 + 1;
    let group = dice.pick(picture.groups().cloned());
    let volume = dice.pick(picture.volumes().cloned());
    let any = group.as_ref().and_then(|group| dice.pick(group.replicas.iter().cloned()));
    Some(match dice.roll(20) {
        0 => {
            let mut spec = volume_spec(dice.roll(3) as u8 + 1);
            spec.write_back = dice.roll(4) == 0;
            if dice.flip() {
                spec.layout = Layout::Striped { width: 2, strip_blocks: 8 };
                spec.blocks = 160;
            } else {
                spec.blocks = dice.roll(3000) + 1;
            }
            Command::CreateVolume { name: format!("v{}", mesh.log.len()), spec }
        }
        1 => Command::DeleteVolume { volume: volume?.id },
        2 => Command::ExtendVolume { volume: volume?.id, blocks: 160 },
        3 | 4 => {
            let mode = [AttachMode::Exclusive, AttachMode::SharedRead, AttachMode::SharedWrite];
            mesh.attaching(volume?.id, node, mode[dice.roll(3) as usize], dice.flip())
        }
        5 => {
            let volume = volume?;
            let generation = dice.pick(volume.attachments.iter())?.generation;
            Command::Detach { volume: volume.id, generation }
        }
        6 => {
            let volume = volume?;
            let generation = dice.pick(volume.attachments.iter())?.generation;
            Command::Revoke { volume: volume.id, generation }
        }
        7 | 8 => mesh.eviction(any?.id.0, Evidence::Device),
        9 => {
            let since = Index(dice.roll(mesh.log.len() as u64));
            let tried = if dice.flip() { vec![Route::DIRECT] } else { Vec::new() };
            mesh.eviction(any?.id.0, Evidence::Unreachable { tried, since })
        }
        10 | 11 => mesh.sync_start(any?.id.0),
        12 | 13 => mesh.sync_end(any?.id.0),
        14 => Command::OpenDrive(mesh.opening(dice.pick(picture.drives())?.id.0, node)),
        15 => {
            let heard: Vec<u32> = (1..=NODES).filter(|_| dice.roll(4) > 0).collect();
            let beats = heard
                .into_iter()
                .map(|node| Beat {
                    node: NodeId(node),
                    incarnation: mesh.node(node),
                    nonce: Nonce { origin: 0, counter: mesh.log.len() as u64 },
                    applied: Index(dice.roll(mesh.log.len() as u64 + 1)),
                })
                .collect();
            let elapsed_ms = dice.flip().then(|| dice.roll(4000) as u32);
            Command::Tick(Tick { elapsed_ms, beats })
        }
        16 => Command::StartNode {
            node: NodeId(node),
            uuid: uuid(node.into()),
            origin: mesh.log.len() as u64,
            addresses: Vec::new(),
            domains: Domains::default(),
            store: None,
        },
        17 => Command::MoveReplica { group: group?.id, replica: any?.id, to: None },
        18 => Command::DrainDrive { drive: dice.pick(picture.drives())?.id, drain: dice.flip() },
        _ => Command::Rebalance { moves: 2 },
    })
}

/// What must hold between a picture and the one before it.
fn check_step(before: &Picture, mesh: &Mesh) {
    let after = &mesh.picture;
    let shown = mesh.log.last();
    assert_eq!(after.check_sound(), Ok(()), "{shown:?}");
    for group in after.groups() {
        assert!(group.holders().next().is_some(), "{} has no holder: {shown:?}", group.id);
        let Some(old) = before.group(group.id) else { continue };
        let states = |group: &Group| -> Vec<_> {
            group.replicas.iter().map(|replica| (replica.id, replica.state)).collect()
        };
        if states(old) != states(group) {
            assert!(group.epoch > old.epoch, "{shown:?}");
            assert!(mesh.changes.contains(&Change::Group(group.id)), "{shown:?}");
        }
        assert_eq!(group.epoch > old.epoch, group.since == after.applied());
        check_unfenced(before, after, old, group);
    }
}

/// A holder that is one no more is unfenced, until its node has applied that or its drive is opened anew.
fn check_unfenced(before: &Picture, after: &Picture, old: &Group, group: &Group) {
    let is_holder = |group: &Group, replica: ReplicaId| {
        group.replica(replica).is_some_and(|replica| replica.state.is_holder())
    };
    let is_unfenced = |replica: ReplicaId| group.unfenced.iter().any(|un| un.replica == replica);
    for replica in old.holders().filter(|replica| !is_holder(group, replica.id)) {
        let incarnation =
            |picture: &Picture| picture.drive(replica.drive).and_then(|drive| drive.incarnation);
        let is_reopened = incarnation(before) != incarnation(after);
        assert_ne!(is_unfenced(replica.id), is_reopened, "{}", replica.id);
    }
    for unfenced in &old.unfenced {
        if is_unfenced(unfenced.replica) {
            continue;
        }
        let heard = after.node(unfenced.node).unwrap();
        let is_reopened = after.drive(unfenced.drive).unwrap().incarnation != unfenced.incarnation;
        assert!(is_reopened || heard.applied >= unfenced.at, "{}", unfenced.replica);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_log_leads_to_a_sound_picture(seed in 1_u64..) {
        let mut mesh = Mesh::new(NODES);
        let mut dice = Dice(seed);
        let mut accepted = 0;
        for _ in 0..300 {
            let Some(command) = random_command(&mesh, &mut dice) else { continue };
            let before = mesh.picture.clone();
            accepted += u32::from(mesh.apply(command).is_ok());
            check_step(&before, &mesh);
        }
        prop_assert!(accepted > 100, "{accepted}");

        let snapshot = mesh.picture.snapshot();
        let restored = Picture::restore(&snapshot).unwrap();
        prop_assert_eq!(restored.digest(), mesh.picture.digest());
        prop_assert_eq!(restored.snapshot(), snapshot);

        // The same log leads to the same picture, and so does what is left of it after a snapshot half-way.
        let mut replayed = Picture::default();
        for (at, command) in mesh.log.iter().enumerate() {
            let _ = replayed.apply(Index(at as u64 + 1), command, &mut Vec::new());
            if at == mesh.log.len() / 2 {
                replayed = Picture::restore(&replayed.snapshot()).unwrap();
            }
        }
        prop_assert_eq!(replayed.digest(), mesh.picture.digest());
    }

    #[test]
    fn a_damaged_snapshot_is_refused(at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let mut mesh = Mesh::new(3);
        let volume = mesh.create(volume_spec(2));
        mesh.attach(volume, 1, AttachMode::Exclusive);
        let mut bytes = mesh.picture.snapshot();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        prop_assert!(Picture::restore(&bytes).is_err());
    }

    #[test]
    fn bytes_from_nowhere_are_no_picture(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Picture::restore(&bytes).is_err());
    }
}
