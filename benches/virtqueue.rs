//! What the driver's side of a virtqueue costs: 4 KiB reads against the device's side in the same thread. Only what the driver does
//! is counted: the device works between the stretches that are timed.
//!
//! `cargo bench --bench virtqueue` prints ns per I/O of each layout: `chain` is requests as chains of descriptors, `table` each
//! as one descriptor that points to a table.
//!
//! `cargo bench --bench virtqueue -- count LAYOUT read N` does N reads at depth 32 and prints nothing, for
//! `ci/instructions/run`, which counts the instructions within [`driver`].

use std::hint::black_box;
use std::sync::Arc;

use weft::memory::{HugePages, Region, RegionId, RegionView, Segment};
use weft::reactor::Tsc;
use weft::virtio::memory::{GuestMemory, GuestRegion};
use weft::virtio::ring::device::{self, DeviceRing, RingPlace};
use weft::virtio::ring::driver::memory::{Layout, QueueMemory};
use weft::virtio::ring::driver::packed::PackedRing;
use weft::virtio::ring::driver::split::SplitRing;
use weft::virtio::ring::driver::{DriverRing, Header, RingOptions, Sender};
use weft::virtio::spec::Features;
use weft::virtio::spec::block::RequestType;

const SIZE: u16 = 512;
const DEPTHS: [usize; 3] = [1, 32, 128];
const COMMANDS: usize = 1_000_000;

/// Everything within is the driver's.
#[inline(never)]
fn driver<R: DriverRing>(ring: &mut R, count: usize, data: Segment, ended: &mut u64) {
    if count == 0 {
        let reaped = ring.reap(usize::MAX, |done| *ended += 1 + u64::from(done.status));
        assert!(reaped.is_ok());
        return;
    }
    for number in 0..count as u64 {
        let sender = Sender { tag: [number; 3], owner: 0, mark: 0 };
        let header = Header { kind: RequestType::In, sector: number };
        assert!(ring.push(sender, header, data, true));
    }
    black_box(ring.publish());
}

/// A driver's ring, and the device's side of it.
struct Rig<R, D> {
    driver: R,
    device: D,
    memory: GuestMemory,
    ids: Vec<u16>,
    chain: Vec<device::Piece>,
    data: Segment,
}

fn region(length: usize) -> Arc<Region> {
    Arc::new(Region::allocate(length, HugePages::Try).expect("memory"))
}

impl<R: DriverRing, D: DeviceRing> Rig<R, D> {
    fn new(options: &RingOptions, make: impl FnOnce(QueueMemory) -> R) -> Rig<R, D> {
        let layout = Layout::new(options).expect("layout");
        let rings = region(layout.length());
        let driver = make(QueueMemory::new(&rings, 0, layout.length()).expect("memory"));
        let at = driver.addresses();
        let pointer = |address: u64| {
            let offset = address - rings.start().as_ptr() as u64;
            // SAFETY: the ring lies within its region.
            unsafe { rings.start().add(offset as usize) }
        };
        let place = RingPlace {
            size: options.size,
            descriptors: pointer(at.descriptors),
            driver: pointer(at.driver),
            device: pointer(at.device),
            features: options.features,
            base: driver.base(),
        };
        // SAFETY: of the driver's ring, which stays; the driver has its own pointers there.
        let device = unsafe { D::open(place, None) }.expect("device");
        let registry = weft::memory::Registry::new();
        let address = rings.start().as_ptr() as u64;
        let guest = GuestRegion::register(&registry, rings, address, address).expect("region");
        let memory = GuestMemory::new(vec![guest]).expect("memory");
        let payload = RegionView { id: RegionId::NONE, region: region(4096) };
        // SAFETY: nobody touches it, and the region is leaked with the view.
        let data = unsafe { Segment::new(payload.region.start(), 4096, RegionId::NONE) };
        std::mem::forget(payload);
        let ids = vec![0; usize::from(SIZE)];
        Rig { driver, device, memory, ids, chain: Vec::with_capacity(8), data }
    }

    /// The device does what there is, which is `count` requests.
    #[inline(never)]
    fn serve(&mut self, count: usize) {
        let fetched = self.device.fetch(&mut self.ids).expect("what the driver made available");
        assert_eq!(fetched, count);
        for &id in &self.ids[..fetched] {
            self.device.chain(id, &self.memory, &mut self.chain).expect("a chain");
            assert_eq!(self.chain.len(), 3);
            let status = self.chain[2].address as *mut u8;
            // SAFETY: the address that the driver gave for a status byte, in this process.
            unsafe { status.write_volatile(0) };
            self.device.complete(id, 4097);
        }
        self.device.publish();
    }

    /// Does `total` reads at a depth; how many ticks the driver took.
    fn run(&mut self, depth: usize, total: usize) -> u64 {
        let (mut ticks, mut ended) = (0, 0);
        for _ in 0..total / depth {
            let start = Tsc::read().0;
            driver(&mut self.driver, depth, self.data, &mut ended);
            ticks += Tsc::read().0 - start;
            self.serve(depth);
            let start = Tsc::read().0;
            driver(&mut self.driver, 0, self.data, &mut ended);
            ticks += Tsc::read().0 - start;
        }
        assert_eq!(ended, (total / depth * depth) as u64);
        ticks
    }
}

const LAYOUTS: [&str; 4] = ["split-chain", "split-table", "packed-chain", "packed-table"];

/// Calls `each` with what runs a layout: given a depth and a number of reads, the driver's ticks.
fn with_layout(name: &str, each: impl FnOnce(&mut dyn FnMut(usize, usize) -> u64)) {
    let (packed, tables) = (name.starts_with("packed"), name.ends_with("table"));
    let options = RingOptions {
        size: SIZE,
        features: Features::NONE
            .with_if(packed, Features::RING_PACKED)
            .with_if(tables, Features::INDIRECT_DESC),
        tables,
        segments_max: 16,
    };
    if packed {
        let make = |memory| PackedRing::new(memory, &options).expect("ring");
        let mut rig = Rig::<_, device::packed::PackedRing>::new(&options, make);
        each(&mut |depth, total| rig.run(depth, total));
    } else {
        let make = |memory| SplitRing::new(memory, &options).expect("ring");
        let mut rig = Rig::<_, device::split::SplitRing>::new(&options, make);
        each(&mut |depth, total| rig.run(depth, total));
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => LAYOUTS.iter().for_each(|layout| println!("virtqueue-{layout} read")),
        ["count", layout, "read", number] => {
            let number = number.parse().expect("a number of reads");
            with_layout(layout, |run| {
                black_box(run(32, number));
            });
        }
        _ => {
            println!("{:<14} {:>8} {:>8} {:>8}", "ns per I/O", "QD 1", "QD 32", "QD 128");
            for layout in LAYOUTS {
                print!("{layout:<14}");
                with_layout(layout, |run| {
                    for depth in DEPTHS {
                        let best = (0..3).map(|_| run(depth, COMMANDS)).min().unwrap_or(0);
                        let ns = best as f64 * 1e9 / Tsc::rate() as f64 / COMMANDS as f64;
                        print!(" {ns:>8.1}");
                    }
                });
                println!();
            }
        }
    }
}
