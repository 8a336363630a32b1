//! The controllers of the process, by name. Owned by the control reactor.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use super::controller::Controller;
use super::info::{Coalescing, ControllerInfo, ControllerOptions};
use super::shared::Shared;
use crate::base::{Error, ErrorKind, Result};
use crate::bdev::{self, ConfigEntry};
use crate::reactor::Reactors;

/// Longest delay of interrupts, in microseconds.
const DELAY_MAX_US: u32 = 1_000_000;

/// All controllers. Cloning gives another handle.
#[derive(Clone)]
pub struct Controllers(Rc<Inner>);

struct Inner {
    shared: Rc<Shared>,
    directory: PathBuf,
    controllers: RefCell<Vec<Rc<Controller>>>,
}

impl Controllers {
    /// No controllers yet; their sockets will be in `directory`.
    pub fn new(registry: &bdev::Registry, reactors: &Reactors, directory: PathBuf) -> Controllers {
        Controllers(Rc::new(Inner {
            shared: Rc::new(Shared::new(registry, reactors)),
            directory,
            controllers: RefCell::default(),
        }))
    }

    fn find(&self, name: &str) -> Result<Rc<Controller>> {
        let controllers = self.0.controllers.borrow();
        controllers.iter().find(|controller| controller.name() == name).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NoDevice, format!("no vhost controller is named '{name}'"))
        })
    }

    /// Makes a controller and listens for its front end.
    ///
    /// # Errors
    /// `Exists` when the name is taken; `NoDevice` and `NotPermitted` as for any opener of the bdev; `Invalid` for a
    /// name that is no file name or reactors that are not there; whatever the system says of the socket.
    pub fn create(&self, options: ControllerOptions) -> Result<()> {
        let name = &options.name;
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(Error::invalid(format!(
                "'{name}' cannot be the name of a vhost controller: a socket is named so"
            )));
        }
        if self.find(name).is_ok() {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("a vhost controller is named '{name}' already"),
            ));
        }
        let count = self.0.shared.reactors.len();
        if let Some(reactor) = options.reactors.iter().find(|&&reactor| reactor >= count) {
            return Err(Error::invalid(format!("reactor {reactor} (there are {count})")));
        }
        let path = self.0.directory.join(name);
        let controller = Controller::start(&self.0.shared, options, path)?;
        self.0.controllers.borrow_mut().push(controller);
        Ok(())
    }

    /// Removes a controller and its socket.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name; `Busy` when a front end is connected.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let controller = self.find(name)?;
        if controller.is_connected() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "the vhost controller '{name}' has a front end; shut the machine down first"
                ),
            ));
        }
        self.remove(&controller).await;
        Ok(())
    }

    async fn remove(&self, controller: &Rc<Controller>) {
        self.0.controllers.borrow_mut().retain(|other| !Rc::ptr_eq(other, controller));
        controller.stop().await;
    }

    /// All controllers, or the one of this name, in the order of their making.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name.
    pub fn list(&self, name: Option<&str>) -> Result<Vec<ControllerInfo>> {
        match name {
            Some(name) => Ok(vec![self.find(name)?.info()]),
            None => {
                Ok(self.0.controllers.borrow().iter().map(|controller| controller.info()).collect())
            }
        }
    }

    /// Changes when interrupts are held back, also on queues that run.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name; `Invalid` for a delay beyond a second.
    pub fn set_coalescing(&self, name: &str, coalescing: Coalescing) -> Result<()> {
        let controller = self.find(name)?;
        if coalescing.delay_base_us > DELAY_MAX_US {
            return Err(Error::invalid(format!(
                "interrupts held back for {} us ({DELAY_MAX_US} are possible)",
                coalescing.delay_base_us
            )));
        }
        controller.set_coalescing(coalescing);
        Ok(())
    }

    /// Lets another reactor poll a queue, with nothing lost.
    ///
    /// # Errors
    /// `NoDevice` when there is no such controller; `NotFound` when its front end has no such queue; `Invalid` for a
    /// reactor that is not there.
    pub async fn move_queue(&self, name: &str, queue: u16, reactor: usize) -> Result<()> {
        let controller = self.find(name)?;
        let count = self.0.shared.reactors.len();
        if reactor >= count {
            return Err(Error::invalid(format!("reactor {reactor} (there are {count})")));
        }
        controller.move_queue(queue, reactor).await
    }

    /// The RPC calls that make the controllers again.
    pub fn config(&self) -> Vec<ConfigEntry> {
        self.0.controllers.borrow().iter().flat_map(|controller| controller.config()).collect()
    }

    /// Removes all controllers, connected or not: what their front ends have in flight is ended and answered, and they
    /// find the socket gone.
    pub async fn stop(&self) {
        let controllers = self.0.controllers.borrow().clone();
        for controller in controllers {
            self.remove(&controller).await;
        }
    }
}
