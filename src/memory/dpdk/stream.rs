//! What DPDK prints to a stream of the C library, as text.

use std::ffi::c_char;

use dpdk_sys as sys;

use crate::base::{Error, Result};

/// The text that `print` writes.
///
/// # Errors
/// `NoMemory`.
pub(super) fn printed(print: impl FnOnce(*mut sys::FILE)) -> Result<String> {
    let mut text: *mut c_char = std::ptr::null_mut();
    let mut length: usize = 0;
    let fault = || Error::os("a buffer for DPDK's output", std::io::Error::last_os_error());
    // SAFETY: both pointers stay good until the stream is closed, below.
    let stream = unsafe { sys::open_memstream(&raw mut text, &raw mut length) };
    if stream.is_null() {
        return Err(fault());
    }
    print(stream);
    // SAFETY: opened above, closed once. Afterwards `text` has `length` bytes.
    let closed = unsafe { sys::fclose(stream) };
    if closed != 0 || text.is_null() {
        let error = fault();
        // SAFETY: null, or what the C library allocated for the stream and left to us.
        unsafe { libc::free(text.cast()) };
        return Err(error);
    }
    // SAFETY: as said above; nobody else has the buffer.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    let copy = String::from_utf8_lossy(bytes).into_owned();
    // SAFETY: what the C library allocated for the stream and left to us; the slice above is gone.
    unsafe { libc::free(text.cast()) };
    Ok(copy)
}
