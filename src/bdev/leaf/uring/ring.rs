//! One io_uring: its flags, how submissions go in, and when the kernel must be entered.
//!
//! Completions reach the completion queue in different ways, and each has its own rule for when a
//! system call is due ([`Notify`]). In none of them is there one while nothing is outstanding.
//!
//! The ring has one registered file, number 0 ([`FILE`]). It belongs to the thread that made it.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::CancelBuilder;
use io_uring::{CompletionQueue, EnterFlags, IoUring, Probe, SubmissionQueue, Submitter, types};
use rustix::io::Errno;
use tracing::{debug, warn};

use super::medium::Medium;
use crate::base::{Error, ErrorKind, Result};
use crate::reactor::{Context, WakeGuard};

/// The medium's file in the ring's file table.
pub(super) const FILE: types::Fixed = types::Fixed(0);

/// What the user asks of the rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RingOptions {
    /// A kernel thread takes submissions: no system call to submit, a core of its own to pay.
    pub sqpoll: bool,
    /// The device is polled for completions instead of interrupting.
    pub iopoll: bool,
}

/// How completions surface (io_uring_setup(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notify {
    /// Completion work waits until the ring's owner enters the kernel, and a flag in the ring says
    /// that some does (COOP_TASKRUN with TASKRUN_FLAG). Not DEFER_TASKRUN: with that, nothing wakes
    /// a reactor that sleeps on the ring's file descriptor (docs/uring.md).
    Flagged,
    /// The kernel interrupts the owner to complete.
    Interrupt,
    /// A kernel thread submits and completes (SQPOLL).
    Thread,
    /// Only entering looks for completions (IOPOLL).
    Poll,
}

/// What became of the entries in the submission queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entered {
    /// How many the kernel took.
    pub taken: usize,
    /// How many it has not taken yet.
    pub left: usize,
}

/// A ring with the medium's file registered.
pub(super) struct Ring {
    /// Before `io`, whose file descriptor it watches.
    wake: Option<WakeGuard>,
    io: IoUring,
    notify: Notify,
    /// How often the kernel was entered.
    calls: u64,
    complained: bool,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("notify", &self.notify)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring with room for `entries` requests, on the thread that calls.
    pub(super) fn open(medium: &Medium, entries: u32, options: RingOptions) -> Result<Ring> {
        let (io, notify) = build(entries, options)?;
        io.submitter()
            .register_files(&[medium.file.as_raw_fd()])
            .map_err(|error| Error::os("cannot register the file with io_uring", error))?;
        Ok(Ring { wake: None, io, notify, calls: 0, complained: false })
    }

    /// From now on a completion wakes the reactor of `cx` from its sleep.
    pub(super) fn wake_by(&mut self, cx: &Context) {
        if self.notify == Notify::Poll {
            return;
        }
        // SAFETY: the ring closes its file descriptor when it is dropped, after the guard.
        let fd = unsafe { BorrowedFd::borrow_raw(self.io.as_raw_fd()) };
        match cx.wake_on(fd) {
            Ok(guard) => self.wake = Some(guard),
            Err(error) => warn!(%error, "an io_uring cannot wake its reactor: it will be polled"),
        }
    }

    /// Whether a completion would wake the reactor, so that it may sleep on it.
    #[inline]
    pub(super) fn wakes(&self) -> bool {
        self.wake.is_some()
    }

