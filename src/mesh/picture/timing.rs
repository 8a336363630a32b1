//! The timing constants of the mesh. They are values of the log: every node uses the ones in its applied prefix.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Timing constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Length of a serve lease, T, in milliseconds of the holder's clock.
    pub lease_ms: u32,
    /// How much a clock's rate may differ from real time, d, in parts per million.
    pub drift_ppm: u32,
    /// How long a client waits for a sign of life of an I/O before it takes the route for broken, in milliseconds.
    pub io_timeout_ms: u32,
    /// How long a target lets its drive take for an operation before it gives up the drive, in milliseconds.
    pub drive_timeout_ms: u32,
    /// How long a shared-write attachment outlives its node's last heartbeat, in milliseconds of the leader's clock.
    pub revoke_ms: u32,
    /// The longest lease that may still be running from before `lease_ms` was lowered: waits use the greater of the two.
    pub lease_before_ms: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            lease_ms: 1000,
            drift_ppm: 10_000,
            io_timeout_ms: 200,
            drive_timeout_ms: 1000,
            revoke_ms: 10_000,
            lease_before_ms: 0,
        }
    }
}

impl Timing {
    /// T: how long a lease runs from the time noted before its heartbeat was sent.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }

    /// Time between two heartbeats of a target: T/4.
    pub fn heartbeat(&self) -> Duration {
        self.lease() / 4
    }

    /// W = T·(1+d)/(1−d), rounded up: who waits this long after applying an eviction knows that the evicted replica serves nothing
    /// under the old epoch, however the two clocks drift.
    pub fn fence(&self) -> Duration {
        let lease = u64::from(self.lease_ms.max(self.lease_before_ms)) * 1_000_000;
        let drift = u64::from(self.drift_ppm.min(500_000));
        let wait = u128::from(lease) * u128::from(1_000_000 + drift);
        Duration::from_nanos(wait.div_ceil(u128::from(1_000_000 - drift)) as u64 + 1)
    }

    /// How long a client waits for a sign of life.
    pub fn io_timeout(&self) -> Duration {
        Duration::from_millis(self.io_timeout_ms.into())
    }

    /// How long a drive may take.
    pub fn drive_timeout(&self) -> Duration {
        Duration::from_millis(self.drive_timeout_ms.into())
    }
}
