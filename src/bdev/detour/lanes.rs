//! The requests of one channel that wait for the device's rate limits.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bdev::qos::{Cost, Direction, Throttle};
use crate::reactor::Tsc;

/// The queues of those who wait: one a [`Direction`], in the order of arrival. Tokens are reserved for a
/// few at the head at a time, so that the shared buckets are touched once for many requests.
#[derive(Debug)]
pub(super) struct Lanes {
    throttle: Option<Arc<Throttle>>,
    lanes: [Lane; 2],
}

#[derive(Debug)]
struct Lane {
    queue: VecDeque<u32>,
    /// How many at the head have their tokens,
    reserved: usize,
    /// and from when on they may start.
    start: Tsc,
}

impl Lanes {
    /// Lanes for up to `capacity` waiting requests in all; nothing is limited yet.
    pub(super) fn new(capacity: usize) -> Lanes {
        let lane = || Lane { queue: VecDeque::with_capacity(capacity), reserved: 0, start: Tsc(0) };
        Lanes { throttle: None, lanes: [lane(), lane()] }
    }

    /// Follows other limits from now on. Who waits keeps its place.
    pub(super) fn set_throttle(&mut self, throttle: Option<Arc<Throttle>>) {
        let same = match (&throttle, &self.throttle) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        self.throttle = throttle;
        for lane in &mut self.lanes {
            // What was reserved under the old limits is void.
            lane.reserved = 0;
        }
    }

    /// Whether there is any limit.
    pub(super) fn is_limited(&self) -> bool {
        self.throttle.is_some()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.queue.is_empty())
    }

    /// Puts job `index` at the end of its lane.
    pub(super) fn push(&mut self, direction: Direction, index: u32) {
        self.lanes[direction as usize].queue.push_back(index);
    }

    /// The next that may start at `now`; everybody when nothing is limited. `cost` says what a job costs.
    pub(super) fn pop(&mut self, now: Tsc, cost: impl Fn(u32) -> Cost) -> Option<u32> {
        let Some(throttle) = &self.throttle else {
            return self.lanes.iter_mut().find_map(|lane| lane.queue.pop_front());
        };
        for direction in Direction::ALL {
            let lane = &mut self.lanes[direction as usize];
            if lane.reserved == 0 && !lane.queue.is_empty() {
                lane.reserve(direction, throttle, now, &cost);
            }
            if lane.reserved > 0 && lane.start <= now {
                lane.reserved -= 1;
                return lane.queue.pop_front();
            }
        }
        None
    }
}

impl Lane {
    fn reserve(
        &mut self,
        direction: Direction,
        throttle: &Throttle,
        now: Tsc,
        cost: impl Fn(u32) -> Cost,
    ) {
        let slice = throttle.slice(direction);
        let mut sum = Cost::default();
        for &index in &self.queue {
            let with_this = sum.plus(cost(index));
            if self.reserved > 0 && !with_this.is_within(slice) {
                break;
            }
            sum = with_this;
            self.reserved += 1;
        }
        self.start = throttle.reserve(direction, sum, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bdev::qos::QosLimits;

    const RATE: u64 = 1_000_000_000;

    fn limited(limits: QosLimits) -> Lanes {
        let mut lanes = Lanes::new(100);
        lanes.set_throttle(Throttle::new(&limits, RATE).map(Arc::new));
        lanes
    }

    fn drain(lanes: &mut Lanes, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| lanes.pop(Tsc(now), |_| Cost::of(4096))).collect()
    }

    #[test]
    fn order_is_kept_and_the_rate_holds() {
        let mut lanes = limited(QosLimits { rw_ios_per_sec: 1000, ..Default::default() });
        (0..100).for_each(|index| lanes.push(Direction::Write, index));
        let first = 5 * RATE;
        // A full bucket holds 4 ms, which are 4 requests, and the fifth starts when they are spent.
        let mut started = drain(&mut lanes, first);
        assert_eq!(started, [0, 1, 2, 3, 4]);
        assert!(drain(&mut lanes, first + 999_999).is_empty());
        for millisecond in 1..=95 {
            started.extend(drain(&mut lanes, first + millisecond * 1_000_000));
            assert_eq!(started.len(), (5 + millisecond as usize).min(100));
        }
        assert_eq!(started, (0..100).collect::<Vec<u32>>());
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_limit_on_reads_does_not_hold_up_writes() {
        let mut lanes = limited(QosLimits { r_mbytes_per_sec: 1, ..Default::default() });
        (0..10).for_each(|index| lanes.push(Direction::Read, index));
        (10..20).for_each(|index| lanes.push(Direction::Write, index));
        let started = drain(&mut lanes, RATE);
        assert!(started.ends_with(&(10..20).collect::<Vec<u32>>()), "{started:?}");
        assert!(started.len() < 20);
    }

    #[test]
    fn lifting_the_limits_lets_all_go_in_order() {
        let mut lanes = limited(QosLimits { rw_ios_per_sec: 1, ..Default::default() });
        (0..10).for_each(|index| lanes.push(Direction::Read, index));
        let mut started = drain(&mut lanes, RATE);
        assert_eq!(started, [0]);
        lanes.set_throttle(None);
        started.extend(drain(&mut lanes, RATE));
        assert_eq!(started, (0..10).collect::<Vec<u32>>());
    }

    #[test]
    fn other_limits_take_effect_at_once() {
        let mut lanes = limited(QosLimits { rw_ios_per_sec: 1, ..Default::default() });
        (0..10).for_each(|index| lanes.push(Direction::Read, index));
        drain(&mut lanes, RATE);
        let faster = QosLimits { rw_ios_per_sec: 1_000_000, ..Default::default() };
        lanes.set_throttle(Throttle::new(&faster, RATE).map(Arc::new));
        assert_eq!(drain(&mut lanes, RATE + 10_000).len(), 9);
    }
}
