//! One run from start to end: reactors, devices, calibration, the jobs, and what they found.

use std::sync::Arc;
use std::time::Duration;

use weft::base::{ByteCount, Error, Result};
use weft::bdev::{Claim, Descriptor, Device, Registry};
use weft::daemon::{load_devices, local_services, remove_devices};
use weft::memory::{PoolOptions, RegionOptions, Sharing};
use weft::reactor::{
    Context, CoreList, IdlePolicy, PollerId, ReactorOptions, Reactors, ShutdownSignals, Tsc,
};
use weft::rpc::Services;

use crate::arguments::Arguments;
use crate::core::{Core, CoreResult, Outcome, Signals, Timing};
use crate::crew::{Seat, seats};
use crate::host::Host;
use crate::plan::RunPlan;
use crate::progress::ProgressLine;
use crate::report::{DeviceFacts, Run, ToolCost};
use crate::spec::{Builder, Node, parse};
use crate::worker::Drive;

/// How long the empty queue is driven before it is measured, and measured.
const CALIBRATION: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(80));
/// How often the control task looks whether all is done.
const LOOK: Duration = Duration::from_millis(5);
/// Workers of large requests on memory are busy for long at a time; nobody else needs the reactor.
const HOG_LIMIT: Duration = Duration::from_secs(10);

/// Does what the command line says.
///
/// # Errors
/// What keeps the run from starting. Failed I/O is no error here but a figure.
pub fn run(arguments: &Arguments) -> Result<Run> {
    let plan = arguments.plan()?;
    if arguments.specs().next().is_none() && arguments.config.is_none() {
        return Err(Error::invalid(
            "there is no device to drive: give --bdev, such as --bdev malloc:size=512M, or --config",
        ));
    }
    let specs = arguments
        .specs()
        .map(|spec| parse(&spec).map_err(|error| Error::invalid(format!("--bdev: {error}"))));
    let nodes = specs.collect::<Result<Vec<_>>>()?;
    let cores = match &arguments.cores {
        Some(text) => text.parse::<CoreList>().map_err(|error| error.context("-m"))?,
        None => CoreList::first_allowed()?,
    };
    // Before the thread is pinned and sees one processor only.
    let host = Host::read(Tsc::rate());
    let mut memory =
        arguments.memory.open(arguments.dpdk_args.as_deref(), arguments.huge_pages.into())?;
    if nodes.iter().any(Node::shares_memory) {
        memory.sharing = Sharing::Always;
    }
    let options = ReactorOptions {
        idle: IdlePolicy::Poll,
        hog_limit: HOG_LIMIT,
        pool: PoolOptions { max: ByteCount(1 << 40), ..memory.into() },
        ..ReactorOptions::new(cores.clone())
    };
    weft::reactor::run(options, async |cx, reactors| {
        Session { cx, reactors, arguments, memory, cores, host }.run(plan, &nodes).await
    })?
}

struct Session<'a> {
    cx: Context,
    reactors: Reactors,
    arguments: &'a Arguments,
    memory: RegionOptions,
    cores: CoreList,
    host: Host,
}

