//! The register window: which parts of it are mapped into this process, and where.
//!
//! A mapping is of a file that the server keeps. That the file is long enough is checked once; a server that
//! cuts it short afterwards kills whoever touches the mapping. So a server is trusted as far as its file is,
//! or connected to with [`ConnectOptions::map_registers`](super::ConnectOptions) off.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::fstat;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::region_info::{Area, RegionInfo};
use crate::base::{Error, ErrorKind, Result};

/// The smallest page that a system may have. Where pages are larger, the system refuses what is no multiple.
const PAGE: u64 = 4096;

/// The window.
#[derive(Debug)]
pub struct Window {
    /// In bytes.
    size: u64,
    areas: Vec<Mapped>,
}

/// One mapped part of it.
#[derive(Debug)]
struct Mapped {
    offset: u64,
    start: NonNull<u8>,
    length: usize,
    readable: bool,
    writable: bool,
}

// SAFETY: a mapping belongs to no thread, and is reached through raw pointers and volatile accesses only.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `Mapped::new` made, unmapped once; whoever has a pointer into it keeps
        // the transport, and with it the window.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.length) } {
            tracing::debug!(%error, "munmap of registers");
        }
    }
}

impl Mapped {
    fn new(info: &RegionInfo, area: Area, file: &OwnedFd) -> Result<Mapped> {
        let Area { offset, size } = area;
        let doing = || format!("mapping {size} bytes of registers from {offset:#x}");
        let broken = |what: String| Error::new(ErrorKind::Io, format!("{}: {what}", doing()));
        let from = info.offset.checked_add(offset);
        let from = from.filter(|from| offset.is_multiple_of(PAGE) && from.is_multiple_of(PAGE));
        let from = from.ok_or_else(|| {
            broken(format!("no page starts there in a file from {:#x}", info.offset))
        })?;
        let length = fstat(file).map_err(|errno| Error::os(doing(), errno))?.st_size;
        let end = from.checked_add(size);
        if end.is_none_or(|end| i64::try_from(end).is_ok_and(|end| end > length)) {
            // Touching what lies beyond the end would kill the process.
            return Err(broken(format!("the server's file has only {length} bytes")));
        }
        let readable = info.flags & RegionInfo::READ != 0;
        let writable = info.flags & RegionInfo::WRITE != 0;
        let mut protection = ProtFlags::empty();
        protection.set(ProtFlags::READ, readable);
        protection.set(ProtFlags::WRITE, writable);
        let length = usize::try_from(size).map_err(|_| broken("too long".into()))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file.as_fd(), from)
        }
        .map_err(|errno| Error::os(doing(), errno))?;
        let start = NonNull::new(start.cast()).expect("mmap never returns null");
        Ok(Mapped { offset, start, length, readable, writable })
    }

    fn register(&self, offset: u64) -> Option<NonNull<u32>> {
        let within = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let fits = within.checked_add(size_of::<u32>())? <= self.length;
        // SAFETY: in bounds of the mapping, which starts at a page.
        fits.then(|| unsafe { self.start.add(within) }.cast())
    }
}

