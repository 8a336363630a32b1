//! Capability chains: lists inside the kernel's answers, each entry with the distance of the next.
//!
//! Plain functions of bytes. The bytes come from the kernel, and are checked all the same: an entry beyond the end,
//! a chain that loops or a count that does not fit is an error.

use std::ops::Range;

use vfio_bindings::bindings::vfio as abi;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::base::{Error, Result};

/// `vfio_info_cap_header`.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    id: u16,
    version: u16,
    next: u32,
}

/// What stands behind the header of a list: how many, and a reserved word.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Count {
    count: u32,
    reserved: u32,
}

/// Two numbers: an entry of either list.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Pair {
    first: u64,
    second: u64,
}

/// The body of the capability `id` of version 1 in the chain that starts at `offset` (0: there is none).
fn find(answer: &[u8], offset: u32, id: u32) -> Result<Option<&[u8]>> {
    let mut offset = offset as usize;
    // A chain without a loop has no more entries than fit in the answer.
    for _ in 0..answer.len() / size_of::<Header>() {
        if offset == 0 {
            return Ok(None);
        }
        let (header, body) = answer
            .get(offset..)
            .and_then(|bytes| Header::read_from_prefix(bytes).ok())
            .ok_or_else(|| broken(format!("an entry at byte {offset} of {}", answer.len())))?;
        if u32::from(header.id) == id && header.version == 1 {
            return Ok(Some(body));
        }
        offset = header.next as usize;
    }
    if offset == 0 { Ok(None) } else { Err(broken("it does not end")) }
}

/// The pairs of a list's body.
fn pairs(body: &[u8]) -> Result<Vec<Pair>> {
    let (Count { count, .. }, mut rest) =
        Count::read_from_prefix(body).map_err(|_| broken("a list without its count"))?;
    if count as usize > rest.len() / size_of::<Pair>() {
        return Err(broken(format!("a list of {count} entries in {} bytes", rest.len())));
    }
    let mut pairs = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let (pair, behind) =
            Pair::read_from_prefix(rest).map_err(|_| broken("a list that ends early"))?;
        pairs.push(pair);
        rest = behind;
    }
    Ok(pairs)
}

/// The addresses that a container's devices may be given, as first and last; none when the kernel does not
/// say (before Linux 5.4).
pub(super) fn iova_ranges(answer: &[u8], offset: u32) -> Result<Option<Vec<(u64, u64)>>> {
    let Some(body) = find(answer, offset, abi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)? else {
        return Ok(None);
    };
    let ranges: Vec<_> = pairs(body)?.iter().map(|pair| (pair.first, pair.second)).collect();
    if let Some((first, last)) = ranges.iter().find(|(first, last)| first > last) {
        return Err(broken(format!("addresses from {first:#x} to {last:#x}")));
    }
    Ok(Some(ranges))
}

/// The parts of a region that can be mapped, where that is not all of it.
pub(super) fn sparse_areas(
    answer: &[u8],
    offset: u32,
    region_length: u64,
) -> Result<Option<Vec<Range<u64>>>> {
    let Some(body) = find(answer, offset, abi::VFIO_REGION_INFO_CAP_SPARSE_MMAP)? else {
        return Ok(None);
    };
    let mut areas = Vec::new();
    for pair in pairs(body)? {
        let end = pair.first.checked_add(pair.second).filter(|&end| end <= region_length);
        let Some(end) = end else {
            return Err(broken(format!(
                "an area of {} bytes at byte {} of {region_length}",
                pair.second, pair.first
            )));
        };
        if pair.second > 0 {
            areas.push(pair.first..end);
        }
    }
    Ok(Some(areas))
}

fn broken(how: impl std::fmt::Display) -> Error {
    Error::invalid(format!("the kernel's list of VFIO capabilities is damaged: {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOVA: u16 = abi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE as u16;
    const SPARSE: u16 = abi::VFIO_REGION_INFO_CAP_SPARSE_MMAP as u16;

    /// An answer with 16 bytes in front and then these entries, each chained to the one behind it.
    fn answer(entries: &[(u16, u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        for (index, (id, version, body)) in entries.iter().enumerate() {
            let next = bytes.len() + 8 + body.len();
            let next = if index + 1 == entries.len() { 0 } else { next as u32 };
            bytes.extend(id.to_ne_bytes());
            bytes.extend(version.to_ne_bytes());
            bytes.extend(next.to_ne_bytes());
            bytes.extend(*body);
        }
        bytes
    }

    fn list(count: u32, numbers: &[u64]) -> Vec<u8> {
        let mut bytes = count.to_ne_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_capability_is_found_behind_others() {
        let body = list(2, &[0, 0xfedf_ffff, 0xfef0_0000, (1 << 48) - 1]);
        let bytes = answer(&[(2, 1, &[7; 16]), (IOVA, 9, &[]), (IOVA, 1, &body), (3, 1, &[])]);
        let ranges = iova_ranges(&bytes, 16).unwrap().unwrap();
        assert_eq!(ranges, [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 48) - 1)]);
        assert_eq!(iova_ranges(&bytes, 0).unwrap(), None);
        assert_eq!(iova_ranges(&answer(&[(2, 1, &[])]), 16).unwrap(), None);
    }

    #[test]
    fn sparse_areas_lie_within_the_region() {
        let bytes = answer(&[(SPARSE, 1, &list(3, &[0, 0x2000, 0x3000, 0, 0x3000, 0x1000]))]);
        let areas = sparse_areas(&bytes, 16, 0x4000).unwrap().unwrap();
        assert_eq!(areas, [0..0x2000, 0x3000..0x4000]);
        assert!(sparse_areas(&bytes, 16, 0x3fff).is_err());
        let overflow = answer(&[(SPARSE, 1, &list(1, &[u64::MAX, 2]))]);
        assert!(sparse_areas(&overflow, 16, u64::MAX).is_err());
    }

    #[test]
    fn every_truncation_is_an_error_or_the_end() {
        let body = list(2, &[0, 9, 10, 19]);
        let whole = answer(&[(2, 1, &[0; 8]), (IOVA, 1, &body)]);
        for length in 17..whole.len() {
            assert!(iova_ranges(&whole[..length], 16).is_err(), "{length} bytes");
        }
        assert!(iova_ranges(&whole, whole.len() as u32).is_err());
        assert!(iova_ranges(&whole, u32::MAX).is_err());
    }

    #[test]
    fn a_loop_ends() {
        let mut bytes = answer(&[(2, 1, &[0; 8]), (3, 1, &[0; 8])]);
        let second = 16 + 16;
        bytes[second + 4..second + 8].copy_from_slice(&16u32.to_ne_bytes());
        assert!(iova_ranges(&bytes, 16).is_err());
        bytes[second + 4..second + 8].copy_from_slice(&(second as u32).to_ne_bytes());
        assert!(iova_ranges(&bytes, 16).is_err());
    }

    #[test]
    fn absurd_lists_are_refused() {
        for (count, numbers) in [(u32::MAX, &[0, 1][..]), (2, &[0, 1]), (1, &[5, 4])] {
            let bytes = answer(&[(IOVA, 1, &list(count, numbers))]);
            assert!(iova_ranges(&bytes, 16).is_err(), "{count} {numbers:?}");
        }
        assert!(iova_ranges(&answer(&[(IOVA, 1, &[1, 0, 0])]), 16).is_err());
    }
}
