//! What all controllers of the process share.

use std::cell::{Cell, OnceCell, RefCell};

use crate::base::Result;
use crate::bdev;
use crate::reactor::{Context, Reactors, Readiness};

/// Handles, and who polls how much.
pub struct Shared {
    /// The control reactor.
    pub cx: Context,
    /// The devices.
    pub registry: bdev::Registry,
    /// All reactors.
    pub reactors: Reactors,
    readiness: OnceCell<Readiness>,
    /// Queues polled by each reactor.
    load: RefCell<Vec<usize>>,
    next_session: Cell<u32>,
}

impl Shared {
    /// Nothing is polled yet.
    pub fn new(registry: &bdev::Registry, reactors: &Reactors) -> Shared {
        Shared {
            cx: registry.context().clone(),
            registry: registry.clone(),
            reactors: reactors.clone(),
            readiness: OnceCell::new(),
            load: RefCell::new(vec![0; reactors.len()]),
            next_session: Cell::new(0),
        }
    }

    /// What tasks wait for sockets with; made for the first controller.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn readiness(&self) -> Result<&Readiness> {
        if let Some(readiness) = self.readiness.get() {
            return Ok(readiness);
        }
        let made = Readiness::new(&self.cx)?;
        Ok(self.readiness.get_or_init(|| made))
    }

    /// The number of a new session.
    pub fn session_number(&self) -> u32 {
        let number = self.next_session.get();
        self.next_session.set(number.wrapping_add(1));
        number
    }

    /// The reactor among `allowed` (all, if empty) that polls the fewest queues.
    pub fn least_loaded(&self, allowed: &[usize]) -> usize {
        let load = self.load.borrow();
        let may = |index: &usize| allowed.is_empty() || allowed.contains(index);
        (0..load.len()).filter(may).min_by_key(|&index| load[index]).unwrap_or(0)
    }

    /// A queue is polled by `reactor` from now on.
    pub fn queue_starts(&self, reactor: usize) {
        self.load.borrow_mut()[reactor] += 1;
    }

    /// A queue is no longer polled by `reactor`.
    pub fn queue_stops(&self, reactor: usize) {
        self.load.borrow_mut()[reactor] -= 1;
    }
}
