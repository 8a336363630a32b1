//! Containers and groups: the IOMMU's side of VFIO.
//!
//! A container is one set of device addresses; groups of functions are put into it. The controllers of a process
//! share one container where the IOMMUs allow it, so that a region of memory is mapped, and pinned, once for all of them.
//! A group can be open once in a process and in the system, so it too is shared by the functions in it.
//!
//! Everything here may take as long as the kernel takes to pin memory or to reset a function: it runs on threads of
//! its own, never on a reactor. Locks: [`SYSTEM`] before a container's state.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tracing::{debug, warn};
use vfio_bindings::bindings::vfio as abi;

use super::capability;
use super::ioctl;
use super::iova::AddressSpace;
use super::sysfs::Sysfs;
use crate::base::{Error, ErrorKind, Result};
use crate::memory::{HUGE_PAGE_SIZE, Region};

/// What is allowed where the kernel does not say (before Linux 5.4): 39 bits, which every IOMMU has, without the
/// addresses that x86 takes for interrupts.
const RANGES_UNKNOWN: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)];

/// The containers and groups of this process.
static SYSTEM: Mutex<System> = Mutex::new(System { containers: Vec::new(), groups: Vec::new() });

struct System {
    containers: Vec<Weak<Container>>,
    groups: Vec<(u32, Weak<Group>)>,
}

fn system() -> MutexGuard<'static, System> {
    // Both lists are valid between any two statements that touch them.
    SYSTEM.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A set of device addresses.
#[derive(Debug)]
pub(super) struct Container {
    file: OwnedFd,
    no_iommu: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    space: AddressSpace,
    /// Smallest page of the IOMMU.
    page: u64,
    /// By start and length.
    mapped: HashMap<(usize, usize), Mapped>,
}

#[derive(Debug)]
struct Mapped {
    iova: u64,
    /// How many controllers have asked for it.
    users: usize,
}

