//! Physical addresses of huge pages, for devices without an IOMMU (Linux, Documentation/admin-guide/mm/pagemap.rst).
//!
//! Only reserved huge pages will do: the kernel neither swaps them nor moves them about for its own purposes,
//! while an ordinary page may be elsewhere at any time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::base::{Error, ErrorKind, Result};
use crate::memory::{HUGE_PAGE_SIZE, PageKind, Region};

/// Bytes of an entry.
const ENTRY_SIZE: u64 = 8;
/// The page is in memory.
const PRESENT: u64 = 1 << 63;
/// The page is swapped out.
const SWAPPED: u64 = 1 << 62;
/// The page frame number; zero for readers without CAP_SYS_ADMIN.
const FRAME: u64 = (1 << 55) - 1;

const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// The physical address of each huge page of `region`.
pub(super) fn physical_pages(region: &Region) -> Result<Arc<[u64]>> {
    check_kind(region)?;
    let page = page_size();
    let file = File::open("/proc/self/pagemap")
        .map_err(|error| Error::os("cannot open /proc/self/pagemap", error))?;
    (0..region.len() / HUGE_PAGE_SIZE)
        .map(|index| {
            // SAFETY: within the region, which is mapped while the caller has it.
            let address = unsafe { region.start().add(index * HUGE_PAGE_SIZE) };
            // A page has a place only once it was touched.
            // SAFETY: as above; devices may write there, hence volatile.
            unsafe { address.as_ptr().read_volatile() };
            let mut entry = [0; ENTRY_SIZE as usize];
            file.read_exact_at(&mut entry, address.as_ptr() as u64 / page * ENTRY_SIZE)
                .map_err(|error| Error::os("cannot read /proc/self/pagemap", error))?;
            physical_address(u64::from_ne_bytes(entry), page)
        })
        .collect()
}

/// The address that the entry of a huge page's first small page tells.
fn physical_address(entry: u64, page: u64) -> Result<u64> {
    if entry & PRESENT == 0 || entry & SWAPPED != 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("a huge page is not in memory (/proc/self/pagemap: {entry:#018x})"),
        ));
    }
    if entry & FRAME == 0 {
        return Err(Error::new(
            ErrorKind::AccessDenied,
            "the kernel does not tell physical addresses, which a device without an IOMMU needs: run as root, \
             or with the capability SYS_ADMIN",
        ));
    }
    let address = (entry & FRAME)
        .checked_mul(page)
        .filter(|address| address.is_multiple_of(HUGE_PAGE_SIZE as u64));
    address.ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("memory is not made of huge pages (/proc/self/pagemap: {entry:#018x})"),
        )
    })
}

/// Refuses memory that is not made of reserved huge pages.
fn check_kind(region: &Region) -> Result<()> {
    let fixed = match region.kind() {
        PageKind::Huge => true,
        PageKind::Ordinary => false,
        PageKind::Foreign => region.backing().is_some_and(|backing| {
            rustix::fs::fstatfs(backing.file()).is_ok_and(|found| {
                found.f_type as u64 == HUGETLBFS_MAGIC
                    && found.f_bsize as u64 == HUGE_PAGE_SIZE as u64
            })
        }),
    };
    let start = region.start().as_ptr() as usize;
    if fixed && start.is_multiple_of(HUGE_PAGE_SIZE) && region.len().is_multiple_of(HUGE_PAGE_SIZE)
    {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "{} bytes of memory at {start:#x} are not whole huge pages of {} KiB: without an IOMMU a device can use no \
             other, since the kernel may move the rest at any time (reserve some: /proc/sys/vm/nr_hugepages)",
            region.len(),
            HUGE_PAGE_SIZE >> 10
        ),
    ))
}

/// Bytes of an ordinary page.
pub(super) fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HugePages;

    #[test]
    fn an_entry_tells_the_address() {
        assert_eq!(physical_address(PRESENT | 0x200, 4096).unwrap(), 0x20_0000);
        // The bits between are flags: soft-dirty, exclusively mapped, file page.
        let flags = 1 << 55 | 1 << 56 | 1 << 61;
        assert_eq!(
            physical_address(PRESENT | flags | 0x1_2345_6e00, 4096).unwrap(),
            0x1234_56e0_0000
        );
    }

    #[test]
    fn an_entry_without_an_address_says_why() {
        for (entry, kind) in [
            (0, ErrorKind::Unsupported),
            (0x200, ErrorKind::Unsupported),
            (PRESENT | SWAPPED | 0x200, ErrorKind::Unsupported),
            (PRESENT | 0x201, ErrorKind::Unsupported),
            (PRESENT, ErrorKind::AccessDenied),
        ] {
            assert_eq!(physical_address(entry, 4096).unwrap_err().kind(), kind, "{entry:#x}");
        }
        assert!(physical_address(PRESENT | FRAME, 1 << 16).is_err());
    }

    #[test]
    fn ordinary_and_unknown_memory_is_refused() {
        let ordinary = Region::allocate(1, HugePages::Never).unwrap();
        let refused = physical_pages(&ordinary).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        // SAFETY: the memory outlives the region.
        let foreign = unsafe { Region::foreign(ordinary.start(), HUGE_PAGE_SIZE) };
        assert!(physical_pages(&foreign).is_err());
    }
}
