//! The control task's own channel on a leg: one request at a time from each of several tasks, for
//! labels, pages of the map, and copies.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::base::{Error, ErrorKind, Geometry, Lba, Result, Status};
use crate::bdev::request::{Completions, Opcode, Request, RequestFlags};
use crate::bdev::{Channel, Device, Queue};
use crate::memory::Buffer;
use crate::reactor::Context;

/// Requests outstanding at a time: a few tasks with one each.
const DEPTH: u32 = 16;

/// A channel on a leg for control work, on the control reactor.
pub(super) struct LegIo {
    channel: RefCell<Channel>,
    completions: RefCell<Completions>,
    done: RefCell<Vec<(u64, Status)>>,
    next: Cell<u64>,
    cx: Context,
}

impl LegIo {
    pub fn open(device: &Arc<Device>, cx: &Context) -> Result<LegIo> {
        Ok(LegIo {
            channel: RefCell::new(device.open_channel(cx, DEPTH)?),
            completions: RefCell::new(Completions::with_capacity(DEPTH as usize)),
            done: RefCell::default(),
            next: Cell::new(0),
            cx: cx.clone(),
        })
    }

    pub fn geometry(&self) -> Geometry {
        self.channel.borrow().device().geometry()
    }

    pub fn name(&self) -> String {
        self.channel.borrow().device().name().to_owned()
    }

    /// Does one request.
    async fn run(&self, request: Request) -> Status {
        let token = self.next.get();
        self.next.set(token + 1);
        let mut request = request.child(request.lba, token);
        while self.channel.borrow_mut().submit(std::slice::from_mut(&mut request)) == 0 {
            self.poll();
            self.cx.yield_now().await;
        }
        loop {
            self.poll();
            if let Some(status) = self.take(token) {
                return status;
            }
            self.cx.yield_now().await;
        }
    }

    /// How the request of this token ended, if it has.
    fn take(&self, token: u64) -> Option<Status> {
        let mut done = self.done.borrow_mut();
        let index = done.iter().position(|(other, _)| *other == token)?;
        Some(done.swap_remove(index).1)
    }

    fn poll(&self) {
        let mut completions = self.completions.borrow_mut();
        self.channel.borrow_mut().poll(&mut completions);
        let new = completions.as_slice().iter().map(|done| (done.token, done.status));
        self.done.borrow_mut().extend(new);
        completions.clear();
    }

    /// Reads or writes `blocks` blocks from or to the start of `buffer`.
    pub async fn transfer(
        &self,
        opcode: Opcode,
        lba: Lba,
        blocks: u32,
        buffer: &mut Buffer,
        flags: RequestFlags,
    ) -> Status {
        let length = blocks << self.geometry().block_size.shift();
        // SAFETY: the buffer is borrowed exclusively until the request has completed.
        let segment = unsafe { buffer.segment(length) };
        self.run(Request::new(opcode, lba, blocks, segment, 0).with_flags(flags)).await
    }

    /// Makes what was written durable.
    pub async fn flush(&self) -> Status {
        if !self.channel.borrow().device().info().volatile_write_cache {
            return Status::SUCCESS;
        }
        self.run(Request::bare(Opcode::Flush, Lba(0), 0, 0)).await
    }

    /// Reads `length` bytes at byte `offset`, both multiples of the block size.
    ///
    /// # Errors
    /// `Io` when the leg fails, `Invalid` when it is too short.
    pub async fn read_bytes(&self, offset: u64, length: u32) -> Result<Buffer> {
        let mut buffer = self.cx.pool().take(length as usize)?;
        self.bytes(Opcode::Read, offset, length, &mut buffer).await?;
        Ok(buffer)
    }

    /// Writes the first `length` bytes of `buffer` at byte `offset`, durably.
    ///
    /// # Errors
    /// As for [`LegIo::read_bytes`].
    pub async fn write_bytes(&self, offset: u64, length: u32, buffer: &mut Buffer) -> Result<()> {
        self.bytes(Opcode::Write, offset, length, buffer).await
    }

    async fn bytes(&self, opcode: Opcode, at: u64, length: u32, buffer: &mut Buffer) -> Result<()> {
        let geometry = self.geometry();
        let shift = geometry.block_size.shift();
        if at + u64::from(length) > geometry.capacity().0 {
            return Err(Error::invalid(format!("bdev '{}' ends before byte {at}", self.name())));
        }
        let flags = match opcode {
            Opcode::Write => RequestFlags::FUA,
            _ => RequestFlags::NONE,
        };
        let status = self.transfer(opcode, Lba(at >> shift), length >> shift, buffer, flags).await;
        if status.is_success() {
            return Ok(());
        }
        let name = opcode.name();
        Err(Error::new(
            ErrorKind::Io,
            format!("{name} of {length} bytes at {at} on bdev '{}': {status}", self.name()),
        ))
    }
}
