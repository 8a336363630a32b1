//! A device in memory: huge pages where the system has them. Its contents go with it.

use std::sync::Arc;

use serde_json::json;

use crate::base::{BlockCount, Error, Geometry, Result, Status, Uuid};
use crate::bdev::{
    Bdev, Completion, Completions, ConfigEntry, Info, Opcode, OpcodeSet, Queue, Request,
};
use crate::memory::{Region, RegionOptions, copy};
use crate::reactor::{Activity, Context};

/// A memory device.
pub struct Malloc {
    info: Info,
    memory: Arc<Region>,
}

impl Malloc {
    /// A device of zeros in memory such as the options say, or [`HugePages`](crate::memory::HugePages) alone.
    ///
    /// # Errors
    /// `NoMemory` when the system has not got the memory; `Invalid` for a capacity of zero.
    pub fn create(
        name: &str,
        uuid: Option<Uuid>,
        geometry: Geometry,
        memory: impl Into<RegionOptions>,
    ) -> Result<Arc<Malloc>> {
        let bytes = usize::try_from(geometry.capacity().0)
            .map_err(|_| Error::invalid("capacity beyond the address space"))?;
        let mut info = Info::new(name, "Malloc disk", geometry);
        if let Some(uuid) = uuid {
            info.uuid = uuid;
        }
        // Two queues may write the same block at once: compare-and-write needs a lock, which the
        // channel has.
        info.native = OpcodeSet::BLOCK.without(Opcode::CompareAndWrite);
        // Zeros take the place of what was there.
        info.erases = true;
        let memory: RegionOptions = memory.into();
        info.numa_node = memory.numa_node;
        let memory = Arc::new(Region::allocate(bytes, memory)?);
        Ok(Arc::new(Malloc { info, memory }))
    }
}

impl Bdev for Malloc {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, _cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(MallocQueue {
            memory: Arc::clone(&self.memory),
            geometry: self.info.geometry,
            done: Vec::with_capacity(depth as usize),
        }))
    }

    fn config(&self) -> Vec<ConfigEntry> {
        let geometry = self.info.geometry;
        let mut params = json!({
            "name": self.info.name,
            "num_blocks": geometry.blocks.0,
            "block_size": geometry.block_size.bytes(),
            "uuid": self.info.uuid.to_string(),
        });
        if let Some(node) = self.info.numa_node {
            params["numa_id"] = json!(node);
        }
        vec![ConfigEntry { method: "bdev_malloc_create", params }]
    }
}

struct MallocQueue {
    memory: Arc<Region>,
    geometry: Geometry,
    done: Vec<Completion>,
}

impl MallocQueue {
    /// Where the request's range lies, unless it is not within the device: the channel has checked,
    /// but memory safety does not rest on another file.
    #[inline]
    fn range(&self, request: &Request) -> Option<(*mut u8, usize)> {
        let blocks = BlockCount(u64::from(request.ticket.blocks));
        if !self.geometry.contains(request.lba, blocks) {
            return None;
        }
        let offset = self.geometry.offset_of(request.lba).0 as usize;
        let length = self.geometry.bytes_of(blocks).0 as usize;
        // SAFETY: the geometry's capacity is what the region was allocated for.
        Some((unsafe { self.memory.start().add(offset) }.as_ptr(), length))
    }

    /// Where the read behind `requests[index]` will look, so that it is on its way by then.
    #[inline]
    fn next_read(&self, requests: &[Request], index: usize) -> copy::Next {
        match requests.get(index + 1) {
            Some(next) if next.opcode() == Opcode::Read => {
                self.range(next).map_or(std::ptr::null(), |(medium, _)| medium)
            }
            _ => std::ptr::null(),
        }
    }

    fn execute(&self, request: &Request, next: copy::Next) -> Status {
        let opcode = request.opcode();
        if !opcode.has_range() {
            return Status::SUCCESS;
        }
        let Some((mut medium, mut left)) = self.range(request) else {
            return Status::LBA_OUT_OF_RANGE;
        };
        if matches!(opcode, Opcode::Unmap | Opcode::WriteZeroes) {
            // SAFETY: `range` lies within our memory; racing writers of the same block are as
            // unordered as on any drive.
            unsafe { copy::zero(medium, left) };
            return Status::SUCCESS;
        }
        for segment in request.segments() {
            let length = (segment.len() as usize).min(left);
            let memory = segment.address();
            // SAFETY: `medium` has `left >= length` bytes; the segment's invariant covers `memory`;
            // both belong to different mappings.
            unsafe {
                match opcode {
                    Opcode::Read => copy::copy_ahead(medium, memory, length, next),
                    Opcode::Write => copy::copy_cold(memory, medium, length),
                    _ => {
                        let ours = std::slice::from_raw_parts(medium, length);
                        let theirs = std::slice::from_raw_parts(memory, length);
                        if ours != theirs {
                            return Status::COMPARE_FAILURE;
                        }
                    }
                }
                medium = medium.add(length);
            }
            left -= length;
        }
        if left == 0 { Status::SUCCESS } else { Status::INVALID_FIELD }
    }
}

impl Queue for MallocQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        let taken = requests.len().min(self.done.capacity() - self.done.len());
        for index in 0..taken {
            let request = &requests[index];
            let status = self.execute(request, self.next_read(requests, index));
            self.done.push(request.complete(status));
        }
        // Before anybody, on whatever core, can learn that these writes completed.
        copy::settle();
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        completions.take_from(&mut self.done)
    }
}