impl Container {
    fn new(no_iommu: bool) -> Result<Arc<Container>> {
        let path = "/dev/vfio/vfio";
        let file = open(path).map_err(|error| open_error(path, error))?;
        let kind = if no_iommu { abi::VFIO_NOIOMMU_IOMMU } else { abi::VFIO_TYPE1v2_IOMMU };
        let doing = |error| Error::os(format!("cannot ask {path}"), error);
        if !ioctl::has_known_version(file.as_fd()).map_err(doing)? {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{path} speaks another version of the interface than Weft"),
            ));
        }
        if !ioctl::has_extension(file.as_fd(), kind).map_err(doing)? {
            let (mode, module) = if no_iommu {
                ("no-IOMMU mode", "vfio with enable_unsafe_noiommu_mode=1")
            } else {
                ("type 1 IOMMUs", "vfio_iommu_type1")
            };
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the kernel has no VFIO for {mode} (modprobe {module})"),
            ));
        }
        Ok(Arc::new(Container { file: file.into(), no_iommu, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether device addresses are physical ones.
    pub(super) fn is_no_iommu(&self) -> bool {
        self.no_iommu
    }

    /// Puts a group in. `first`: the container has none yet.
    fn attach(&self, group: &OwnedFd, first: bool) -> io::Result<()> {
        ioctl::set_container(group.as_fd(), self.file.as_fd())?;
        if first {
            let kind =
                if self.no_iommu { abi::VFIO_NOIOMMU_IOMMU } else { abi::VFIO_TYPE1v2_IOMMU };
            ioctl::set_iommu(self.file.as_fd(), kind)?;
        }
        Ok(())
    }

    /// Asks anew what addresses are allowed: every group may narrow that.
    fn learn_ranges(&self) -> Result<()> {
        if self.no_iommu {
            return Ok(());
        }
        let answer = ioctl::iommu_info(self.file.as_fd())
            .map_err(|error| Error::os("cannot ask what the IOMMU can do", error))?;
        let has = |flag| answer.head.flags & flag != 0;
        let ranges = if has(abi::VFIO_IOMMU_INFO_CAPS) {
            capability::iova_ranges(&answer.bytes, answer.head.cap_offset)?
        } else {
            None
        };
        let ranges = ranges.unwrap_or_else(|| RANGES_UNKNOWN.to_vec());
        let sizes = if has(abi::VFIO_IOMMU_INFO_PGSIZES) { answer.head.iova_pgsizes } else { 0 };
        debug!(?ranges, sizes = format!("{sizes:#x}"), "what the IOMMU can do");
        let mut state = self.state();
        state.space.allow(ranges);
        // The lowest bit is the smallest page; 4 KiB where the kernel does not say.
        state.page = if sizes == 0 { 4096 } else { sizes & sizes.wrapping_neg() };
        Ok(())
    }

    /// Lets the container's devices address a region, or counts one user more of one that they can; its
    /// device address.
    pub(super) fn map(&self, region: &Region) -> Result<u64> {
        let (start, length) = (region.start().as_ptr() as usize, region.len());
        let mut state = self.state();
        let state = &mut *state;
        if let Some(mapped) = state.mapped.get_mut(&(start, length)) {
            mapped.users += 1;
            return Ok(mapped.iova);
        }
        let what = || format!("{length} bytes of memory at {start:#x}");
        if !(start as u64 | length as u64).is_multiple_of(state.page.max(1)) || length == 0 {
            return Err(Error::invalid(format!(
                "{} are not whole pages of the IOMMU ({} bytes)",
                what(),
                state.page
            )));
        }
        let iova = state.space.take(start as u64, length as u64, HUGE_PAGE_SIZE as u64);
        let Some(iova) = iova else {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("the IOMMU has no device addresses left for {}", what()),
            ));
        };
        // SAFETY: a region's bytes are shared with devices by its own invariant: no reference to them lives while a
        // device may write, and the registry keeps it until it is unmapped here.
        let mapped = unsafe { ioctl::map_dma(self.file.as_fd(), region.start(), length, iova) };
        if let Err(error) = mapped {
            state.space.release(iova);
            return Err(map_error(&what(), error));
        }
        state.mapped.insert((start, length), Mapped { iova, users: 1 });
        Ok(iova)
    }

    /// Takes that back for one user; the last one unmaps.
    pub(super) fn unmap(&self, start: usize, length: usize) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(mapped) = state.mapped.get_mut(&(start, length)) else { return };
        mapped.users -= 1;
        if mapped.users > 0 {
            return;
        }
        let iova = mapped.iova;
        state.mapped.remove(&(start, length));
        match ioctl::unmap_dma(self.file.as_fd(), iova, length as u64) {
            // Not free again if devices may still address it.
            Ok(unmapped) if unmapped == length as u64 => state.space.release(iova),
            Ok(unmapped) => warn!(iova, length, unmapped, "memory stays mapped for devices"),
            Err(error) => warn!(iova, length, %error, "cannot unmap memory from devices"),
        }
    }
}

/// A share in a group that this process has open. Whoever opens the group while the last share is dropped finds it
/// open still or closed, never in between.
#[derive(Debug)]
pub(super) struct GroupShare(Option<Arc<Group>>);

/// A group, in its container.
#[derive(Debug)]
struct Group {
    /// Closed first.
    file: OwnedFd,
    container: Arc<Container>,
}

