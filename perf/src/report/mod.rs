//! What a run found, put together from its workers, for people, programs and browsers.

mod html;
mod json;
mod plot;
mod table;
mod text;

use weft::base::Status;

use crate::core::CoreResult;
use crate::findings::Findings;
use crate::host::Host;
use crate::measure::{Class, ClassMeasure, Measure, Timeline};
use crate::plan::RunPlan;
use crate::worker::WorkerResult;

pub use html::render as html;
pub use json::render as json;
pub use text::render as text;

/// What the report says of one device.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// Its name.
    pub name: String,
    /// Its kind, in the driver's words.
    pub product_name: String,
    /// Its block size in bytes.
    pub block_size: u32,
    /// Its capacity in bytes.
    pub capacity: u64,
}

/// A worker and where it ran.
#[derive(Debug)]
pub struct WorkerRecord {
    /// Index of its job in the plan.
    pub job: usize,
    /// Index of its device.
    pub device: usize,
    /// Index of its core.
    pub core: usize,
    /// Of its device, as a power of two.
    pub block_shift: u32,
    /// What it found.
    pub result: WorkerResult,
}

/// What a run over an empty queue cost: the tool's own part.
#[derive(Clone, Copy, Debug)]
pub struct ToolCost {
    /// Nanoseconds per I/O.
    pub ns_per_io: f64,
    /// TSC cycles per I/O.
    pub cycles_per_io: f64,
}

/// Where the time of a core went while it measured.
#[derive(Clone, Copy, Debug)]
pub struct CoreTime {
    /// Part of the time in which it was busy.
    pub busy: f64,
    /// Part of the time in which the kernel let us have it.
    pub cpu_share: f64,
    /// TSC cycles in which it was busy, without those that the kernel gave to others.
    pub busy_cycles: f64,
}

/// A finished run.
#[derive(Debug)]
pub struct Run {
    /// What was to be done.
    pub plan: RunPlan,
    /// The `--bdev` as given.
    pub specs: Vec<String>,
    /// The machine.
    pub host: Host,
    /// The devices, in the order given.
    pub devices: Vec<DeviceFacts>,
    /// Numbers of the cores used.
    pub cores: Vec<usize>,
    /// By core.
    pub core_times: Vec<CoreTime>,
    /// All workers.
    pub workers: Vec<WorkerRecord>,
    /// The tool's own cost.
    pub tool: ToolCost,
    /// It was ended by a signal.
    pub interrupted: bool,
}

/// The latency figures of a group, in microseconds.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean: f64,
    /// By [`Latency::QUANTILES`].
    pub quantiles: [f64; 5],
    /// Longest.
    pub max: f64,
}

impl Latency {
    /// Names and values of the quantiles that are reported.
    pub const QUANTILES: [(&'static str, f64); 5] =
        [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];
}

/// The figures of some workers together.
#[derive(Clone, Debug)]
pub struct Figures {
    /// I/Os.
    pub ops: u64,
    /// Seconds that they were measured for.
    pub seconds: f64,
    /// I/Os per second.
    pub iops: f64,
    /// MiB per second.
    pub mib_per_s: f64,
    /// Latencies; `None` without any I/O.
    pub latency: Option<Latency>,
    /// Busy TSC cycles per I/O, where they can be told.
    pub cycles_per_io: Option<f64>,
    /// Failed I/Os.
    pub errors: u64,
}

/// The sum of some workers.
pub struct Group {
    /// What they measured.
    pub measure: Measure,
    /// Bytes, by [`Class`].
    pub bytes: [u64; 3],
    ticks: u64,
    busy_ticks: u64,
}

impl Group {
    fn of<'a>(workers: impl Iterator<Item = &'a WorkerRecord>) -> Group {
        let mut group = Group { measure: Measure::new(), bytes: [0; 3], ticks: 0, busy_ticks: 0 };
        for worker in workers {
            let result = &worker.result;
            group.measure.add(&result.measure);
            for class in Class::ALL {
                let blocks = result.measure.classes[class as usize].blocks;
                group.bytes[class as usize] += blocks << worker.block_shift;
            }
            group.ticks = group.ticks.max(result.ticks);
            group.busy_ticks += result.busy_ticks;
        }
        group
    }

    fn figures(&self, rate: f64) -> Figures {
        let bytes = self.bytes.iter().sum();
        let busy = Some(self.busy_ticks);
        figures(&self.measure.total(), bytes, self.ticks, busy, self.measure.error_count(), rate)
    }

    /// The figures of one class; errors and cycles are not told apart by class.
    pub fn class(&self, class: Class, rate: f64) -> Figures {
        let bytes = self.bytes[class as usize];
        figures(&self.measure.classes[class as usize], bytes, self.ticks, None, 0, rate)
    }
}

/// `rate`: TSC ticks per second.
fn figures(
    sum: &ClassMeasure,
    bytes: u64,
    ticks: u64,
    busy_ticks: Option<u64>,
    errors: u64,
    rate: f64,
) -> Figures {
    let seconds = ticks as f64 / rate;
    let per_second = if ticks > 0 { 1.0 / seconds } else { 0.0 };
    let micros = |ticks: f64| ticks / rate * 1e6;
    let latency = (sum.ops > 0).then(|| Latency {
        mean: micros(sum.latency_sum as f64 / sum.ops as f64),
        quantiles: Latency::QUANTILES.map(|(_, quantile)| {
            // The bucket's upper end may lie beyond the exact maximum.
            micros(sum.latency.value_at_quantile(quantile).min(sum.latency_max) as f64)
        }),
        max: micros(sum.latency_max as f64),
    });
    Figures {
        ops: sum.ops,
        seconds,
        iops: sum.ops as f64 * per_second,
        mib_per_s: bytes as f64 / f64::from(1 << 20) * per_second,
        latency,
        cycles_per_io: busy_ticks.filter(|_| sum.ops > 0).map(|busy| busy as f64 / sum.ops as f64),
        errors,
    }
}

impl Run {
    fn rate(&self) -> f64 {
        self.host.tsc_rate as f64
    }

