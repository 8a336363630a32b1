//! What happens at an access to mapped memory that is no longer there.
//!
//! Two kinds of mappings can lose what is behind them while this process uses them. The registers of a device: once its
//! memory space is off (a reset that this process did not ask for, a function that fell to D3), the kernel takes the
//! mapping away (`vfio_pci_mmap_fault` and its successors); a device that was pulled out first has its release
//! requested by an event, but the request and a doorbell on another reactor race. And files that another process
//! shares, such as a guest's memory: that one can cut them short whenever it likes. The next access raises SIGBUS,
//! which would end the process. So the signal is caught: the handler puts [other memory](Substitute) where the access
//! was, notes that for the mapping's owner, and the access goes on. The hot path needs no check for that.
//!
//! The handler is installed for the process when the first mapping is watched. A SIGBUS at any other address goes to
//! whoever had the signal before, and so does one that tells of broken memory (BUS_MCEERR_AR): there the data are
//! gone which nobody took away, and to go on with others would put them on a disk.
//!
//! The table of mappings is written under a lock, and read by the handler without one.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::param::page_size;

use crate::base::limits::WATCHED_MAPPINGS_MAX;
use crate::base::{Error, ErrorKind, Result};

/// `si_code` of a SIGBUS for memory that is not there (asm-generic/siginfo.h).
const BUS_ADRERR: c_int = 2;

/// What takes the place of memory that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Substitute {
    /// Ones, for the page of the access: what a device that is gone reads as.
    OnesPage,
    /// Zeros, for all of the mapping: nothing more is to be had from whoever takes memory away, a mapping cut into
    /// pages would soon be one of too many, and huge pages cannot be replaced in part.
    ZerosAll,
}

/// A mapping that the handler knows of. Free while `end` is zero.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    zeros: AtomicBool,
    faulted: AtomicBool,
}

static SLOTS: [Slot; WATCHED_MAPPINGS_MAX] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        zeros: AtomicBool::new(false),
        faulted: AtomicBool::new(false),
    }
}; WATCHED_MAPPINGS_MAX];

/// No slot from here on was ever used.
static SLOTS_USED: AtomicUsize = AtomicUsize::new(0);

/// The file with the page of ones; what the handler reads must be there before it is installed.
static ONES: AtomicI32 = AtomicI32::new(-1);
static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS: Previous = Previous(UnsafeCell::new(None));

/// Who had the signal before.
struct Previous(UnsafeCell<Option<libc::sigaction>>);

// SAFETY: written once, before the handler that reads it is installed.
unsafe impl Sync for Previous {}

/// The file is kept for the life of the process: the handler may need it at any time.
static INSTALLED: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// A mapping under watch, until dropped.
#[derive(Debug)]
pub struct Watch {
    slot: usize,
}

impl Watch {
    /// Watches `length` bytes from `start`.
    ///
    /// # Errors
    /// `NoSpace` when very many mappings are watched already; what the system says of the handler.
    ///
    /// # Safety
    /// Until the watch is dropped, the range is a mapping of the caller's (with [`Substitute::ZerosAll`], all of one), and
    /// nobody minds if it, or a page of it, becomes ordinary memory.
    pub unsafe fn over(start: usize, length: usize, substitute: Substitute) -> Result<Watch> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if installed.is_none() {
            *installed = Some(install()?);
        }
        // Under the lock: nobody else takes this slot.
        let free = SLOTS.iter().position(|slot| slot.end.load(Ordering::Acquire) == 0);
        let index = free.ok_or_else(|| {
            Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{WATCHED_MAPPINGS_MAX} runs of guest memory and device registers are mapped already"
                ),
            )
        })?;
        let slot = &SLOTS[index];
        slot.faulted.store(false, Ordering::Relaxed);
        slot.zeros.store(substitute == Substitute::ZerosAll, Ordering::Relaxed);
        // Whoever reads this start reads no end of a mapping before it.
        slot.start.store(start, Ordering::Release);
        slot.end.store(start + length, Ordering::Release);
        SLOTS_USED.fetch_max(index + 1, Ordering::Release);
        Ok(Watch { slot: index })
    }

    /// Whether an access found the memory gone.
    pub fn has_faulted(&self) -> bool {
        SLOTS[self.slot].faulted.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        SLOTS[self.slot].end.store(0, Ordering::Release);
    }
}

