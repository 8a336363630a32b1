//! Memory from DPDK. Its EAL starts once in a process, so each test runs in one of its own.
//!
//! Huge pages have to be reserved (`/proc/sys/vm/nr_hugepages`, 24 or more); without them the tests that need some say so
//! and pass, unless `WEFT_REQUIRE_HUGE_PAGES` is set.
#![cfg(feature = "dpdk")]

mod weftd;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use weft::base::{BlockCount, BlockSize, ByteCount, ErrorKind, Geometry, Lba, Status};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::{Completions, Opcode, Queue, Registry as Devices, Request};
use weft::memory::dpdk::{Environment, IovaMode};
use weft::memory::{
    DeviceAddresses, HUGE_PAGE_SIZE, HugePages, PageKind, Pool, PoolOptions, Region, RegionOptions,
    Registry as Regions, Sharing, Source,
};
use weft::reactor::Context;

/// Tells the process that runs one test from the one that runs all.
const ALONE: &str = "WEFT_TEST_ALONE";
/// Huge pages that the tests want.
const HUGE_PAGES: usize = 24;

/// Runs `body` in a process of its own. The name is the test's.
fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some_and(|alone| alone == *name) {
        return body();
    }
    // One after the other: they share the machine's huge pages.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, name)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    println!("{out}{err}");
    assert!(output.status.success(), "{name}: {}", output.status);
    assert!(out.contains("1 passed"), "{name} did not run");
}

/// Free huge pages, less those that somebody has reserved and not touched.
fn free_huge_pages() -> usize {
    let read = |what: &str| -> usize {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{what}_hugepages");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    read("free").saturating_sub(read("resv"))
}

fn has_huge_pages() -> bool {
    let free = free_huge_pages();
    if free < HUGE_PAGES {
        let what = format!("{free} huge pages are free, {HUGE_PAGES} are needed");
        assert!(std::env::var_os("WEFT_REQUIRE_HUGE_PAGES").is_none(), "{what}");
        println!("skipped: {what}");
    }
    free >= HUGE_PAGES
}

fn options(source: Source) -> RegionOptions {
    RegionOptions { source, ..RegionOptions::default() }
}

fn bytes(region: &mut Region) -> &mut [u8] {
    // SAFETY: the region is borrowed exclusively, and no device has it.
    unsafe { std::slice::from_raw_parts_mut(region.start().as_ptr(), region.len()) }
}

/// Where a page of this process is in physical memory, by the kernel's own book.
fn physical(address: *const u8) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    let pagemap = fs::File::open("/proc/self/pagemap").ok()?;
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, address as u64 / 4096 * 8).ok()?;
    let frame = u64::from_ne_bytes(entry) & ((1 << 55) - 1);
    (frame != 0).then_some(frame * 4096 + address as u64 % 4096)
}

#[test]
fn a_region_is_huge_shareable_and_its_addresses_are_right() {
    alone("a_region_is_huge_shareable_and_its_addresses_are_right", || {
        if !has_huge_pages() {
            return;
        }
        let before = rustix::thread::sched_getaffinity(None).unwrap();
        let source = Source::dpdk("").unwrap();
        assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), before, "left pinned");
        let mut region = Region::allocate(5 << 20, options(source)).unwrap();
        assert_eq!((region.len(), region.kind()), (6 << 20, PageKind::Huge));
        assert_eq!(region.start().as_ptr().align_offset(HUGE_PAGE_SIZE), 0);
        assert!(bytes(&mut region).iter().all(|&byte| byte == 0));
        for (index, byte) in bytes(&mut region).iter_mut().enumerate() {
            *byte = (index / 4096) as u8;
        }
        // The file behind it has the same bytes.
        let backing = region.backing().expect("huge pages of DPDK lie in a file");
        let mut page = [0; 4096];
        for at in [0, 3 << 20, (6 << 20) - 4096] {
            rustix::io::pread(backing.file(), &mut page, backing.offset() + at).unwrap();
            assert!(page.iter().all(|&byte| byte == (at / 4096) as u8), "at {at}");
        }
        let environment = Environment::running().unwrap();
        match region.device_addresses().unwrap().clone() {
            DeviceAddresses::Virtual => assert_eq!(environment.iova_mode(), IovaMode::Virtual),
            DeviceAddresses::Physical(pages) => {
                assert_eq!(environment.iova_mode(), IovaMode::Physical);
                let expected: Vec<u64> = (0..3)
                    .map(|page| {
                        physical(&raw const bytes(&mut region)[page * HUGE_PAGE_SIZE]).unwrap()
                    })
                    .collect();
                assert_eq!(pages[..], expected);
            }
        }
        // What was used and given back is zero again.
        drop(region);
        let mut again = Region::allocate(6 << 20, options(source)).unwrap();
        assert!(bytes(&mut again).iter().all(|&byte| byte == 0));
        println!("{}", environment.memory_report().unwrap());
    });
}

