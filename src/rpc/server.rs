//! The server: accepts clients and gives each its turns, on the control reactor.
//!
//! An epoll set holds the listener and all clients; a look at it costs one system call, and a
//! reactor that sleeps is woken by it. Requests run as tasks of the reactor.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::connection::{Connection, Turn};
use super::services::Services;
use crate::base::limits::RPC_CLIENTS_MAX;
use crate::base::{Error, Result};
use crate::reactor::{Activity, Context, Poller, PollerId, Tsc, WakeGuard};
use crate::socket::Listener;

/// How often a reactor that is awake looks after the clients. A timed poller would wake one that
/// sleeps as often, for nothing; so this one runs in every round and mostly does nothing.
const PERIOD: Duration = Duration::from_micros(100);
/// How long one look may give clients their turns.
const LOOK: Duration = Duration::from_micros(500);
/// How often the end of the last requests is looked for while the server stops.
const STOP_POLL: Duration = Duration::from_millis(1);

/// The key of the listener in the epoll set.
const LISTENER: u64 = 0;

/// A running server. Dropping it closes all connections.
pub struct Server {
    state: Rc<State>,
    poller: PollerId,
    _wake: WakeGuard,
}

struct State {
    services: Rc<Services>,
    epoll: OwnedFd,
    listener: RefCell<Option<Listener>>,
    accepting: Cell<bool>,
    clients: RefCell<BTreeMap<u64, Client>>,
    next_key: Cell<u64>,
    /// Clients with more to do before the next event.
    ready: RefCell<BTreeSet<u64>>,
    /// Whose turn comes first.
    first: Cell<u64>,
}

struct Client {
    connection: Rc<Connection>,
    /// The events it waits for now.
    events: EventFlags,
}

fn fault(what: &str, errno: rustix::io::Errno) -> Error {
    Error::os(what, std::io::Error::from(errno))
}

impl Server {
    /// Starts to serve `listener` on the reactor of `services`.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn start(services: Rc<Services>, listener: Listener) -> Result<Server> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| fault("create an epoll", e))?;
        epoll::add(&epoll, listener.socket(), EventData::new_u64(LISTENER), EventFlags::IN)
            .map_err(|e| fault("watch the RPC socket", e))?;
        let cx = services.cx.clone();
        let wake = cx.wake_on(epoll.as_fd())?;
        let state = Rc::new(State {
            services,
            epoll,
            listener: RefCell::new(Some(listener)),
            accepting: Cell::new(true),
            clients: RefCell::default(),
            next_key: Cell::new(LISTENER + 1),
            ready: RefCell::default(),
            first: Cell::new(0),
        });
        let poller = ServerPoller {
            state: Rc::clone(&state),
            period: Tsc::ticks(PERIOD),
            next_look: cx.now(),
        };
        let poller = cx.add_poller("rpc_server", None, Box::new(poller));
        Ok(Server { state, poller, _wake: wake })
    }

    /// Stops: accepts nobody and reads nothing any more, waits up to `patience` until what was
    /// asked is answered and read, then closes all and removes the socket.
    pub async fn stop(self, patience: Duration) {
        let cx = self.state.services.cx.clone();
        self.state.pause_accepting();
        self.state.listener.take();
        let clients: Vec<u64> = self.state.clients.borrow().keys().copied().collect();
        for key in clients {
            let connection = self.state.connection(key);
            connection.iter().for_each(|connection| connection.finish());
            self.state.turn(key);
        }
        let start = std::time::Instant::now();
        while !self.state.clients.borrow().is_empty() && start.elapsed() < patience {
            cx.sleep(STOP_POLL).await;
        }
        let left = self.state.clients.borrow();
        let busy = left.values().filter(|client| client.connection.is_busy()).count();
        if busy > 0 {
            tracing::warn!("{busy} RPC clients did not get all their answers");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.services.cx.remove_poller(self.poller);
        self.state.clients.borrow_mut().clear();
        self.state.listener.take();
    }
}

struct ServerPoller {
    state: Rc<State>,
    /// In ticks.
    period: u64,
    next_look: Tsc,
}

impl Poller for ServerPoller {
    #[inline]
    fn poll(&mut self, cx: &Context) -> Activity {
        if cx.now() < self.next_look {
            return Activity::Idle;
        }
        self.next_look = Tsc(cx.now().0 + self.period);
        self.state.look()
    }
}

