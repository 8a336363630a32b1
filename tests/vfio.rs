//! The VFIO backend on real functions: of a guest's emulated controllers, see `ci/guest/nvme`. Without functions in
//! `WEFT_TEST_VFIO` (PCI addresses, bound to vfio-pci, whose contents do not matter) these tests pass at once.
//!
//! The admin commands are made by hand, from the specification's structures, so that a fault of the driver above is
//! none of theirs.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use weft::base::ErrorKind;
use weft::memory::{
    HUGE_PAGE_SIZE, HugePages, PageKind, PoolOptions, Region, RegionView, Registry,
};
use weft::nvme::spec::{
    AdminOpcode, Capabilities, CompletionEntry, ControllerConfiguration, ControllerStatus,
    DataPointer, DoorbellKind, IdentifyCns, IdentifyController, Register, SubmissionEntry, Version,
    admin_queue_attributes, doorbell_offset, printable,
};
use weft::nvme::vfio::{self, VfioOptions};
use weft::nvme::{Doorbell, Iova, Transport};
use weft::reactor::Context;

/// The functions are shared by all tests here: one at a time.
static FUNCTIONS: Mutex<()> = Mutex::new(());

/// Runs `test` with the functions' addresses, if there are any.
fn with_functions(test: impl FnOnce(&Context, Arc<Registry>, &[&str])) {
    let _only = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(addresses) = std::env::var("WEFT_TEST_VFIO") else {
        println!("skipped: WEFT_TEST_VFIO names no functions");
        return;
    };
    let addresses: Vec<&str> = addresses.split_whitespace().collect();
    let regions = Registry::new();
    let pool = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
    let cx = Context::detached(Arc::clone(&regions), pool);
    test(&cx, regions, &addresses);
}

fn options() -> VfioOptions {
    VfioOptions { no_iommu: std::env::var_os("WEFT_TEST_VFIO_NO_IOMMU").is_some() }
}

fn open(cx: &Context, address: &str) -> Arc<dyn Transport> {
    cx.block_on(vfio::open(address, options())).unwrap()
}

/// A controller that is enabled, with one pair of queues at the start of a region, and room for data behind it.
struct Controller<'a> {
    cx: &'a Context,
    transport: Arc<dyn Transport>,
    view: RegionView,
    iova: Iova,
    doorbells: [Doorbell; 2],
    tail: u32,
}

const ENTRIES: u32 = 16;
const COMPLETIONS: usize = 4096;
const DATA: usize = 8192;

impl<'a> Controller<'a> {
    fn enable(cx: &'a Context, transport: Arc<dyn Transport>, view: RegionView) -> Controller<'a> {
        let iova = cx.block_on(transport.map(cx, &view)).unwrap();
        cx.block_on(async {
            let device = &*transport;
            let cap = Capabilities(device.read64(cx, Register::CAP).await.unwrap());
            assert!(cap.nvm_command_set());
            device.write32(cx, Register::CC, 0).await.unwrap();
            Self::wait(cx, device, false).await;
            let queues = admin_queue_attributes(ENTRIES, ENTRIES);
            device.write32(cx, Register::AQA, queues).await.unwrap();
            device.write64(cx, Register::ASQ, address(&iova, 0)).await.unwrap();
            device.write64(cx, Register::ACQ, address(&iova, COMPLETIONS)).await.unwrap();
            let configuration =
                ControllerConfiguration::default().with_entry_sizes(6, 4).with_enable(true);
            device.write32(cx, Register::CC, configuration.0).await.unwrap();
            Self::wait(cx, device, true).await;
        });
        let doorbells = [DoorbellKind::SubmissionTail, DoorbellKind::CompletionHead].map(|kind| {
            Arc::clone(&transport).doorbell(doorbell_offset(0, kind, 4).unwrap()).unwrap()
        });
        Controller { cx, transport, view, iova, doorbells, tail: 0 }
    }

    async fn wait(cx: &Context, device: &dyn Transport, ready: bool) {
        loop {
            let status = ControllerStatus(device.read32(cx, Register::CSTS).await.unwrap());
            assert!(!status.is_fatal() && !status.is_all_ones());
            if status.is_ready() == ready {
                return;
            }
            cx.yield_now().await;
        }
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.view.region.len());
        // SAFETY: within the region.
        unsafe { self.view.region.start().add(offset) }
    }

    /// Runs IDENTIFY with data at `offset`; the model and the serial number.
    fn identify(&mut self, offset: usize) -> (String, String) {
        let mut entry = SubmissionEntry::new(AdminOpcode::IDENTIFY, 0);
        entry.command_id = self.tail as u16;
        entry.cdw10 = IdentifyCns::CONTROLLER.into();
        entry.data = DataPointer { prp1: address(&self.iova, offset), prp2: 0 };
        let slot = self.tail;
        self.tail = (self.tail + 1) % ENTRIES;
        // SAFETY: within the region, in the entry that the device does not own now.
        unsafe { self.at(slot as usize * 64).cast::<SubmissionEntry>().write_volatile(entry) };
        self.doorbells[0].ring(self.tail);
        let completion = loop {
            // SAFETY: within the region; every value is a completion.
            let completion = unsafe {
                self.at(COMPLETIONS + slot as usize * 16).cast::<CompletionEntry>().read_volatile()
            };
            // The first turn of the ring: the phase goes from 0 to 1.
            if completion.phase() {
                break completion;
            }
            self.cx.turn();
        };
        self.doorbells[1].ring(self.tail);
        assert!(completion.status().is_success(), "{:?}", completion.status());
        assert_eq!(u32::from(completion.command_id), slot);
        // SAFETY: the device has written it, and any bytes make a structure.
        let data = unsafe { self.at(offset).cast::<IdentifyController>().read_volatile() };
        (printable(&data.mn), printable(&data.sn))
    }

