//! Moving payload bytes: the copy and fill kernels of memory-backed devices.
//!
//! Random 4 KiB blocks of a large device are bound by memory latency, so the kernels are about what
//! is in flight between the cache and DRAM, not about instructions:
//!
//! - While one block is copied, the next one's source is asked for, line by line ([`Next`]), so that
//!   its misses overlap with this block's stores. Asked into the second-level cache: the first
//!   level has too few slots for misses (a third slower, `cargo bench --bench copy`).
//! - A payload that was just written to the device is not read again soon: large writes go past the
//!   cache (non-temporal stores), which saves reading each line before it is overwritten.
//!   Reads land in the caller's buffer, which the caller is about to look at, so they do not.
//!   Such stores are ordered by a fence, which waits for all of them: one per batch
//!   ([`settle`]), since one per block costs as much as the copy itself.
//!
//! The kernels need AVX2 or AVX-512 and are picked at run time; elsewhere `memcpy` serves.

/// Where the memory lies that the next call will read: it is brought near meanwhile. Any address
/// is allowed, `null` for none.
pub type Next = *const u8;

/// Below this many bytes a non-temporal store costs more than it saves.
const COLD_MIN: usize = 1024;

/// Beyond this many bytes the processor's own prefetching has caught up, and asking for the next source only
/// takes cache away: `memcpy` is faster then.
const AHEAD_MAX: usize = 16 << 10;

/// A cache line, in bytes.
const LINE: usize = 64;

/// Copies `length` bytes for a reader that looks at them soon.
///
/// # Safety
/// Both ranges are mapped, do not overlap, and nobody else writes to either meanwhile (a racing
/// writer of the same bytes leaves them mixed, as two racing writes to a drive may).
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller's promise.
    unsafe { copy_ahead(from, to, length, std::ptr::null()) };
}

/// Copies as [`copy`] does, and brings the source of the next copy near.
///
/// # Safety
/// As for [`copy`].
#[inline]
pub unsafe fn copy_ahead(from: *const u8, to: *mut u8, length: usize, next: Next) {
    #[cfg(target_arch = "x86_64")]
    if length.is_multiple_of(LINE) && length > 0 && length <= AHEAD_MAX {
        let ahead = !next.is_null();
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature is there, the length is whole lines, the rest is the caller's promise.
            return unsafe {
                match ahead {
                    true => x86::copy_avx512::<true>(from, to, length, next),
                    false => x86::copy_avx512::<false>(from, to, length, next),
                }
            };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe {
                match ahead {
                    true => x86::copy_avx2::<true>(from, to, length, next),
                    false => x86::copy_avx2::<false>(from, to, length, next),
                }
            };
        }
    }
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, length) };
}

/// Copies `length` bytes that nobody reads soon. Others may only be told of it after [`settle`].
///
/// # Safety
/// As for [`copy`].
#[inline]
pub unsafe fn copy_cold(from: *const u8, to: *mut u8, length: usize) {
    #[cfg(target_arch = "x86_64")]
    if length >= COLD_MIN && length.is_multiple_of(LINE) && to.align_offset(LINE) == 0 {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature is there, `to` is aligned and the length is whole lines, the rest
            // is the caller's promise.
            return unsafe { x86::copy_cold_avx512(from, to, length) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { x86::copy_cold_avx2(from, to, length) };
        }
    }
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, length) };
}

/// Makes what [`copy_cold`] stored on this core visible before anything that this core does next.
///
/// Non-temporal stores are not ordered by a later release store: without this another core could
/// see that a write completed and then read the old bytes.
#[inline]
pub fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
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

