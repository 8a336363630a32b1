//! The wait until replicas that were left behind serve nothing any more (S8).

use crate::base::Time;
use crate::mesh::ids::{Incarnation, Index, ReplicaId};
use crate::mesh::picture::Unfenced;

/// A replica that may still serve reads of an earlier epoch.
pub struct Fence {
    /// Which.
    pub replica: ReplicaId,
    /// The incarnation of its drive that may serve them.
    pub incarnation: Option<Incarnation>,
    /// The entry that ended its service.
    pub at: Index,
    /// When this client applied that entry, or was started.
    pub seen: Time,
    /// When the first I/O was kept back for it.
    pub waiting: Option<Time>,
    /// It serves nothing any more.
    pub passed: bool,
}

impl Fence {
    /// A fence that this client sees for the first time.
    pub fn new(unfenced: &Unfenced, now: Time) -> Fence {
        Fence {
            replica: unfenced.replica,
            incarnation: unfenced.incarnation,
            at: unfenced.at,
            seen: now,
            waiting: None,
            passed: unfenced.incarnation.is_none(),
        }
    }

    /// Whether it is for this entry of the picture.
    pub fn is_for(&self, unfenced: &Unfenced) -> bool {
        self.replica == unfenced.replica
            && self.at == unfenced.at
            && self.incarnation == unfenced.incarnation
    }
}
