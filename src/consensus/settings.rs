//! Timing and sizes of the quorum.

use std::time::Duration;

use super::ids::NodeId;

/// Settings of one node's [`Log`](super::Log). All but `node` may differ between nodes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// One round of heartbeats between members: 50 ms. Must exceed the round trip of the slowest route between
    /// members. A dead leader has a successor after about four.
    pub heartbeat: Duration,
    /// How often nodes tell each other what they have applied: 100 ms.
    pub status: Duration,
    /// A node that said nothing for so long is not a source of entries any more: 300 ms.
    pub silence: Duration,
    /// A proposal that was not decided is sent again after so long: 250 ms.
    pub retry: Duration,
    /// How long a member that opened its store waits for more than half of the others to say that its store is not an
    /// old image, before it goes on with those that a quorum needs: 2 s.
    pub admission: Duration,
    /// A snapshot is asked for after so many entries: 16384.
    pub snapshot_entries: u64,
    /// Or after so many bytes of entries: 8 MiB.
    pub snapshot_bytes: usize,
    /// Entries before the snapshot that are kept in memory, for nodes that are a little behind: 2048.
    pub retained_entries: usize,
    /// Bytes of a snapshot in one message: 64 KiB.
    pub chunk_bytes: usize,
    /// Most proposals of this node that wait to be decided: 4096.
    pub proposals_max: usize,
    /// Rules that are switched off, to show that they are needed.
    #[doc(hidden)]
    pub mutations: Mutations,
}

/// Rules that a test can switch off.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Mutations {
    /// Messages do not wait for what they rest on.
    pub send_before_durable: bool,
    /// A proposal is applied as often as it is in the log.
    pub no_request_dedupe: bool,
    /// A store that is an old image of itself is believed.
    pub accept_old_store_identity: bool,
    /// Entries that were applied are applied again when a source sends them.
    pub apply_backwards: bool,
}

impl Settings {
    /// The defaults.
    pub fn new(node: NodeId) -> Settings {
        Settings {
            node,
            heartbeat: Duration::from_millis(50),
            status: Duration::from_millis(100),
            silence: Duration::from_millis(300),
            retry: Duration::from_millis(250),
            admission: Duration::from_secs(2),
            snapshot_entries: 16_384,
            snapshot_bytes: 8 << 20,
            retained_entries: 2048,
            chunk_bytes: 64 << 10,
            proposals_max: 4096,
            mutations: Mutations::default(),
        }
    }
}
