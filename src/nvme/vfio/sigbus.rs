//! What happens at an access to the registers of a device that is gone.
//!
//! Once a device's memory space is off (a reset that this process did not ask for, a function that fell to D3), the
//! kernel takes the mapping of its registers away and answers the next access with SIGBUS: `vfio_pci_mmap_fault`
//! and its successors. A device that was pulled out first has its release requested by an event, but the
//! request and a doorbell on another reactor race. So the signal is caught: the handler puts a page of ones where
//! the access was, which is what a device that is gone reads as, notes it for the window's owner, and the access
//! goes on. The doorbell, in the hot path, needs no check for that.
//!
//! The handler is installed for the process when the first window is watched. A SIGBUS at any other address goes to
//! whoever had the signal before.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::pagemap::page_size;
use crate::base::{Error, ErrorKind, Result};

/// Most windows at once: far more drives than fit in a machine.
const WINDOWS_MAX: usize = 256;

/// A window that the handler knows of. Free while `end` is zero.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    gone: AtomicBool,
}

static SLOTS: [Slot; WINDOWS_MAX] = [const {
    Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), gone: AtomicBool::new(false) }
}; WINDOWS_MAX];

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

/// A window under watch, until dropped.
#[derive(Debug)]
pub(super) struct Watch {
    slot: usize,
}

impl Watch {
    /// Watches `length` bytes from `start`.
    ///
    /// # Safety
    /// Until the watch is dropped, the range is the caller's: nothing but registers is mapped there, and nobody minds
    /// if a page of it becomes ordinary memory.
    pub(super) unsafe fn over(start: usize, length: usize) -> Result<Watch> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if installed.is_none() {
            *installed = Some(install()?);
        }
        // Under the lock: nobody else takes this slot.
        let free = SLOTS.iter().position(|slot| slot.end.load(Ordering::Acquire) == 0);
        let index = free.ok_or_else(|| {
            Error::new(
                ErrorKind::NoSpace,
                format!("{WINDOWS_MAX} devices are open by VFIO already"),
            )
        })?;
        let slot = &SLOTS[index];
        slot.gone.store(false, Ordering::Relaxed);
        slot.start.store(start, Ordering::Relaxed);
        slot.end.store(start + length, Ordering::Release);
        Ok(Watch { slot: index })
    }

    /// Whether the device was found to be gone.
    pub(super) fn is_gone(&self) -> bool {
        SLOTS[self.slot].gone.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        SLOTS[self.slot].end.store(0, Ordering::Release);
    }
}

/// Makes the page of ones and installs the handler.
fn install() -> Result<OwnedFd> {
    let doing = || "cannot prepare for the removal of a device";
    let page = page_size() as usize;
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

/// The handler: loads, stores and one system call only, as it may interrupt anything.
extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid structure to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &SLOTS {
        let end = slot.end.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Acquire);
        // Read again: the slot may be passing from one window to another, with an end of neither's start.
        if (start..end).contains(&address) && slot.end.load(Ordering::Relaxed) == end {
            slot.gone.store(true, Ordering::Release);
            if replace_page(address) {
                return;
            }
        }
    }
    // SAFETY: written once, before this handler was installed.
    pass_on(unsafe { *PREVIOUS.0.get() }, signal, info, context);
}

/// Puts the page of ones where `address` is; private, so that a store there stays there.
fn replace_page(address: usize) -> bool {
    let page = PAGE_SIZE.load(Ordering::Relaxed);
    let start = address & !(page - 1);
    // SAFETY: the page belongs to a watched window, whose owner allows this. `mmap` is a plain system call.
    unsafe {
        let errno = *libc::__errno_location();
        let mapped = libc::mmap(
            start as *mut c_void,
            page,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            ONES.load(Ordering::Acquire),
            0,
        );
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
