//! One reactor's queue on a registered device: what every device has in common.

use std::sync::Arc;

use super::detour::Detour;
use super::device::Device;
use super::fit::Fit;
use super::histogram::Histogram;
use super::queue::Queue;
use super::request::{Completions, Opcode, OpcodeSet, Request};
use super::stats::ChannelStats;
use crate::base::{Error, ErrorKind, Result, limits};
use crate::reactor::{Activity, Context};

/// A reactor's queue on a [`Device`].
///
/// A *plain* request (in range, within the driver's limits, of an opcode that it takes, not rate-limited) goes
/// straight through: it is checked, stamped and handed on in place. All others take a [`Detour`].
///
/// The fields are dropped in this order: the queue before the memory that its requests are in, and the device
/// hears last that the channel is gone.
pub struct Channel {
    queue: Box<dyn Queue>,
    cx: Context,
    /// Admits plain requests.
    plain: Fit,
    detour: Detour,
    /// [`Device::generation`] that is followed.
    generation: u32,
    extremes_epoch: u32,
    outstanding: u32,
    histogram: Option<Arc<Histogram>>,
    entry: Entry,
}

/// The channel's place in the device's list.
struct Entry {
    device: Arc<Device>,
    stats: Arc<ChannelStats>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.device.channel_closed(&self.stats);
    }
}

impl Device {
    /// Opens a channel for the reactor of `cx`, on that reactor, with room for `depth` requests
    /// outstanding.
    ///
    /// # Errors
    /// `NoDevice` when the device is going away; `Invalid` for a depth of 0 or beyond
    /// [`limits::QUEUE_DEPTH_MAX`]; whatever the driver says.
    pub fn open_channel(self: &Arc<Self>, cx: &Context, depth: u32) -> Result<Channel> {
        if depth == 0 || depth > limits::QUEUE_DEPTH_MAX {
            return Err(Error::invalid(format!(
                "queue depth {depth} (1 to {} is possible)",
                limits::QUEUE_DEPTH_MAX
            )));
        }
        if !self.is_online() {
            return Err(Error::new(
                ErrorKind::NoDevice,
                format!("bdev '{}' is being removed", self.name()),
            ));
        }
        let queue = self
            .bdev()
            .open_queue(cx, depth)
            .map_err(|error| error.context(format_args!("open a queue on '{}'", self.name())))?;
        let stats = self.channel_opened(cx.index());
        let entry = Entry { device: Arc::clone(self), stats };
        Ok(Channel::new(entry, queue, cx.clone(), depth))
    }
}

impl Channel {
    fn new(entry: Entry, queue: Box<dyn Queue>, cx: Context, depth: u32) -> Channel {
        let device = &entry.device;
        let mut channel = Channel {
            queue,
            cx,
            plain: Fit::new(device.info(), OpcodeSet::EMPTY),
            detour: Detour::new(device, depth),
            generation: 0,
            extremes_epoch: 0,
            outstanding: 0,
            histogram: None,
            entry,
        };
        channel.follow_device();
        channel
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.entry.device
    }

    /// How many requests are outstanding.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Takes over the device's state and controls.
    #[cold]
    fn follow_device(&mut self) {
        let Entry { device, stats } = &self.entry;
        self.generation = device.generation();
        let controls = device.controls();
        self.histogram = device.histogram_of(stats);
        if controls.extremes_epoch != self.extremes_epoch {
            self.extremes_epoch = controls.extremes_epoch;
            stats.reset_extremes(controls.extremes_epoch);
        }
        if device.is_online() {
            self.detour.set_throttle(controls.throttle);
        } else {
            self.detour.close();
        }
        self.admit_plain();
    }

    /// Says anew which opcodes are plain.
    #[cold]
    fn admit_plain(&mut self) {
        let device = &self.entry.device;
        let native = if device.is_online() { device.info().native } else { OpcodeSet::EMPTY };
        self.plain = self.plain.with_opcodes(self.detour.plain(native));
    }

    /// Takes a request that is not plain.
    #[cold]
    fn take_detour(&mut self, request: &Request) -> bool {
        let taken = self.detour.take(request, &self.entry.device);
        // A reset holds up all that come after it, and compare-and-write the writes.
        if matches!(request.opcode(), Opcode::Reset | Opcode::CompareAndWrite) {
            self.admit_plain();
        }
        taken
    }

    /// Lets detoured requests go on. Returns whether the driver got any.
    fn run_detour(&mut self) -> bool {
        let held_up = self.detour.holds_up();
        let any = self.detour.run(&mut *self.queue, &self.cx, self.outstanding);
        if held_up != self.detour.holds_up() {
            self.admit_plain();
        }
        any
    }

    /// The part of a poll that concerns the detour: `completions` after the first `start` are new.
    #[cold]
    fn poll_detour(&mut self, completions: &mut Completions, start: usize) -> Activity {
        self.detour.sift(completions, start);
        self.detour.plain_done((completions.len() - start) as u32);
        let any = self.run_detour();
        self.detour.deliver(completions);
        match any {
            // A driver that completes at once has something for the next poll.
            true => Activity::Busy,
            false if self.detour.is_waiting() => Activity::Waiting,
            false => Activity::Idle,
        }
    }
}

impl Queue for Channel {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        if self.entry.device.generation() != self.generation {
            self.follow_device();
        }
        let geometry = self.entry.device.geometry();
        let now = self.cx.now().0;
        let mut taken = 0;
        let mut detoured = false;
        while taken < requests.len() {
            let rest = &mut requests[taken..];
            let mut plain = 0;
            for request in rest.iter_mut() {
                if request.ticket.stamp == 0 {
                    request.ticket.stamp = now;
                }
                if !self.plain.admits(request, geometry) {
                    break;
                }
                plain += 1;
            }
            if plain > 0 {
                if !self.detour.plain_starts(plain as u32) {
                    self.admit_plain();
                    continue;
                }
                let accepted = self.queue.submit(&mut rest[..plain]);
                taken += accepted;
                if accepted < plain {
                    self.detour.plain_done((plain - accepted) as u32);
                    break;
                }
            } else if self.take_detour(&rest[0]) {
                detoured = true;
                taken += 1;
            } else {
                break;
            }
        }
        self.outstanding += taken as u32;
        if detoured {
            self.run_detour();
        }
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        if self.entry.device.generation() != self.generation {
            self.follow_device();
        }
        let start = completions.len();
        let mut activity = self.queue.poll(completions);
        if !self.detour.is_idle() {
            activity = activity.max(self.poll_detour(completions, start));
        } else if completions.len() > start {
            self.detour.plain_done((completions.len() - start) as u32);
        }
        let new = &completions.as_slice()[start..];
        if new.is_empty() {
            return activity;
        }
        let now = self.cx.now();
        self.entry.stats.count(new, now);
        if let Some(histogram) = &self.histogram {
            histogram.count(new, now);
        }
        self.outstanding -= new.len() as u32;
        Activity::Busy
    }
}

// The opcode is compared by number in `OpcodeSet`.
const _: () = assert!(Opcode::ALL.len() <= 16);

#[cfg(test)]
mod tests;
