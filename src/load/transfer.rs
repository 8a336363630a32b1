//! Copies between a file and a device, at depth: how an image gets onto a volume and back off it.
//!
//! File reads and writes block; this is for a tool of its own, not for a reactor that serves others.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::base::{ByteCount, ByteOffset, Error, ErrorKind, Lba, Result};
use crate::bdev::{Channel, Completions, Opcode, Queue, Request};
use crate::memory::Buffer;
use crate::reactor::Context;

/// What to copy.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Where it starts in the file.
    pub file_offset: ByteOffset,
    /// First block on the device.
    pub lba: Lba,
    /// How much; the last request may end within a block of the file, which is filled up with zeros
    /// on the device.
    pub length: ByteCount,
    /// Size of one request: a multiple of the block size, at most 2 MiB.
    pub io_size: ByteCount,
    /// Requests outstanding at once.
    pub depth: u32,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the file to the device.
    ToDevice,
    /// From the device to the file.
    ToFile,
}

/// A transfer at work.
struct Copier<'a> {
    cx: &'a Context,
    channel: Channel,
    file: &'a File,
    transfer: Transfer,
    way: Way,
    block_bytes: u64,
    buffers: Vec<Buffer>,
    /// Where in the transfer each slot's request starts.
    offsets: Vec<u64>,
    free: Vec<usize>,
    next: u64,
}

impl Copier<'_> {
    fn length_at(&self, offset: u64) -> u64 {
        self.transfer.io_size.0.min(self.transfer.length.0 - offset)
    }

    fn start(&mut self) -> Result<()> {
        while self.next < self.transfer.length.0
            && let Some(slot) = self.free.pop()
        {
            let offset = self.next;
            let length = self.length_at(offset);
            let padded = length.next_multiple_of(self.block_bytes);
            if self.way == Way::ToDevice {
                let bytes = &mut self.buffers[slot].bytes_mut()[..padded as usize];
                let (data, padding) = bytes.split_at_mut(length as usize);
                padding.fill(0);
                self.file
                    .read_exact_at(data, self.transfer.file_offset.0 + offset)
                    .map_err(|error| Error::os("read the file", error))?;
            }
            let opcode = if self.way == Way::ToDevice { Opcode::Write } else { Opcode::Read };
            let lba = Lba(self.transfer.lba.0 + offset / self.block_bytes);
            // SAFETY: the buffer is looked at again, or dropped, only after the channel that has
            // the request has completed it or is dropped (`channel` is declared first).
            let payload = unsafe { self.buffers[slot].segment(padded as u32) };
            let blocks = (padded / self.block_bytes) as u32;
            let mut request = [Request::new(opcode, lba, blocks, payload, slot as u64)];
            if self.channel.submit(&mut request) == 0 {
                self.free.push(slot);
                break;
            }
            self.offsets[slot] = offset;
            self.next += length;
        }
        Ok(())
    }

    async fn run(mut self) -> Result<()> {
        let mut completions = Completions::with_capacity(self.buffers.len());
        while self.next < self.transfer.length.0 || self.free.len() < self.buffers.len() {
            self.start()?;
            completions.clear();
            self.channel.poll(&mut completions);
            for completion in &completions {
                let slot = completion.token as usize;
                let offset = self.offsets[slot];
                if !completion.status.is_success() {
                    let what = completion.opcode.name();
                    let at = self.transfer.lba.0 + offset / self.block_bytes;
                    return Err(Error::new(
                        ErrorKind::Io,
                        format!("{what} at LBA {at}: {}", completion.status),
                    ));
                }
                if self.way == Way::ToFile {
                    let data = &self.buffers[slot].bytes()[..self.length_at(offset) as usize];
                    self.file
                        .write_all_at(data, self.transfer.file_offset.0 + offset)
                        .map_err(|error| Error::os("write the file", error))?;
                }
                self.free.push(slot);
            }
            self.cx.yield_now().await;
        }
        if self.way == Way::ToDevice {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let mut request = [Request::bare(Opcode::Flush, Lba(0), 0, 0)];
        let mut completions = Completions::with_capacity(1);
        let mut submitted = false;
        while completions.is_empty() {
            submitted = submitted || self.channel.submit(&mut request) == 1;
            self.channel.poll(&mut completions);
            self.cx.yield_now().await;
        }
        match completions.as_slice()[0].status {
            status if status.is_success() => Ok(()),
            status => Err(Error::new(ErrorKind::Io, format!("flush: {status}"))),
        }
    }
}

impl Transfer {
    /// Copies between `file` and the device behind `channel`; to the device, ends with a flush.
    ///
    /// # Errors
    /// `Invalid` when it does not fit the device; I/O errors of either side.
    pub async fn run(self, cx: &Context, channel: Channel, file: &File, way: Way) -> Result<()> {
        let geometry = channel.device().geometry();
        let block_bytes = u64::from(geometry.block_size.bytes());
        let size = self.io_size.0;
        if size == 0 || !size.is_multiple_of(block_bytes) || size > 2 << 20 || self.depth == 0 {
            return Err(Error::invalid(format!(
                "an I/O size of {size} bytes at depth {} (multiples of {block_bytes} up to 2 MiB, \
                 depth 1 at least)",
                self.depth
            )));
        }
        let blocks = geometry.blocks_in(ByteCount(self.length.0.next_multiple_of(block_bytes)));
        if !geometry.contains(self.lba, blocks) {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{} bytes from LBA {} on are beyond the device's {} blocks",
                    self.length, self.lba, geometry.blocks
                ),
            ));
        }
        let buffers: Vec<Buffer> =
            (0..self.depth).map(|_| cx.pool().take(size as usize)).collect::<Result<_>>()?;
        let copier = Copier {
            cx,
            channel,
            file,
            transfer: self,
            way,
            block_bytes,
            offsets: vec![0; buffers.len()],
            free: (0..buffers.len()).collect(),
            buffers,
            next: 0,
        };
        copier.run().await
    }
}
