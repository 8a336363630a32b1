//! Requests through a virtqueue over a ring that does what the test says.

use std::collections::VecDeque;

use futures_channel::mpsc::{self, UnboundedReceiver};
use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::base::Lba;
use crate::memory::{HugePages, Region, RegionView, Registry};
use crate::virtio::ring::driver::{DeviceFault, RingAddresses};
use crate::virtio::spec::Features;
use crate::virtio::spec::block::Config;

/// A ring without a device.
#[derive(Default)]
struct FakeRing {
    pushed: Vec<(Sender, Header, u64)>,
    ended: VecDeque<Done>,
    fault: bool,
    restarts: u32,
}

impl FakeRing {
    const SLOTS: usize = 4;

    fn take(&mut self, sender: Sender, header: Header, bytes: u64) -> bool {
        if self.pushed.len() == FakeRing::SLOTS {
            return false;
        }
        self.pushed.push((sender, header, bytes));
        true
    }

    /// The device ends the oldest request.
    fn end(&mut self, status: u8) -> RequestType {
        let (sender, header, _) = self.pushed[self.ended.len()];
        self.ended.push_back(Done { sender, status });
        header.kind
    }
}

impl DriverRing for FakeRing {
    fn addresses(&self) -> RingAddresses {
        RingAddresses { descriptors: 0, driver: 0, device: 0 }
    }

    fn room(&self) -> usize {
        FakeRing::SLOTS - self.pushed.len()
    }

    fn outstanding(&self) -> usize {
        self.pushed.len()
    }

    fn push(&mut self, sender: Sender, header: Header, data: Segment, _: bool) -> bool {
        self.take(sender, header, data.len().into())
    }

    fn push_bare(&mut self, sender: Sender, header: Header) -> bool {
        self.take(sender, header, 0)
    }

    fn push_range(&mut self, sender: Sender, header: Header, range: RangeDescriptor) -> bool {
        self.take(sender, header, u64::from(range.sectors) << 32 | u64::from(range.flags))
    }

    fn push_scattered(
        &mut self,
        sender: Sender,
        header: Header,
        data: impl Iterator<Item = Segment>,
        _: bool,
    ) -> bool {
        let pieces = data.count() as u64;
        self.take(sender, header, pieces)
    }

    fn publish(&mut self) -> bool {
        false
    }

    fn recheck(&mut self) -> bool {
        false
    }

    fn reap(&mut self, room: usize, mut deliver: impl FnMut(Done)) -> Result<usize, DeviceFault> {
        if self.fault {
            return Err(DeviceFault::UsedIndex(7));
        }
        let count = room.min(self.ended.len());
        self.pushed.drain(..count);
        self.ended.drain(..count).for_each(&mut deliver);
        Ok(count)
    }

    fn restart(&mut self) {
        self.restarts += 1;
    }

    fn base(&self) -> u32 {
        0
    }

    fn give_up(&mut self) -> Option<Sender> {
        (!self.pushed.is_empty()).then(|| self.pushed.remove(0).0)
    }

    fn owes(&self, owner: u16) -> bool {
        self.pushed.iter().any(|(sender, ..)| sender.owner == owner)
    }
}

struct Rig {
    queue: Virtqueue<FakeRing>,
    trouble: UnboundedReceiver<Trouble>,
    region: RegionView,
    refused: Vec<Completion>,
    owner: u16,
}

impl Rig {
    fn new() -> Rig {
        let config = Config { capacity: 1 << 20, size_max: 8192, ..Config::default() };
        let features = Features::BLOCK_FLUSH.with(Features::BLOCK_SIZE_MAX);
        let facts = Facts::new(&config, features, 16).unwrap();
        assert!(facts.volatile_write_cache);
        let (sender, trouble) = mpsc::unbounded();
        let kick = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let sender = TroubleSender::new(sender);
        let ring = FakeRing::default();
        let mut queue = Virtqueue::new(0, ring, Target::new(&facts), kick, sender);
        let region = Region::allocate(1, HugePages::Never).unwrap();
        let region = Registry::new().add(Arc::new(region)).unwrap();
        queue.set_region(region.id);
        let owner = queue.add_owner();
        Rig { queue, trouble, region, refused: Vec::with_capacity(8), owner }
    }