/// Asks the processor to bring the line at `address` into its second-level cache. Any address is
/// allowed.
#[inline]
pub fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<{ _MM_HINT_T1 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_stream_si256,
        _mm512_loadu_si512, _mm512_storeu_si512, _mm512_stream_si512,
    };

    use super::{LINE, Next, prefetch};

    /// # Safety
    /// As for [`super::copy`]; `length` is a multiple of [`LINE`].
    #[target_feature(enable = "avx512f")]
    pub unsafe fn copy_avx512<const AHEAD: bool>(
        from: *const u8,
        to: *mut u8,
        length: usize,
        next: Next,
    ) {
        let mut at = 0;
        while at < length {
            // SAFETY: `at + LINE <= length`.
            unsafe {
                let line = _mm512_loadu_si512(from.add(at).cast::<__m512i>());
                _mm512_storeu_si512(to.add(at).cast::<__m512i>(), line);
            }
            if AHEAD {
                prefetch(next.wrapping_add(at));
            }
            at += LINE;
        }
    }

    /// # Safety
    /// As for [`super::copy`]; `length` is a multiple of [`LINE`].
    #[target_feature(enable = "avx2")]
    pub unsafe fn copy_avx2<const AHEAD: bool>(
        from: *const u8,
        to: *mut u8,
        length: usize,
        next: Next,
    ) {
        let mut at = 0;
        while at < length {
            // SAFETY: `at + LINE <= length`.
            unsafe {
                let low = _mm256_loadu_si256(from.add(at).cast::<__m256i>());
                let high = _mm256_loadu_si256(from.add(at + LINE / 2).cast::<__m256i>());
                _mm256_storeu_si256(to.add(at).cast::<__m256i>(), low);
                _mm256_storeu_si256(to.add(at + LINE / 2).cast::<__m256i>(), high);
            }
            if AHEAD {
                prefetch(next.wrapping_add(at));
            }
            at += LINE;
        }
    }

    /// # Safety
    /// As for [`super::copy`]; `length` is a multiple of [`LINE`] and `to` is aligned to it.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn copy_cold_avx512(from: *const u8, to: *mut u8, length: usize) {
        let mut at = 0;
        while at < length {
            // SAFETY: `at + LINE <= length`, and `to + at` is aligned.
            unsafe {
                let line = _mm512_loadu_si512(from.add(at).cast::<__m512i>());
                _mm512_stream_si512(to.add(at).cast::<__m512i>(), line);
            }
            at += LINE;
        }
    }

    /// # Safety
    /// As for [`copy_cold_avx512`].
    #[target_feature(enable = "avx2")]
    pub unsafe fn copy_cold_avx2(from: *const u8, to: *mut u8, length: usize) {
        let mut at = 0;
        while at < length {
            // SAFETY: `at + LINE <= length`, and `to + at` is aligned.
            unsafe {
                let low = _mm256_loadu_si256(from.add(at).cast::<__m256i>());
                let high = _mm256_loadu_si256(from.add(at + LINE / 2).cast::<__m256i>());
                _mm256_stream_si256(to.add(at).cast::<__m256i>(), low);
                _mm256_stream_si256(to.add(at + LINE / 2).cast::<__m256i>(), high);
            }
            at += LINE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_alignment_copies_exactly() {
        let source: Vec<u8> = (0..20_000_u32).map(|n| (n * 7 + n / 251) as u8).collect();
        let mut target = vec![0_u8; 20_000];
        for length in
            [0, 1, 63, 64, 65, 512, 1023, 1024, 1088, 4096, 4160, 8192, AHEAD_MAX, AHEAD_MAX + LINE]
        {
            for offset in [0, 1, 32, 64, 100] {
                let nowhere = std::ptr::null();
                for (cold, next) in [(false, nowhere), (false, source.as_ptr()), (true, nowhere)] {
                    target.fill(0xee);
                    // SAFETY: both ranges are within their vectors.
                    unsafe {
                        let from = source.as_ptr().add(17);
                        let to = target.as_mut_ptr().add(offset);
                        if cold {
                            copy_cold(from, to, length);
                            settle();
                        } else {
                            copy_ahead(from, to, length, next);
                        }
                    }
                    assert_eq!(target[offset..offset + length], source[17..17 + length]);
                    assert!(target[..offset].iter().all(|&byte| byte == 0xee));
                    assert!(target[offset + length..].iter().all(|&byte| byte == 0xee));
                }
            }
        }
    }
}
