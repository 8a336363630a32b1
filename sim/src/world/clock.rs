//! A node's own clock: another zero and another rate than the world's time.

use weft::base::Time;

/// Reads the world's time as a node does. The rate may change; the clock never goes backwards.
#[derive(Clone, Debug)]
pub struct Clock {
    /// When the present rate began, in the world's time, and what the clock showed.
    began: u64,
    shown: u64,
    /// What is added to each nanosecond, in 2⁻³².
    excess: i64,
}

const ONE: i64 = 1 << 32;

impl Clock {
    /// A clock that shows `shown` at the beginning of the world and gains `ppm` millionths.
    pub fn new(shown: u64, ppm: i32) -> Clock {
        Clock { began: 0, shown, excess: i64::from(ppm) * ONE / 1_000_000 }
    }

    /// What it shows at `now`.
    pub fn read(&self, now: u64) -> Time {
        let passed = now - self.began;
        let gained = (i128::from(passed) * i128::from(self.excess)) >> 32;
        Time::from_nanos((i128::from(self.shown) + i128::from(passed) + gained) as u64)
    }

    /// The first moment of the world, not before `now`, at which it shows `time` or more; never for a time that it does not reach.
    pub fn when(&self, time: Time, now: u64) -> u64 {
        if time <= self.read(now) {
            return now;
        }
        if time.as_nanos() > u64::MAX / 4 {
            return u64::MAX;
        }
        let wanted = i128::from(time.as_nanos() - self.shown);
        let passed = (wanted << 32) / i128::from(ONE + self.excess);
        let mut moment = self.began + passed as u64;
        while self.read(moment) < time {
            moment += 1;
        }
        moment.max(now)
    }

    /// Gains `ppm` millionths from `now` on.
    pub fn set_rate(&mut self, now: u64, ppm: i32) {
        *self = Clock {
            began: now,
            shown: self.read(now).as_nanos(),
            excess: Clock::new(0, ppm).excess,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_due_when_the_clock_shows_it_and_not_a_moment_before() {
        for ppm in [-10_000, -1, 0, 3, 10_000] {
            let mut clock = Clock::new(12_345_678_901, ppm);
            for now in [0, 1, 77, 1_000_000_007, 3_600_000_000_000] {
                for ahead in [0, 1, 999, 250_000_000] {
                    let time = Time::from_nanos(clock.read(now).as_nanos() + ahead);
                    let moment = clock.when(time, now);
                    assert!(clock.read(moment) >= time);
                    assert!(moment == now || clock.read(moment - 1) < time);
                }
            }
            let shown = clock.read(5_000_000);
            clock.set_rate(5_000_000, -ppm);
            assert_eq!(clock.read(5_000_000), shown);
        }
        assert_eq!(Clock::new(0, 0).when(Time::NEVER, 9), u64::MAX);
    }
}
