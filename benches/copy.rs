//! Copy kernels: random 4 KiB blocks of a 512 MiB region, as the malloc bdev sees them.
//!
//! `cargo bench --bench copy`. Prints ns per block of each way to do it, interleaved.

use std::time::Instant;

use weft::memory::{HugePages, Region, copy};

const DEVICE: usize = 512 << 20;
const BLOCK: usize = 4096;
const SLOTS: usize = 32;
const ROUNDS: usize = 5;
const BLOCKS_PER_ROUND: usize = 400_000;

/// Copies one block between the device and a buffer, in a direction of its own, with the next block known.
type Way = fn(*mut u8, *mut u8, *const u8);

fn main() {
    let device = Region::allocate(DEVICE, HugePages::Try).expect("memory");
    let buffers = Region::allocate(SLOTS * BLOCK, HugePages::Try).expect("memory");
    let medium = device.start().as_ptr();
    let payload = buffers.start().as_ptr();
    println!("{:?} pages, {} MiB", device.kind(), DEVICE >> 20);
    // SAFETY: the whole region is ours.
    unsafe { std::ptr::write_bytes(medium, 1, DEVICE) };
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (((state >> 33) as usize * (DEVICE / BLOCK)) >> 31) * BLOCK
    };
    let mut offsets: Vec<usize> = (0..=BLOCKS_PER_ROUND).map(|_| random()).collect();
    let ways: [(&str, Way); 5] = [
        ("read  memcpy", |medium, memory, _| {
            // SAFETY: both blocks are within their regions.
            unsafe { std::ptr::copy_nonoverlapping(medium, memory, BLOCK) };
        }),
        ("read  kernel", |medium, memory, _| {
            // SAFETY: as above.
            unsafe { copy::copy(medium, memory, BLOCK) };
        }),
        ("read  kernel, next asked for", |medium, memory, next| {
            // SAFETY: as above.
            unsafe { copy::copy_ahead(medium, memory, BLOCK, next) };
        }),
        ("write memcpy", |medium, memory, _| {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(memory, medium, BLOCK) };
        }),
        ("write kernel, past the cache", |medium, memory, _| {
            // SAFETY: as above.
            unsafe { copy::copy_cold(memory, medium, BLOCK) };
        }),
    ];
    for round in 0..ROUNDS {
        for (name, way) in &ways {
            let start = Instant::now();
            for index in 0..BLOCKS_PER_ROUND {
                let next = medium.wrapping_add(offsets[index + 1]);
                way(
                    medium.wrapping_add(offsets[index]),
                    payload.wrapping_add(index % SLOTS * BLOCK),
                    next,
                );
                if index % SLOTS == SLOTS - 1 {
                    copy::settle();
                }
            }
            let ns = start.elapsed().as_secs_f64() * 1e9 / BLOCKS_PER_ROUND as f64;
            println!("round {round}  {name:<30} {ns:7.1} ns");
            offsets.rotate_left(1);
        }
    }
}