/// Makes the page of ones and installs the handler.
fn install() -> Result<OwnedFd> {
    let doing = || "cannot prepare for memory that is taken away";
    let page = page_size();
    let ones = memfd_create("weft-ones", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|errno| Error::os(doing(), errno))?;
    let written = rustix::io::write(&ones, &vec![0xff; page]);
    if written.map_err(|errno| Error::os(doing(), errno))? != page {
        return Err(Error::new(ErrorKind::NoMemory, doing()));
    }
    // A truncated file would turn the handler's page into another SIGBUS.
    fcntl_add_seals(&ones, SealFlags::SHRINK | SealFlags::GROW)
        .map_err(|errno| Error::os(doing(), errno))?;
    PAGE_SIZE.store(page, Ordering::Relaxed);
    ONES.store(ones.as_raw_fd(), Ordering::Release);
    // SAFETY: all-zero bytes are a valid `sigaction`; the calls get valid pointers. PREVIOUS is written before the
    // handler is installed, under the lock of INSTALLED.
    let installed = unsafe {
        let mut previous: libc::sigaction = std::mem::zeroed();
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        // On the alternate stack, where a thread has one: SIGBUS is also what an overflown stack may raise.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) == 0 {
            *PREVIOUS.0.get() = Some(previous);
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut())
        } else {
            -1
        }
    };
    if installed != 0 {
        return Err(Error::os(doing(), io::Error::last_os_error()));
    }
    Ok(ones)
}

/// The handler: loads, stores and one system call or two, as it may interrupt anything.
extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid structure to a handler with SA_SIGINFO.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    if code == BUS_ADRERR {
        for slot in &SLOTS[..SLOTS_USED.load(Ordering::Acquire)] {
            let end = slot.end.load(Ordering::Acquire);
            let start = slot.start.load(Ordering::Acquire);
            // Read again: the slot may be passing from one mapping to another, with an end of neither's start.
            if (start..end).contains(&address) && slot.end.load(Ordering::Relaxed) == end {
                slot.faulted.store(true, Ordering::Release);
                let replaced = match slot.zeros.load(Ordering::Relaxed) {
                    true => replace_by_zeros(start, end - start),
                    false => replace_by_ones(address),
                };
                if replaced {
                    return;
                }
            }
        }
    }
    // SAFETY: written once, before this handler was installed.
    pass_on(unsafe { *PREVIOUS.0.get() }, signal, info, context);
}

/// Puts the page of ones where `address` is; private, so that a store there stays there.
fn replace_by_ones(address: usize) -> bool {
    let page = PAGE_SIZE.load(Ordering::Relaxed);
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    map_over(address & !(page - 1), page, flags, ONES.load(Ordering::Acquire))
}

/// Puts fresh memory where the mapping was. It takes none but what is then touched.
fn replace_by_zeros(start: usize, length: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    map_over(start, length, flags, -1)
}

fn map_over(start: usize, length: usize, flags: c_int, file: c_int) -> bool {
    // SAFETY: all of the range belongs to a watched mapping, whose owner allows this. `mmap` is a plain system call, and
    // `errno` is that of whatever was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let mapped = libc::mmap(start as *mut c_void, length, protection, flags, file, 0);
        *libc::__errno_location() = errno;
        mapped != libc::MAP_FAILED
    }
}

/// Leaves the signal to who had it before.
fn pass_on(
    previous: Option<libc::sigaction>,
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    let (handler, flags) =
        previous.map_or((libc::SIG_DFL, 0), |previous| (previous.sa_sigaction, previous.sa_flags));
    // SAFETY: `handler` is what `sigaction` gave for this signal: neither of the two special values, so a function of
    // the type that its flags tell. All-zero bytes but for the handler are the default action.
    unsafe {
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            // The access repeats when this returns, and then ends the process as it would have without us.
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        } else if flags & libc::SA_SIGINFO != 0 {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                std::mem::transmute(handler);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
            handler(signal);
        }
    }
}
