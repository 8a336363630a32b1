//! Rate limits of a device, shared by all its channels on all reactors.
//!
//! Each limit is a token bucket kept as one number: the moment up to which its tokens are spent. A channel
//! *reserves* the tokens for its next few requests, which moves that moment on by their cost and
//! yields when they may start. So channels take turns in the order of their reservations, whoever polls
//! more often: none starves. A request larger than what a bucket holds starts on time and leaves
//! a debt that later ones wait for, so the rate holds over any longer interval.
//!
//! This file knows no requests and no clock; it is given costs and times. The queues of those who wait
//! are the channels' own.

use std::sync::atomic::{AtomicU64, Ordering};

use super::request::Opcode;
use crate::reactor::Tsc;

/// Rate limits as SPDK's `bdev_set_qos_limit` has them; 0 is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QosLimits {
    /// Reads and writes per second.
    pub rw_ios_per_sec: u64,
    /// MiB read and written per second.
    pub rw_mbytes_per_sec: u64,
    /// MiB read per second.
    pub r_mbytes_per_sec: u64,
    /// MiB written per second.
    pub w_mbytes_per_sec: u64,
}

impl QosLimits {
    /// Whether there is no limit.
    pub fn is_unlimited(&self) -> bool {
        *self == QosLimits::default()
    }
}

/// Tokens that were not used for longer than this are lost: 1/250 second. Longer than a busy reactor's round,
/// short enough that a burst after a pause is small.
const BURST_DIVISOR: u64 = 250;

/// Most of a second's tokens that one reservation takes: 1/4000, so that channels alternate often.
/// (One request is always possible.)
const SLICE_DIVISOR: u64 = 4000;

/// Which limits a request falls under. Requests of one direction keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Reads and comparisons.
    Read = 0,
    /// Writes, also those that stand in for write-zeroes on a device without it.
    Write = 1,
}

impl Direction {
    pub(super) const ALL: [Direction; 2] = [Direction::Read, Direction::Write];

    /// Under which limits an opcode falls that moves payload; the others are not limited, as in SPDK.
    pub(super) const fn of(opcode: Opcode) -> Option<Direction> {
        match opcode {
            Opcode::Read | Opcode::Compare => Some(Direction::Read),
            Opcode::Write | Opcode::CompareAndWrite => Some(Direction::Write),
            _ => None,
        }
    }
}

/// What a reservation is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Requests.
    pub(super) ios: u64,
    /// Bytes.
    pub(super) bytes: u64,
}

impl Cost {
    /// The cost of one request.
    pub(super) fn of(bytes: u64) -> Cost {
        Cost { ios: 1, bytes }
    }

    /// Both.
    pub(super) fn plus(self, other: Cost) -> Cost {
        Cost { ios: self.ios + other.ios, bytes: self.bytes + other.bytes }
    }

    /// Whether neither part exceeds that of `limit`.
    pub(super) fn is_within(self, limit: Cost) -> bool {
        self.ios <= limit.ios && self.bytes <= limit.bytes
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    per_sec: u64,
    /// Up to when its tokens are spent, in ticks. Lies in the future while there is debt.
    spent_until: AtomicU64,
}

impl Bucket {
    fn new(per_sec: u64) -> Option<Bucket> {
        (per_sec > 0).then(|| Bucket { per_sec, spent_until: AtomicU64::new(0) })
    }

    /// Takes `units` tokens; says when what they are for may start.
    fn reserve(&self, units: u64, now: u64, tick_rate: u64) -> u64 {
        let cost = (u128::from(units) * u128::from(tick_rate)).div_ceil(u128::from(self.per_sec));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let oldest = now.saturating_sub(tick_rate / BURST_DIVISOR);
        let mut spent = self.spent_until.load(Ordering::Relaxed);
        loop {
            let start = spent.max(oldest);
            let end = start.saturating_add(cost);
            match self.spent_until.compare_exchange_weak(
                spent,
                end,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return start,
                Err(current) => spent = current,
            }
        }
    }
}

/// The buckets of a device under limits that do not change: a change makes a new throttle.
#[derive(Debug)]
pub(super) struct Throttle {
    tick_rate: u64,
    ios: Option<Bucket>,
    bytes: Option<Bucket>,
    /// By [`Direction`].
    direction_bytes: [Option<Bucket>; 2],
    /// What one reservation may take, by [`Direction`].
    slice: [Cost; 2],
}

impl Throttle {
    /// Full buckets for `limits` where the clock has `tick_rate` ticks per second; `None` when nothing is limited.
    pub(super) fn new(limits: &QosLimits, tick_rate: u64) -> Option<Throttle> {
        if limits.is_unlimited() {
            return None;
        }
        let bytes = |mbytes: u64| Bucket::new(mbytes.saturating_mul(1 << 20));
        let mut throttle = Throttle {
            tick_rate: tick_rate.max(1),
            ios: Bucket::new(limits.rw_ios_per_sec),
            bytes: bytes(limits.rw_mbytes_per_sec),
            direction_bytes: [bytes(limits.r_mbytes_per_sec), bytes(limits.w_mbytes_per_sec)],
            slice: [Cost::default(); 2],
        };
        let slice_of = |bucket: &Option<Bucket>| match bucket {
            Some(bucket) => (bucket.per_sec / SLICE_DIVISOR).max(1),
            None => u64::MAX,
        };
        throttle.slice = Direction::ALL.map(|direction| Cost {
            ios: slice_of(&throttle.ios),
            bytes: slice_of(&throttle.bytes)
                .min(slice_of(&throttle.direction_bytes[direction as usize])),
        });
        Some(throttle)
    }