    /// All workers.
    pub fn total(&self) -> (Group, Figures) {
        let group = Group::of(self.workers.iter());
        let mut figures = group.figures(self.rate());
        // Cores know what their rounds cost as a whole; workers only their own part.
        let busy: f64 = self.core_times.iter().map(|time| time.busy_cycles).sum();
        figures.cycles_per_io = (figures.ops > 0).then(|| busy / figures.ops as f64);
        (group, figures)
    }

    /// The workers of one job.
    pub fn job(&self, job: usize) -> (Group, Figures) {
        self.group(|worker| worker.job == job)
    }

    /// The workers on one device.
    pub fn device(&self, device: usize) -> (Group, Figures) {
        self.group(|worker| worker.device == device)
    }

    /// The workers of one core.
    pub fn core(&self, core: usize) -> (Group, Figures) {
        let (group, mut figures) = self.group(|worker| worker.core == core);
        let busy = self.core_times[core].busy_cycles;
        figures.cycles_per_io = (figures.ops > 0).then(|| busy / figures.ops as f64);
        (group, figures)
    }

    fn group(&self, which: impl Fn(&WorkerRecord) -> bool) -> (Group, Figures) {
        let group = Group::of(self.workers.iter().filter(|worker| which(worker)));
        let figures = group.figures(self.rate());
        (group, figures)
    }

    /// Throughput of all workers over time.
    pub fn timeline(&self) -> Timeline {
        let mut workers = self.workers.iter();
        let Some(first) = workers.next() else { return Timeline::new(1) };
        let mut sum = first.result.timeline.clone();
        workers.for_each(|worker| sum.merge(&worker.result.timeline));
        sum
    }

    /// What the verifying workers of a job found, if it is one.
    pub fn findings(&self, job: usize) -> Option<Findings> {
        let mut sum: Option<Findings> = None;
        for worker in self.workers.iter().filter(|worker| worker.job == job) {
            if let Some(found) = &worker.result.findings {
                sum.get_or_insert_default().add(found);
            }
        }
        sum
    }

    /// Requests that a rate demanded and that had not been issued at the end.
    pub fn behind(&self, job: usize) -> u64 {
        self.workers.iter().filter(|w| w.job == job).map(|w| w.result.behind).sum()
    }

    /// Requests that never completed.
    pub fn lost(&self) -> u64 {
        self.workers.iter().map(|worker| worker.result.lost).sum()
    }

    /// Whether verification, where there was any, found everything as written.
    pub fn verified(&self) -> bool {
        let findings = (0..self.plan.jobs.len()).filter_map(|job| self.findings(job));
        findings.into_iter().all(|found| found.bad == 0 && !found.incomplete)
    }

    /// Adds what a core left behind; its workers ran the jobs and devices of `seats`, in order.
    pub fn add_core(&mut self, core: usize, result: CoreResult, seats: &[(usize, usize)]) {
        let cpu_share = result.cpu_share();
        self.core_times.push(CoreTime {
            busy: result.busy_ticks as f64 / result.ticks.max(1) as f64,
            cpu_share,
            busy_cycles: result.busy_ticks as f64 * cpu_share,
        });
        for (&(job, device), mut result) in seats.iter().zip(result.workers) {
            result.busy_ticks = (result.busy_ticks as f64 * cpu_share) as u64;
            let block_shift = self.devices[device].block_size.trailing_zeros();
            self.workers.push(WorkerRecord { job, device, core, block_shift, result });
        }
    }
}

/// A status for people: `WRITE_FAULT (2h/80h)` in the specification's words.
fn status_text(status: Status) -> String {
    let name = status.text().unwrap_or("status without a name");
    format!("{name} (SCT {:x}h, SC {:02x}h)", status.sct(), status.sc())
}
