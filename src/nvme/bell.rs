//! The doorbell of one queue, with the shadow of it in memory where the controller offers one
//! (Base Specification, section 5.4, Doorbell Buffer Config): an emulated controller reads the shadow by
//! itself while it is busy, and only asks for the costly register write when it went to sleep.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::memory::Piece;
use super::transport::Doorbell;

/// A queue's doorbell.
pub(super) struct Bell {
    doorbell: Doorbell,
    shadow: Option<Shadow>,
    /// The value that was told last.
    told: u32,
}

/// A doorbell's place in the two pages of shadows.
pub(super) struct Shadow {
    /// Where we say how far we are,
    value: NonNull<AtomicU32>,
    /// and where the controller says from when on it wants to be woken (EventIdx).
    event: NonNull<AtomicU32>,
    _pages: (Piece, Piece),
}

// SAFETY: both places are within pieces that are held, and are accessed atomically.
unsafe impl Send for Shadow {}

impl Shadow {
    /// The shadow of the doorbell at byte `offset` from the first one. `None` when the pages do not reach as far.
    pub(super) fn new(values: &Piece, events: &Piece, offset: u32) -> Option<Shadow> {
        let offset = offset as usize;
        let end = offset.checked_add(4)?;
        if end > values.len().min(events.len()) || !offset.is_multiple_of(4) {
            return None;
        }
        // SAFETY: within the pieces, as was just checked, and aligned.
        let (value, event) =
            unsafe { (values.address().add(offset), events.address().add(offset)) };
        let pages = (values.clone(), events.clone());
        Some(Shadow { value: value.cast(), event: event.cast(), _pages: pages })
    }

    /// Says `value`; returns whether the controller wants its register written.
    #[inline]
    fn tell(&self, told: u32, value: u32) -> bool {
        // SAFETY: valid for as long as the pieces are held; only ever accessed atomically.
        let (shadow, event) = unsafe { (self.value.as_ref(), self.event.as_ref()) };
        shadow.store(value, Ordering::Release);
        // The controller stores its index and then looks at the shadow once more; we store the shadow and then
        // look at the index. One of the two must see the other.
        fence(Ordering::SeqCst);
        let event = event.load(Ordering::Relaxed);
        // Whether the index lies between what was told before and now, all modulo 2^16.
        (value.wrapping_sub(event).wrapping_sub(1) as u16) < (value.wrapping_sub(told) as u16)
    }
}

impl Bell {
    pub(super) fn new(doorbell: Doorbell) -> Bell {
        Bell { doorbell, shadow: None, told: 0 }
    }

    /// From now on with this shadow.
    pub(super) fn set_shadow(&mut self, shadow: Option<Shadow>) {
        self.shadow = shadow;
    }

    /// The queue starts over.
    pub(super) fn reset(&mut self) {
        self.told = 0;
        self.shadow = None;
    }

    /// The value that was told last.
    #[inline]
    pub(super) fn told(&self) -> u32 {
        self.told
    }

    /// Tells the controller of `value`.
    #[inline]
    pub(super) fn ring(&mut self, value: u32) {
        let told = std::mem::replace(&mut self.told, value);
        match &self.shadow {
            Some(shadow) if !shadow.tell(told, value) => {}
            _ => self.doorbell.ring(value),
        }
    }
}
