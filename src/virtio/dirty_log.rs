//! The log of pages that were written, for live migration (vhost-user, "Migration").

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::base::{Error, Result};
use crate::memory::Region;

/// `log2` of the length of a page in the log (VHOST_LOG_PAGE).
const PAGE_SHIFT: u32 = 12;

/// A bitmap in memory of the front end's, which it reads and clears while we set bits: one for each page of the guest,
/// from guest address zero on, in the order of bytes and of the bits in them.
#[derive(Debug)]
pub struct DirtyLog {
    memory: Region,
}

impl DirtyLog {
    /// The log in `length` bytes of `file` from `offset` on, as SET_LOG_BASE says.
    ///
    /// # Errors
    /// `Invalid` when the file has no such bytes; what the system says of the mapping.
    pub fn map(file: OwnedFd, offset: u64, length: u64) -> Result<DirtyLog> {
        let length = usize::try_from(length)
            .map_err(|_| Error::invalid(format!("a log of dirty pages of {length} bytes")))?;
        Ok(DirtyLog { memory: Region::map(file, offset, length)? })
    }

    /// Marks the pages of `length` bytes at a guest address, after they were written. Pages that the log does not cover are
    /// left out: there is nobody who could be told, and who made the log knows how far the guest's memory reaches.
    #[inline]
    pub fn mark(&self, guest_address: u64, length: u64) {
        if length == 0 {
            return;
        }
        let first = guest_address >> PAGE_SHIFT;
        let last = guest_address.saturating_add(length - 1) >> PAGE_SHIFT;
        let Some(last_covered) = (self.memory.len() as u64 * 8).checked_sub(1) else { return };
        if first > last_covered {
            return;
        }
        let last = last.min(last_covered);
        let mut byte = first / 8;
        loop {
            let mut bits = u8::MAX;
            if byte == first / 8 {
                bits &= u8::MAX << (first % 8);
            }
            if byte == last / 8 {
                bits &= u8::MAX >> (7 - last % 8);
            }
            self.set(byte as usize, bits);
            if byte == last / 8 {
                return;
            }
            byte += 1;
        }
    }

    #[inline]
    fn set(&self, byte: usize, bits: u8) {
        debug_assert!(byte < self.memory.len());
        // SAFETY: within the mapping by the caller's check; other processes access it by atomic operations too.
        let cell = unsafe { &*self.memory.start().as_ptr().add(byte).cast::<AtomicU8>() };
        // The bit may be there already, from the last write to the page: but then the front end may just be
        // fetching it, so it is set again in any case.
        cell.fetch_or(bits, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::io::dup;

    use super::*;

    fn file(length: u64) -> OwnedFd {
        let file = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, length).unwrap();
        file
    }

    /// The pages that are marked after these marks, in a log of four bytes in the middle of a file.
    fn marked(marks: &[(u64, u64)]) -> Vec<usize> {
        let file = file(8192);
        let log = DirtyLog::map(dup(&file).unwrap(), 100, 4).unwrap();
        for &(address, length) in marks {
            log.mark(address, length);
        }
        let mut bytes = vec![0; 8192];
        rustix::io::pread(&file, &mut bytes[..], 0).unwrap();
        assert!(bytes[..100].iter().chain(&bytes[104..]).all(|&byte| byte == 0));
        let bytes = &bytes[100..104];
        (0..32).filter(|page| bytes[page / 8] & 1 << (page % 8) != 0).collect()
    }

    #[test]
    fn pages_are_marked() {
        assert_eq!(marked(&[(0, 1)]), [0]);
        assert_eq!(marked(&[(0x1fff, 1), (0x5000, 0)]), [1]);
        assert_eq!(marked(&[(0x1fff, 2)]), [1, 2]);
        assert_eq!(marked(&[(0x3000, 0x1000), (0x3000, 0x1000)]), [3]);
        assert_eq!(marked(&[(0x7fff, 2)]), [7, 8]);
        assert_eq!(marked(&[(0x6000, 0x1_2000)]), Vec::from_iter(6..24));
    }

    #[test]
    fn pages_beyond_the_log_are_left_out() {
        assert!(marked(&[(0x2_0000, 1)]).is_empty());
        assert_eq!(marked(&[(0x1_f000, u64::MAX)]), [31]);
        assert!(marked(&[(u64::MAX, 1), (u64::MAX, u64::MAX)]).is_empty());
        assert_eq!(marked(&[(0, u64::MAX)]), Vec::from_iter(0..32));
    }

    #[test]
    fn a_log_that_is_not_in_its_file() {
        for (offset, length) in [(0, 0), (0, 4097), (4096, 1), (u64::MAX, 2), (0, u64::MAX)] {
            assert!(DirtyLog::map(file(4096), offset, length).is_err(), "{offset} {length}");
        }
    }
}