#[test]
fn virtual_addresses_when_asked_for() {
    alone("virtual_addresses_when_asked_for", || {
        if !has_huge_pages() {
            return;
        }
        let source = Source::dpdk("--iova-mode=va").unwrap();
        let region = Region::allocate(1, options(source)).unwrap();
        assert_eq!(region.device_addresses(), Some(&DeviceAddresses::Virtual));
        // A node is a wish here, too.
        let on = |numa_node| RegionOptions { numa_node, ..options(source) };
        assert!(Region::allocate(1, on(Some(0))).unwrap().numa_node().is_none_or(|node| node == 0));
        Region::allocate(1, on(Some(31))).unwrap();
        Region::allocate(1, on(Some(u32::MAX))).unwrap();
    });
}

#[test]
fn a_pool_on_top_registers_its_regions() {
    alone("a_pool_on_top_registers_its_regions", || {
        if !has_huge_pages() {
            return;
        }
        let source = Source::dpdk("").unwrap();
        let registry = Regions::new();
        let pool = PoolOptions { source, huge_pages: HugePages::Require, ..PoolOptions::default() };
        let pool = Pool::new(Arc::clone(&registry), pool);
        let mut buffers: Vec<_> = (0..40).map(|_| pool.take(256 << 10).unwrap()).collect();
        for (index, buffer) in buffers.iter_mut().enumerate() {
            buffer.bytes_mut().fill(index as u8);
        }
        let mut regions = Vec::new();
        registry.subscribe().catch_up(|_| (), |view| regions.push(view.clone()));
        assert_eq!(pool.stats().reserved, ByteCount(12 << 20));
        assert_eq!(regions.len(), 3);
        for (index, buffer) in buffers.iter().enumerate() {
            assert!(buffer.bytes().iter().all(|&byte| byte == index as u8), "buffer {index}");
            let view =
                regions.iter().find(|view| view.region.contains(buffer.address(), 256 << 10));
            assert_eq!(view.unwrap().region.kind(), PageKind::Huge);
        }
        let held = || -> u64 {
            let report = Environment::running().unwrap().memory_report().unwrap();
            let size = report.lines().find_map(|line| line.strip_prefix("DPDK memory size "));
            size.unwrap().parse().unwrap()
        };
        let before = held();
        drop((buffers, pool, regions));
        assert!(held() + (12 << 20) <= before, "the memory goes back to the system");
    });
}

#[test]
fn a_malloc_bdev_over_it_verifies() {
    alone("a_malloc_bdev_over_it_verifies", || {
        if !has_huge_pages() {
            return;
        }
        const DEPTH: usize = 8;
        const PIECE: u32 = 32 << 10;
        let source = Source::dpdk("").unwrap();
        let cx = Context::detached(Regions::new(), options(source).into());
        let devices = Devices::new(&cx);
        let geometry = Geometry::new(BlockSize::new(4096).unwrap(), BlockCount(2048)).unwrap();
        let malloc = Malloc::create("m", None, geometry, options(source)).unwrap();
        let device = devices.register(malloc, Vec::new()).unwrap();
        let mut channel = device.open_channel(&cx, DEPTH as u32).unwrap();
        let mut completions = Completions::with_capacity(DEPTH);
        let mut buffers: Vec<_> =
            (0..DEPTH).map(|_| cx.pool().take(PIECE as usize).unwrap()).collect();
        let stamp = |piece: usize| 0x5eed_0000_0000 + piece as u64;
        for opcode in [Opcode::Write, Opcode::Read] {
            for batch in 0..2048 / 8 / DEPTH {
                for (index, buffer) in buffers.iter_mut().enumerate() {
                    let piece = batch * DEPTH + index;
                    let stamp = if opcode == Opcode::Write { stamp(piece) } else { 0 };
                    buffer.bytes_mut()[..PIECE as usize]
                        .chunks_exact_mut(8)
                        .for_each(|word| word.copy_from_slice(&stamp.to_le_bytes()));
                }
                let mut requests: Vec<_> = buffers
                    .iter()
                    .enumerate()
                    .map(|(index, buffer)| {
                        // SAFETY: the buffers stay and are not looked at until all have completed.
                        let segment = unsafe { buffer.segment(PIECE) };
                        let lba = Lba(((batch * DEPTH + index) * 8) as u64);
                        Request::new(opcode, lba, 8, segment, index as u64)
                    })
                    .collect();
                cx.turn();
                assert_eq!(channel.submit(&mut requests), DEPTH);
                completions.clear();
                while completions.len() < DEPTH {
                    channel.poll(&mut completions);
                }
                assert!(completions.as_slice().iter().all(|it| it.status == Status::SUCCESS));
                for (index, buffer) in buffers.iter().enumerate() {
                    let expected = stamp(batch * DEPTH + index).to_le_bytes();
                    let bytes = &buffer.bytes()[..PIECE as usize];
                    assert!(bytes.chunks_exact(8).all(|word| word == expected), "{opcode:?}");
                }
            }
        }
        drop((channel, buffers, device));
        cx.block_on(devices.unregister("m")).unwrap();
        cx.close();
    });
}