    fn disable(self) -> Arc<dyn Transport> {
        self.cx.block_on(async {
            self.transport.write32(self.cx, Register::CC, 0).await.unwrap();
            Self::wait(self.cx, &*self.transport, false).await;
            self.transport.unmap(self.cx, &self.view).await;
        });
        self.transport
    }
}

/// Where a device finds the byte at `offset` of a region.
fn address(iova: &Iova, offset: usize) -> u64 {
    match iova {
        Iova::Linear(start) => start + offset as u64,
        Iova::Pages(pages) => pages[offset / HUGE_PAGE_SIZE] + (offset % HUGE_PAGE_SIZE) as u64,
    }
}

fn huge(regions: &Registry, pages: usize) -> RegionView {
    let region = Region::allocate(pages * HUGE_PAGE_SIZE, HugePages::Require).unwrap();
    regions.add(Arc::new(region)).unwrap()
}

/// How much memory of this process is locked.
fn locked_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn registers_are_read_and_bounds_kept() {
    with_functions(|cx, _, addresses| {
        for address in addresses {
            let transport = open(cx, address);
            assert_eq!(transport.address(), *address);
            let version = cx.block_on(transport.read32(cx, Register::VS)).unwrap();
            assert!(Version(version).major() >= 1, "{version:#x}");
            let window = transport.window() as u32;
            for beyond in [window, window - 2, 2, u32::MAX - 3] {
                let read = cx.block_on(transport.read32(cx, beyond));
                assert_eq!(read.unwrap_err().kind(), ErrorKind::Invalid, "{beyond:#x}");
                assert!(Arc::clone(&transport).doorbell(beyond).is_err());
            }
            // The page of the MSI-X table may not be mappable; it is reached all the same.
            for page in (0..window).step_by(4096) {
                cx.block_on(transport.read32(cx, page)).unwrap();
            }
            assert!(!transport.is_gone());
        }
    });
}

#[test]
fn a_function_is_open_once_and_again_after_that() {
    with_functions(|cx, _, addresses| {
        let transport = open(cx, addresses[0]);
        let again = cx.block_on(vfio::open(addresses[0], options()));
        assert_eq!(again.map(drop).unwrap_err().kind(), ErrorKind::Busy);
        for _ in 0..3 {
            drop(open(cx, addresses[1]));
        }
        drop(transport);
        drop(open(cx, addresses[0]));
    });
}

#[test]
fn commands_reach_every_kind_of_memory() {
    with_functions(|cx, regions, addresses| {
        let huge_pages = huge(&regions, 3);
        let mut controller = Controller::enable(cx, open(cx, addresses[0]), huge_pages);
        let first = controller.identify(DATA);
        // In another huge page, which may be anywhere in physical memory.
        assert_eq!(controller.identify(2 * HUGE_PAGE_SIZE + DATA), first);
        println!("{first:?}");
        let transport = controller.disable();

        let ordinary = Arc::new(Region::allocate(1 << 20, HugePages::Never).unwrap());
        assert_eq!(ordinary.kind(), PageKind::Ordinary);
        // SAFETY: within the ordinary region, which outlives it.
        let foreign = unsafe { Region::foreign(ordinary.start().add(3 * 4096), 64 << 10) };
        for region in [Arc::clone(&ordinary), Arc::new(foreign)] {
            let view = regions.add(region).unwrap();
            if options().no_iommu {
                let refused = cx.block_on(transport.map(cx, &view)).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
            } else {
                // Afresh: the queues' phase starts over.
                // SAFETY: within the region, which no device has.
                unsafe { view.region.start().write_bytes(0, 64 << 10) };
                let mut controller = Controller::enable(cx, Arc::clone(&transport), view.clone());
                assert_eq!(controller.identify(DATA), first);
                controller.disable();
            }
        }
        // SAFETY: never touched.
        let odd = unsafe { Region::foreign(ordinary.start().add(100), 5000) };
        let view = regions.add(Arc::new(odd)).unwrap();
        assert!(cx.block_on(transport.map(cx, &view)).is_err());
    });
}

#[test]
fn controllers_share_a_container() {
    with_functions(|cx, regions, addresses| {
        let transports = [open(cx, addresses[0]), open(cx, addresses[1])];
        let view = huge(&regions, 1);
        let before = locked_kib();
        let iovas = transports.each_ref().map(|t| cx.block_on(t.map(cx, &view)).unwrap());
        assert_eq!(iovas[0], iovas[1]);
        if !options().no_iommu {
            // Pinned once: by one mapping for both.
            assert_eq!(locked_kib() - before, HUGE_PAGE_SIZE as u64 >> 10);
        }
        let [first, second] = transports;
        // What one has let go of still serves the other; also when the one goes away without letting go.
        cx.block_on(first.unmap(cx, &view));
        drop(first);
        let mut controller = Controller::enable(cx, second, view);
        let (_, serial) = controller.identify(DATA);
        assert!(!serial.is_empty());
        // A drop without a word, with the controller enabled: bus mastering goes first, so that nothing is written
        // where nothing is mapped. The guest's log shows if not.
    });
}
