//! One reactor's queue on a registered device: what every device has in common.

use std::collections::VecDeque;
use std::sync::Arc;

use super::device::{Device, DeviceState, IoLimits};
use super::queue::Queue;
use super::request::{Completion, Completions, Opcode, OpcodeSet, Request, RequestFlags};
use super::stats::ChannelStats;
use crate::base::{BlockCount, Geometry, Status};
use crate::reactor::{Activity, Context};

/// A reactor's queue on a [`Device`].
///
/// A *plain* request (in range, within the driver's limits, of an opcode that it takes, on a
/// device without QoS) goes straight through: it is checked, stamped and handed on in place. All
/// others take a detour.
pub struct Channel {
    device: Arc<Device>,
    queue: Box<dyn Queue>,
    cx: Context,
    stats: Arc<ChannelStats>,
    plain: Plain,
    /// [`Device::generation`] that `plain` was made from.
    generation: u32,
    extremes_epoch: u32,
    outstanding: u32,
    rejected: VecDeque<Completion>,
}

/// What a request must be like to go straight through.
#[derive(Clone, Copy)]
struct Plain {
    opcodes: OpcodeSet,
    limits: IoLimits,
    /// The limits in blocks.
    blocks_max: u32,
    block_shift: u32,
}

impl Plain {
    fn of(device: &Device, opcodes: OpcodeSet) -> Plain {
        let info = device.info();
        let block_shift = info.geometry.block_size.shift();
        Plain {
            opcodes,
            limits: info.limits,
            blocks_max: info.limits.transfer_max >> block_shift,
            block_shift,
        }
    }

    #[inline]
    fn admits(&self, request: &Request, geometry: Geometry) -> bool {
        let opcode = request.opcode();
        if !self.opcodes.contains(opcode) || request.ticket.flags.has(RequestFlags::DETOUR) {
            return false;
        }
        if !opcode.has_range() {
            return true;
        }
        let blocks = request.ticket.blocks;
        if blocks == 0
            || blocks > self.blocks_max
            || !geometry.contains(request.lba, BlockCount(u64::from(blocks)))
        {
            return false;
        }
        if self.limits.boundary != 0 {
            let mask = u64::from(self.limits.boundary) - 1;
            if (request.lba.0 & mask) + u64::from(blocks) > u64::from(self.limits.boundary) {
                return false;
            }
        }
        self.payload_fits(request, u64::from(blocks) << self.block_shift)
    }

    #[inline]
    fn payload_fits(&self, request: &Request, range_bytes: u64) -> bool {
        let bytes = range_bytes * request.opcode().payload_factor();
        let mask = u64::from(self.limits.memory_alignment) - 1;
        if request.segment_count() == 1 {
            let segment = request.first_segment();
            let misaligned = (segment.address() as u64 | u64::from(segment.len())) & mask;
            return u64::from(segment.len()) == bytes && misaligned == 0;
        }
        if request.segment_count() > usize::from(self.limits.segments_max) {
            return false;
        }
        let mut sum = 0;
        let mut misaligned = 0;
        for segment in request.segments() {
            sum += u64::from(segment.len());
            misaligned |= (segment.address() as u64 | u64::from(segment.len())) & mask;
        }
        sum == bytes && misaligned == 0
    }
}

impl Channel {
    pub(super) fn new(
        device: Arc<Device>,
        queue: Box<dyn Queue>,
        cx: Context,
        depth: u32,
        stats: Arc<ChannelStats>,
    ) -> Channel {
        let plain = Plain::of(&device, OpcodeSet::EMPTY);
        let mut channel = Channel {
            device,
            queue,
            cx,
            stats,
            plain,
            generation: 0,
            extremes_epoch: 0,
            outstanding: 0,
            rejected: VecDeque::with_capacity(depth as usize),
        };
        channel.follow_device();
        channel
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// How many requests are outstanding.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    #[cold]
    fn follow_device(&mut self) {
        self.generation = self.device.generation();
        let controls = self.device.controls();
        let opcodes = match self.device.state() {
            DeviceState::Online => self.device.info().native,
            DeviceState::Closing => OpcodeSet::EMPTY,
        };
        self.plain = Plain::of(&self.device, opcodes);
        if controls.extremes_epoch != self.extremes_epoch {
            self.extremes_epoch = controls.extremes_epoch;
            self.stats.reset_extremes();
        }
    }

    /// Takes a request that is not plain.
    #[cold]
    fn detour(&mut self, request: &Request) -> bool {
        if self.rejected.len() == self.rejected.capacity() {
            return false;
        }
        self.rejected.push_back(request.complete(self.fault_of(request)));
        true
    }

    fn fault_of(&self, request: &Request) -> Status {
        let geometry = self.device.geometry();
        let blocks = BlockCount(u64::from(request.ticket.blocks));
        if self.device.state() != DeviceState::Online {
            Status::INVALID_NAMESPACE
        } else if !self.device.info().native.contains(request.opcode()) {
            Status::INVALID_OPCODE
        } else if request.opcode().has_range() && !geometry.contains(request.lba, blocks) {
            Status::LBA_OUT_OF_RANGE
        } else {
            Status::INVALID_FIELD
        }
    }
}

impl Queue for Channel {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        if self.device.generation() != self.generation {
            self.follow_device();
        }
        let geometry = self.device.geometry();
        let now = self.cx.now().0;
        let mut taken = 0;
        while taken < requests.len() {
            let rest = &mut requests[taken..];
            let mut plain = 0;
            for request in rest.iter_mut() {
                if !self.plain.admits(request, geometry) {
                    break;
                }
                if request.ticket.stamp == 0 {
                    request.ticket.stamp = now;
                }
                plain += 1;
            }
            if plain > 0 {
                let accepted = self.queue.submit(&mut rest[..plain]);
                taken += accepted;
                if accepted < plain {
                    break;
                }
            } else if self.detour(&rest[0]) {
                taken += 1;
            } else {
                break;
            }
        }
        self.outstanding += taken as u32;
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        let before = completions.len();
        let activity = self.queue.poll(completions);
        while completions.room() > 0
            && let Some(completion) = self.rejected.pop_front()
        {
            completions.push(completion);
        }
        let new = &completions.as_slice()[before..];
        if new.is_empty() {
            return activity;
        }
        self.stats.count(new, self.cx.now());
        self.outstanding -= new.len() as u32;
        Activity::Busy
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.device.channel_closed(&self.stats);
    }
}

// The opcode is compared by number in `OpcodeSet`.
const _: () = assert!(Opcode::ALL.len() <= 16);
