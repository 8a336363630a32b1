//! Tests of the range locks as a whole.

#[cfg(not(weft_loom))]
mod sequential {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::*;
    use crate::base::limits;

    fn locks() -> Arc<RangeLocks> {
        let locks = Arc::new(RangeLocks::new(BlockSize::B4096));
        locks.require();
        locks
    }

    fn all_granted(lock: &mut RangeLock) -> Vec<Slot> {
        lock.poll();
        std::iter::from_fn(|| lock.next_granted()).collect()
    }

    #[test]
    fn overlapping_writes_of_a_queue_go_one_by_one_in_order() {
        let locks = locks();
        let mut queue = RangeLock::join(&locks, 8);
        assert!(queue.acquire(0, Access::Write, Lba(0), 8));
        assert_eq!(queue.level(), Level::Local);
        assert!(queue.acquire(1, Access::Write, Lba(8), 8), "next to it");
        assert!(!queue.acquire(2, Access::Write, Lba(4), 8), "over both");
        assert!(!queue.acquire(3, Access::Read, Lba(7), 1), "behind what is to be written");
        assert!(!queue.acquire(4, Access::Write, Lba(7), 1), "behind the read that waits");
        assert!(queue.acquire(5, Access::Read, Lba(16), 1));
        queue.release(0);
        assert!(all_granted(&mut queue).is_empty());
        queue.release(1);
        assert_eq!(all_granted(&mut queue), [2]);
        queue.release(2);
        assert_eq!(all_granted(&mut queue), [3, 4]);
        queue.release(4);
        assert!(!queue.is_waiting() && queue.registered == 0);
    }

    #[test]
    fn off_costs_a_count_and_is_left_when_all_have_drained() {
        let locks = Arc::new(RangeLocks::new(BlockSize::B512));
        let mut one = RangeLock::join(&locks, 8);
        let mut two = RangeLock::join(&locks, 8);
        let mut idle = RangeLock::join(&locks, 8);
        assert!(one.enter(3) && two.enter(1));
        locks.require();
        assert!(!one.enter(1));
        assert!(!one.acquire(0, Access::Write, Lba(0), 1), "three are in flight");
        one.exit(3);
        assert!(all_granted(&mut one).is_empty(), "the other has one in flight");
        two.exit(1);
        assert_eq!(all_granted(&mut one), [0], "nobody needs to poll what is idle");
        assert_eq!(one.level(), Level::Shared);
        assert!(!two.acquire(0, Access::Read, Lba(0), 1) && !idle.enter(1));
        one.release(0);
        assert_eq!(all_granted(&mut two), [0]);
        drop((two, idle));
        assert!(one.acquire(1, Access::Write, Lba(0), 1));
        assert_eq!(one.level(), Level::Local, "alone again");
    }

    #[test]
    fn a_queue_that_goes_gives_back_what_it_holds() {
        let locks = locks();
        let mut one = RangeLock::join(&locks, 4);
        let mut two = RangeLock::join(&locks, 4);
        assert!(one.acquire(0, Access::Write, Lba(0), 300));
        assert!(!two.acquire(0, Access::Write, Lba(7), 1));
        assert!(!two.acquire(1, Access::Read, Lba(40), 1));
        drop(one);
        assert_eq!(all_granted(&mut two).len(), 2);
        two.release(0);
        drop(two);
        assert!(locks.table.is_clear());
    }