impl GroupShare {
    /// The group `number`, in a container that it shares where possible.
    pub(super) fn open(number: u32, no_iommu: bool) -> Result<GroupShare> {
        let mut system = system();
        system.containers.retain(|container| container.strong_count() > 0);
        system.groups.retain(|(_, group)| group.strong_count() > 0);
        if let Some(group) =
            system.groups.iter().find_map(|(of, group)| group.upgrade().filter(|_| *of == number))
        {
            return Ok(GroupShare(Some(group)));
        }
        let path = if no_iommu {
            format!("/dev/vfio/noiommu-{number}")
        } else {
            format!("/dev/vfio/{number}")
        };
        let file = OwnedFd::from(open(&path).map_err(|error| open_error(&path, error))?);
        let flags = ioctl::group_flags(file.as_fd())
            .map_err(|error| Error::os(format!("cannot ask for the state of {path}"), error))?;
        if flags & abi::VFIO_GROUP_FLAGS_VIABLE == 0 {
            let obstacles = Sysfs::system().obstacles(number).join(", ");
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "the functions of IOMMU group {number} can only be used together, and others of them have drivers of \
                     the kernel's: {obstacles}; unbind them or bind them to vfio-pci"
                ),
            ));
        }
        let container = Self::attach(&mut system, &file, &path, no_iommu)?;
        container.learn_ranges()?;
        let group = Arc::new(Group { file, container });
        system.groups.push((number, Arc::downgrade(&group)));
        Ok(GroupShare(Some(group)))
    }

    fn group(&self) -> &Group {
        self.0.as_ref().expect("present until the drop")
    }

    fn attach(
        system: &mut System,
        file: &OwnedFd,
        path: &str,
        no_iommu: bool,
    ) -> Result<Arc<Container>> {
        for container in system.containers.iter().filter_map(Weak::upgrade) {
            if container.no_iommu != no_iommu {
                continue;
            }
            match container.attach(file, false) {
                Ok(()) => return Ok(container),
                // The IOMMUs differ, or what is mapped is not allowed for this one: then it gets its own.
                Err(error) => debug!(path, %error, "the group needs a container of its own"),
            }
        }
        let container = Container::new(no_iommu)?;
        container.attach(file, true).map_err(|error| attach_error(path, error))?;
        system.containers.push(Arc::downgrade(&container));
        Ok(container)
    }

    /// The container.
    pub(super) fn container(&self) -> &Container {
        &self.group().container
    }

    /// Opens a function of the group.
    pub(super) fn device(&self, address: &str) -> Result<OwnedFd> {
        ioctl::device(self.group().file.as_fd(), address).map_err(|error| {
            Error::os(format!("{address}: VFIO does not open the function"), error)
        })
    }
}

impl Drop for GroupShare {
    fn drop(&mut self) {
        let _system = system();
        self.0 = None;
    }
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn open_error(path: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "the kernel has no VFIO for this function (modprobe vfio-pci)",
        io::ErrorKind::PermissionDenied => {
            "give this user access to it (chown or a udev rule), or run as root"
        }
        io::ErrorKind::ResourceBusy => "another process uses a function of this group",
        _ => "VFIO refuses it",
    };
    Error::os(format!("cannot open {path}: {hint}"), error)
}

fn attach_error(path: &str, error: io::Error) -> Error {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => {
            ": the IOMMU does not remap interrupts, so that a function could forge them (if all who use this machine \
             are trusted: modprobe vfio_iommu_type1 allow_unsafe_interrupts=1)"
        }
        _ => "",
    };
    Error::os(format!("the IOMMU does not take {path}{hint}"), error)
}

fn map_error(what: &str, error: io::Error) -> Error {
    let doing = format!("cannot let devices address {what}");
    match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
            let limit = limit.map_or("none".into(), |bytes| format!("{} KiB", bytes >> 10));
            Error::os(
                format!(
                    "{doing}: the limit of locked memory (RLIMIT_MEMLOCK) is {limit}, and all memory that devices \
                     address counts (`ulimit -l`, LimitMEMLOCK= of the service, or the capability IPC_LOCK)"
                ),
                error,
            )
        }
        Some(libc::ENOSPC) => Error::os(
            format!("{doing}: too many regions (parameter dma_entry_limit of vfio_iommu_type1)"),
            error,
        ),
        Some(libc::EFAULT | libc::EOPNOTSUPP) => {
            Error::os(format!("{doing}: the kernel cannot pin memory of this kind"), error)
        }
        _ => Error::os(doing, error),
    }
}
