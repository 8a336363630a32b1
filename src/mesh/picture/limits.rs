//! The limits of what a command may say, so that no number of one can overflow or exhaust anything.

use super::command::Refusal;
use super::spec::{Domains, DriveSpec, Layout, VolumeSpec};
use super::timing::Timing;

/// Most bytes of a name, a class, a tag, a domain or an address.
pub const TEXT_BYTES_MAX: usize = 255;
/// Most addresses of a node, and most tags of a drive or a volume.
pub const WORDS_MAX: usize = 64;
/// Most nodes.
pub const NODES_MAX: usize = 4096;
/// Most tokens at a time.
pub const TOKENS_MAX: usize = 4096;
/// Most groups of a part of a volume.
pub const PART_GROUPS_MAX: u64 = 4096;
/// Most parts of a volume.
pub const PARTS_MAX: usize = 1024;
/// Longest lease, in milliseconds.
pub const LEASE_MS_MAX: u32 = 60_000;
/// Most bytes of a drive or a volume, log2: what is addressed in bytes never overflows.
pub const BYTES_SHIFT_MAX: u32 = 60;
/// log2 of the smallest and the largest block.
const BLOCK_SHIFT: std::ops::RangeInclusive<u8> = 9..=16;
/// log2 of the smallest and the largest region.
const REGION_SHIFT: std::ops::RangeInclusive<u8> = 16..=40;
/// Most copies.
const COPIES_MAX: u8 = 3;

fn check(holds: bool) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::Invalid) }
}

fn is_text(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control)
}

fn are_words<'a>(words: impl ExactSizeIterator<Item = &'a String>) -> bool {
    words.len() <= WORDS_MAX && { words }.all(|word| !word.is_empty() && is_text(word))
}

/// A size in bytes that is neither nothing nor too much.
fn is_size(blocks: u64, block_shift: u8) -> bool {
    blocks > 0 && blocks <= 1 << (BYTES_SHIFT_MAX - u32::from(block_shift))
}

/// Checks where a node is.
pub fn domains(domains: &Domains) -> Result<(), Refusal> {
    check(is_text(&domains.rack) && is_text(&domains.zone))
}

/// Checks the addresses of a node.
pub fn addresses(addresses: &[String]) -> Result<(), Refusal> {
    check(are_words(addresses.iter()))
}

/// Checks a drive.
pub fn drive(spec: &DriveSpec) -> Result<(), Refusal> {
    check(BLOCK_SHIFT.contains(&spec.block_shift))?;
    check(is_text(&spec.class) && are_words(spec.tags.iter()))?;
    let blocks = spec.extent_blocks.checked_mul(spec.extents.into()).ok_or(Refusal::Invalid)?;
    check(is_size(blocks, spec.block_shift))
}

/// Checks the name of a volume.
pub fn name(name: &str) -> Result<(), Refusal> {
    check(!name.is_empty() && is_text(name))
}

/// Checks a volume, its size apart.
pub fn volume(spec: &VolumeSpec) -> Result<(), Refusal> {
    check(BLOCK_SHIFT.contains(&spec.block_shift))?;
    check(REGION_SHIFT.contains(&spec.region_shift) && spec.region_shift >= spec.block_shift)?;
    check((1..=COPIES_MAX).contains(&spec.copies))?;
    check(is_text(&spec.class) && are_words(spec.tags.iter()))?;
    match spec.layout {
        Layout::Concatenated => Ok(()),
        Layout::Striped { width, strip_blocks } => {
            check(width > 0 && u64::from(width) <= PART_GROUPS_MAX && strip_blocks > 0)
        }
    }
}

/// Checks that so many blocks can be added to a volume that has `present`.
pub fn size(spec: &VolumeSpec, present: u64, blocks: u64) -> Result<(), Refusal> {
    let total = present.checked_add(blocks).ok_or(Refusal::Invalid)?;
    check(blocks > 0 && is_size(total, spec.block_shift))?;
    match spec.layout {
        Layout::Concatenated => Ok(()),
        Layout::Striped { width, strip_blocks } => {
            check(blocks.is_multiple_of(u64::from(width) * u64::from(strip_blocks)))
        }
    }
}

/// Checks timing constants.
pub fn timing(timing: &Timing) -> Result<(), Refusal> {
    check((20..=LEASE_MS_MAX).contains(&timing.lease_ms))?;
    check(timing.drift_ppm <= 100_000)?;
    check((1..=60_000).contains(&timing.io_timeout_ms))?;
    check((1..=600_000).contains(&timing.drive_timeout_ms))?;
    check(timing.revoke_ms >= timing.lease_ms)
}