    /// A read that stops half way through its slots goes on from there. It had started over, with
    /// a mark on the slot that it had stopped at, while a write waited for that slot and held the first.
    #[test]
    fn a_read_between_queues_goes_on_where_it_stopped() {
        let locks = locks();
        let mut one = RangeLock::join(&locks, 4);
        let mut two = RangeLock::join(&locks, 4);
        assert!(one.acquire(0, Access::Write, Lba(59), 6));
        assert!(!two.acquire(0, Access::Read, Lba(0), 49));
        assert!(!one.acquire(1, Access::Write, Lba(0), 49), "the other has marked its last slot");
        one.release(0);
        assert!(all_granted(&mut one).is_empty());
        assert_eq!(all_granted(&mut two), [0]);
        assert_eq!(all_granted(&mut one), [1]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Submit { queue: usize, access: Access, lba: u64, blocks: u64 },
        Finish { queue: usize, pick: usize },
        Poll { queue: usize },
        Leave { queue: usize },
        Join { queue: usize },
    }

    const QUEUES: usize = 3;
    const CAPACITY: u32 = 12;

    fn step() -> impl Strategy<Value = Step> {
        let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
        let blocks = prop_oneof![4 => 1u64..20, 1 => 1u64..600, 1 => Just(0u64)];
        prop_oneof![
            10 => (0..QUEUES, access, 0u64..400, blocks)
                .prop_map(|(queue, access, lba, blocks)| Step::Submit { queue, access, lba, blocks }),
            8 => (0..QUEUES, 0usize..100).prop_map(|(queue, pick)| Step::Finish { queue, pick }),
            6 => (0..QUEUES).prop_map(|queue| Step::Poll { queue }),
            1 => (0..QUEUES).prop_map(|queue| Step::Leave { queue }),
            1 => (0..QUEUES).prop_map(|queue| Step::Join { queue }),
        ]
    }

    #[derive(Clone, Debug)]
    struct Request {
        access: Access,
        start: u64,
        end: u64,
        /// Whether it runs; unique.
        running: Option<u64>,
        /// For a read: the writes that ran when it came, which it must not run beside. (One that
        /// starts between its submission and its start is as good as after it.)
        before: Vec<u64>,
    }

    struct Modelled {
        lock: RangeLock,
        requests: Vec<Option<Request>>,
    }

    struct Model {
        queues: Vec<Option<Modelled>>,
        started: u64,
    }

    impl Model {
        /// The writes that run and overlap blocks `start .. end`.
        fn running_writes(&self, start: u64, end: u64) -> Vec<u64> {
            let requests = self.queues.iter().flatten().flat_map(|modelled| &modelled.requests);
            requests
                .flatten()
                .filter(|other| other.access == Access::Write)
                .filter(|other| start.max(other.start) < end.min(other.end))
                .filter_map(|other| other.running)
                .collect()
        }

        fn start(&mut self, queue: usize, slot: Slot) {
            let requests = &self.queues[queue].as_ref().unwrap().requests;
            let mut request = requests[slot as usize].clone().unwrap();
            let beside = self.running_writes(request.start, request.end);
            let wrong = match request.access {
                Access::Read => beside.iter().any(|write| request.before.contains(write)),
                Access::Write => !beside.is_empty(),
            };
            assert!(!wrong, "{request:?} of queue {queue} runs beside {beside:?}");
            self.started += 1;
            request.running = Some(self.started);
            // Nothing waits for a read that runs.
            let kept = (request.access == Access::Write).then_some(request);
            self.queues[queue].as_mut().unwrap().requests[slot as usize] = kept;
        }

        fn poll(&mut self, queue: usize) {
            if let Some(modelled) = &mut self.queues[queue] {
                modelled.lock.poll();
            }
            self.collect(queue);
        }

        fn collect(&mut self, queue: usize) {
            while let Some(modelled) = &mut self.queues[queue] {
                let Some(slot) = modelled.lock.next_granted() else { break };
                self.start(queue, slot);
            }
        }

        fn finish(&mut self, queue: usize, pick: usize) {
            let Some(modelled) = &mut self.queues[queue] else { return };
            let running: Vec<usize> = (0..CAPACITY as usize)
                .filter(|&slot| {
                    modelled.requests[slot]
                        .as_ref()
                        .is_some_and(|request| request.running.is_some())
                })
                .collect();
            if running.is_empty() {
                return;
            }
            let slot = running[pick % running.len()];
            modelled.requests[slot] = None;
            modelled.lock.release(slot as Slot);
            self.collect(queue);
        }

        fn apply(&mut self, locks: &Arc<RangeLocks>, step: Step) {
            match step {
                Step::Submit { queue, access, lba, blocks } => {
                    let Some(modelled) = &mut self.queues[queue] else { return };
                    let Some(slot) = modelled.requests.iter().position(Option::is_none) else {
                        return;
                    };
                    let (start, end) = (lba, lba + blocks);
                    let before = self.running_writes(start, end);
                    let Some(modelled) = &mut self.queues[queue] else { return };
                    modelled.requests[slot] =
                        Some(Request { access, start, end, running: None, before });
                    let now = modelled.lock.acquire(slot as Slot, access, Lba(lba), blocks);
                    // Those that a hand-over let go were before it.
                    self.collect(queue);
                    if now {
                        self.start(queue, slot as Slot);
                    }
                }
                Step::Finish { queue, pick } => self.finish(queue, pick),
                Step::Poll { queue } => self.poll(queue),
                Step::Leave { queue } => self.queues[queue] = None,
                Step::Join { queue } => {
                    self.queues[queue].get_or_insert_with(|| Modelled {
                        lock: RangeLock::join(locks, CAPACITY),
                        requests: vec![None; CAPACITY as usize],
                    });
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        /// Nothing runs beside a write that overlaps it, over queues that come and go; and when
        /// everything that runs is finished, everything that waits gets its turn.
        #[test]
        fn exclusion_and_progress(steps in proptest::collection::vec(step(), 1..300)) {
            let locks = locks();
            let mut model = Model { queues: (0..QUEUES).map(|_| None).collect(), started: 0 };
            model.apply(&locks, Step::Join { queue: 0 });
            for step in steps {
                model.apply(&locks, step);
            }
            for _ in 0..4 * QUEUES * CAPACITY as usize {
                for queue in 0..QUEUES {
                    model.finish(queue, 0);
                    model.poll(queue);
                }
            }
            for modelled in model.queues.iter().flatten() {
                prop_assert!(modelled.requests.iter().all(Option::is_none), "somebody waits forever");
                prop_assert!(!modelled.lock.is_waiting());
            }
            model.queues.clear();
            prop_assert!(locks.table.is_clear());
        }
    }

    /// Two threads, for real: a counter per block that only the holder of the range changes.
    #[test]
    fn exclusion_between_threads() {
        use std::sync::atomic::{AtomicU64, Ordering};
        const ROUNDS: u64 = 20_000;
        let locks = locks();
        let blocks: Arc<Vec<AtomicU64>> = Arc::new((0..64).map(|_| AtomicU64::new(0)).collect());
        let run = |seed: u64| {
            let (locks, blocks) = (Arc::clone(&locks), Arc::clone(&blocks));
            move || {
                let mut queue = RangeLock::join(&locks, 1);
                let mut random = seed;
                for _ in 0..ROUNDS {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let (lba, count) = (random >> 33 & 31, 1 + (random >> 40 & 31));
                    let mut granted = queue.acquire(0, Access::Write, Lba(lba), count);
                    while !granted {
                        std::thread::yield_now();
                        queue.poll();
                        granted = queue.next_granted().is_some();
                    }
                    for block in &blocks[lba as usize..(lba + count) as usize] {
                        // Not one step: an overlapping writer would lose a count.
                        block.store(block.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    }
                    queue.release(0);
                }
                let mut random = seed;
                (0..ROUNDS)
                    .map(|_| {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        1 + (random >> 40 & 31)
                    })
                    .sum::<u64>()
            }
        };
        let threads = [std::thread::spawn(run(1)), std::thread::spawn(run(2))];
        let expected: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        let counted: u64 = blocks.iter().map(|block| block.load(Ordering::Relaxed)).sum();
        assert_eq!(counted, expected);
        assert!(locks.table.is_clear());
    }

    const _: () = assert!(CAPACITY < limits::QUEUE_DEPTH_MAX);
}

#[cfg(weft_loom)]
mod interleavings {
    use loom::cell::UnsafeCell;
    use loom::thread;

    use super::super::*;

    struct Block(UnsafeCell<u64>);
    // SAFETY: what the tests are about: loom reports unordered use of the cell.
    unsafe impl Sync for Block {}
    // SAFETY: a number.
    unsafe impl Send for Block {}

    fn write(queue: &mut RangeLock, block: &Block) {
        let mut granted = queue.acquire(0, Access::Write, Lba(0), 1);
        while !granted {
            thread::yield_now();
            queue.poll();
            granted = queue.next_granted().is_some();
        }
        // SAFETY: under the range lock.
        block.0.with_mut(|value| unsafe { *value += 1 });
        queue.release(0);
    }

    /// Loom finds any two writers that are not ordered by the lock.
    #[test]
    fn two_queues_write_one_block() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let locks = std::sync::Arc::new(RangeLocks::new(BlockSize::B4096));
            locks.require();
            let block = std::sync::Arc::new(Block(UnsafeCell::new(0)));
            let (mut one, mut two) = (RangeLock::join(&locks, 1), RangeLock::join(&locks, 1));
            let theirs = std::sync::Arc::clone(&block);
            let thread = thread::spawn(move || write(&mut two, &theirs));
            write(&mut one, &block);
            drop(one);
            thread.join().unwrap();
        });
    }

    /// A queue that runs alone, without the table, and another that joins meanwhile.
    #[test]
    fn a_second_queue_joins() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let locks = std::sync::Arc::new(RangeLocks::new(BlockSize::B4096));
            locks.require();
            let block = std::sync::Arc::new(Block(UnsafeCell::new(0)));
            let mut one = RangeLock::join(&locks, 1);
            let (their_locks, theirs) =
                (std::sync::Arc::clone(&locks), std::sync::Arc::clone(&block));
            let thread = thread::spawn(move || {
                let mut two = RangeLock::join(&their_locks, 1);
                write(&mut two, &theirs);
            });
            write(&mut one, &block);
            write(&mut one, &block);
            drop(one);
            thread.join().unwrap();
        });
    }

    /// Requests that are only counted, and somebody who needs exclusion from now on.
    #[test]
    fn exclusion_becomes_needed() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let locks = std::sync::Arc::new(RangeLocks::new(BlockSize::B4096));
            let block = std::sync::Arc::new(Block(UnsafeCell::new(0)));
            let (mut one, mut two) = (RangeLock::join(&locks, 1), RangeLock::join(&locks, 1));
            let theirs = std::sync::Arc::clone(&block);
            let thread = thread::spawn(move || {
                two.locks().require();
                write(&mut two, &theirs);
            });
            if one.enter(1) {
                // SAFETY: the other has to wait until this is done.
                block.0.with_mut(|value| unsafe { *value += 1 });
                one.exit(1);
            } else {
                write(&mut one, &block);
            }
            drop(one);
            thread.join().unwrap();
        });
    }
}
