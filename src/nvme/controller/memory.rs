//! Memory that the controller can address: it follows the registry of regions, and the queues follow it.

use tracing::{debug, warn};

use super::Controller;
use crate::nvme::pair::QueuePair;

impl Controller {
    /// Maps regions that are new, and unmaps those that are gone.
    pub(super) async fn follow_regions(&self) {
        let (removed, added) = self.regions.changes();
        for view in removed {
            let id = view.id;
            self.admin.with_regions(|table| table.clear(id));
            // No queue sends a command with it after this, and none was outstanding when it was removed.
            self.link.for_each(&self.cx, move |pair| pair.clear_region(id)).await;
            self.regions.remove(id);
            self.transport.unmap(&self.cx, &view).await;
        }
        for view in added {
            let iova = match self.transport.map(&self.cx, &view).await {
                Ok(iova) => Some(iova),
                Err(error) => {
                    warn!(%error, "the device cannot reach a region of memory; I/O with it will fail");
                    self.regions.set_refusal(error);
                    None
                }
            };
            debug!(controller = self.transport.address(), ?view.id, ?iova, "region");
            self.admin.with_regions(|table| table.set(&view, iova.as_ref()));
            self.regions.add((view.clone(), iova.clone()));
            let each = move |pair: &mut QueuePair| pair.set_region(&view, iova.as_ref());
            self.link.for_each(&self.cx, each).await;
        }
    }

    /// Tells every queue of every region again: for one that missed the news.
    pub(super) async fn repeat_regions(&self) {
        self.follow_regions().await;
        let mapped = self.regions.all();
        let each = move |pair: &mut QueuePair| {
            for (view, iova) in &mapped {
                pair.set_region(view, iova.as_ref());
            }
            pair.regions_told();
        };
        self.link.for_each(&self.cx, each).await;
    }

    /// Unmaps everything: the device uses no memory any more.
    pub(super) async fn unmap_regions(&self) {
        for (view, iova) in self.regions.take_all() {
            if iova.is_some() {
                self.transport.unmap(&self.cx, &view).await;
            }
        }
    }
}
