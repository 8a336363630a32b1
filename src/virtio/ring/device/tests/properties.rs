//! What is made available comes back, once, and both sides hear of each other when they want to.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::model::{Driver, Machine, features, written};
use super::packed_driver::PackedDriver;
use super::split_driver::SplitDriver;
use crate::virtio::inflight::InflightLayout;
use crate::virtio::ring::device::{CHAIN_MAX, DeviceRing};
use crate::virtio::spec::Features;

#[derive(Clone, Debug)]
enum Step {
    Add {
        readable: u16,
        writable: u16,
        indirect: bool,
    },
    Fetch(usize),
    Complete(prop::sample::Index),
    Publish,
    Ask,
    Want(Option<u16>),
    Arm,
    Disarm,
    TakeUsed,
    /// The back end stops in order and starts again, or is killed where there are records.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u16, 0..4u16, any::<bool>())
            .prop_filter("empty", |(readable, writable, _)| readable + writable > 0)
            .prop_map(|(readable, writable, indirect)| Step::Add { readable, writable, indirect }),
        4 => (1..6usize).prop_map(Step::Fetch),
        6 => any::<prop::sample::Index>().prop_map(Step::Complete),
        3 => Just(Step::Publish),
        2 => Just(Step::Ask),
        1 => prop::option::of(0..5u16).prop_map(Step::Want),
        1 => Just(Step::Arm),
        1 => Just(Step::Disarm),
        3 => Just(Step::TakeUsed),
        1 => Just(Step::Restart),
    ]
}

/// What a ring should do, from what was done to it.
struct Run<D: Driver> {
    machine: Machine<D>,
    ring: D::Ring,
    indirect: bool,
    waiting: VecDeque<u64>,
    /// How many of them a predecessor had taken before.
    left_behind: usize,
    fetched: Vec<(u16, u64)>,
    completed: Vec<u64>,
    published: VecDeque<u64>,
    /// By serial number, how many places a buffer takes in the used ring.
    places: Vec<usize>,
    wish: Wish,
    /// How many places were used since the driver said so, and how many of them before somebody asked.
    news: usize,
    asked: usize,
    armed: bool,
}

#[derive(Clone, Copy)]
enum Wish {
    No,
    Any,
    /// To be told when so many places more were used, and one.
    After(u16),
}

impl<D: Driver> Run<D> {
    fn new(size: u16, event_index: bool, indirect: bool, on_record: bool) -> Run<D> {
        let mut machine = Machine::<D>::new(size, features(event_index, indirect), on_record);
        machine.driver.want_interrupt(None);
        let mut ring = machine.open();
        assert!(ring.take_interrupt());
        assert!(!ring.take_interrupt());
        Run {
            machine,
            ring,
            indirect,
            waiting: VecDeque::new(),
            left_behind: 0,
            fetched: Vec::new(),
            completed: Vec::new(),
            published: VecDeque::new(),
            places: Vec::new(),
            wish: Wish::No,
            news: 0,
            asked: 0,
            armed: false,
        }
    }

    fn fetch(&mut self, most: usize) {
        let mut ids = vec![0; most];
        let count = self.ring.fetch(&mut ids).unwrap();
        let waiting = if self.left_behind > 0 { self.left_behind } else { self.waiting.len() };
        assert_eq!(count, most.min(waiting));
        self.left_behind = self.left_behind.saturating_sub(count);
        let mut chain = Vec::with_capacity(CHAIN_MAX);
        for &id in &ids[..count] {
            assert!(id < self.machine.size);
            assert!(self.fetched.iter().all(|(other, _)| *other != id));
            self.ring.prefetch(id, &self.machine.memory.guest);
            self.ring.chain(id, &self.machine.memory.guest, &mut chain).unwrap();
            let serial = self.machine.serial_of(&chain);
            assert_eq!(Some(serial), self.waiting.pop_front());
            self.fetched.push((id, serial));
        }
        assert_eq!(usize::from(self.ring.in_flight()), self.fetched.len() + self.left_behind);
    }

    fn complete(&mut self, which: usize) {
        let (id, serial) = self.fetched.remove(which);
        self.ring.complete(id, written(serial));
        self.completed.push(serial);
    }

