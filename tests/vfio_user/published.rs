//! Against a server that others wrote: the `vfio_user` crate's, with a few registers behind it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfio_bindings::bindings::vfio::{
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
    vfio_region_info, vfio_region_sparse_mmap_area,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend, ServerRegion, SparseArea};
use weft::memory::{HUGE_PAGE_SIZE, Registry};

use crate::{connect, context, shared_memory, store};

/// What the server's side saw.
#[derive(Default)]
struct Seen {
    registers: BTreeMap<(u32, u64), Vec<u8>>,
    /// Address to size and the first bytes.
    memory: BTreeMap<u64, (u64, [u8; 5])>,
    resets: usize,
}

struct Registers(Arc<Mutex<Seen>>);

impl ServerBackend for Registers {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let mut value = match (region, offset) {
            (7, 8) => vec![0x02, 0x02, 0x08, 0x01],
            _ => vec![0; data.len()],
        };
        if let Some(written) = self.0.lock().unwrap().registers.get(&(region, offset)) {
            value.clone_from(written);
        }
        if (region, offset) == (0, 0x100) {
            return Err(io::Error::other("no such register"));
        }
        data.copy_from_slice(&value);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().registers.insert((region, offset), data.to_vec());
        Ok(())
    }

    fn dma_map(
        &mut self,
        _: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        let mut bytes = [0; 5];
        rustix::io::pread(file.unwrap(), &mut bytes, offset)?;
        self.0.lock().unwrap().memory.insert(address, (size, bytes));
        Ok(())
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        let known = self.0.lock().unwrap().memory.remove(&address);
        assert_eq!(known.unwrap().0, size);
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().resets += 1;
        Ok(())
    }

    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A region of the server's; the second page of one with `doorbells` is shared.
pub fn region(index: u32, size: u64, doorbells: Option<&File>) -> ServerRegion {
    let mut flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    let mut sparse_areas = Vec::new();
    if doorbells.is_some() {
        flags |= VFIO_REGION_INFO_FLAG_MMAP;
        let area = vfio_region_sparse_mmap_area { offset: 0x1000, size: 0x1000 };
        sparse_areas.push(SparseArea { area });
    }
    let argsz = size_of::<vfio_region_info>() as u32;
    ServerRegion {
        region_info: vfio_region_info { argsz, flags, index, cap_offset: 0, size, offset: 0 },
        sparse_areas,
        mmap_fd: doorbells.map(AsRawFd::as_raw_fd),
    }
}

#[test]
fn a_published_server_serves_us() {
    let file = File::from(memfd_create("doorbells", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, 0x2000).unwrap();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let folder = tempfile::tempdir().unwrap();
    let regions = (0..9)
        .map(|index| match index {
            0 => region(0, 0x2000, Some(&file)),
            7 => region(7, 256, None),
            _ => region(index, 0, None),
        })
        .collect();
    let path = folder.path().join("cntrl");
    let server = vfio_user::Server::new(&path, true, Vec::new(), regions).unwrap();
    let mut backend = Registers(Arc::clone(&seen));
    let thread = std::thread::spawn(move || server.run(&mut backend).unwrap());

    let cx = context();
    let device = connect(&cx, folder.path()).unwrap();
    assert_eq!(seen.lock().unwrap().registers[&(7, 4)], [0x06, 0x04]);
    let memory = shared_memory(&Registry::new());
    store(&memory, 0, b"first");
    let address = memory.region.start().as_ptr() as u64;
    cx.block_on(async {
        device.write32(&cx, 0x14, 0x46_0001).await.unwrap();
        assert_eq!(device.read32(&cx, 0x14).await.unwrap(), 0x46_0001);
        assert!(device.read32(&cx, 0x100).await.is_err());
        device.map(&cx, &memory).await.unwrap();
        let known = seen.lock().unwrap().memory[&address];
        assert_eq!(known, (HUGE_PAGE_SIZE as u64, *b"first"));
        device.unmap(&cx, &memory).await;
        assert!(seen.lock().unwrap().memory.is_empty());
    });
    Arc::clone(&device).doorbell(0x1008).unwrap().ring(0x0102_0304);
    let mut bytes = [0; 4];
    rustix::io::pread(&file, &mut bytes, 0x1008).unwrap();
    assert_eq!(bytes, [4, 3, 2, 1]);
    assert!(!device.is_gone());
    drop(device);
    thread.join().unwrap();
    assert_eq!(seen.lock().unwrap().resets, 1);
}
