//! Who does what: which job runs on which device and core, and the workers that come out of it.

use std::sync::Arc;

use weft::base::{Error, Geometry, Result};
use weft::bdev::{Device, Opcode, Queue};
use weft::load::random::Random;
use weft::reactor::{Context, Tsc};

use crate::empty::EmptyQueue;
use crate::load::{Generator, Load};
use crate::payload::Payloads;
use crate::plan::{Extent, JobPlan, RunPlan, Workload};
use crate::verify::VerifyLoad;
use crate::worker::{Drive, Pacing, Progress, Worker, WorkerParts};

/// A job on a device on a core.
#[derive(Clone)]
pub struct Seat {
    /// Index of the job in the plan.
    pub job: usize,
    /// Index of the device.
    pub device: usize,
    /// Where the worker publishes its progress.
    pub progress: Arc<Progress>,
    plan: JobPlan,
    target: Arc<Device>,
    extent: Extent,
    /// Number of the core among those of the run, and how many there are.
    part: (u64, u64),
    /// Number of the worker within its job, and how many there are.
    member: (u64, u64),
    drain_ticks: u64,
}

/// The seats of each core.
///
/// # Errors
/// `Invalid` when a job does not fit a device, or names one that is not there.
pub fn seats(
    plan: &RunPlan,
    devices: &[Arc<Device>],
    cores: usize,
    drain_ticks: u64,
) -> Result<Vec<Vec<Seat>>> {
    let mut seats = vec![Vec::new(); cores];
    for (job_index, job) in plan.jobs.iter().enumerate() {
        let chosen = choose(job, devices)?;
        let workers = (chosen.len() * cores) as u64;
        let mut member = 0;
        for device_index in chosen {
            let device = &devices[device_index];
            let extent = job
                .extent_on(device.name(), device.geometry())
                .map_err(|error| error.context(format_args!("job '{}'", job.name)))?;
            for (core, seats) in seats.iter_mut().enumerate() {
                seats.push(Seat {
                    job: job_index,
                    device: device_index,
                    progress: Arc::default(),
                    plan: job.clone(),
                    target: Arc::clone(device),
                    extent,
                    part: (core as u64, cores as u64),
                    member: (member, workers),
                    drain_ticks,
                });
                member += 1;
            }
        }
    }
    Ok(seats)
}

/// Indices of the devices that a job asks for.
fn choose(job: &JobPlan, devices: &[Arc<Device>]) -> Result<Vec<usize>> {
    if job.devices.is_empty() {
        return Ok((0..devices.len()).collect());
    }
    let mut chosen = Vec::new();
    for wanted in &job.devices {
        let by_name = devices.iter().position(|device| device.name() == wanted);
        let by_number = || wanted.parse().ok().filter(|&number| number < devices.len());
        let index = by_name.or_else(by_number).ok_or_else(|| {
            let names: Vec<&str> = devices.iter().map(|device| device.name()).collect();
            Error::invalid(format!("--device {wanted}: there are {}", names.join(", ")))
        })?;
        if !chosen.contains(&index) {
            chosen.push(index);
        }
    }
    Ok(chosen)
}

impl Seat {
    /// The worker, with a queue of its own on the device. On the core's reactor.
    ///
    /// # Errors
    /// What the device says, or `NoMemory`.
    pub fn worker(self, cx: &Context) -> Result<Box<dyn Drive>> {
        let channel = self.target.open_channel(cx, self.plan.depth)?;
        if self.plan.workload == Workload::Verify {
            let can_flush = self.target.info().native.contains(Opcode::Flush);
            let block_size = self.target.geometry().block_size;
            let load = VerifyLoad::new(&self.plan, block_size, self.extent, self.part, can_flush);
            self.seated(cx, channel, load)
        } else {
            let load = self.generator();
            self.seated(cx, channel, load)
        }
    }

    /// The same worker over an empty queue, unpaced and unlimited: what is left is the tool's own
    /// cost. `verify` is stood in for by random reads.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn calibration(mut self, cx: &Context) -> Result<Box<dyn Drive>> {
        if self.plan.workload == Workload::Verify {
            self.plan.workload = Workload::RandRead;
        }
        (self.plan.rate, self.plan.count) = (None, None);
        self.progress = Arc::default();
        let queue = EmptyQueue::new(self.plan.depth);
        let load = self.generator();
        self.seated(cx, queue, load)
    }

    fn generator(&self) -> Generator {
        let block_size = self.target.geometry().block_size;
        let stream = (self.job as u64) << 32 | self.member.0;
        Generator::new(&self.plan, block_size, self.extent, self.part, stream)
    }

    fn seated<Q: Queue + 'static, L: Load + 'static>(
        self,
        cx: &Context,
        queue: Q,
        load: L,
    ) -> Result<Box<dyn Drive>> {
        let Geometry { block_size, .. } = self.target.geometry();
        let (depth, (member, members)) = (self.plan.depth, self.member);
        // Without payload there is nothing to have buffers for.
        let bytes = match self.plan.workload.opcode().payload_factor() {
            0 => 0,
            _ => self.plan.sizes.largest() as usize,
        };
        let mut random = Random::new(self.plan.seed, u64::MAX - member);
        let payloads =
            Payloads::take(cx.pool(), depth as usize, bytes, block_size.shift(), &mut random)
                .map_err(|error| {
                    error.context(format_args!("{depth} buffers of {bytes} bytes for the I/O"))
                })?;
        let pacing = self.plan.rate.map(|rate| {
            // The members take turns.
            let interval = Tsc::rate() as f64 / (rate / members as f64);
            Pacing { interval, next: interval * member as f64 / members as f64 }
        });
        let count =
            self.plan.count.map(|count| count / members + u64::from(member < count % members));
        Ok(Box::new(Worker::new(WorkerParts {
            queue,
            load,
            payloads,
            depth,
            block_shift: block_size.shift(),
            pacing,
            count,
            progress: self.progress,
            drain_ticks: self.drain_ticks,
        })))
    }
}
