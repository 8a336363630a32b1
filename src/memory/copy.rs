//! Moving payload bytes: the copy and fill kernels of memory-backed devices.
//!
//! A payload that was just written to a memory-backed device is not read again soon, so large
//! writes bypass the cache (non-temporal stores); reads land in the caller's buffer, which the
//! caller is about to look at, so they do not. The kernels are picked once per process.

/// Copies `length` bytes for a reader that looks at them soon.
///
/// # Safety
/// Both ranges are mapped, do not overlap, and nobody else writes to either meanwhile.
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, length) };
}

/// Copies `length` bytes that nobody reads soon.
///
/// # Safety
/// As for [`copy`].
#[inline]
pub unsafe fn copy_cold(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, length) };
}

/// Fills `length` bytes with zeros.
///
/// # Safety
/// The range is mapped, and nobody else uses it meanwhile.
#[inline]
pub unsafe fn zero(to: *mut u8, length: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::write_bytes(to, 0, length) };
}

/// Asks the processor to bring the first bytes at `address` near. Any address is allowed.
#[inline]
pub fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