impl Window {
    /// The window of `info`, with `areas` mapped from the files that came along: one for all areas, or one each.
    ///
    /// # Errors
    /// When there are other numbers of files, or a file cannot be mapped as announced.
    pub fn new(info: &RegionInfo, areas: &[Area], files: &[OwnedFd]) -> Result<Window> {
        // Without a file everything goes by messages.
        let used = areas.iter().enumerate().filter(|(_, area)| area.size > 0 && !files.is_empty());
        let areas = used
            .map(|(index, &area)| {
                let file = match files {
                    [file] => Some(file),
                    files if files.len() == areas.len() => files.get(index),
                    _ => None,
                };
                let file = file.ok_or_else(|| {
                    let (files, areas) = (files.len(), areas.len());
                    Error::new(ErrorKind::Io, format!("{files} files for {areas} mappable areas"))
                })?;
                Mapped::new(info, area, file)
            })
            .collect::<Result<Vec<Mapped>>>()?;
        Ok(Window { size: info.size, areas })
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a register of four bytes is at `offset`.
    pub fn has(&self, offset: u32) -> bool {
        offset.is_multiple_of(4) && u64::from(offset) + 4 <= self.size
    }

    /// The mapped register at `offset`, if it can be read there.
    pub fn readable(&self, offset: u32) -> Option<NonNull<u32>> {
        self.find(offset, |area| area.readable)
    }

    /// The mapped register at `offset`, if it can be written there.
    pub fn writable(&self, offset: u32) -> Option<NonNull<u32>> {
        self.find(offset, |area| area.writable)
    }

    fn find(&self, offset: u32, may: impl Fn(&Mapped) -> bool) -> Option<NonNull<u32>> {
        self.areas.iter().filter(|&area| may(area)).find_map(|area| area.register(offset.into()))
    }

    /// Reads the register at `offset`, if that is mapped.
    pub fn read(&self, offset: u32) -> Option<u32> {
        let register = self.readable(offset)?;
        // SAFETY: aligned (checked by `has` before, and the mapping is to a page) and mapped for reading while
        // `self` lives.
        self.has(offset).then(|| unsafe { register.as_ptr().read_volatile() })
    }

    /// Writes the register at `offset`. False if that is not mapped.
    #[must_use]
    pub fn write(&self, offset: u32, value: u32) -> bool {
        let Some(register) = self.writable(offset).filter(|_| self.has(offset)) else {
            return false;
        };
        // SAFETY: as in `read`, for writing.
        unsafe { register.as_ptr().write_volatile(value) };
        true
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn file(length: u64) -> OwnedFd {
        let file = memfd_create("registers", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, length).unwrap();
        file
    }

    fn info() -> RegionInfo {
        let flags = RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP;
        RegionInfo { flags, size: 0x4000, ..RegionInfo::default() }
    }

    const DOORBELLS: Area = Area { offset: 0x1000, size: 0x1000 };

    #[test]
    fn mapped_registers_are_the_files_bytes() {
        let files = [file(0x3000)];
        // The file's page of this area is the third: one in front of the region's own start, one of the region.
        let info = RegionInfo { offset: 0x1000, ..info() };
        let window = Window::new(&info, &[DOORBELLS], &files).unwrap();
        assert_eq!((window.read(0xffc), window.read(0x2000)), (None, None));
        assert!(window.write(0x1008, 0x1122_3344) && !window.write(0x2000, 1));
        assert_eq!(window.read(0x1008), Some(0x1122_3344));
        let mut bytes = [0; 4];
        rustix::io::pread(&files[0], &mut bytes, 0x2008).unwrap();
        assert_eq!(u32::from_ne_bytes(bytes), 0x1122_3344);
        assert!(window.has(0x3ffc) && !window.has(0x4000) && !window.has(0x1002));
    }

    #[test]
    fn nothing_is_mapped_that_is_not_there() {
        for (info, area, length) in [
            (info(), DOORBELLS, 0x1fff),
            (info(), Area { offset: 0x1004, ..DOORBELLS }, 0x4000),
            (RegionInfo { offset: 0xffc, ..info() }, Area { offset: 0x1004, size: 0x1000 }, 0x4000),
            (RegionInfo { offset: u64::MAX - 0xfff, ..info() }, DOORBELLS, 0x4000),
            (RegionInfo { offset: 1 << 62, ..info() }, DOORBELLS, 0x4000),
            (info(), Area { offset: 0, size: 1 << 50 }, 0x4000),
        ] {
            let error = Window::new(&info, &[area], &[file(length)]).unwrap_err();
            assert!(error.to_string().contains("mapping"), "{error}");
        }
        let three = [file(0x4000), file(0x4000), file(0x4000)];
        assert!(Window::new(&info(), &[DOORBELLS; 2], &three).is_err());
        assert!(Window::new(&info(), &[DOORBELLS; 3], &three).is_ok());
        let none = Window::new(&info(), &[DOORBELLS], &[]).unwrap();
        assert!(none.writable(0x1000).is_none());
        let read_only = RegionInfo { flags: RegionInfo::READ | RegionInfo::MMAP, ..info() };
        let window = Window::new(&read_only, &[DOORBELLS], &[file(0x4000)]).unwrap();
        assert!(window.writable(0x1000).is_none() && window.readable(0x1000).is_some());
    }
}