    fn segment(&self, length: u32, id: RegionId) -> Segment {
        // SAFETY: within the region; nobody looks at it.
        unsafe { Segment::new(self.region.region.start(), length, id) }
    }

    fn write(&self, token: u64) -> Request {
        Request::new(Opcode::Write, Lba(8), 8, self.segment(4096, self.region.id), token)
    }

    fn submit(&mut self, owner: u16, request: Request) -> usize {
        self.queue.submit(owner, &[request], &mut self.refused)
    }

    /// What ended, as tokens and statuses.
    fn poll(&mut self, owner: u16) -> Vec<(u64, Status)> {
        let mut completions = Completions::with_capacity(8);
        self.queue.poll(owner, &mut completions);
        completions.into_iter().map(|done| (done.token, done.status)).collect()
    }
}

#[test]
fn a_write_with_force_unit_access_ends_after_its_flush() {
    let mut rig = Rig::new();
    let fua = rig.write(1).with_flags(RequestFlags::FUA);
    assert_eq!(rig.submit(0, fua), 1);
    let plain = rig.write(2);
    assert_eq!(rig.submit(0, plain), 1);
    assert_eq!(rig.queue.ring.end(0), RequestType::Out);
    assert_eq!(rig.queue.ring.end(0), RequestType::Out);
    assert_eq!(rig.poll(0), [(2, Status::SUCCESS)]);
    assert_eq!(rig.queue.ring.end(1), RequestType::Flush);
    assert_eq!(rig.poll(0), [(1, Status::WRITE_FAULT)]);
    // One that failed needs no flush.
    assert_eq!(rig.submit(0, fua), 1);
    rig.queue.ring.end(1);
    assert_eq!(rig.poll(0), [(1, Status::WRITE_FAULT)]);
    assert_eq!(rig.queue.ring.outstanding(), 0);
}

#[test]
fn memory_that_the_device_was_not_told_of_is_asked_for_once() {
    let mut rig = Rig::new();
    let known = rig.region.id;
    rig.queue.clear_region(known);
    let request = rig.write(1);
    for _ in 0..3 {
        assert_eq!(rig.submit(0, request), 0);
    }
    assert_eq!(rig.trouble.try_recv().unwrap(), Trouble::RegionBehind(known));
    // What is answered to another queue's question is not this one's answer.
    rig.queue.answer(RegionId::NONE);
    assert_eq!(rig.submit(0, request), 0);
    assert!(rig.trouble.try_recv().is_err());
    rig.queue.set_region(known);
    rig.queue.answer(known);
    assert_eq!(rig.submit(0, request), 1);
    // It goes, and the device cannot be told any more.
    rig.queue.clear_region(known);
    rig.queue.answer(known);
    assert_eq!(rig.submit(0, request), 1);
    assert_eq!(rig.refused.pop().unwrap().status, Status::DATA_TRANSFER_ERROR);
    // Memory in no region never can.
    let stray = rig.segment(4096, RegionId::NONE);
    let stray = Request::new(Opcode::Read, Lba(0), 8, stray, 2);
    assert_eq!(rig.submit(0, stray), 1);
    assert_eq!(rig.refused.pop().unwrap().status, Status::DATA_TRANSFER_ERROR);
}

