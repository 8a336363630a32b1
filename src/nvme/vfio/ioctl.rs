//! The system calls of VFIO (Linux, include/uapi/linux/vfio.h), each as a function with checked arguments.
//!
//! Keeps no state. The structures are `vfio-bindings`'; variable-length answers come back as the bytes that the
//! kernel wrote, for [`capability`](super::capability) to take apart.

use std::ffi::{CString, c_int, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use vfio_bindings::bindings::vfio as abi;

/// The number of a request: all of VFIO's are declared without size or direction.
const fn request(number: u32) -> c_ulong {
    ((abi::VFIO_TYPE as c_ulong) << 8) | (abi::VFIO_BASE + number) as c_ulong
}

const GET_API_VERSION: c_ulong = request(0);
const CHECK_EXTENSION: c_ulong = request(1);
const SET_IOMMU: c_ulong = request(2);
const GROUP_GET_STATUS: c_ulong = request(3);
const GROUP_SET_CONTAINER: c_ulong = request(4);
const GROUP_GET_DEVICE_FD: c_ulong = request(6);
const DEVICE_GET_REGION_INFO: c_ulong = request(8);
const DEVICE_GET_IRQ_INFO: c_ulong = request(9);
const DEVICE_SET_IRQS: c_ulong = request(10);
const IOMMU_GET_INFO: c_ulong = request(12);
const IOMMU_MAP_DMA: c_ulong = request(13);
const IOMMU_UNMAP_DMA: c_ulong = request(14);

/// Longest answer that is taken from the kernel, in bytes: far more than any list of ranges.
const ANSWER_MAX: usize = 1 << 20;

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An ioctl whose argument is a number, or none.
fn with_number(fd: BorrowedFd<'_>, request: c_ulong, number: u32) -> io::Result<c_int> {
    // SAFETY: the requests that come here take a number by value and touch no memory of ours.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, c_ulong::from(number)) })
}

/// An ioctl whose argument is a structure that the kernel reads, and maybe writes.
///
/// # Safety
/// `request` takes a `T`, whose `argsz` is not beyond its size, and it is sound for the kernel to do what it asks.
unsafe fn with_structure<T>(
    fd: BorrowedFd<'_>,
    request: c_ulong,
    argument: &mut T,
) -> io::Result<c_int> {
    // SAFETY: by the contract.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(argument)) })
}

/// An answer of variable length: the structure at its start, and all of its bytes.
pub(super) struct Answer<T> {
    /// The fixed part.
    pub(super) head: T,
    /// Everything, the fixed part too: capabilities are found by their distance from the start.
    pub(super) bytes: Vec<u8>,
}

/// Asks for an answer of variable length: first for its size, then for all of it.
///
/// # Safety
/// `request` takes a `T`, a C structure that begins with `argsz`; any bytes make a valid `T`.
unsafe fn answer<T: Copy>(
    fd: BorrowedFd<'_>,
    request: c_ulong,
    question: &T,
) -> io::Result<Answer<T>> {
    let mut length = size_of::<T>();
    loop {
        // Words of 64 bits, for the alignment of `T`.
        let mut words = vec![0u64; length.div_ceil(8)];
        let room = words.as_mut_ptr();
        // SAFETY: there is room for a `T`, which is aligned to at most 8 bytes, and for `length` bytes in all, which is
        // what `argsz` tells the kernel. The kernel writes no more than that.
        let asked = unsafe {
            debug_assert!(align_of::<T>() <= 8);
            room.cast::<T>().write(*question);
            room.cast::<u32>().write(length as u32);
            checked(libc::ioctl(fd.as_raw_fd(), request as _, room))
        };
        asked?;
        // SAFETY: the kernel has filled it in, and any bytes do.
        let (head, needed) =
            unsafe { (room.cast::<T>().read(), room.cast::<u32>().read() as usize) };
        if needed <= length {
            let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).take(length).collect();
            return Ok(Answer { head, bytes });
        }
        if needed > ANSWER_MAX {
            return Err(io::Error::other(format!("the kernel's answer has {needed} bytes")));
        }
        length = needed;
    }
}

/// Whether a container speaks the version of the interface that this is written for.
pub(super) fn has_known_version(container: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(with_number(container, GET_API_VERSION, 0)? == abi::VFIO_API_VERSION as c_int)
}

/// Whether a container can have an IOMMU of this kind.
pub(super) fn has_extension(container: BorrowedFd<'_>, kind: u32) -> io::Result<bool> {
    Ok(with_number(container, CHECK_EXTENSION, kind)? > 0)
}

/// Gives a container, which has a group, an IOMMU of this kind.
pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    with_number(container, SET_IOMMU, kind).map(drop)
}

