//! What is said of controllers: what one is to be, and how it stands.

use std::path::PathBuf;

/// What a controller is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerOptions {
    /// Its name, and that of its socket in the directory of sockets.
    pub name: String,
    /// The bdev.
    pub bdev: String,
    /// Indices of the reactors that may poll its queues; empty for all.
    pub reactors: Vec<usize>,
    /// Writes are refused.
    pub read_only: bool,
    /// Packed rings are offered.
    pub packed_ring: bool,
}

/// When interrupts are held back, so that one tells of several completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalescing {
    /// For how long at most, in microseconds; 0 holds none back.
    pub delay_base_us: u32,
    /// Only when a queue completes more requests per second than this.
    pub iops_threshold: u32,
}

impl Default for Coalescing {
    /// None are held back; the threshold is SPDK's.
    fn default() -> Coalescing {
        Coalescing { delay_base_us: 0, iops_threshold: 60_000 }
    }
}

/// How a controller stands.
#[derive(Clone, Debug)]
pub struct ControllerInfo {
    /// What it was to be.
    pub options: ControllerOptions,
    /// Whether its bdev is still there.
    pub has_device: bool,
    /// Where its socket is.
    pub socket: PathBuf,
    /// When interrupts are held back.
    pub coalescing: Coalescing,
    /// Its front ends.
    pub sessions: Vec<SessionInfo>,
}

/// How a front end stands.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Number of the session in this process.
    pub id: u32,
    /// Whether any queue is polled.
    pub started: bool,
    /// Feature bits that were agreed on.
    pub features: u64,
    /// Queues that the device has.
    pub queues_max: u16,
    /// Bytes of guest memory.
    pub memory: u64,
    /// The queues that are polled.
    pub queues: Vec<QueueInfo>,
    /// Why it was stopped, if its driver must reset it.
    pub fault: Option<String>,
}

/// How a queue stands.
#[derive(Clone, Copy, Debug)]
pub struct QueueInfo {
    /// Its index.
    pub index: u16,
    /// Reactor that polls it.
    pub reactor: usize,
    /// How many descriptors it has.
    pub size: u16,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests completed since it was started.
    pub completed: u64,
    /// Interrupts sent since it was started.
    pub interrupts: u64,
    /// Notifications received since it was started.
    pub kicks: u64,
}
