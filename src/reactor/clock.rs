//! Time-stamp counter.

use std::time::Duration;

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
        #[cfg(not(target_arch = "x86_64"))]
        todo!()
    }

    /// Ticks per second.
    pub fn rate() -> u64 {
        todo!()
    }

    /// The tick count of `duration`.
    pub fn ticks(_duration: Duration) -> u64 {
        todo!()
    }
}