    fn publish(&mut self) {
        self.ring.publish();
        let places = self.completed.iter().map(|&serial| self.places[serial as usize]);
        self.news += places.sum::<usize>();
        self.published.extend(self.completed.drain(..));
    }

    fn ask(&mut self) {
        let told = self.ring.take_interrupt();
        let before = std::mem::replace(&mut self.asked, self.news);
        match self.wish {
            Wish::No => assert!(!told),
            Wish::Any => assert_eq!(told, self.news > before),
            // After a round, positions in a packed ring come again.
            Wish::After(_) if self.news > usize::from(self.machine.size) => {}
            Wish::After(count) => {
                assert_eq!(told, (before..self.news).contains(&usize::from(count)));
            }
        }
    }

    fn take_used(&mut self) {
        let serials = self.machine.take_used();
        assert_eq!(serials, Vec::from_iter(self.published.drain(..)));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Add { readable, writable, indirect } => {
                let serial = self.machine.added;
                if self.machine.add(readable, writable, indirect && self.indirect) {
                    self.waiting.push_back(serial);
                    let in_ring =
                        D::LAYOUT == InflightLayout::Packed && !(indirect && self.indirect);
                    self.places.push(if in_ring { usize::from(readable + writable) } else { 1 });
                    assert_eq!(self.machine.driver.must_notify(), self.armed);
                    // One is enough; after that, it depends on the layout.
                    if self.armed {
                        self.ring.disarm();
                        self.armed = false;
                    }
                }
            }
            Step::Fetch(most) => {
                if self.armed {
                    self.ring.disarm();
                    self.armed = false;
                }
                self.fetch(most);
            }
            Step::Complete(_) if self.fetched.is_empty() => {}
            Step::Complete(which) => self.complete(which.index(self.fetched.len())),
            Step::Publish => self.publish(),
            Step::Ask => self.ask(),
            Step::Want(ahead) => {
                // The driver looks for used buffers, then says what it wants, and all before is history.
                self.take_used();
                self.ring.take_interrupt();
                let ahead = ahead.map(|ahead| ahead.min(self.machine.size - 1));
                self.machine.driver.want_interrupt(ahead);
                self.wish = match ahead {
                    None => Wish::No,
                    Some(ahead) if self.machine.features.has(Features::EVENT_IDX) => {
                        Wish::After(ahead)
                    }
                    Some(_) => Wish::Any,
                };
                (self.news, self.asked) = (0, 0);
            }
            Step::Arm => {
                self.armed = true;
                if self.ring.arm() {
                    assert!(!self.waiting.is_empty());
                    self.ring.disarm();
                    self.armed = false;
                } else {
                    assert!(self.waiting.is_empty());
                }
            }
            Step::Disarm => {
                self.ring.disarm();
                self.armed = false;
            }
            Step::TakeUsed => self.take_used(),
            Step::Restart => self.restart(),
        }
    }

    fn restart(&mut self) {
        if self.machine.area.is_some() {
            // What was fetched and not published is fetched again, in its order.
            let mut again: Vec<u64> = self.fetched.drain(..).map(|(_, serial)| serial).collect();
            again.append(&mut self.completed);
            again.sort_unstable();
            self.left_behind += again.len();
            for serial in again.into_iter().rev() {
                self.waiting.push_front(serial);
            }
            // Whatever the front end believes.
            self.machine.base = D::BASE;
        } else {
            for (id, serial) in self.fetched.drain(..) {
                self.ring.complete(id, written(serial));
                self.completed.push(serial);
            }
            self.publish();
            assert_eq!(self.ring.in_flight(), 0);
            self.machine.base = self.ring.base();
        }
        self.ring = self.machine.open();
        assert!(self.ring.take_interrupt());
        self.asked = self.news;
        self.armed = false;
    }

    fn finish(mut self) {
        while !self.waiting.is_empty() || !self.fetched.is_empty() {
            self.step(Step::Fetch(7));
            while !self.fetched.is_empty() {
                self.complete(0);
            }
        }
        self.step(Step::Publish);
        self.take_used();
        assert_eq!(self.machine.outstanding.len(), 0);
        let mut returned = self.machine.returned.clone();
        returned.sort_unstable();
        assert_eq!(returned, Vec::from_iter(0..self.machine.added));
    }
}

