//! What an operator can set for background work, and how it is paced.

use std::time::Duration;

/// Options of `bdev_raid_set_options`; each takes effect for mirrors that are made after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaidOptions {
    /// How much is copied at a time, under one hold, in KiB.
    pub process_window_size_kb: u32,
    /// Most MiB that are copied per second; 0 for no limit.
    pub process_max_bandwidth_mb_sec: u32,
}

impl Default for RaidOptions {
    fn default() -> RaidOptions {
        RaidOptions { process_window_size_kb: 1024, process_max_bandwidth_mb_sec: 0 }
    }
}

/// Most bytes in a window: a buffer of the pool.
const WINDOW_MAX: u64 = 2 << 20;
/// Copying goes on at this rate at least, in bytes per second, however busy clients are.
const FLOOR: u64 = 16 << 20;
/// While clients are busy, copying takes one part in so many of the time.
const BUSY_SHARE: u32 = 2;

/// How fast copying may go. It reads no clock: times go in, delays come out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    window: u64,
    /// Bytes per second; `u64::MAX` for no limit.
    ceiling: u64,
}

impl Pace {
    pub fn new(options: RaidOptions) -> Pace {
        let megabytes = u64::from(options.process_max_bandwidth_mb_sec);
        Pace {
            window: (u64::from(options.process_window_size_kb) << 10).min(WINDOW_MAX),
            ceiling: if megabytes == 0 { u64::MAX } else { megabytes << 20 },
        }
    }

    /// Blocks of `block_bytes` bytes to copy at a time.
    pub fn window_blocks(&self, block_bytes: u32) -> u32 {
        ((self.window / u64::from(block_bytes)) as u32).max(1)
    }

    /// How long to wait after `bytes` were copied in `took`, with clients busy or not.
    pub fn delay(&self, bytes: u64, took: Duration, busy: bool) -> Duration {
        let at = |rate: u64| Duration::from_secs_f64(bytes as f64 / rate as f64);
        let due = at(self.ceiling);
        let polite = if busy { (took * BUSY_SHARE).min(at(FLOOR)) } else { Duration::ZERO };
        due.max(polite).saturating_sub(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_ceiling_holds_and_busy_clients_get_their_share() {
        let limited =
            Pace::new(RaidOptions { process_window_size_kb: 512, process_max_bandwidth_mb_sec: 1 });
        assert_eq!(limited.window_blocks(4096), 128);
        assert_eq!(limited.delay(1 << 20, MS * 200, false), MS * 800);
        let free = Pace::new(RaidOptions::default());
        assert_eq!(free.delay(1 << 20, MS * 5, false), Duration::ZERO);
        assert_eq!(free.delay(1 << 20, MS * 5, true), MS * 5);
        // 1 MiB at 16 MiB/s is due after 62.5 ms: slower than that waits for nothing.
        assert_eq!(free.delay(1 << 20, MS * 70, true), Duration::ZERO);
        assert_eq!(free.delay(1 << 20, MS * 60, true), Duration::from_micros(2500));
    }
}
