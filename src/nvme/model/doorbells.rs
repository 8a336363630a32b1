//! The model's doorbell registers: plain memory, so that a driver writes them as it writes mapped registers.
//!
//! A register that was not written since the model last looked holds [`QUIET`], which no doorbell is ever
//! rung with: so no write is missed that repeats a value.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::nvme::spec::Register;

const QUIET: u32 = u32::MAX;

pub(super) struct Doorbells {
    registers: Box<[AtomicU32]>,
    stride_words: usize,
}

impl Doorbells {
    /// Doorbells for the admin queue and `io_queues` more.
    pub(super) fn new(io_queues: u16, stride_log2: u8) -> Doorbells {
        let stride_words = 1 << stride_log2;
        let words = (usize::from(io_queues) + 1) * 2 * stride_words;
        // Whole pages, as in a BAR.
        let words = words.next_multiple_of(1024);
        let registers = (0..words).map(|_| AtomicU32::new(QUIET)).collect();
        Doorbells { registers, stride_words }
    }

    /// Length of the register window with the doorbells.
    pub(super) fn window(&self) -> u64 {
        u64::from(Register::DOORBELLS) + self.registers.len() as u64 * 4
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        (self.registers.len() / self.stride_words) as u32
    }

    fn at(&self, offset: u32) -> Option<&AtomicU32> {
        let offset = offset.checked_sub(Register::DOORBELLS)?;
        offset.is_multiple_of(4).then(|| self.registers.get(offset as usize / 4)).flatten()
    }

    /// The register at `offset` in the window, to be written.
    pub(super) fn register(&self, offset: u32) -> Option<NonNull<u32>> {
        NonNull::new(self.at(offset)?.as_ptr())
    }

    pub(super) fn write(&self, offset: u32, value: u32) {
        if let Some(register) = self.at(offset) {
            register.store(value, Ordering::Release);
        }
    }

    /// What doorbell `index` (twice the queue's number, and one more for a completion queue) was rung with since the
    /// last call.
    #[inline]
    pub(super) fn take(&self, index: u32) -> Option<u32> {
        let register = &self.registers[index as usize * self.stride_words];
        if register.load(Ordering::Relaxed) == QUIET {
            return None;
        }
        let value = register.swap(QUIET, Ordering::AcqRel);
        (value != QUIET).then_some(value)
    }

    pub(super) fn clear(&self) {
        for register in &self.registers {
            register.store(QUIET, Ordering::Relaxed);
        }
    }
}
