//! A way from one node to another: directly, or through relays.

use serde::{Deserialize, Serialize};

use super::ids::NodeId;

/// Most relays of a route.
pub const RELAYS_MAX: usize = 2;

/// How many ways, the best first, a client tries before it gives up a replica, and the log wants to have been tried: an eviction is refused while one
/// of them was not.
pub const ROUTES_TRIED: usize = 5;

/// The relays of a way, in order; none for the direct way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    relays: [NodeId; RELAYS_MAX],
    count: u8,
}

impl Route {
    /// Without a relay.
    pub const DIRECT: Route = Route { relays: [NodeId(0); RELAYS_MAX], count: 0 };

    /// Through these nodes in this order; `None` when they are more than [`RELAYS_MAX`].
    pub fn through(relays: &[NodeId]) -> Option<Route> {
        let mut route = Route::DIRECT;
        route.relays.get_mut(..relays.len())?.copy_from_slice(relays);
        route.count = relays.len() as u8;
        Some(route)
    }

    /// The relays in order.
    pub fn relays(&self) -> &[NodeId] {
        // A count from outside may be anything.
        &self.relays[..usize::from(self.count).min(RELAYS_MAX)]
    }

    /// Whether it has no relay.
    pub fn is_direct(&self) -> bool {
        self.relays().is_empty()
    }

    /// The same way back.
    pub fn reversed(&self) -> Route {
        let mut route = *self;
        route.count = self.relays().len() as u8;
        route.relays[..usize::from(route.count)].reverse();
        route
    }
}
