//! A run of DPDK's memory.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;
use tracing::debug;

use super::iova::IovaMode;
use crate::base::{Error, ErrorKind, Result};
use crate::memory::page::{Backing, DeviceAddresses, HUGE_PAGE_SIZE, PageKind};

/// Memory out of DPDK's heap, aligned to [`HUGE_PAGE_SIZE`]; goes back when dropped.
#[derive(Debug)]
pub struct Block {
    start: NonNull<u8>,
    kind: PageKind,
    backing: Option<Backing>,
    addresses: Option<DeviceAddresses>,
}

// SAFETY: a block is an address range of the process, and DPDK takes it back on any thread.
unsafe impl Send for Block {}
// SAFETY: it gives out a raw pointer only.
unsafe impl Sync for Block {}

impl Block {
    /// `length` bytes of zeros, a multiple of [`HUGE_PAGE_SIZE`], on `node` if DPDK has them there.
    ///
    /// The EAL runs: the environment, which alone calls this, shows it.
    pub(super) fn allocate(length: usize, node: Option<u32>, mode: IovaMode) -> Result<Block> {
        let wish = node.and_then(|node| i32::try_from(node).ok());
        let start = wish
            .and_then(|socket| {
                let start = zeros(length, socket);
                if start.is_none() {
                    debug!(socket, length, "DPDK has no memory on this NUMA node; elsewhere, then");
                }
                start
            })
            .or_else(|| zeros(length, sys::SOCKET_ID_ANY))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NoMemory,
                    format!(
                        "DPDK has no {} MiB of memory in one piece (reserve more huge pages: \
                         /proc/sys/vm/nr_hugepages; or, with --no-huge, give it more with -m MEGABYTES)",
                        length >> 20
                    ),
                )
            })?;
        // Owned from here on, so that it goes back should the rest fail.
        let mut block = Block { start, kind: PageKind::Ordinary, backing: None, addresses: None };
        block.find_out(length, mode)?;
        Ok(block)
    }

    fn find_out(&mut self, length: usize, mode: IovaMode) -> Result<()> {
        let pages = || (0..length).step_by(HUGE_PAGE_SIZE).map(|offset| self.at(offset));
        let segments = pages().map(segment_of).collect::<Option<Vec<_>>>().ok_or_else(|| {
            Error::new(ErrorKind::Io, "DPDK does not know the pages of its own memory")
        })?;
        let huge = segments.iter().all(|segment| segment.page_size >= HUGE_PAGE_SIZE);
        let addresses = match mode {
            IovaMode::Virtual => Some(DeviceAddresses::Virtual),
            // What lies in small pages is scattered more finely than drivers take it.
            IovaMode::Physical if !huge => None,
            IovaMode::Physical => {
                let addresses = pages().map(physical_address).collect::<Option<Vec<_>>>();
                let addresses = addresses.ok_or_else(|| {
                    Error::new(
                        ErrorKind::NotPermitted,
                        "physical addresses of DPDK's memory (only a privileged process is told them)",
                    )
                })?;
                Some(DeviceAddresses::Physical(addresses.into()))
            }
        };
        self.kind = if huge { PageKind::Huge } else { PageKind::Ordinary };
        self.backing = if huge { one_file(&segments) } else { None };
        self.addresses = addresses;
        Ok(())
    }

    fn at(&self, offset: usize) -> *const c_void {
        self.start.as_ptr().wrapping_add(offset).cast_const().cast()
    }

    /// Where it starts.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// What it is made of.
    pub fn kind(&self) -> PageKind {
        self.kind
    }

    /// The file behind it, if all of it lies in one.
    pub fn backing(&self) -> Option<Backing> {
        self.backing.clone()
    }

    /// Where devices find it. Not told for ordinary pages in physical mode.
    pub fn addresses(&self) -> Option<DeviceAddresses> {
        self.addresses.clone()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it came from DPDK's heap and goes back once.
        unsafe { sys::rte_free(self.start.as_ptr().cast()) };
    }
}

fn zeros(length: usize, socket: i32) -> Option<NonNull<u8>> {
    // SAFETY: the EAL runs, the alignment is a power of two; failure gives null.
    let start =
        unsafe { sys::rte_zmalloc_socket(c"weft".as_ptr(), length, HUGE_PAGE_SIZE as u32, socket) };
    NonNull::new(start.cast())
}

/// What DPDK knows of the page at an address.
struct Segment {
    page_size: usize,
    /// The file that holds it, and where it holds the address.
    file: Option<(i32, u64)>,
}

fn segment_of(address: *const c_void) -> Option<Segment> {
    // SAFETY: the address is of the heap; the list of segments is found by DPDK itself.
    let segment = unsafe { sys::rte_mem_virt2memseg(address, std::ptr::null()) };
    if segment.is_null() {
        return None;
    }
    // SAFETY: a segment stays as it is while it holds memory that is in use, as this does.
    let (page_start, page_size) =
        unsafe { ((*segment).__bindgen_anon_1.addr_64, (*segment).hugepage_sz) };
    let mut start = 0;
    // SAFETY: the segment is in use.
    let descriptor = unsafe { sys::rte_memseg_get_fd(segment) };
    // SAFETY: as above; it writes `start`.
    let found = unsafe { sys::rte_memseg_get_fd_offset(segment, &raw mut start) } == 0;
    let within = address as u64 - page_start;
    Some(Segment {
        page_size: page_size as usize,
        file: (found && descriptor >= 0).then_some((descriptor, start as u64 + within)),
    })
}

/// The file that has all segments one after the other.
fn one_file(segments: &[Segment]) -> Option<Backing> {
    let (descriptor, start) = segments.first()?.file?;
    let places = (start..).step_by(HUGE_PAGE_SIZE);
    if !segments.iter().zip(places).all(|(segment, at)| segment.file == Some((descriptor, at))) {
        return None;
    }
    // SAFETY: DPDK keeps the file open while memory in it is in use, as this is.
    let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
    match file.try_clone_to_owned() {
        Ok(own) => Some(Backing::new(Arc::new(own), start)),
        Err(error) => {
            debug!(%error, "the file behind DPDK's memory");
            None
        }
    }
}

fn physical_address(address: *const c_void) -> Option<u64> {
    // SAFETY: it looks the address up; any is admitted.
    let physical = unsafe { sys::rte_mem_virt2iova(address) };
    (physical != sys::rte_iova_t::MAX).then_some(physical)
}
