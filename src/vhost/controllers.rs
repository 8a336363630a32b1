//! The controllers of the process, by name.

use std::path::PathBuf;
use std::rc::Rc;

use crate::base::{Error, ErrorKind, Result};
use crate::bdev::{self, ConfigEntry};
use crate::reactor::Reactors;

/// What a controller is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerOptions {
    /// Its name, and that of its socket in the directory of sockets.
    pub name: String,
    /// The bdev.
    pub bdev: String,
    /// Indices of the reactors that may poll its queues; empty for all.
    pub reactors: Vec<usize>,
    /// Writes are refused.
    pub read_only: bool,
    /// Packed rings are offered.
    pub packed_ring: bool,
}

/// When interrupts are held back, so that one tells of several completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalescing {
    /// For how long at most, in microseconds; 0 holds none back.
    pub delay_base_us: u32,
    /// Only when a queue completes more requests per second than this.
    pub iops_threshold: u32,
}

/// How a controller stands.
#[derive(Clone, Debug)]
pub struct ControllerInfo {
    /// What it was to be.
    pub options: ControllerOptions,
    /// Where its socket is.
    pub socket: PathBuf,
    /// When interrupts are held back.
    pub coalescing: Coalescing,
    /// Its front ends; one at most.
    pub sessions: Vec<SessionInfo>,
}

/// How a front end stands.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Number of the session in this process.
    pub id: u32,
    /// Whether any queue is polled.
    pub started: bool,
    /// Feature bits that were agreed on.
    pub features: u64,
    /// Queues that the device has.
    pub queues_max: u16,
    /// Bytes of guest memory.
    pub memory: u64,
    /// The queues that are set up.
    pub queues: Vec<QueueInfo>,
    /// Why it was stopped, if its driver must reset it.
    pub fault: Option<String>,
}

/// How a queue stands.
#[derive(Clone, Copy, Debug)]
pub struct QueueInfo {
    /// Its index.
    pub index: u16,
    /// Reactor that polls it.
    pub reactor: usize,
    /// How many descriptors it has.
    pub size: u16,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests completed since it was started.
    pub completed: u64,
    /// Interrupts sent since it was started.
    pub interrupts: u64,
    /// Notifications received since it was started.
    pub kicks: u64,
}

/// All controllers. Cloning gives another handle.
#[derive(Clone)]
pub struct Controllers(Rc<Inner>);

struct Inner {
    registry: bdev::Registry,
    reactors: Reactors,
    directory: PathBuf,
}

impl Controllers {
    /// No controllers yet; their sockets will be in `directory`.
    pub fn new(registry: &bdev::Registry, reactors: &Reactors, directory: PathBuf) -> Controllers {
        Controllers(Rc::new(Inner {
            registry: registry.clone(),
            reactors: reactors.clone(),
            directory,
        }))
    }

    /// Makes a controller and listens for its front end.
    ///
    /// # Errors
    /// `Exists` when the name is taken; `NoDevice` and `NotPermitted` as for any opener of the bdev; `Invalid` for a
    /// name that is no file name or reactors that are not there; whatever the system says of the socket.
    pub fn create(&self, options: ControllerOptions) -> Result<()> {
        let _ = (&self.0.registry, &self.0.reactors, &self.0.directory, options);
        Err(Error::new(ErrorKind::Unsupported, "not yet"))
    }

    /// Removes a controller and its socket, when its requests in flight have ended.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name; `Busy` when a front end is connected.
    pub async fn delete(&self, name: &str) -> Result<()> {
        Err(Error::new(ErrorKind::NoDevice, format!("no vhost controller is named '{name}'")))
    }

    /// All controllers, or the one of this name, in the order of their making.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name.
    pub async fn list(&self, name: Option<&str>) -> Result<Vec<ControllerInfo>> {
        let _ = name;
        Ok(Vec::new())
    }

    /// Changes when interrupts are held back, also on queues that run.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name; `Invalid` for a delay beyond a second.
    pub fn set_coalescing(&self, name: &str, coalescing: Coalescing) -> Result<()> {
        let _ = coalescing;
        Err(Error::new(ErrorKind::NoDevice, format!("no vhost controller is named '{name}'")))
    }

    /// Lets another reactor poll a queue, with nothing lost.
    ///
    /// # Errors
    /// `NoDevice` when there is no such controller; `NotFound` when its front end has no such queue; `Invalid` for a reactor that is
    /// not there.
    pub async fn move_queue(&self, name: &str, queue: u16, reactor: usize) -> Result<()> {
        let _ = (queue, reactor);
        Err(Error::new(ErrorKind::NoDevice, format!("no vhost controller is named '{name}'")))
    }

    /// The RPC calls that make the controllers again.
    pub fn config(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }

    /// Removes all controllers, connected or not.
    pub async fn stop(&self) {}
}
