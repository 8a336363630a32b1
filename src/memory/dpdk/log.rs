//! DPDK's log, led into ours.

use std::ffi::{c_char, c_long, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;
use tracing::{debug, warn};

/// Warnings and errors that came while somebody collects them.
static COLLECTED: Mutex<Option<Vec<String>>> = Mutex::new(None);
/// Most lines that are collected: the first ones tell the cause.
const COLLECTED_MAX: usize = 8;

/// Leads DPDK's log into ours from now on. Says whether that worked: otherwise it goes to standard error.
pub(super) fn redirect() -> bool {
    let functions =
        sys::cookie_io_functions_t { read: None, write: Some(write), seek: None, close: None };
    // SAFETY: the mode is a C string; the functions take any cookie, a null pointer too.
    let stream = unsafe { sys::fopencookie(std::ptr::null_mut(), c"w".as_ptr(), functions) };
    if stream.is_null() {
        return false;
    }
    // SAFETY: the stream is open and stays so for good.
    unsafe { sys::rte_openlog_stream(stream) == 0 }
}

fn collected() -> MutexGuard<'static, Option<Vec<String>>> {
    COLLECTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What DPDK complained of while `action` ran.
pub(super) fn complaints_of<T>(action: impl FnOnce() -> T) -> (T, Vec<String>) {
    *collected() = Some(Vec::new());
    let result = action();
    let lines = collected().take().unwrap_or_default();
    (result, lines)
}

/// Takes what DPDK writes to its log. It flushes after each message, on the thread that logs.
unsafe extern "C" fn write(_cookie: *mut c_void, text: *const c_char, length: usize) -> c_long {
    if !text.is_null() && length > 0 {
        // SAFETY: the C library passes `length` bytes at `text`, for the time of the call.
        let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
        // SAFETY: it reads a number in storage of the calling thread.
        let level = unsafe { sys::rte_log_cur_msg_loglevel() };
        for line in String::from_utf8_lossy(bytes).lines().map(str::trim) {
            if !line.is_empty() {
                take(level, line);
            }
        }
    }
    // A short count would count as an error of the stream.
    length as c_long
}

fn take(level: i32, line: &str) {
    if level > sys::RTE_LOG_WARNING.cast_signed() {
        debug!("DPDK: {line}");
        return;
    }
    if let Some(lines) = &mut *collected() {
        if lines.len() < COLLECTED_MAX {
            lines.push(line.to_owned());
        }
        debug!("DPDK: {line}");
    } else {
        warn!("DPDK: {line}");
    }
}
