//! The life of the daemon: what starts after what, and what stops before what.
//!
//! Start: lock and socket (so that a second daemon fails at once), reactors, signals, options from
//! the configuration, devices from the configuration, RPC, readiness. Clients that connect early wait in
//! the socket's backlog until the daemon is ready; with `--wait-for-rpc`, RPC comes first. Stop:
//! no more requests, those under way finish, front ends go, then devices from the top of the stack down, the socket
//! and the lock go, reactors stop.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::FutureExt;

use super::config::Config;
use super::log::Control;
use super::notify::notify;
use super::options::Options;
use crate::base::{Error, Result};
use crate::bdev;
use crate::bdev::leaf::nvme::{Controllers, Hotplug};
use crate::bdev::leaf::virtio;
use crate::bdev::vbdev::mirror::MirrorKind;
use crate::bdev::vbdev::{Raids, WaitingList, linear, stripe};
use crate::load::Loads;
use crate::memory::RegionOptions;
use crate::nvme::vfio::VfioOptions;
use crate::reactor::{self, Context, ReactorOptions, Reactors, ShutdownSignals};
use crate::rpc::{BdevOptions, Framework, Server, Services, methods};
use crate::socket::Listener;
use crate::vhost;

/// How long the stop waits for requests that are under way.
const REQUESTS_PATIENCE: Duration = Duration::from_secs(5);
/// How long the stop waits for one device to let go of what it has outstanding.
const DEVICE_PATIENCE: Duration = Duration::from_secs(10);
/// Mode of a directory that only the daemon uses.
const OWN_MODE: u32 = 0o700;
/// Mode of the directory of sockets: other users' virtual machines reach them, each socket has its own mode.
const SHARED_MODE: u32 = 0o755;
/// A poller that runs longer than this is named in the log.
const HOG_LIMIT: Duration = Duration::from_millis(10);

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// When it cannot start: the socket is taken, the configuration does not work, cores are not to be
/// had.
pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    if let Some(directory) = &options.state_dir {
        make(directory, OWN_MODE)?;
    }
    let vhost_directory = options.vhost_directory()?;
    if options.vhost_dir.is_some() {
        make(&vhost_directory, SHARED_MODE)?;
    }
    let config = match options.config_file()? {
        Some(path) => Config::read(&path)?,
        None => Config::default(),
    };
    let listener = Listener::bind(&options.socket())?;
    // Before threads are pinned, and so before reactors.
    let memory = options.memory()?;
    let reactors = ReactorOptions {
        cores: options.cores()?,
        idle: options.idle.into(),
        hog_limit: HOG_LIMIT,
        pool: memory.into(),
    };
    let options = options.clone();
    reactor::run(reactors, async move |cx: Context, reactors: Reactors| {
        let vfio = VfioOptions { no_iommu: options.unsafe_no_iommu };
        let daemon = Daemon::new(cx, reactors, Hardware { memory, vfio }, vhost_directory);
        daemon.live(&options, &config, listener, start).await
    })?
}

/// The services without a socket and without a device: for tools that make and drive devices in their
/// own process.
///
/// # Errors
/// None so far but that of a framework that does not start.
pub async fn local_services(
    cx: &Context,
    reactors: &Reactors,
    hardware: Hardware,
) -> Result<Rc<Services>> {
    initialized(cx, reactors, &Config::default(), hardware).await
}

/// As [`local_services`], with the devices of the configuration at `path`, which are not served to anybody. They are in the registry of
/// the services; [`remove_devices`] ends their use in order.
///
/// # Errors
/// As [`run`] with this configuration.
pub async fn load_devices(
    cx: &Context,
    reactors: &Reactors,
    path: &Path,
    hardware: Hardware,
) -> Result<Rc<Services>> {
    initialized(cx, reactors, &Config::read(path)?.without_front_ends(), hardware).await
}

async fn initialized(
    cx: &Context,
    reactors: &Reactors,
    config: &Config,
    hardware: Hardware,
) -> Result<Rc<Services>> {
    // Nothing makes a socket there: there is no RPC, and the configuration comes without front ends.
    let daemon = Daemon::new(cx.clone(), reactors.clone(), hardware, PathBuf::from("."));
    daemon.services.framework.begin().map_err(|error| Error::invalid(error.to_string()))?;
    daemon.initialize(config).await?;
    Ok(daemon.services)
}

fn make(directory: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(|error| Error::os(format!("make the directory {}", directory.display()), error))
}

/// What is said of memory and devices for the whole process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hardware {
    /// What the memory of new devices is like.
    pub memory: RegionOptions,
    /// How PCIe functions are opened.
    pub vfio: VfioOptions,
}

impl From<RegionOptions> for Hardware {
    fn from(memory: RegionOptions) -> Hardware {
        Hardware { memory, ..Hardware::default() }
    }
}

struct Daemon {
    cx: Context,
    services: Rc<Services>,
    begin: RefCell<Option<futures_channel::oneshot::Receiver<()>>>,
}