    /// The submission queue, which has room for as many entries as the ring was opened with.
    #[inline]
    pub(super) fn submissions(&mut self) -> SubmissionQueue<'_> {
        self.io.submission()
    }

    /// The completion queue.
    #[inline]
    pub(super) fn completions(&mut self) -> CompletionQueue<'_> {
        self.io.completion()
    }

    /// For registrations.
    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.io.submitter()
    }

    /// Whether the kernel knows the operation of this code.
    pub(super) fn supports(&self, operation: u8) -> bool {
        let mut probe = Probe::new();
        self.io.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(operation)
    }

    /// Gives the kernel what was pushed, and lets it post completions: at most one system call, and
    /// none when there is nothing to give and nothing to fetch.
    #[inline]
    pub(super) fn enter(&mut self) -> Entered {
        let (submitter, mut submissions, _) = self.io.split();
        let pending = submissions.len();
        let due = pending > 0
            || match self.notify {
                Notify::Flagged => submissions.taskrun(),
                Notify::Interrupt | Notify::Thread => submissions.cq_overflow(),
                Notify::Poll => true,
            };
        if !due {
            return Entered { taken: 0, left: 0 };
        }
        self.calls += 1;
        let outcome = match self.notify {
            // Wakes the kernel thread when it sleeps.
            Notify::Thread => submitter.submit(),
            // SAFETY: the arguments are plain numbers; every entry in the submission queue was
            // valid when it was pushed.
            _ => unsafe {
                submitter.enter::<libc::sigset_t>(
                    pending as u32,
                    0,
                    EnterFlags::GETEVENTS.bits(),
                    None,
                )
            },
        };
        submissions.sync();
        let left = submissions.len();
        drop(submissions);
        if let Err(error) = outcome {
            self.entering_failed(&error);
        }
        Entered { taken: pending.saturating_sub(left), left }
    }

    #[cold]
    fn entering_failed(&mut self, error: &io::Error) {
        // EAGAIN: no memory for a request; EBUSY: completions must be fetched first; EINTR. All pass, and
        // the next round tries again.
        let passes = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR));
        if !passes && !self.complained {
            self.complained = true;
            warn!(%error, "io_uring_enter fails; it is tried again in every round");
        }
    }

    /// Takes back what the kernel may not have seen yet, cancels what can be cancelled, and returns how
    /// many of `outstanding` requests the kernel still has to complete.
    pub(super) fn cancel(&mut self, outstanding: usize) -> usize {
        let left = match self.notify {
            // The thread takes entries at any time.
            Notify::Thread => 0,
            // The kernel looks at the submission queue only when it is entered, and from now on
            // that is never with anything to submit.
            _ => self.io.submission().len(),
        };
        let outstanding = outstanding.saturating_sub(left);
        if outstanding > 0 {
            // Requests that wait for a worker thread go at once; those that a device has must run
            // to their end.
            let timeout = types::Timespec::new();
            let _ =
                self.io.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any().all());
        }
        outstanding
    }

    /// Waits for a completion, when nothing else is to be done any more.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        if self.notify == Notify::Thread {
            return self.io.submitter().submit_and_wait(1).map(drop);
        }
        // SAFETY: plain numbers, and nothing is submitted.
        let outcome = unsafe {
            self.io.submitter().enter::<libc::sigset_t>(0, 1, EnterFlags::GETEVENTS.bits(), None)
        };
        outcome.map(drop)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.wake = None;
        // The kernel takes a ring down some time after it was closed. The file with its lock, and the
        // locked memory, are to be free at once. (Without registered buffers the first is an error.)
        let _ = self.io.submitter().unregister_buffers();
        if let Err(error) = self.io.submitter().unregister_files() {
            debug!(%error, "unregister the file of a ring");
        }
    }
}

/// Makes a ring with the best flags that the kernel has.
fn build(entries: u32, options: RingOptions) -> Result<(IoUring, Notify)> {
    // (one issuer, cooperative, notify). One thread makes, enters and drops the ring (SINGLE_ISSUER, 6.0).
    // Completion work waits for that thread's next way through the kernel (COOP_TASKRUN, 5.19)
    // instead of interrupting it.
    let ladder: &[(bool, bool, Notify)] = match options {
        RingOptions { sqpoll: true, .. } => &[(false, false, Notify::Thread)],
        RingOptions { iopoll: true, .. } => {
            &[(true, false, Notify::Poll), (false, false, Notify::Poll)]
        }
        _ => &[
            (true, true, Notify::Flagged),
            (false, true, Notify::Flagged),
            (false, false, Notify::Interrupt),
        ],
    };
    let mut refusal = io::Error::from(Errno::INVAL);
    for &(one_issuer, cooperative, notify) in ladder {
        let mut builder = IoUring::builder();
        builder.dontfork();
        if options.sqpoll {
            builder.setup_sqpoll(SQPOLL_IDLE_MS);
        }
        if options.iopoll {
            builder.setup_iopoll();
        }
        if one_issuer {
            builder.setup_single_issuer();
        }
        if cooperative {
            builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
        }
        match builder.build(entries) {
            Ok(io) => return Ok((io, notify)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = error,
            Err(error) => {
                refusal = error;
                break;
            }
        }
    }
    let what = match refusal.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is not permitted (see /proc/sys/kernel/io_uring_disabled)"
        }
        Some(libc::ENOSYS) => "this kernel has no io_uring",
        Some(libc::ENOMEM) => "no memory for an io_uring (see RLIMIT_MEMLOCK)",
        _ => "cannot set up an io_uring",
    };
    let kind = match refusal.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ErrorKind::AccessDenied,
        Some(libc::ENOSYS) => ErrorKind::Unsupported,
        Some(libc::ENOMEM) => ErrorKind::NoMemory,
        _ => ErrorKind::Io,
    };
    Err(Error::new(kind, what).because(refusal))
}

