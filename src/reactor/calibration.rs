//! How fast the time-stamp counter runs: asked from those who should know, in the order of how exactly
//! they do, and held against the system's clock before it is believed.

use std::time::{Duration, Instant};

/// How long a plausibility check measures. The error of each end is that of two clock readings, so
/// a check is good to about 0.1 %.
const CHECK: Duration = Duration::from_micros(200);
/// How long the measurement takes that is used where nobody knows: good to about 20 parts per million.
const MEASUREMENT: Duration = Duration::from_millis(5);
/// How far a stated rate may be from the checked one: frequency steering of the system's clock (up to
/// 0.05 %), and the error of the check.
const TOLERANCE: f64 = 0.01;

/// Reads the counter.
pub(super) type Read = fn() -> u64;

/// Ticks per second of the counter that `read` reads.
pub(super) fn ticks_per_second(read: Read) -> u64 {
    let checked = measure(read, CHECK);
    let believable = |stated: &u64| (*stated as f64 / checked as f64 - 1.0).abs() < TOLERANCE;
    stated_by_processor()
        .filter(believable)
        .or_else(|| stated_by_system().filter(believable))
        .unwrap_or_else(|| measure(read, MEASUREMENT))
}

/// The rate that the hypervisor or the processor states.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe, reason = "`__cpuid` is a safe function in newer compilers only")]
fn stated_by_processor() -> Option<u64> {
    use std::arch::x86_64::__cpuid;
    // SAFETY: every x86-64 processor has CPUID; each leaf is asked for only where it exists.
    let leaf = |number: u32| unsafe { __cpuid(number) };
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    if leaf(1).ecx & HYPERVISOR_PRESENT != 0 {
        // The timing leaf that VMware began and KVM and others took over: kHz in EAX.
        const TIMING: u32 = 0x4000_0010;
        let last = leaf(0x4000_0000).eax;
        if (TIMING..TIMING + 0x100).contains(&last) {
            let rate = u64::from(leaf(TIMING).eax) * 1000;
            return (rate > 0).then_some(rate);
        }
    }
    // Intel SDM volume 2A, CPUID leaf 15h: the counter runs at crystal (ECX) × EBX / EAX. A zero
    // stands for "not enumerated". Leaf 16h has the marketing frequency, which is not exact.
    if leaf(0).eax < 0x15 {
        return None;
    }
    let ratio = leaf(0x15);
    let (crystal, numerator, denominator) =
        (u64::from(ratio.ecx), u64::from(ratio.ebx), u64::from(ratio.eax));
    (crystal * numerator * denominator > 0).then(|| crystal * numerator / denominator)
}

/// The rate that the architecture's frequency register states.
#[cfg(target_arch = "aarch64")]
fn stated_by_processor() -> Option<u64> {
    let rate: u64;
    // SAFETY: Linux lets user space read the register; reading it changes nothing.
    unsafe { std::arch::asm!("mrs {}, cntfrq_el0", out(reg) rate, options(nomem, nostack)) };
    (rate > 0).then_some(rate)
}

/// The kernel's own finding, where a kernel module publishes it.
fn stated_by_system() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/tsc_freq_khz").ok()?;
    text.trim().parse::<u64>().ok()?.checked_mul(1000).filter(|&rate| rate > 0)
}

/// Counts ticks against `CLOCK_MONOTONIC` for `length`.
fn measure(read: Read, length: Duration) -> u64 {
    let (start_tick, start) = paired_reading(read);
    while start.elapsed() < length {
        std::hint::spin_loop();
    }
    let (end_tick, end) = paired_reading(read);
    let nanos = end.duration_since(start).as_nanos().max(1);
    (u128::from(end_tick.saturating_sub(start_tick)) * 1_000_000_000 / nanos).max(1) as u64
}

/// Both clocks at the same moment: of a few tries the one in which the counter moved least around the
/// reading of the system's clock, so that being preempted in between does not count.
fn paired_reading(read: Read) -> (u64, Instant) {
    (0..16)
        .map(|_| {
            let before = read();
            let instant = Instant::now();
            let gap = read().saturating_sub(before);
            (gap, before + gap / 2, instant)
        })
        .min_by_key(|(gap, ..)| *gap)
        .map(|(_, ticks, instant)| (ticks, instant))
        .expect("sixteen tries")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter of one tick per nanosecond: no processor states its rate.
    fn counter() -> u64 {
        use std::sync::LazyLock;
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed().as_nanos() as u64
    }

    #[test]
    fn the_measured_rate_is_that_of_the_counter() {
        let rate = ticks_per_second(counter);
        assert!((rate as f64 / 1e9 - 1.0).abs() < TOLERANCE, "{rate}");
        let measured = measure(counter, MEASUREMENT);
        let error = rate as f64 / measured as f64 - 1.0;
        assert!(error.abs() < 2.0 * TOLERANCE, "{rate} and {measured}");
    }
}
