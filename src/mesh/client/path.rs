//! The ways to one target.

use super::view::View;
use crate::mesh::ids::NodeId;
use crate::mesh::route::{ROUTES_TRIED, Route};

/// The ways from the client's node to another.
pub struct Path {
    /// The other node.
    pub node: NodeId,
    routes: [Route; ROUTES_TRIED],
    count: usize,
    /// The way that new sessions take.
    pub preferred: Route,
}

impl Path {
    /// The ways by what nodes have reported.
    pub fn new(from: NodeId, node: NodeId, picture: &impl View) -> Path {
        let mut path = Path {
            node,
            routes: [Route::DIRECT; ROUTES_TRIED],
            count: 0,
            preferred: Route::DIRECT,
        };
        path.learn(from, picture);
        path.preferred = path.reported().first().copied().unwrap_or(Route::DIRECT);
        path
    }

    /// Takes what nodes report now. A way that works is kept, but for the direct one when that is up again. Says
    /// whether there is a way that was not there before.
    pub fn refresh(&mut self, from: NodeId, picture: &impl View) -> bool {
        let was_linked = self.is_linked();
        let (before, count) = (self.routes, self.count);
        self.learn(from, picture);
        if !was_linked && self.is_linked() {
            self.preferred = Route::DIRECT;
        }
        let is_new = |route: &Route| !route.is_direct() && !before[..count].contains(route);
        self.reported().iter().any(is_new)
    }

    /// The ways that nodes have reported to be up, the best first.
    pub fn reported(&self) -> &[Route] {
        &self.routes[..self.count]
    }

    /// All ways worth a try, each once, beginning with the one in use: it, the direct one, and all that are reported.
    pub fn worth_a_try(&self, current: Route) -> impl Iterator<Item = Route> {
        let reported = self.reported().iter().copied();
        let others = reported.filter(move |route| *route != current && !route.is_direct());
        let direct = (!current.is_direct()).then_some(Route::DIRECT);
        std::iter::once(current).chain(direct).chain(others)
    }

    fn learn(&mut self, from: NodeId, picture: &impl View) {
        self.count = match from == self.node {
            true => 0,
            false => picture.routes(from, self.node, &mut self.routes).min(ROUTES_TRIED),
        };
    }

    fn is_linked(&self) -> bool {
        self.reported().iter().any(Route::is_direct)
    }
}