impl Daemon {
    fn new(
        cx: Context,
        reactors: Reactors,
        hardware: Hardware,
        vhost_directory: PathBuf,
    ) -> Daemon {
        let (framework, begin) = Framework::new();
        let bdevs = bdev::Registry::new(&cx);
        let raids = Raids::new(&bdevs);
        raids.add_kind(stripe::kind());
        raids.add_kind(linear::kind());
        let mirrors = MirrorKind::new(&bdevs, &raids);
        raids.add_kind(Rc::clone(&mirrors) as _);
        let nvme = Controllers::new(&bdevs, Some(reactors.clone()), hardware.vfio);
        let virtio = virtio::Controllers::new(&bdevs, Some(reactors.clone()));
        let services = Rc::new(Services {
            cx: cx.clone(),
            hotplug: Hotplug::new(&cx, &nvme),
            nvme,
            vhost: vhost::Controllers::new(&bdevs, &reactors, vhost_directory),
            virtio,
            loads: Loads::new(&bdevs, &reactors),
            reactors,
            waiting: WaitingList::new(&bdevs),
            raids,
            mirrors,
            bdevs,
            framework,
            log: Box::new(Control),
            method_names: methods::names,
            memory: hardware.memory,
            bdev_options: RefCell::new(BdevOptions::default()),
        });
        Daemon { cx, services, begin: RefCell::new(Some(begin)) }
    }

    async fn live(
        &self,
        options: &Options,
        config: &Config,
        listener: Listener,
        start: Instant,
    ) -> Result<()> {
        let _signals = ShutdownSignals::install(&self.cx, &self.services.reactors)?;
        let ended = self.services.reactors.shutdown_requested();
        let path = listener.path().to_owned();
        let mut listener = Some(listener);
        let mut server = None;
        let mut serve = || match listener.take() {
            Some(listener) => {
                server = Some(Server::start(Rc::clone(&self.services), listener)?);
                Ok(())
            }
            None => Ok(()),
        };
        if options.wait_for_rpc {
            serve()?;
            tracing::info!(socket = %path.display(), "waiting for framework_start_init");
            notify("READY=1\nSTATUS=Waiting for framework_start_init");
        } else {
            self.services.framework.begin().map_err(|error| Error::invalid(error.to_string()))?;
        }
        let ended_early = async {
            self.services.reactors.shutdown_requested().await;
            Ok(false)
        };
        let initialized = async { self.initialize(config).await.map(|()| true) };
        let outcome = match initialized.or(ended_early).await {
            Ok(true) => {
                serve()?;
                tracing::info!(
                    socket = %path.display(),
                    devices = self.services.bdevs.list().len(),
                    ready_ms = start.elapsed().as_millis() as u64,
                    "serving"
                );
                notify("READY=1\nSTATUS=Serving");
                ended.await;
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        tracing::info!("stopping");
        notify("STOPPING=1\nSTATUS=Stopping");
        self.stop(server).await;
        outcome
    }

    async fn initialize(&self, config: &Config) -> Result<()> {
        let begin = self.begin.borrow_mut().take();
        if let Some(begin) = begin {
            // The framework lives as long as `self`.
            begin.await.ok();
        }
        let outcome = self.load(config).await;
        self.services.framework.finish(&outcome);
        outcome
    }

    async fn load(&self, config: &Config) -> Result<()> {
        config.apply(&self.services, false).await?;
        self.services.framework.load();
        config.apply(&self.services, true).await?;
        self.services.bdevs.wait_for_examine().await;
        Ok(())
    }

    async fn stop(&self, server: Option<Server>) {
        if let Some(server) = server {
            server.stop(REQUESTS_PATIENCE).await;
        }
        remove_devices(&self.services).await;
    }
}

/// Removes all devices, after whoever uses them, those on top before those below, so that what they keep on disk says that they were
/// left in order. A device that does not let go of what it has outstanding is named in the log and left.
pub async fn remove_devices(services: &Services) {
    let late = "vhost controllers are left as they are: their requests do not end";
    or_leave(services, services.vhost.stop(), late).await;
    // What stands on others was made after them.
    for device in services.bdevs.list().into_iter().rev() {
        if services.bdevs.find(device.name()).is_none() {
            // It went with one above it.
            continue;
        }
        let gone = async { services.bdevs.unregister(device.name()).await };
        let late = async {
            services.cx.sleep(DEVICE_PATIENCE).await;
            Err(Error::new(crate::base::ErrorKind::TimedOut, "it is still in use"))
        };
        if let Err(error) = gone.or(late).await {
            tracing::warn!("removing bdev '{}': {error}", device.name());
        }
    }
    // Nothing is attached by itself any more.
    services.hotplug.set(None);
    let late = "NVMe controllers are left as they are: their bdevs are still in use";
    or_leave(services, services.nvme.detach_all(), late).await;
    let late = "virtio devices are left as they are: their bdevs are still in use";
    or_leave(services, services.virtio.detach_all(), late).await;
}

/// Waits for `gone`, but not for ever: then the log says what is `late`.
async fn or_leave(services: &Services, gone: impl Future<Output = ()>, late: &str) {
    let patience = async {
        services.cx.sleep(DEVICE_PATIENCE).await;
        tracing::warn!("{late}");
    };
    gone.or(patience).await;
}
