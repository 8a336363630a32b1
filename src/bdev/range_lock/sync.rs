//! The atomics that the range locks are made of: the standard library's, or loom's when the
//! interleavings are explored (`--cfg loom`).

pub(super) use std::sync::Arc;

#[cfg(loom)]
pub(super) use loom::sync::Mutex;
#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(super) use std::sync::Mutex;
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A full barrier in two unequal halves: [`Barrier::light`] in code that runs for every I/O costs
/// nothing but the compiler's freedom, [`Barrier::heavy`] in code that runs once in a while makes
/// every other thread of the process pass a full barrier (membarrier(2)). For any light and any
/// heavy one, either what stands before the light one is visible after the heavy one, or what
/// stands before the heavy one is visible after the light one, as with two sequentially consistent
/// fences. Where the system has no such call, both halves are that.
#[derive(Clone, Copy, Debug)]
pub(in crate::bdev) struct Barrier {
    asymmetric: bool,
}

#[cfg(all(target_os = "linux", not(loom), not(miri)))]
mod membarrier {
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;

    fn call(command: libc::c_int) -> bool {
        // SAFETY: the call takes three integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    pub(super) fn register() -> bool {
        static REGISTERED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *REGISTERED.get_or_init(|| call(REGISTER_PRIVATE_EXPEDITED) && call(PRIVATE_EXPEDITED))
    }

    pub(super) fn run() {
        // It was tried at registration, and does not fail after that (membarrier(2), ERRORS).
        assert!(call(PRIVATE_EXPEDITED), "membarrier(2) worked before and fails now");
    }
}

#[cfg(not(all(target_os = "linux", not(loom), not(miri))))]
mod membarrier {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn run() {}
}

impl Barrier {
    pub(in crate::bdev) fn new() -> Barrier {
        Barrier { asymmetric: membarrier::register() }
    }

    #[inline]
    pub(in crate::bdev) fn light(self) {
        if self.asymmetric {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    pub(in crate::bdev) fn heavy(self) {
        fence(Ordering::SeqCst);
        if self.asymmetric {
            membarrier::run();
        }
    }
}