#[test]
fn without_huge_pages_it_says_so() {
    alone("without_huge_pages_it_says_so", || {
        // All that there are, taken.
        let mut taken = Vec::new();
        while let free @ 1.. = free_huge_pages() {
            match Region::allocate(free * HUGE_PAGE_SIZE, HugePages::Require) {
                Ok(region) => taken.push(region),
                Err(error) => println!("{error}"),
            }
        }
        let error = Source::dpdk("").unwrap_err();
        println!("{error}");
        let text = error.to_string();
        for part in ["DPDK does not start", "hugepages", "nr_hugepages", "--no-huge"] {
            assert!(text.contains(part), "no '{part}' in: {text}");
        }
        drop(taken);
        let error = Source::dpdk("").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(Environment::running().is_none());
    });
}

#[test]
fn it_does_without_huge_pages_when_told_so() {
    alone("it_does_without_huge_pages_when_told_so", || {
        let source = Source::dpdk("--no-huge -m 64").unwrap();
        let mut region = Region::allocate(1, options(source)).unwrap();
        assert_eq!(region.kind(), PageKind::Ordinary);
        assert_eq!(region.start().as_ptr().align_offset(HUGE_PAGE_SIZE), 0);
        bytes(&mut region).fill(7);
        let required = RegionOptions { huge_pages: HugePages::Require, ..options(source) };
        let error = Region::allocate(1, required).unwrap_err();
        assert!(error.to_string().contains("--no-huge"), "{error}");
        let shared = RegionOptions { sharing: Sharing::Always, ..options(source) };
        assert_eq!(Region::allocate(1, shared).unwrap_err().kind(), ErrorKind::Unsupported);
        let error = Region::allocate(1 << 30, options(source)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
        assert!(error.to_string().contains("1024 MiB"), "{error}");
    });
}

#[test]
fn a_second_start_is_shared_or_refused() {
    alone("a_second_start_is_shared_or_refused", || {
        for bad in
            ["-a 0000:00:04.0", "--allow=0000:00:04.0", "-l0-1", "--proc-type=secondary", "-h"]
        {
            let error = Source::dpdk(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}: {error}");
        }
        let first = Source::dpdk("--no-huge  -m 64").unwrap();
        assert_eq!(Source::dpdk(" --no-huge -m 64").unwrap(), first);
        let error = Source::dpdk("").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains("'--no-huge -m 64'"), "{error}");
    });
}

#[test]
fn pci_functions_are_those_of_sysfs_that_have_a_driver() {
    alone("pci_functions_are_those_of_sysfs_that_have_a_driver", || {
        let Source::Dpdk(environment) = Source::dpdk("--no-huge -m 64").unwrap() else { panic!() };
        let found = environment.pci_functions().unwrap();
        let number = |path: &str| -> u32 {
            let text = fs::read_to_string(path).unwrap();
            u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap()
        };
        let mut addresses = BTreeSet::new();
        for function in &found {
            println!("{function:x?}");
            let folder = format!("/sys/bus/pci/devices/{}", function.address);
            assert_eq!(u32::from(function.vendor), number(&format!("{folder}/vendor")));
            assert_eq!(u32::from(function.device), number(&format!("{folder}/device")));
            assert_eq!(function.class, Some(number(&format!("{folder}/class"))));
            addresses.insert(function.address.clone());
        }
        let in_sysfs: BTreeSet<String> = fs::read_dir("/sys/bus/pci/devices")
            .map(|entries| entries.flatten().collect())
            .unwrap_or_else(|_| Vec::new())
            .into_iter()
            .filter(|entry| entry.path().join("driver").exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(addresses, in_sysfs);
        assert_eq!(environment.pci_functions().unwrap(), found, "a second scan");
    });
}

#[test]
fn the_daemon_serves_out_of_it_and_reports() {
    let mut daemon = weftd::Weftd::start(&["--memory", "dpdk", "--dpdk-args=--no-huge -m 128"]);
    let malloc = json!({"name": "m", "block_size": 4096, "num_blocks": 2048, "numa_id": 0});
    daemon.call("bdev_malloc_create", malloc);
    let report = daemon.call("env_dpdk_get_mem_stats", json!({}));
    let path = report["filename"].as_str().unwrap().to_owned();
    let text = fs::read_to_string(&path).unwrap();
    for part in
        ["DPDK memory size", "'--no-huge -m 128'", "Segment", "Heap name:socket_0", "0x800080"]
    {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
    assert!(daemon.stop().success());
    fs::remove_file(path).unwrap();

    let daemon = weftd::Weftd::start(&[]);
    let (code, text) = daemon.refusal("env_dpdk_get_mem_stats", json!({}));
    assert!(code == -2 && text.contains("--memory dpdk"), "{code} {text}");
}