    /// The most that a reservation for several requests should ask for.
    pub(super) fn slice(&self, direction: Direction) -> Cost {
        self.slice[direction as usize]
    }

    /// Takes the tokens for `cost`; says when what they are for may start.
    pub(super) fn reserve(&self, direction: Direction, cost: Cost, now: Tsc) -> Tsc {
        let take = |bucket: &Option<Bucket>, units: u64| match bucket {
            Some(bucket) => bucket.reserve(units, now.0, self.tick_rate),
            None => 0,
        };
        let start = take(&self.ios, cost.ios)
            .max(take(&self.bytes, cost.bytes))
            .max(take(&self.direction_bytes[direction as usize], cost.bytes));
        Tsc(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1_000_000_000;

    fn throttle(limits: QosLimits) -> Throttle {
        Throttle::new(&limits, RATE).unwrap()
    }

    /// Channels that always have another request ready, each polled every so many ticks: how many
    /// requests each started within `duration` ticks.
    fn run(
        throttle: &Throttle,
        direction: Direction,
        bytes: u64,
        periods: &[u64],
        duration: u64,
    ) -> Vec<u64> {
        let first = 10 * RATE;
        let mut reserved = vec![None; periods.len()];
        let mut started = vec![0; periods.len()];
        for now in first..first + duration {
            for (channel, period) in periods.iter().enumerate() {
                if now % period != 0 {
                    continue;
                }
                loop {
                    let start = *reserved[channel].get_or_insert_with(|| {
                        throttle.reserve(direction, Cost::of(bytes), Tsc(now))
                    });
                    if start.0 > now {
                        break;
                    }
                    reserved[channel] = None;
                    started[channel] += 1;
                }
            }
        }
        started
    }

    #[test]
    fn no_limit_is_no_throttle() {
        assert!(Throttle::new(&QosLimits::default(), RATE).is_none());
    }

    #[test]
    fn the_rate_holds_and_bursts_are_bounded() {
        let throttle = throttle(QosLimits { rw_ios_per_sec: 1_000_000, ..Default::default() });
        // 20 ms at a million per second, and what a full bucket holds.
        let started: u64 = run(&throttle, Direction::Read, 512, &[7_000], 20_000_000)[0];
        assert!((20_000 - 10..=20_000 + 4_000 + 10).contains(&started), "{started}");
    }

    #[test]
    fn a_large_request_leaves_a_debt() {
        let throttle = throttle(QosLimits { w_mbytes_per_sec: 1, ..Default::default() });
        let now = Tsc(100 * RATE);
        let half_second = Cost::of(1 << 19);
        let first = throttle.reserve(Direction::Write, half_second, now);
        assert!(first <= now, "nothing was spent before");
        let second = throttle.reserve(Direction::Write, half_second, now);
        assert_eq!(second.0, first.0 + RATE / 2);
        let third = throttle.reserve(Direction::Write, half_second, now);
        assert_eq!(third.0, first.0 + RATE);
        // Reads are not under this limit.
        assert!(throttle.reserve(Direction::Read, half_second, now) <= now);
    }

    #[test]
    fn the_slowest_bucket_decides() {
        let throttle = throttle(QosLimits {
            rw_ios_per_sec: 1000,
            rw_mbytes_per_sec: 100,
            r_mbytes_per_sec: 1,
            w_mbytes_per_sec: 0,
        });
        let now = Tsc(100 * RATE);
        let cost = Cost::of(1 << 20);
        let first = throttle.reserve(Direction::Read, cost, now);
        assert_eq!(throttle.reserve(Direction::Read, cost, now).0, first.0 + RATE);
        // The write pays for three MiB at 100 per second, not for the reads' own limit.
        let _ = throttle.reserve(Direction::Write, cost, now);
        let start = throttle.reserve(Direction::Write, cost, now);
        assert!(start.0 < now.0 + RATE / 10, "{start:?}");
        assert_eq!(throttle.slice(Direction::Read), Cost { ios: 1, bytes: (1 << 20) / 4000 });
    }

    #[test]
    fn a_slow_poller_gets_its_share() {
        let throttle = throttle(QosLimits { rw_ios_per_sec: 1_000_000, ..Default::default() });
        // One reactor polls each 100 ns, the other each 800 ns; a token comes each microsecond.
        let started = run(&throttle, Direction::Read, 512, &[100, 800], 10_000_000);
        let (fast, slow) = (started[0] as f64, started[1] as f64);
        assert!(slow > fast * 0.5, "{started:?}");
    }
}