/// What a container's IOMMU can do.
pub(super) fn iommu_info(
    container: BorrowedFd<'_>,
) -> io::Result<Answer<abi::vfio_iommu_type1_info>> {
    let question = abi::vfio_iommu_type1_info::default();
    // SAFETY: the structure of this request, of integers only.
    unsafe { answer(container, IOMMU_GET_INFO, &question) }
}

/// Lets the devices of a container read and write memory at an address of theirs.
///
/// # Safety
/// Devices may write `start .. start + length` until it is unmapped, so no Rust reference to it may live meanwhile.
pub(super) unsafe fn map_dma(
    container: BorrowedFd<'_>,
    start: NonNull<u8>,
    length: usize,
    iova: u64,
) -> io::Result<()> {
    let mut argument = abi::vfio_iommu_type1_dma_map {
        argsz: size_of::<abi::vfio_iommu_type1_dma_map>() as u32,
        flags: abi::VFIO_DMA_MAP_FLAG_READ | abi::VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: start.as_ptr() as u64,
        iova,
        size: length as u64,
    };
    // SAFETY: the structure of this request; the rest is the caller's word.
    unsafe { with_structure(container, IOMMU_MAP_DMA, &mut argument) }.map(drop)
}

/// Takes that back; how many bytes were unmapped.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, length: u64) -> io::Result<u64> {
    let mut argument = abi::vfio_iommu_type1_dma_unmap {
        argsz: size_of::<abi::vfio_iommu_type1_dma_unmap>() as u32,
        flags: 0,
        iova,
        size: length,
        ..Default::default()
    };
    // SAFETY: the structure of this request, with no flags that would make it longer.
    unsafe { with_structure(container, IOMMU_UNMAP_DMA, &mut argument)? };
    Ok(argument.size)
}

/// The flags of a group: `VFIO_GROUP_FLAGS_*`.
pub(super) fn group_flags(group: BorrowedFd<'_>) -> io::Result<u32> {
    let mut argument = abi::vfio_group_status {
        argsz: size_of::<abi::vfio_group_status>() as u32,
        ..Default::default()
    };
    // SAFETY: the structure of this request.
    unsafe { with_structure(group, GROUP_GET_STATUS, &mut argument)? };
    Ok(argument.flags)
}

/// Puts a group into a container.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let mut descriptor: c_int = container.as_raw_fd();
    // SAFETY: this request reads a descriptor.
    unsafe { with_structure(group, GROUP_SET_CONTAINER, &mut descriptor) }.map(drop)
}

/// Opens a device of a group by its PCI address.
pub(super) fn device(group: BorrowedFd<'_>, address: &str) -> io::Result<OwnedFd> {
    let name = CString::new(address)?;
    // SAFETY: this request reads a string that ends with a zero byte.
    let descriptor = checked(unsafe {
        libc::ioctl(group.as_raw_fd(), GROUP_GET_DEVICE_FD as _, name.as_ptr())
    })?;
    // SAFETY: a new descriptor, which nobody else knows.
    let device = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // Programs that this process starts have no business with it.
    rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::CLOEXEC)?;
    Ok(device)
}

/// A region of a device: a BAR, or the configuration space.
pub(super) fn region_info(
    device: BorrowedFd<'_>,
    index: u32,
) -> io::Result<Answer<abi::vfio_region_info>> {
    let question = abi::vfio_region_info { index, ..Default::default() };
    // SAFETY: the structure of this request, of integers only.
    unsafe { answer(device, DEVICE_GET_REGION_INFO, &question) }
}

/// How many interrupts or events a device has of this index.
pub(super) fn event_count(device: BorrowedFd<'_>, index: u32) -> io::Result<u32> {
    let mut argument = abi::vfio_irq_info {
        argsz: size_of::<abi::vfio_irq_info>() as u32,
        index,
        ..Default::default()
    };
    // SAFETY: the structure of this request.
    unsafe { with_structure(device, DEVICE_GET_IRQ_INFO, &mut argument)? };
    Ok(argument.count)
}

/// `vfio_irq_set` with one descriptor behind it.
#[repr(C)]
struct EventSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    descriptor: c_int,
}

const _: () = assert!(size_of::<EventSet>() == size_of::<abi::vfio_irq_set>() + size_of::<c_int>());

/// Has the kernel signal an event descriptor at the first event of this index.
pub(super) fn signal_event(
    device: BorrowedFd<'_>,
    index: u32,
    event: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut argument = EventSet {
        argsz: size_of::<EventSet>() as u32,
        flags: abi::VFIO_IRQ_SET_DATA_EVENTFD | abi::VFIO_IRQ_SET_ACTION_TRIGGER,
        index,
        start: 0,
        count: 1,
        descriptor: event.as_raw_fd(),
    };
    // SAFETY: the structure of this request, with as much data as `count` says.
    unsafe { with_structure(device, DEVICE_SET_IRQS, &mut argument) }.map(drop)
}
