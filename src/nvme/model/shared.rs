//! What the model's handle and its transports share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::doorbells::Doorbells;
use super::state::Controller;

pub(super) struct Shared {
    pub(super) doorbells: Doorbells,
    state: Mutex<Controller>,
}

impl Shared {
    pub(super) fn new(controller: Controller) -> Shared {
        let options = &controller.options;
        Shared {
            doorbells: Doorbells::new(options.io_queues, options.doorbell_stride_log2),
            state: Mutex::new(controller),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Controller> {
        // A test that panicked under the lock has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
