//! The time-stamp counter: the reactors' clock.
//!
//! One reading costs about 10 ns and no system call, so that a poll round can be timed. The counter
//! is taken to be invariant and the same on all cores, which it is on every processor that Weft is
//! meant for (`constant_tsc` and `nonstop_tsc`); a difference of two readings never goes
//! below zero here, whatever the hardware does.

use std::ops::Sub;
use std::sync::OnceLock;
use std::time::Duration;

use super::calibration;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A reading of the processor's time-stamp counter, in ticks of [`Tsc::rate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Tsc(pub u64);

impl Tsc {
    /// Reads the counter.
    #[inline]
    pub fn read() -> Tsc {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 processor has the instruction.
        return Tsc(unsafe { std::arch::x86_64::_rdtsc() });
        #[cfg(target_arch = "aarch64")]
        {
            let ticks: u64;
            // SAFETY: Linux lets user space read the virtual counter; reading it changes nothing.
            unsafe {
                std::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack));
            }
            Tsc(ticks)
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        compile_error!("Weft reads the time-stamp counter of x86-64 and aarch64 processors only");
    }

    /// Ticks per second. The first call finds it out: at once where the processor or the hypervisor
    /// says it, else by a measurement of a few milliseconds.
    pub fn rate() -> u64 {
        static RATE: OnceLock<u64> = OnceLock::new();
        *RATE.get_or_init(|| calibration::ticks_per_second(|| Tsc::read().0))
    }

    /// The tick count of `duration`, rounded to the nearest tick; [`u64::MAX`] when it does not fit.
    pub fn ticks(duration: Duration) -> u64 {
        let ticks = (duration.as_nanos() * u128::from(Tsc::rate()) + NANOS_PER_SECOND / 2)
            / NANOS_PER_SECOND;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// The duration of `ticks`.
    pub fn duration(ticks: u64) -> Duration {
        let rate = Tsc::rate();
        let nanos = u128::from(ticks % rate) * NANOS_PER_SECOND / u128::from(rate);
        Duration::new(ticks / rate, nanos as u32)
    }

    /// `ticks` in seconds.
    pub fn seconds(ticks: u64) -> f64 {
        ticks as f64 / Tsc::rate() as f64
    }

    /// `ticks` in microseconds.
    pub fn micros(ticks: u64) -> f64 {
        ticks as f64 * 1e6 / Tsc::rate() as f64
    }

    /// Ticks from `earlier` to this reading; 0 when `earlier` is the later one.
    #[inline]
    pub const fn since(self, earlier: Tsc) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The reading that lies `ticks` after this one.
    #[inline]
    #[must_use]
    pub const fn after(self, ticks: u64) -> Tsc {
        Tsc(self.0.saturating_add(ticks))
    }
}

impl Sub for Tsc {
    type Output = u64;

    /// Ticks between two readings: as [`Tsc::since`].
    #[inline]
    fn sub(self, earlier: Tsc) -> u64 {
        self.since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_come_back_within_a_tick() {
        for nanos in [0, 1000, 1_000_000, 1_000_000_001, 86_400_000_000_000] {
            let duration = Duration::from_nanos(nanos);
            let back = Tsc::duration(Tsc::ticks(duration));
            let difference = back.abs_diff(duration);
            assert!(difference <= Duration::from_nanos(50), "{duration:?} came back as {back:?}");
        }
        assert_eq!(Tsc::ticks(Duration::MAX), u64::MAX);
        assert_eq!(Tsc::ticks(Duration::from_secs(1)), Tsc::rate());
        assert!((Tsc::micros(Tsc::rate()) - 1e6).abs() < 1e-6);
        assert!((Tsc::seconds(Tsc::rate()) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn differences_stop_at_zero() {
        assert_eq!(Tsc(5).since(Tsc(9)), 0);
        assert_eq!(Tsc(9) - Tsc(5), 4);
        assert_eq!(Tsc(u64::MAX).after(1), Tsc(u64::MAX));
    }

    #[test]
    fn the_counter_does_not_run_backwards() {
        let first = Tsc::read();
        assert!(Tsc::read() >= first);
    }
}