fn run<D: Driver>(size: u16, variant: (bool, bool, bool), steps: Vec<Step>) {
    let (event_index, indirect, on_record) = variant;
    let mut run = Run::<D>::new(size, event_index, indirect, on_record);
    for step in steps {
        run.step(step);
    }
    run.finish();
}

proptest! {
    #[test]
    fn split_queues_do_what_both_sides_expect(
        size in prop::sample::select(vec![4u16, 8, 64]),
        variant in any::<(bool, bool, bool)>(),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        run::<SplitDriver>(size, variant, steps);
    }

    #[test]
    fn packed_queues_do_what_both_sides_expect(
        size in prop::sample::select(vec![4u16, 7, 8, 33]),
        variant in any::<(bool, bool, bool)>(),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        run::<PackedDriver>(size, variant, steps);
    }
}

/// Positions of split queues come again after 65,536 buffers.
fn many_buffers<D: Driver>() {
    for event_index in [false, true] {
        let mut machine = Machine::<D>::new(8, features(event_index, true), true);
        let mut ring = machine.open();
        ring.take_interrupt();
        let mut ids = [0; 8];
        let mut chain = Vec::with_capacity(CHAIN_MAX);
        let mut notifications = 0;
        while machine.added < 70_000 {
            machine.driver.want_interrupt(Some(0));
            for _ in 0..5 {
                assert!(machine.add(1, 2, true));
                notifications += u32::from(machine.driver.must_notify());
            }
            let count = ring.fetch(&mut ids).unwrap();
            assert_eq!(count, 5);
            for &id in ids[..count].iter().rev() {
                ring.chain(id, &machine.memory.guest, &mut chain).unwrap();
                ring.complete(id, written(machine.serial_of(&chain)));
            }
            ring.publish();
            assert!(ring.take_interrupt());
            assert!(!ring.take_interrupt());
            assert_eq!(machine.take_used().len(), 5);
        }
        // Nobody asked for any, but an event index is reached once in so many all the same.
        assert!(notifications <= 1);
    }
}

#[test]
fn a_split_queue_goes_on_for_ever() {
    many_buffers::<SplitDriver>();
}

#[test]
fn a_packed_queue_goes_on_for_ever() {
    many_buffers::<PackedDriver>();
}

/// Coalescing: whoever asks late is told of what would have been worth an interrupt in between.
fn asking_late<D: Driver>() {
    let mut machine = Machine::<D>::new(8, features(true, true), false);
    let mut ring = machine.open();
    ring.take_interrupt();
    machine.driver.want_interrupt(Some(2));
    let mut ids = [0; 8];
    for turn in 0..4 {
        for _ in 0..2 {
            assert!(machine.add(1, 1, true));
            assert_eq!(ring.fetch(&mut ids).unwrap(), 1);
            ring.complete(ids[0], written(machine.added - 1));
            ring.publish();
        }
        // The third of eight.
        if turn % 2 == 1 {
            assert_eq!(ring.take_interrupt(), turn == 1);
        }
    }
    assert_eq!(machine.take_used().len(), 8);
}

#[test]
fn a_split_queue_may_be_asked_late() {
    asking_late::<SplitDriver>();
}

#[test]
fn a_packed_queue_may_be_asked_late() {
    asking_late::<PackedDriver>();
}

/// In a packed queue, a position comes again after two rounds: whoever asks that late is told to be safe.
#[test]
fn a_packed_queue_may_be_asked_after_rounds() {
    for count in 1..40 {
        let mut machine = Machine::<PackedDriver>::new(8, features(true, true), false);
        let mut ring = machine.open();
        ring.take_interrupt();
        machine.driver.want_interrupt(Some(5));
        for _ in 0..count {
            assert!(machine.add(1, 1, true));
            let mut ids = [0; 1];
            assert_eq!(ring.fetch(&mut ids).unwrap(), 1);
            ring.complete(ids[0], written(machine.added - 1));
            ring.publish();
            machine.take_used();
        }
        assert_eq!(ring.take_interrupt(), count > 5, "{count}");
    }
}
