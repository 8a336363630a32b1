//! Which requests were applied: so that each is applied once, however often it was decided.
//!
//! Part of the replicated state, so that every node decides alike. It is bounded: a proposer has a limited number of
//! requests under way, and is forgotten [`WINDOW`] entries after its last one. Nothing is applied twice for that: a copy
//! of a request is refused when it was sent more than [`WINDOW`] entries ago, and a proposer sends no more copies once
//! it has seen the request applied. So if a first copy was applied at `j` and another comes at `k`, then
//! that one was sent before `j`; if it is not refused, `k - j` is less than the window, and the first is still known.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ids::{Index, RequestId};

/// How long a proposer is remembered, in entries. The same on all nodes.
pub const WINDOW: u64 = 1 << 17;
/// Forgetting goes over the whole table, so it is done once in so many entries. The same on all nodes.
const SWEEP: u64 = 1 << 12;
/// Most requests of one proposer that may be applied out of order. The same on all nodes.
const EARLY_MAX: usize = 1 << 13;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    origins: BTreeMap<u64, Origin>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Origin {
    last: Index,
    /// All up to this one were applied.
    through: u64,
    /// And these beyond it.
    early: BTreeSet<u64>,
}

impl Requests {
    /// Notes that a request stands at `index`, sent when its proposer had applied `since`; whether it is to be
    /// applied.
    pub fn admit(&mut self, index: Index, request: RequestId, since: Index) -> bool {
        if index.0.is_multiple_of(SWEEP) {
            self.origins.retain(|_, origin| index.0 - origin.last.0 <= WINDOW);
        }
        if index.0.saturating_sub(since.0) > WINDOW {
            return false;
        }
        let origin = self.origins.entry(request.origin).or_default();
        origin.last = index;
        if request.sequence <= origin.through || origin.early.len() >= EARLY_MAX {
            return false;
        }
        if request.sequence != origin.through + 1 {
            return origin.early.insert(request.sequence);
        }
        origin.through += 1;
        while origin.early.remove(&(origin.through + 1)) {
            origin.through += 1;
        }
        true
    }

    /// Whether a request was applied, as far as is remembered.
    pub fn contains(&self, request: RequestId) -> bool {
        self.origins.get(&request.origin).is_some_and(|origin| {
            request.sequence <= origin.through || origin.early.contains(&request.sequence)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(requests: &mut Requests, index: u64, origin: u64, sequence: u64) -> bool {
        requests.admit(Index(index), RequestId { origin, sequence }, Index(index - 1))
    }

    #[test]
    fn each_is_admitted_once_in_any_order() {
        let mut requests = Requests::default();
        let order = [3, 1, 1, 2, 3, 5, 4, 5, 6];
        let admitted: Vec<u64> = (1..)
            .zip(order)
            .filter(|&(index, sequence)| admit(&mut requests, index, 7, sequence))
            .map(|(_, sequence)| sequence)
            .collect();
        assert_eq!(admitted, [3, 1, 2, 5, 4, 6]);
        assert_eq!(requests.origins[&7].through, 6);
        assert!(requests.origins[&7].early.is_empty());
    }

    #[test]
    fn a_copy_that_outlived_the_memory_of_its_proposer_is_refused() {
        let mut requests = Requests::default();
        assert!(admit(&mut requests, 10, 7, 1));
        let late = (10 + WINDOW + SWEEP) / SWEEP * SWEEP;
        assert!(admit(&mut requests, late, 8, 1));
        assert!(!requests.origins.contains_key(&7));
        let request = RequestId { origin: 7, sequence: 1 };
        assert!(!requests.admit(Index(late + 1), request, Index(9)));
    }
}
