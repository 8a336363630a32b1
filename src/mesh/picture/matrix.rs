//! Who reaches whom, and the ways that follow from it.

use std::collections::BTreeMap;

use super::state::Node;
use crate::mesh::ids::NodeId;
use crate::mesh::route::{RELAYS_MAX, Route};

/// The links that are up, as one row of bits for each node. Made anew when nodes come and go, changed in place by reports.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// Row of each node; rows are in the order of node numbers.
    rows: BTreeMap<NodeId, usize>,
    nodes: Vec<NodeId>,
    loads: Vec<u32>,
    /// What each node says.
    heard: Vec<Bits>,
    /// What both ends say.
    links: Vec<Bits>,
}

type Bits = Vec<u64>;

fn is_set(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn set(bits: &mut [u64], at: usize, value: bool) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word = *word & !(1 << (at % 64)) | u64::from(value) << (at % 64);
    }
}

/// The numbers of the bits that are set in both.
fn common<'a>(one: &'a [u64], other: &'a [u64]) -> impl Iterator<Item = usize> + 'a {
    one.iter().zip(other).enumerate().flat_map(|(at, (one, other))| {
        let mut word = one & other;
        std::iter::from_fn(move || {
            let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
            word &= word - 1;
            Some(at * 64 + bit)
        })
    })
}

impl Matrix {
    /// The matrix of these nodes, in the order of their numbers.
    pub fn new<'a>(all: impl Iterator<Item = &'a Node>) -> Matrix {
        let all: Vec<&Node> = all.collect();
        let words = all.len().div_ceil(64);
        let mut matrix = Matrix {
            rows: all.iter().enumerate().map(|(row, node)| (node.id, row)).collect(),
            nodes: all.iter().map(|node| node.id).collect(),
            loads: all.iter().map(|node| node.load).collect(),
            heard: vec![vec![0; words]; all.len()],
            links: vec![vec![0; words]; all.len()],
        };
        for node in all {
            matrix.report(node);
        }
        matrix
    }

    /// Takes over what a node says.
    pub fn report(&mut self, node: &Node) {
        let Some(&row) = self.rows.get(&node.id) else { return };
        self.loads[row] = node.load;
        self.heard[row].fill(0);
        for peer in &node.reach {
            if let Some(&peer) = self.rows.get(peer).filter(|&&peer| peer != row) {
                set(&mut self.heard[row], peer, true);
            }
        }
        for peer in 0..self.nodes.len() {
            let up = is_set(&self.heard[row], peer) && is_set(&self.heard[peer], row);
            set(&mut self.links[row], peer, up);
            set(&mut self.links[peer], row, up);
        }
    }

    /// Whether both say that they reach each other.
    pub fn is_linked(&self, one: NodeId, other: NodeId) -> bool {
        match (self.rows.get(&one), self.rows.get(&other)) {
            (Some(&one), Some(&other)) => is_set(&self.links[one], other),
            _ => false,
        }
    }

    /// Whether there is any way from one node to another.
    pub fn has_route(&self, from: NodeId, to: NodeId) -> bool {
        from == to && self.rows.contains_key(&from)
            || self.is_linked(from, to)
            || self.routes(from, to, &mut [Route::DIRECT]) > 0
    }

    /// The ways from one node to another, the best first: fewest relays, then the least load of the busiest relay, then the lowest
    /// numbers. A node reaches itself directly. Gives how many were found, at most `routes.len()`.
    pub fn routes(&self, from: NodeId, to: NodeId, routes: &mut [Route]) -> usize {
        let (Some(&start), Some(&end)) = (self.rows.get(&from), self.rows.get(&to)) else {
            return 0;
        };
        let mut found = 0;
        if (start == end || is_set(&self.links[start], end)) && !routes.is_empty() {
            routes[0] = Route::DIRECT;
            found = 1;
        }
        for relays in 1..=RELAYS_MAX {
            if start == end || found == routes.len() {
                break;
            }
            let mut best = Best { routes: &mut routes[found..], keys: Vec::new() };
            let mut way = Vec::with_capacity(RELAYS_MAX);
            self.walk(start, start, end, relays, &mut way, &mut best);
            found += best.keys.len();
        }
        found
    }

    /// Offers every way from `at` to `end` with exactly `left` more relays.
    fn walk(
        &self,
        start: usize,
        at: usize,
        end: usize,
        left: usize,
        way: &mut Vec<usize>,
        best: &mut Best<'_>,
    ) {
        let nexts = if left == 1 { &self.links[end] } else { &self.links[at] };
        for next in common(&self.links[at], nexts) {
            if next == start || next == end || way.contains(&next) {
                continue;
            }
            way.push(next);
            if left == 1 {
                best.offer(self, way);
            } else {
                self.walk(start, next, end, left - 1, way, best);
            }
            way.pop();
        }
    }
}

/// The best ways so far, in order.
struct Best<'a> {
    routes: &'a mut [Route],
    keys: Vec<(u32, Route)>,
}

impl Best<'_> {
    fn offer(&mut self, matrix: &Matrix, way: &[usize]) {
        let load = way.iter().map(|&row| matrix.loads[row]).max().unwrap_or(0);
        // Without a look at the numbers: most ways of a large mesh are no better than what is there.
        if self.keys.len() == self.routes.len()
            && self.keys.last().is_none_or(|(worst, _)| *worst < load)
        {
            return;
        }
        let mut relays = [NodeId(0); RELAYS_MAX];
        for (relay, &row) in relays.iter_mut().zip(way) {
            *relay = matrix.nodes[row];
        }
        let Some(route) = Route::through(&relays[..way.len().min(RELAYS_MAX)]) else { return };
        let key = (load, route);
        let at = self.keys.partition_point(|other| *other < key);
        if at < self.routes.len() {
            self.keys.truncate(self.routes.len() - 1);
            self.keys.insert(at, key);
            for (slot, (_, route)) in self.routes.iter_mut().zip(&self.keys) {
                *slot = *route;
            }
        }
    }
}
