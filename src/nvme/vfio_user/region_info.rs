//! What a server says of one region of its device ("VFIO_USER_DEVICE_GET_REGION_INFO"): its size, and the parts of it
//! that may be mapped. Pure, as [`wire`](super::wire) is.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{malformed, read};
use crate::base::Result;

/// Most areas of one region that are mapped one by one; an NVMe controller has use for one or two.
pub const AREAS_MAX: usize = 64;

/// Most capabilities in the list of one region.
const CAPABILITIES_MAX: usize = 64;

/// Longest region information that is asked for.
pub const REGION_INFO_MAX: u32 = 64 << 10;

/// The fixed part of "VFIO_USER_DEVICE_GET_REGION_INFO", both ways.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegionInfo {
    /// Longest reply payload that is expected; in the reply, how long it is or would be.
    pub argsz: u32,
    /// [`RegionInfo::READ`] and its siblings.
    pub flags: u32,
    /// Which region.
    pub index: u32,
    /// Where the list of capabilities starts, from the front of this structure.
    pub cap_offset: u32,
    /// Length of the region.
    pub size: u64,
    /// Where in the file it starts.
    pub offset: u64,
}

const _: () = assert!(size_of::<RegionInfo>() == 32);

impl RegionInfo {
    /// It may be read.
    pub const READ: u32 = 1 << 0;
    /// It may be written.
    pub const WRITE: u32 = 1 << 1;
    /// It, or parts of it, may be mapped.
    pub const MMAP: u32 = 1 << 2;
    /// There is a list of capabilities.
    pub const CAPS: u32 = 1 << 3;
}

/// Index of the first base address register's region ("Region Information": PCI indexes are VFIO's).
pub const REGION_BAR0: u32 = 0;
/// Index of the region that is the PCI configuration space.
pub const REGION_CONFIG: u32 = 7;

/// What stands in front of every capability ("VFIO cap header format").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CapabilityHeader {
    /// Which capability.
    pub id: u16,
    /// Of its format.
    pub version: u16,
    /// Where the next one starts, from the front of the region information; 0 for none.
    pub next: u32,
}

/// The capability that names the parts that may be mapped.
pub const CAPABILITY_SPARSE_MMAP: u16 = 1;

/// "VFIO region info cap sparse mmap", without the areas.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SparseMmap {
    /// How many areas follow.
    pub areas: u32,
    /// Reserved.
    pub reserved: u32,
}

/// A part of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Area {
    /// Where in the region it starts.
    pub offset: u64,
    /// Its length.
    pub size: u64,
}

/// What the reply about a region says.
#[derive(Clone, Debug)]
pub enum RegionReply {
    /// All of it.
    Whole(RegionInfo, Vec<Area>),
    /// The list of capabilities needs a reply of so many bytes: ask again.
    Longer(u32),
}

/// Parses the reply to a request for region `index` that offered `argsz` bytes.
///
/// # Errors
/// When it is about another region, leads beyond its end or in circles, or names areas that the region has not.
pub fn parse_region_info(payload: &[u8], index: u32, argsz: u32) -> Result<RegionReply> {
    let (info, _) = read::<RegionInfo>(payload, "region information")?;
    if info.index != index {
        return Err(malformed(format!("region {} in answer for region {index}", info.index)));
    }
    if info.argsz > argsz {
        if info.argsz > REGION_INFO_MAX {
            let needed = info.argsz;
            return Err(malformed(format!("region {index} is described by {needed} bytes")));
        }
        return Ok(RegionReply::Longer(info.argsz));
    }
    let whole = || vec![Area { offset: 0, size: info.size }];
    let areas = match info.flags & (RegionInfo::MMAP | RegionInfo::CAPS) {
        flags if flags & RegionInfo::MMAP == 0 => Vec::new(),
        RegionInfo::MMAP => whole(),
        _ => sparse_areas(payload, &info)?.unwrap_or_else(whole),
    };
    for area in &areas {
        if area.offset.checked_add(area.size).is_none_or(|end| end > info.size) {
            return Err(malformed(format!(
                "region {index} of {} bytes may be mapped from {:#x} for {} bytes, beyond its end",
                info.size, area.offset, area.size
            )));
        }
    }
    Ok(RegionReply::Whole(info, areas))
}

/// The areas that the list of capabilities in `payload` names, if one of them does.
fn sparse_areas(payload: &[u8], info: &RegionInfo) -> Result<Option<Vec<Area>>> {
    let index = info.index;
    let mut at = info.cap_offset as usize;
    for _ in 0..CAPABILITIES_MAX {
        if at == 0 {
            return Ok(None);
        }
        let bytes =
            payload.get(at..).filter(|_| at >= size_of::<RegionInfo>()).ok_or_else(|| {
                malformed(format!(
                    "a capability of region {index} at byte {at} of {}",
                    payload.len()
                ))
            })?;
        let (header, rest) = read::<CapabilityHeader>(bytes, "a region's capability")?;
        if header.id == CAPABILITY_SPARSE_MMAP {
            let (sparse, rest) = read::<SparseMmap>(rest, "a list of mappable areas")?;
            let count = sparse.areas as usize;
            if count > AREAS_MAX {
                return Err(malformed(format!("region {index} has {count} mappable areas")));
            }
            let areas = rest.get(..count * size_of::<Area>()).ok_or_else(|| {
                malformed(format!("{count} mappable areas in {} bytes", rest.len()))
            })?;
            return areas
                .chunks_exact(size_of::<Area>())
                .map(|area| Ok(read::<Area>(area, "a mappable area")?.0))
                .collect::<Result<Vec<Area>>>()
                .map(Some);
        }
        at = header.next as usize;
    }
    Err(malformed(format!("the capabilities of region {index} have no end")))
}