/// How long the kernel's submission thread spins before it sleeps, in milliseconds.
const SQPOLL_IDLE_MS: u32 = 100;

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    use io_uring::opcode;

    use super::super::medium::OpenMode;
    use super::*;

    fn ring(options: RingOptions) -> (tempfile::NamedTempFile, Ring) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let mode = OpenMode { readonly: false, direct: false, lock_patience: Duration::ZERO };
        let medium = Medium::open(file.path(), mode).unwrap();
        let ring = Ring::open(&medium, 4, options).unwrap();
        (file, ring)
    }

    /// Far more than it takes; only a sleeper that nobody wakes sleeps as long.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn readable(ring: &Ring, timeout: Duration) -> bool {
        let mut poll = libc::pollfd { fd: ring.io.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives through the call.
        let count = unsafe { libc::poll(&raw mut poll, 1, timeout.as_millis() as i32) };
        count == 1 && poll.revents & libc::POLLIN != 0
    }

    /// A reactor sleeps on the ring's file descriptor. Symptom: with DEFER_TASKRUN it slept on after a
    /// completion, until its time limit. Cause: the kernel puts such a completion aside for the
    /// owner to fetch, and wakes only who waits within io_uring_enter or on an eventfd. It stayed
    /// hidden since the descriptor does show as readable to who looks after the fact.
    #[test]
    fn a_completion_wakes_a_sleeper() {
        for options in [RingOptions::default(), RingOptions { sqpoll: true, iopoll: false }] {
            let (_file, mut ring) = ring(options);
            assert!(!readable(&ring, Duration::ZERO), "nothing is outstanding");
            // Comes while the sleeper sleeps, by a timer's interrupt.
            let time = types::Timespec::new().nsec(20_000_000);
            let timeout = opcode::Timeout::new(&raw const time).build().user_data(7);
            // SAFETY: `time` outlives the request, which the test waits for.
            unsafe { ring.submissions().push(&timeout) }.unwrap();
            let entered = ring.enter();
            assert_eq!(entered.left, if options.sqpoll { entered.left } else { 0 });
            let start = Instant::now();
            // At the end of its time poll(2) looks once more, so that its answer alone says little.
            let ready = readable(&ring, PATIENCE);
            assert!(ready && start.elapsed() < PATIENCE, "{ring:?}: the sleeper sleeps on");
            ring.enter();
            let entry = ring.completions().next().expect("a completion");
            assert_eq!((entry.user_data(), entry.result()), (7, -libc::ETIME));
            assert!(!readable(&ring, Duration::ZERO), "all was fetched");
        }
    }

    #[test]
    fn nothing_to_do_costs_no_system_call() {
        let (_file, mut ring) = ring(RingOptions::default());
        assert_eq!(ring.enter(), Entered { taken: 0, left: 0 });
        assert_eq!(ring.calls, 0);
        // SAFETY: a request without memory.
        unsafe { ring.submissions().push(&opcode::Nop::new().build()) }.unwrap();
        assert_eq!(ring.enter(), Entered { taken: 1, left: 0 });
        assert_eq!(ring.completions().count(), 1);
        assert_eq!(ring.enter(), Entered { taken: 0, left: 0 });
        assert_eq!(ring.calls, 1);
        assert!(!ring.complained);
    }
}
