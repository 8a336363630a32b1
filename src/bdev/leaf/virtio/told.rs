//! The regions of memory that a back end was told of.
//!
//! It is told of a region when the first request needs it, since some back ends take eight in all. A region that
//! goes is taken from every queue first, then from the back end, then let go.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{debug, warn};

use super::link::Link;
use crate::base::Result;
use crate::memory::{Region, RegionId, RegionView, Subscription};
use crate::reactor::Context;
use crate::virtio::vhost_user::{Frontend, SharedMemory};

/// What a back end was told of, and what it could be.
pub(super) struct Told {
    subscription: Subscription,
    /// All regions of the process.
    known: Vec<RegionView>,
    /// Of these, those that the back end has.
    ids: BTreeSet<usize>,
    memory: SharedMemory,
    /// The rings' own memory, which is no region of the registry.
    rings: Arc<Region>,
}

impl Told {
    pub(super) fn new(subscription: Subscription, rings: Arc<Region>) -> Told {
        Told {
            subscription,
            known: Vec::new(),
            ids: BTreeSet::new(),
            memory: SharedMemory::default(),
            rings,
        }
    }

    /// Tells a new back end of what its predecessor had.
    ///
    /// # Errors
    /// When it does not take that.
    pub(super) async fn start(&mut self, frontend: &Frontend) -> Result<()> {
        let mut regions = vec![Arc::clone(&self.rings)];
        let had = self.known.iter().filter(|view| self.ids.contains(&view.id.slot()));
        regions.extend(had.map(|view| Arc::clone(&view.region)));
        self.memory = SharedMemory::default();
        self.memory.set(frontend, regions).await
    }

    /// Whether regions came or went.
    pub(super) fn is_behind(&self) -> bool {
        self.subscription.is_behind()
    }

    /// Takes note of what came and went; what went is taken from the back end, if there is one.
    ///
    /// # Errors
    /// When the back end does not answer properly; nothing is let go then that it has.
    pub(super) async fn follow(
        &mut self,
        cx: &Context,
        link: &Link,
        frontend: Option<&Frontend>,
    ) -> Result<()> {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        self.subscription.catch_up(|view| gone.push(view.clone()), |view| come.push(view.clone()));
        self.known.retain(|view| !gone.iter().any(|other| other.id == view.id));
        gone.retain(|view| self.ids.contains(&view.id.slot()));
        if !gone.is_empty() {
            link.remove_regions(cx, gone.iter().map(|view| view.id).collect()).await;
        }
        self.known.extend(come);
        for view in &gone {
            self.ids.remove(&view.id.slot());
            if let Some(frontend) = frontend {
                self.memory.remove(frontend, &view.region).await?;
            }
        }
        Ok(())
    }

    /// Tells the back end of a region that a request waits for, and the queues that it was told, or cannot be.
    ///
    /// # Errors
    /// When the back end does not answer properly.
    pub(super) async fn tell(
        &mut self,
        cx: &Context,
        link: &Link,
        frontend: &Frontend,
        id: RegionId,
    ) -> Result<()> {
        self.follow(cx, link, Some(frontend)).await?;
        let view = self.known.iter().find(|view| view.id == id).cloned();
        let mut told = false;
        if let Some(view) = view {
            if self.ids.contains(&id.slot()) {
                told = true;
            } else {
                match self.memory.add(frontend, Arc::clone(&view.region)).await {
                    Ok(()) => {
                        debug!(socket = frontend.address(), ?id, "the back end has a region more");
                        self.ids.insert(id.slot());
                        told = true;
                    }
                    Err(error) if frontend.is_closed() => return Err(error),
                    Err(error) => warn!("requests in a region of memory will fail: {error}"),
                }
            }
        }
        link.answer(cx, id, told).await;
        Ok(())
    }
}
