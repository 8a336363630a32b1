//! Whole nodes in a world where nothing goes wrong unless a test says so.

mod world;

use std::time::Duration;

use weft::mesh::ids::{NodeId, VolumeId};
use weft::mesh::message::Run;
use weft::mesh::node::{Input, Output};
use weft::mesh::picture::{AttachMode, Command, Layout, ReplicaState, Reply, Spread, VolumeSpec};
use weft::mesh::request::{Completion, Request, Token};
use world::{Blocks, World};

const SECOND: Duration = Duration::from_secs(1);

fn volume(copies: u8) -> VolumeSpec {
    VolumeSpec {
        block_shift: 12,
        blocks: 256,
        copies,
        layout: Layout::Concatenated,
        spread: Spread::Host,
        class: String::new(),
        tags: Default::default(),
        region_shift: 16,
        write_back: false,
    }
}

fn ask(world: &mut World, node: u32, tag: u64, command: Command) -> Reply {
    world.give(NodeId(node), Input::Ask { tag, command });
    let answer = |world: &World| {
        world.heard.iter().find_map(|(_, _, output)| match output {
            Output::Answered { tag: answered, result } if *answered == tag => Some(result.clone()),
            _ => None,
        })
    };
    world.run_until(5 * SECOND, "an answer", |world| answer(world).is_some());
    answer(world).expect("just seen").expect("accepted")
}

fn io(
    world: &mut World,
    node: u32,
    volume: VolumeId,
    token: u64,
    request: Request<Blocks>,
) -> Completion<Blocks> {
    world.give(NodeId(node), Input::Submit { volume, token: Token(token), request });
    let done = |world: &World| {
        world.heard.iter().find_map(|(_, _, output)| match output {
            Output::Completed { token: ended, completion, .. } if *ended == Token(token) => {
                Some(completion.clone())
            }
            _ => None,
        })
    };
    world.run_until(5 * SECOND, "an I/O", |world| done(world).is_some());
    done(world).expect("just seen")
}

fn attach(world: &mut World, node: u32, volume: VolumeId, tag: u64) {
    world.give(
        NodeId(node),
        Input::Attach { tag, volume, mode: AttachMode::Exclusive, preempt: true },
    );
    world.run_until(5 * SECOND, "an attachment", |world| {
        world.heard.iter().any(|(_, _, output)| matches!(output, Output::Attached { tag: t, result: Ok(_) } if *t == tag))
    });
}

/// A mesh of `count` nodes, all of them serving, with a volume.
fn mesh(count: u32, copies: u8) -> (World, VolumeId) {
    let mut world = World::new(count);
    ask(&mut world, 1, 1, Command::AddToken { digest: [7; 32], uses: 100 });
    world.run_until(10 * SECOND, "that all nodes serve", |world| {
        let open =
            world.node(1).picture().drives().filter(|drive| drive.incarnation.is_some()).count();
        (1..=count).all(|node| world.node(node).has_lease(world.now)) && open as u32 == count
    });
    let Reply::Volume(volume) =
        ask(&mut world, 1, 2, Command::CreateVolume { name: "v".into(), spec: volume(copies) })
    else {
        panic!("no volume")
    };
    (world, volume)
}

fn run(first: u64, blocks: u32) -> Run {
    Run { first, blocks }
}

#[test]
fn a_mirror_over_three_nodes_is_written_and_read() {
    let (mut world, volume) = mesh(3, 2);
    attach(&mut world, 3, volume, 10);
    assert_eq!(
        io(&mut world, 3, volume, 1, Request::Write(run(14, 4), Blocks(vec![1, 2, 3, 4]))),
        Completion::Done
    );
    let Completion::Data(parts) = io(&mut world, 3, volume, 2, Request::Read(run(13, 6))) else {
        panic!("no data")
    };
    let read: Vec<u64> = parts.into_iter().flat_map(|part| part.0).collect();
    assert_eq!(read, [0, 1, 2, 3, 4, 0]);
}

#[test]
fn a_dead_target_is_left_behind_and_nothing_is_lost() {
    let (mut world, volume) = mesh(3, 2);
    let group = world.node(1).picture().groups().next().expect("a group").clone();
    let dead = group
        .replicas
        .iter()
        .map(|replica| world.node(1).picture().drive(replica.drive).expect("a drive").node)
        .max()
        .expect("replicas");
    let client = (1..=3).find(|node| NodeId(*node) != dead && *node != 1).unwrap_or(1);
    attach(&mut world, client, volume, 10);
    assert_eq!(
        io(&mut world, client, volume, 1, Request::Write(run(0, 1), Blocks(vec![7]))),
        Completion::Done
    );
    world.kill(dead);
    let before = world.now;
    assert_eq!(
        io(&mut world, client, volume, 2, Request::Write(run(0, 1), Blocks(vec![8]))),
        Completion::Done
    );
    let took = world.now.since(before);
    assert!(took < Duration::from_millis(1500), "{took:?}");
    let Completion::Data(parts) = io(&mut world, client, volume, 3, Request::Read(run(0, 1)))
    else {
        panic!("no data")
    };
    assert_eq!(parts, [Blocks(vec![8])]);
    let group = world.node(client).picture().group(group.id).expect("the group");
    assert_eq!(
        group.replicas.iter().filter(|replica| replica.state == ReplicaState::Stale).count(),
        1
    );
}
