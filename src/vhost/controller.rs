//! One controller: a socket, the bdev behind it, and a session for each front end that is connected.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tracing::{info, warn};

use super::info::{Coalescing, ControllerInfo, ControllerOptions};
use super::session::{Order, Session, SessionFacts};
use super::shared::Shared;
use crate::base::{Error, ErrorKind, Result};
use crate::bdev::{Claim, ConfigEntry, Descriptor, Device, Event};
use crate::reactor::{CoreList, Watched};
use crate::socket::Listener;

/// Most front ends at once. Two are for a machine that migrates within the host.
const SESSIONS_MAX: usize = 8;

/// How long a listener rests when the process has no descriptors left.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How often the end of sessions is looked for.
const END_POLL: Duration = Duration::from_millis(1);

/// One controller.
pub struct Controller {
    shared: Rc<Shared>,
    options: ControllerOptions,
    socket: PathBuf,
    listener: RefCell<Option<Listener>>,
    /// `None` once the device has gone.
    device: RefCell<Option<Descriptor>>,
    coalescing: Cell<Coalescing>,
    write_back: Rc<Cell<Option<bool>>>,
    sessions: RefCell<Vec<Rc<Session>>>,
}

impl Controller {
    /// Opens the bdev and listens.
    pub fn start(
        shared: &Rc<Shared>,
        options: ControllerOptions,
        socket: PathBuf,
    ) -> Result<Rc<Controller>> {
        let doing =
            |error: Error| error.context(format_args!("vhost controller '{}'", options.name));
        let readiness = shared.readiness()?;
        let listener = Listener::bind(&socket).map_err(doing)?;
        let watched = readiness.watch(listener.socket().as_fd()).map_err(doing)?;
        let claim = if options.read_only { Claim::Read } else { Claim::Write };
        // The handler needs the controller, which needs what the handler is for.
        let place: Rc<RefCell<Weak<Controller>>> = Rc::default();
        let handler = Rc::clone(&place);
        let device = shared
            .registry
            .open(&options.bdev, claim, move |event| {
                if let Some(controller) = handler.borrow().upgrade() {
                    controller.device_changed(event);
                }
            })
            .map_err(doing)?;
        let controller = Rc::new(Controller {
            shared: Rc::clone(shared),
            options,
            socket,
            listener: RefCell::new(Some(listener)),
            device: RefCell::new(Some(device)),
            coalescing: Cell::default(),
            write_back: Rc::default(),
            sessions: RefCell::default(),
        });
        *place.borrow_mut() = Rc::downgrade(&controller);
        shared.cx.spawn(listen(Rc::downgrade(&controller), watched));
        Ok(controller)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Whether a front end is connected.
    pub fn is_connected(&self) -> bool {
        self.sessions.borrow().iter().any(|session| session.is_connected())
    }

    /// How it stands.
    pub fn info(&self) -> ControllerInfo {
        let sessions = self.sessions.borrow();
        ControllerInfo {
            options: self.options.clone(),
            has_device: self.device.borrow().is_some(),
            socket: self.socket.clone(),
            coalescing: self.coalescing.get(),
            sessions: sessions.iter().map(|session| session.info()).collect(),
        }
    }

    /// The calls that make it again.
    pub fn config(&self) -> Vec<ConfigEntry> {
        let options = &self.options;
        let mut params = json!({
            "ctrlr": options.name,
            "dev_name": options.bdev,
            "readonly": options.read_only,
            "transport": "vhost_user_blk",
        });
        if !options.reactors.is_empty() {
            let core_of = |&index: &usize| self.shared.reactors.core_of(index);
            let cores = options.reactors.iter().map(core_of).collect();
            if let Ok(cores) = CoreList::new(cores) {
                params["cpumask"] = json!(cores.mask());
            }
        }
        if options.packed_ring {
            params["packed_ring"] = json!(true);
        }
        let mut calls = vec![ConfigEntry { method: "vhost_create_blk_controller", params }];
        let coalescing = self.coalescing.get();
        if coalescing != Coalescing::default() {
            let params = json!({
                "ctrlr": options.name,
                "delay_base_us": coalescing.delay_base_us,
                "iops_threshold": coalescing.iops_threshold,
            });
            calls.push(ConfigEntry { method: "vhost_controller_set_coalescing", params });
        }
        calls
    }

    /// Changes when interrupts are held back.
    pub fn set_coalescing(&self, coalescing: Coalescing) {
        self.coalescing.set(coalescing);
        self.tell_sessions(|| Order::Coalesce(coalescing));
    }

    /// Lets another reactor poll a queue.
    pub async fn move_queue(&self, queue: u16, reactor: usize) -> Result<()> {
        let session = self.sessions.borrow().iter().find(|session| session.polls(queue)).cloned();
        let Some(session) = session else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("no front end of '{}' has set up virtqueue {queue}", self.name()),
            ));
        };
        session.move_queue(queue, reactor).await
    }

    fn tell_sessions(&self, order: impl Fn() -> Order) {
        self.sessions.borrow().iter().for_each(|session| session.order(order()));
    }

    /// The device has changed: called by the registry.
    fn device_changed(self: &Rc<Self>, event: &Event) {
        match event {
            Event::Resized(_) => self.tell_sessions(|| Order::ConfigChanged),
            Event::Removing => {
                let controller = Rc::clone(self);
                self.shared.cx.spawn(async move { controller.close_device().await });
            }
        }
    }

    /// Lets go of the device. The sessions stay, and fail what they are asked.
    async fn close_device(&self) {
        info!(
            controller = self.name(),
            bdev = self.options.bdev,
            "the bdev of a vhost controller goes"
        );
        let sessions = self.sessions.borrow().clone();
        for session in sessions {
            session.close_device().await;
        }
        self.device.take();
    }

    fn accept(self: &Rc<Self>) -> Result<()> {
        loop {
            let accepted = match &*self.listener.borrow() {
                Some(listener) => listener
                    .accept()
                    .map_err(|error| Error::os("accept a vhost-user front end", error))?,
                None => return Ok(()),
            };
            let Some(stream) = accepted else { return Ok(()) };
            if let Err(error) = self.serve(stream) {
                warn!(controller = self.name(), "a front end is turned away: {error}");
            }
        }
    }

    /// Starts a session over a connection.
    fn serve(self: &Rc<Self>, stream: UnixStream) -> Result<()> {
        let connected = self.sessions.borrow().iter().filter(|it| it.is_connected()).count();
        if connected >= SESSIONS_MAX {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{SESSIONS_MAX} are connected already"),
            ));
        }
        let device: Option<Arc<Device>> =
            self.device.borrow().as_ref().map(|descriptor| Arc::clone(descriptor.device()));
        let device = device.ok_or_else(|| {
            Error::new(ErrorKind::NoDevice, format!("bdev '{}' has gone", self.options.bdev))
        })?;
        let facts = SessionFacts {
            controller: self.options.name.clone(),
            reactors: self.options.reactors.clone(),
            packed_ring: self.options.packed_ring,
            coalescing: self.coalescing.get(),
            write_back: Rc::clone(&self.write_back),
            // Those that have lost their front end, and end what it left in flight.
            before: self.sessions.borrow().iter().map(Rc::downgrade).collect(),
        };
        let (session, life) =
            Session::new(&self.shared, facts, &device, self.options.read_only, stream)?;
        self.sessions.borrow_mut().push(Rc::clone(&session));
        let controller = Rc::downgrade(self);
        self.shared.cx.spawn(async move {
            life.await;
            if let Some(controller) = controller.upgrade() {
                controller.sessions.borrow_mut().retain(|other| !Rc::ptr_eq(other, &session));
            }
        });
        Ok(())
    }

    /// Ends all sessions, with what they have in flight, and removes the socket.
    pub async fn stop(&self) {
        self.listener.take();
        self.tell_sessions(|| Order::End);
        while !self.sessions.borrow().is_empty() {
            self.shared.cx.sleep(END_POLL).await;
        }
        self.device.take();
    }
}

/// Accepts front ends for as long as the controller listens.
async fn listen(controller: Weak<Controller>, watched: Watched) {
    loop {
        watched.readable().await;
        let Some(controller) = controller.upgrade() else { return };
        if controller.listener.borrow().is_none() {
            return;
        }
        if let Err(error) = controller.accept() {
            warn!(controller = controller.name(), "{error}");
            let rest = controller.shared.cx.sleep(ACCEPT_REST);
            drop(controller);
            rest.await;
        }
    }
}