#[test]
fn requests_look_as_the_device_wants_them() {
    let mut rig = Rig::new();
    let long = rig.segment(20_000, rig.region.id);
    for request in [
        Request::new(Opcode::Read, Lba(3), 40, long, 1),
        Request::bare(Opcode::Unmap, Lba(5), 9, 2),
        Request::bare(Opcode::WriteZeroes, Lba(5), 9, 3),
        Request::bare(Opcode::Flush, Lba(0), 0, 4),
    ] {
        assert_eq!(rig.submit(0, request), 1);
    }
    let fifth = rig.write(5);
    assert_eq!(rig.submit(0, fifth), 0, "there is no room");
    let seen: Vec<_> = rig.queue.ring.pushed.iter().map(|(_, h, what)| (h.kind, *what)).collect();
    assert_eq!(
        seen,
        [
            (RequestType::In, 3),
            (RequestType::WriteZeroes, 9 << 32 | u64::from(RangeDescriptor::UNMAP)),
            (RequestType::WriteZeroes, 9 << 32),
            (RequestType::Flush, 0),
        ]
    );
    let wrong = Request::bare(Opcode::Reset, Lba(0), 0, 6);
    assert_eq!(rig.submit(0, wrong), 1);
    assert_eq!(rig.refused.pop().unwrap().status, Status::INVALID_OPCODE);
    for status in [1, 2, 3, 0xff] {
        rig.queue.ring.end(status);
    }
    let statuses: Vec<Status> = rig.poll(0).into_iter().map(|(_, status)| status).collect();
    assert_eq!(
        statuses,
        [
            Status::UNRECOVERED_READ_ERROR,
            Status::INVALID_OPCODE,
            Status::INTERNAL_ERROR,
            Status::INTERNAL_ERROR
        ]
    );
}

#[test]
fn each_owner_gets_its_own() {
    let mut rig = Rig::new();
    let second = rig.queue.add_owner();
    assert_ne!(second, rig.owner);
    for (owner, token) in [(0, 10), (second, 20), (0, 11)] {
        let request = rig.write(token);
        assert_eq!(rig.submit(owner, request), 1);
    }
    for _ in 0..3 {
        rig.queue.ring.end(0);
    }
    assert_eq!(rig.poll(0), [(10, Status::SUCCESS), (11, Status::SUCCESS)]);
    assert!(rig.queue.ring.pushed.is_empty());
    assert_eq!(rig.poll(second), [(20, Status::SUCCESS)]);
    rig.queue.remove_owner(second);
    assert_eq!(rig.queue.add_owner(), second);
}

#[test]
fn a_back_end_that_goes_takes_nothing_along() {
    let mut rig = Rig::new();
    for token in 1..=3 {
        let request = rig.write(token);
        assert_eq!(rig.submit(0, request), 1);
    }
    rig.queue.ring.end(0);
    rig.queue.freeze();
    assert_eq!(rig.poll(0), [(1, Status::SUCCESS)], "what it had used counts");
    let waiting = rig.write(4);
    assert_eq!(rig.submit(0, waiting), 0);
    assert!(!rig.queue.owes(0), "nobody touches memory");
    rig.queue.prepare(true);
    assert_eq!(rig.queue.ring.restarts, 1);
    rig.queue.thaw();
    assert_eq!(rig.submit(0, waiting), 1);
    rig.queue.ring.end(0);
    assert_eq!(rig.poll(0), [(2, Status::SUCCESS)]);
    rig.queue.die(Status::INTERNAL_PATH_ERROR);
    let lost = Status::INTERNAL_PATH_ERROR;
    assert_eq!(rig.poll(0), [(3, lost), (4, lost)]);
    assert_eq!(rig.submit(0, waiting), 1);
    assert_eq!(rig.refused.pop().unwrap().status, lost);
    rig.queue.thaw();
    assert_eq!(rig.submit(0, waiting), 1, "dead is dead");
}

#[test]
fn a_broken_device_stops_the_queue() {
    let mut rig = Rig::new();
    let request = rig.write(1);
    assert_eq!(rig.submit(0, request), 1);
    rig.queue.ring.fault = true;
    assert_eq!(rig.poll(0), []);
    assert_eq!(rig.trouble.try_recv().unwrap(), Trouble::Fault(0, DeviceFault::UsedIndex(7)));
    assert_eq!(rig.submit(0, request), 0);
    rig.queue.die(Status::INTERNAL_PATH_ERROR);
    assert_eq!(rig.poll(0), [(1, Status::INTERNAL_PATH_ERROR)]);
}
