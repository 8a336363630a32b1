//! The regions of memory that a controller was told of, and where it finds them.

use std::cell::RefCell;

use super::transport::Iova;
use crate::base::Error;
use crate::memory::{RegionId, RegionView, Subscription};

/// A region, and where the device finds it; `None` when it cannot reach it.
pub(super) type Mapped = (RegionView, Option<Iova>);

/// What has become of the registry's regions.
pub(super) struct Regions {
    subscription: RefCell<Subscription>,
    mapped: RefCell<Vec<Mapped>>,
    /// Why the last region that could not be mapped could not.
    refusal: RefCell<Option<Error>>,
}

impl Regions {
    pub(super) fn new(subscription: Subscription) -> Regions {
        Regions {
            subscription: RefCell::new(subscription),
            mapped: RefCell::default(),
            refusal: RefCell::default(),
        }
    }

    /// Regions that went and regions that came since the last call.
    pub(super) fn changes(&self) -> (Vec<RegionView>, Vec<RegionView>) {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        let mut subscription = self.subscription.borrow_mut();
        if subscription.is_behind() {
            subscription
                .catch_up(|view| removed.push(view.clone()), |view| added.push(view.clone()));
        }
        (removed, added)
    }

    /// Takes note of a region.
    pub(super) fn add(&self, mapped: Mapped) {
        self.mapped.borrow_mut().push(mapped);
    }

    /// Takes a region out.
    pub(super) fn remove(&self, id: RegionId) {
        self.mapped.borrow_mut().retain(|(view, _)| view.id != id);
    }

    /// All regions.
    pub(super) fn all(&self) -> Vec<Mapped> {
        self.mapped.borrow().clone()
    }

    /// Takes out all regions.
    pub(super) fn take_all(&self) -> Vec<Mapped> {
        std::mem::take(&mut *self.mapped.borrow_mut())
    }

    /// Keeps the reason why a region cannot be mapped.
    pub(super) fn set_refusal(&self, error: Error) {
        *self.refusal.borrow_mut() = Some(error);
    }

    /// Why a region could not be mapped, once.
    pub(super) fn take_refusal(&self) -> Option<Error> {
        self.refusal.borrow_mut().take()
    }
}
