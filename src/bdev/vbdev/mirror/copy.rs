//! Copying between legs beside running I/O: a window at a time, under the range lock of a write.
//!
//! What a window holds when the lock is granted is newer than nothing: every write that was acknowledged is on
//! the source, and one that comes later waits, and then goes to the target too. So newer data is never
//! overwritten by older.

use std::rc::Rc;
use std::sync::Arc;

use super::leg_io::LegIo;
use super::options::{Pace, RaidOptions};
use super::shared::Shared;
use crate::base::{Lba, Result, Status};
use crate::bdev::request::{Opcode, RequestFlags};
use crate::bdev::{Access, RangeLock};
use crate::memory::Buffer;
use crate::reactor::{Context, Tsc};

/// Why a copy stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyError {
    /// No source could read block `lba`, or one after it.
    Unreadable { lba: Lba, status: Status },
    /// A target failed a write: its index among the targets.
    Target { index: usize, status: Status },
}

/// Copies between legs.
pub(super) struct Copier {
    cx: Context,
    shared: Arc<Shared>,
    lock: RangeLock,
    buffer: Buffer,
    pace: Pace,
    /// A block that no source can read is left as it is.
    skip_unreadable: bool,
}

impl Copier {
    pub fn new(
        cx: &Context,
        shared: &Arc<Shared>,
        options: RaidOptions,
        skip_unreadable: bool,
    ) -> Result<Copier> {
        let pace = Pace::new(options);
        let block_bytes = shared.geometry.block_size.bytes();
        let bytes = pace.window_blocks(block_bytes) as usize * block_bytes as usize;
        Ok(Copier {
            buffer: cx.pool().take(bytes)?,
            cx: cx.clone(),
            shared: Arc::clone(shared),
            lock: RangeLock::join(&shared.locks, 1),
            pace,
            skip_unreadable,
        })
    }

    /// Copies blocks `start .. end`, window by window, from the first source that can read to all targets,
    /// as `legs` names them for each window (sources, then targets; `None` ends the copy). `progress` is told
    /// the blocks of each window. Returns whether it came to the end.
    pub async fn copy(
        &mut self,
        start: u64,
        end: u64,
        legs: impl Fn() -> Option<(Vec<Rc<LegIo>>, Vec<Rc<LegIo>>)>,
        mut progress: impl FnMut(u64),
    ) -> std::result::Result<bool, CopyError> {
        let block_bytes = self.shared.geometry.block_size.bytes();
        let window = u64::from(self.pace.window_blocks(block_bytes));
        let mut lba = start;
        while lba < end {
            let blocks = window.min(end - lba) as u32;
            let begun = Tsc::read();
            self.hold(Lba(lba), blocks).await;
            // Who takes part is looked at under the hold.
            let Some((sources, targets)) = legs() else {
                self.lock.release(0);
                return Ok(false);
            };
            let copied = self.copy_window(Lba(lba), blocks, &sources, &targets).await;
            self.lock.release(0);
            copied?;
            lba += u64::from(blocks);
            progress(u64::from(blocks));
            let took = Tsc::read().0.wrapping_sub(begun.0);
            let took = std::time::Duration::from_secs_f64(took as f64 / Tsc::rate() as f64);
            let bytes = u64::from(blocks) * u64::from(block_bytes);
            let delay = self.pace.delay(bytes, took, self.shared.is_busy());
            if delay.is_zero() {
                self.cx.yield_now().await;
            } else {
                self.cx.sleep(delay).await;
            }
        }
        Ok(true)
    }

    async fn hold(&mut self, lba: Lba, blocks: u32) {
        let mut granted = self.lock.acquire(0, Access::Write, lba, u64::from(blocks));
        while !granted {
            self.cx.yield_now().await;
            self.lock.poll();
            granted = self.lock.next_granted().is_some();
        }
    }

    /// Copies a window, block by block when a source has a bad one in it.
    async fn copy_window(
        &mut self,
        lba: Lba,
        blocks: u32,
        sources: &[Rc<LegIo>],
        targets: &[Rc<LegIo>],
    ) -> std::result::Result<(), CopyError> {
        let whole = self.copy_blocks(lba, blocks, sources, targets).await;
        if !matches!(whole, Err(CopyError::Unreadable { .. })) {
            return whole;
        }
        for block in 0..u64::from(blocks) {
            match self.copy_blocks(Lba(lba.0 + block), 1, sources, targets).await {
                Err(CopyError::Unreadable { .. }) if self.skip_unreadable => (),
                result => result?,
            }
        }
        Ok(())
    }

    async fn copy_blocks(
        &mut self,
        lba: Lba,
        blocks: u32,
        sources: &[Rc<LegIo>],
        targets: &[Rc<LegIo>],
    ) -> std::result::Result<(), CopyError> {
        let at = Lba(lba.0 + self.shared.offsets.data);
        let none = RequestFlags::NONE;
        let mut status = Status::INTERNAL_PATH_ERROR;
        let mut read_from = None;
        for source in sources {
            status = source.transfer(Opcode::Read, at, blocks, &mut self.buffer, none).await;
            if status.is_success() {
                read_from = Some(source);
                break;
            }
        }
        let Some(source) = read_from else {
            return Err(CopyError::Unreadable { lba, status });
        };
        for (index, target) in targets.iter().enumerate() {
            if Rc::ptr_eq(source, target) {
                continue;
            }
            let status = target.transfer(Opcode::Write, at, blocks, &mut self.buffer, none).await;
            if !status.is_success() {
                return Err(CopyError::Target { index, status });
            }
        }
        Ok(())
    }
}

/// The regions of a bitmap, in order.
pub(super) fn regions_of(bitmap: &[u64]) -> impl Iterator<Item = u32> {
    bitmap.iter().enumerate().flat_map(|(index, &word)| {
        (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| (index * 64 + bit) as u32)
    })
}