impl Session<'_> {
    async fn run(&self, plan: RunPlan, nodes: &[Node]) -> Result<Run> {
        let _signals = ShutdownSignals::install(&self.cx, &self.reactors)?;
        let config = self.arguments.config.as_deref();
        // The services own the raids: they stay until the devices are gone.
        let services = match config {
            Some(path) => load_devices(&self.cx, &self.reactors, path, self.memory.into()).await?,
            None => local_services(&self.cx, &self.reactors, self.memory.into()).await?,
        };
        let result = self.run_with(&services, plan, nodes).await;
        remove_devices(&services).await;
        result
    }

    /// The devices to drive: of the configuration, those that no other stands on; then each `--bdev`.
    async fn devices(&self, services: &Services, nodes: &[Node]) -> Result<Vec<Arc<Device>>> {
        let mut devices = services.bdevs.list();
        devices.retain(|device| services.bdevs.claimed_by(device.name()).is_none());
        let builder = Builder::new(services);
        for node in nodes {
            devices.push(builder.build(node).await?);
        }
        match &self.arguments.config {
            Some(path) if devices.is_empty() => Err(Error::invalid(format!(
                "the configuration {} makes no device to drive",
                path.display()
            ))),
            _ => Ok(devices),
        }
    }

    async fn run_with(&self, services: &Services, plan: RunPlan, nodes: &[Node]) -> Result<Run> {
        let devices = self.devices(services, nodes).await?;
        // Who finds a label of its own on a device claims it: that is to show now, not under way.
        services.bdevs.wait_for_examine().await;
        let drain = Tsc::ticks(self.arguments.drain);
        let seats = seats(&plan, &devices, self.reactors.len(), drain)?;
        let _open = open(&services.bdevs, &plan, &devices)?;
        let tool = self.calibrate(&seats[0]).await?;
        let mut run = Run {
            specs: self.arguments.sources(),
            host: self.host.clone(),
            devices: devices.iter().map(|device| facts(device)).collect(),
            cores: self.cores.cores().to_vec(),
            core_times: Vec::new(),
            workers: Vec::new(),
            tool,
            interrupted: false,
            plan,
        };
        let timing = Timing {
            warmup: Tsc::ticks(run.plan.warmup),
            duration: Tsc::ticks(run.plan.duration),
            period: Tsc::ticks(
                (run.plan.duration / 100).clamp(Duration::from_millis(10), Duration::from_secs(1)),
            ),
        };
        let progress = seats.iter().flatten().map(|seat| Arc::clone(&seat.progress)).collect();
        let quiet = self.arguments.quiet || self.arguments.json;
        let line = ProgressLine::new(progress, quiet);
        let places: Vec<Vec<(usize, usize)>> = seats
            .iter()
            .map(|seats| seats.iter().map(|seat| (seat.job, seat.device)).collect())
            .collect();
        let results = self.drive(seats, Seat::worker, timing, line).await?;
        for (core, (result, places)) in results.into_iter().zip(&places).enumerate() {
            run.add_core(core, result, places);
        }
        run.interrupted = self.reactors.is_shutdown_requested();
        Ok(run)
    }

    /// Drives an empty queue with the first job's options on the first core.
    async fn calibrate(&self, seats: &[Seat]) -> Result<ToolCost> {
        let seat = seats.first().cloned();
        let seat = seat.ok_or_else(|| Error::invalid("no job drives any device"))?;
        let timing = Timing {
            warmup: Tsc::ticks(CALIBRATION.0),
            duration: Tsc::ticks(CALIBRATION.1),
            period: Tsc::ticks(CALIBRATION.1),
        };
        let line = ProgressLine::new(Vec::new(), true);
        let results = self.drive(vec![vec![seat]], Seat::calibration, timing, line).await?;
        let result = results.first();
        let ops: u64 = result.map_or(0, |core| core.workers.iter().map(|w| w.measure.ops()).sum());
        let busy = result.map_or(0.0, |core| core.busy_ticks as f64 * core.cpu_share());
        let cycles_per_io = busy / ops.max(1) as f64;
        Ok(ToolCost { cycles_per_io, ns_per_io: cycles_per_io / Tsc::rate() as f64 * 1e9 })
    }

    /// Makes the workers of each core on its reactor, starts them together and waits for all.
    async fn drive(
        &self,
        seats: Vec<Vec<Seat>>,
        make: fn(Seat, &Context) -> Result<Box<dyn Drive>>,
        timing: Timing,
        mut line: ProgressLine,
    ) -> Result<Vec<CoreResult>> {
        let signals = Arc::new(Signals::default());
        let outcomes: Vec<Arc<Outcome>> = seats.iter().map(|_| Arc::default()).collect();
        let mut pollers: Vec<PollerId> = Vec::new();
        let mut failure = None;
        for (core, seats) in seats.into_iter().enumerate() {
            let (signals, outcome) = (Arc::clone(&signals), Arc::clone(&outcomes[core]));
            let installed = self.reactors.call(core, move |cx| {
                let workers = seats.into_iter().map(|seat| make(seat, cx));
                let workers = workers.collect::<Result<Vec<_>>>()?;
                let core = Core::new(workers, signals, outcome, timing);
                Ok(cx.add_poller("weft-perf", None, Box::new(core)))
            });
            match installed.await.and_then(|installed| installed) {
                Ok(poller) => pollers.push(poller),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let mut results: Vec<Option<CoreResult>> = outcomes.iter().map(|_| None).collect();
        if failure.is_none() {
            signals.start();
            while results.iter().any(Option::is_none) {
                self.cx.sleep(LOOK).await;
                if self.reactors.is_shutdown_requested() {
                    signals.stop();
                }
                for (result, outcome) in results.iter_mut().zip(&outcomes) {
                    if result.is_none() {
                        *result = outcome.take();
                    }
                }
                line.tick();
            }
        }
        line.finish();
        for (core, poller) in pollers.into_iter().enumerate() {
            self.reactors.call(core, move |cx| cx.remove_poller(poller)).await?;
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(results.into_iter().flatten().collect()),
        }
    }
}

/// Opens each device as its jobs use it.
fn open(registry: &Registry, plan: &RunPlan, devices: &[Arc<Device>]) -> Result<Vec<Descriptor>> {
    let writes = plan.jobs.iter().any(|job| job.workload.writes() && !job.verify.only);
    let claim = if writes { Claim::Write } else { Claim::Read };
    devices.iter().map(|device| registry.open(device.name(), claim, |_| {})).collect()
}

fn facts(device: &Device) -> DeviceFacts {
    let geometry = device.geometry();
    DeviceFacts {
        name: device.name().into(),
        product_name: device.info().product_name.into(),
        block_size: geometry.block_size.bytes(),
        capacity: geometry.capacity().0,
    }
}
