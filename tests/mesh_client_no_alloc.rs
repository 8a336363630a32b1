//! A healthy read and write of the client machine allocate nothing, once warm.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use weft::base::Time;
use weft::mesh::client::{Client, Effect};
use weft::mesh::ids::{NodeId, VolumeId};
use weft::mesh::message::{IoResult, Operation, Sender, ToClient, ToTarget};
use weft::mesh::payload::Payload;
use weft::mesh::picture::AttachMode;
use weft::mesh::request::{Completion, Request, Token};
use weft::mesh::route::Route;

#[allow(dead_code)]
#[path = "mesh_client/world.rs"]
mod world;

use world::{CLIENT, GENERATION, World, run};

struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Blocks without bytes.
#[derive(Clone)]
struct Count(u32);

impl Payload for Count {
    fn blocks(&self) -> u32 {
        self.0
    }
    fn part(&self, _: u32, count: u32) -> Count {
        Count(count)
    }
    fn zeroes(count: u32) -> Count {
        Count(count)
    }
    fn capture(&self) -> Count {
        self.clone()
    }
}

/// Answers all that was sent, and what follows from it.
fn answer(client: &mut Client<Count>, now: Time, effects: &mut Vec<Effect<Count>>) -> u32 {
    let mut completed = 0;
    while let Some(effect) = effects.pop() {
        let (to, message) = match effect {
            Effect::Send { to, message, .. } => (to, message),
            Effect::Complete { completion, .. } => {
                completed += 1;
                if let Completion::Data(list) = completion {
                    client.recycle(list);
                }
                continue;
            }
            _ => continue,
        };
        let (answer, payload) = match message {
            ToTarget::Open(open) => {
                (ToClient::Opened { key: open.key, session: open.session }, None)
            }
            ToTarget::Io(io) => {
                let (key, session, sequence) = (io.key, io.session, io.sequence);
                let payload = match io.operation {
                    Operation::Read(run) => Some(Count(run.blocks)),
                    _ => None,
                };
                let result = IoResult::Done;
                (ToClient::Done { key, session, sequence, result }, payload)
            }
            _ => continue,
        };
        let from = Sender { node: to, route: Route::DIRECT };
        client.message(now, from, answer, payload, effects);
    }
    completed
}

fn round(client: &mut Client<Count>, now: &mut Time, effects: &mut Vec<Effect<Count>>) {
    *now += std::time::Duration::from_micros(50);
    let mut completed = 0;
    for at in 0..16 {
        let write = Request::Write(run(at * 7, 6), Count(6));
        client.submit(*now, Token(at), write, effects);
        client.submit(*now, Token(at), Request::Read(run(at * 7, 6)), effects);
    }
    client.submit(*now, Token(99), Request::Flush, effects);
    completed += answer(client, *now, effects);
    assert_eq!(completed, 33);
    if client.next_timer() <= *now {
        client.timer(*now, effects);
        answer(client, *now, effects);
    }
}

#[test]
fn steady_io_allocates_nothing() {
    for mode in [AttachMode::Exclusive, AttachMode::SharedWrite] {
        let world = World::new(2, 3, mode);
        let mut effects = Vec::with_capacity(1024);
        let mut now = Time::from_nanos(1);
        let made = Client::new(CLIENT, VolumeId(1), GENERATION, &world, now, &mut effects);
        let mut client = made.expect("attached");
        assert_ne!(CLIENT, NodeId(1));
        for _ in 0..100 {
            round(&mut client, &mut now, &mut effects);
        }
        let before = CALLS.get();
        for _ in 0..10_000 {
            round(&mut client, &mut now, &mut effects);
        }
        assert_eq!(CALLS.get() - before, 0);
    }
}