impl State {
    fn look(self: &Rc<Self>) -> Activity {
        let state = self;
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 32];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&state.epoll, events.as_mut_slice(), Some(&now)) {
            Ok(count) => count,
            Err(error) => {
                if error != rustix::io::Errno::INTR {
                    tracing::error!("waiting for RPC clients: {error}");
                }
                0
            }
        };
        let mut turns = state.ready.take();
        for event in &events[..count] {
            // Copied, since the kernel's structure is packed.
            let (flags, data) = (event.flags, event.data);
            match data.u64() {
                LISTENER => state.accept(),
                key => {
                    if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                        state.connection(key).iter().for_each(|connection| connection.hang_up());
                    }
                    turns.insert(key);
                }
            }
        }
        // Whoever gets no turn in this look is the first in the next.
        let end = Tsc(Tsc::read().0 + Tsc::ticks(LOOK));
        let first = state.first.get();
        let mut late = false;
        for &key in turns.range(first..).chain(turns.range(..first)) {
            if late {
                state.ready.borrow_mut().insert(key);
            } else if Tsc::read() < end {
                state.turn(key);
            } else {
                late = true;
                state.first.set(key);
                state.ready.borrow_mut().insert(key);
            }
        }
        if count == 0 && turns.is_empty() && state.ready.borrow().is_empty() {
            Activity::Idle
        } else {
            Activity::Busy
        }
    }

    fn connection(&self, key: u64) -> Option<Rc<Connection>> {
        Some(Rc::clone(&self.clients.borrow().get(&key)?.connection))
    }

    fn accept(self: &Rc<Self>) {
        while self.clients.borrow().len() < RPC_CLIENTS_MAX {
            let accepted = match &*self.listener.borrow() {
                Some(listener) => listener.accept(),
                None => return,
            };
            match accepted {
                Ok(Some(stream)) => self.add(stream),
                Ok(None) => return,
                Err(error) => {
                    // Out of descriptors, most likely: those that wait get their turn later.
                    tracing::warn!("accepting an RPC client: {error}");
                    return;
                }
            }
        }
        tracing::warn!("{RPC_CLIENTS_MAX} RPC clients; more wait until one of these leaves");
        self.pause_accepting();
    }

    fn add(self: &Rc<Self>, stream: std::os::unix::net::UnixStream) {
        let key = self.next_key.get();
        self.next_key.set(key + 1);
        let events = EventFlags::IN;
        if let Err(error) = epoll::add(&self.epoll, &stream, EventData::new_u64(key), events) {
            tracing::warn!("watching an RPC client: {error}");
            return;
        }
        let state: Weak<State> = Rc::downgrade(self);
        let on_progress = move || {
            if let Some(state) = state.upgrade() {
                state.turn(key);
            }
        };
        let connection = Connection::new(stream, Rc::clone(&self.services), on_progress);
        self.clients.borrow_mut().insert(key, Client { connection, events });
    }

    /// Leaves further clients in the backlog.
    fn pause_accepting(&self) {
        if self.accepting.replace(false)
            && let Some(listener) = &*self.listener.borrow()
            && let Err(error) = epoll::delete(&self.epoll, listener.socket())
        {
            tracing::warn!("leaving the RPC socket: {error}");
        }
    }

    fn resume_accepting(&self) {
        let listener = self.listener.borrow();
        let Some(listener) = &*listener else { return };
        if self.accepting.replace(true) {
            return;
        }
        let data = EventData::new_u64(LISTENER);
        if let Err(error) = epoll::add(&self.epoll, listener.socket(), data, EventFlags::IN) {
            tracing::error!("watching the RPC socket: {error}");
        }
    }

    fn turn(&self, key: u64) {
        let Some(connection) = self.connection(key) else { return };
        match connection.turn() {
            Turn::Wait(events) => {
                let mut clients = self.clients.borrow_mut();
                let Some(client) = clients.get_mut(&key) else { return };
                if client.events != events {
                    client.events = events;
                    let data = EventData::new_u64(key);
                    if let Err(error) =
                        epoll::modify(&self.epoll, connection.stream(), data, events)
                    {
                        tracing::error!("watching an RPC client: {error}");
                    }
                }
            }
            Turn::Again => {
                self.ready.borrow_mut().insert(key);
            }
            Turn::Gone => {
                // A request of this client that still runs keeps the connection, not the socket's
                // place in the epoll set.
                if let Err(error) = epoll::delete(&self.epoll, connection.stream()) {
                    tracing::debug!("leaving an RPC client: {error}");
                }
                connection.hang_up();
                self.clients.borrow_mut().remove(&key);
                self.resume_accepting();
            }
        }
    }
}
