//! SIGTERM and SIGINT as a request to shut down.
//!
//! The handlers only count and write to an eventfd, which wakes the reactor that watches it. The second
//! signal does not ask any more: it ends the process, for a shutdown that hangs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::context::Context;
use super::poller::{Activity, PollerId};
use super::reactors::Reactors;
use super::sleep::WakeGuard;
use crate::base::{Error, ErrorKind, Result};

/// How often a reactor that does not sleep looks for a signal.
const PERIOD: Duration = Duration::from_millis(10);
const SIGNALS: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];

static INSTALLED: AtomicBool = AtomicBool::new(false);
/// Signals that came since the handlers were installed.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// The last one, until the poller has seen it; 0 for none.
static LAST: AtomicI32 = AtomicI32::new(0);
/// What the handlers write to; -1 before the first installation. Made once, kept for good: a handler
/// may run at any time.
static EVENT: AtomicI32 = AtomicI32::new(-1);

/// While it lives, SIGTERM and SIGINT request a shutdown.
#[must_use = "signals are handled only while this lives"]
pub struct ShutdownSignals {
    cx: Context,
    poller: PollerId,
    before: Vec<(libc::c_int, libc::sigaction)>,
    _wake: WakeGuard,
}

impl ShutdownSignals {
    /// Installs the handlers; the reactor of `cx` watches for signals.
    ///
    /// # Errors
    /// `Busy` when they are installed already; otherwise what the system says.
    pub fn install(cx: &Context, reactors: &Reactors) -> Result<ShutdownSignals> {
        let event = event()?;
        let wake = cx.wake_on(event.as_fd())?;
        if INSTALLED.swap(true, Ordering::AcqRel) {
            return Err(Error::new(
                ErrorKind::Busy,
                "the signal handlers for shutdown are installed already",
            ));
        }
        COUNT.store(0, Ordering::Relaxed);
        LAST.store(0, Ordering::Relaxed);
        let reactors = reactors.clone();
        let watch = move |_: &Context| {
            let signal = LAST.swap(0, Ordering::AcqRel);
            if signal == 0 {
                return Activity::Idle;
            }
            let mut count = [0_u8; 8];
            // Empty if the handler has not come to its write yet: then one wake-up is in vain.
            let _ = rustix::io::read(event, &mut count);
            let name = if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" };
            tracing::info!("{name}: shutting down (a second one ends the process at once)");
            reactors.request_shutdown();
            Activity::Busy
        };
        let poller = cx.add_poller("shutdown_signals", Some(PERIOD), Box::new(watch));
        let mut guard = ShutdownSignals { cx: cx.clone(), poller, before: Vec::new(), _wake: wake };
        for signal in SIGNALS {
            guard.before.push((signal, handle(signal)?));
        }
        Ok(guard)
    }
}

impl Drop for ShutdownSignals {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: `before` is what sigaction(2) gave for this signal.
            unsafe { libc::sigaction(*signal, before, std::ptr::null_mut()) };
        }
        self.cx.remove_poller(self.poller);
        INSTALLED.store(false, Ordering::Release);
    }
}

fn event() -> Result<&'static OwnedFd> {
    static FD: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(event) = FD.get() {
        return Ok(event);
    }
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| Error::os("cannot make an eventfd for signals", errno))?;
    let event = FD.get_or_init(|| event);
    EVENT.store(event.as_raw_fd(), Ordering::Release);
    Ok(event)
}

/// Puts the handler in place; the action that was there before.
fn handle(signal: libc::c_int) -> Result<libc::sigaction> {
    // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values, and `on_signal` does only what a handler may.
    if unsafe { libc::sigaction(signal, &action, &mut before) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Error::os(format!("cannot handle signal {signal}"), error));
    }
    Ok(before)
}

/// Async-signal-safe (signal-safety(7)): atomics, write(2), _exit(2); errno is kept.
extern "C" fn on_signal(signal: libc::c_int) {
    if COUNT.fetch_add(1, Ordering::Relaxed) > 0 {
        // SAFETY: _exit(2) may be called anywhere. 128 + n is how shells report death by signal.
        unsafe { libc::_exit(128 + signal) };
    }
    LAST.store(signal, Ordering::Release);
    let event = EVENT.load(Ordering::Acquire);
    let one = 1_u64.to_ne_bytes();
    // SAFETY: errno is this thread's; the buffer has eight bytes; the descriptor is never closed.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(event, one.as_ptr().cast(), one.len());
        *errno = before;
    }
}
