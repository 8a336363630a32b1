//! From payload memory to a command's data pointer: addresses as the device sees them, PRP lists and SGLs
//! (Base Specification, sections 4.1.1 and 4.1.2).

use std::ptr::NonNull;
use std::sync::Arc;

use super::memory::{PAGE_SIZE, Piece};
use super::spec::{DataPointer, SglDescriptor, SubmissionEntry};
use super::transport::Iova;
use crate::base::Status;
use crate::memory::{HUGE_PAGE_SIZE, RegionId, RegionView, Segment};

const PAGE_MASK: u64 = PAGE_SIZE as u64 - 1;
const HUGE_PAGE_MASK: u64 = HUGE_PAGE_SIZE as u64 - 1;

/// Which regions the device can address, and where. One table per queue pair, indexed by
/// [`RegionId::slot`], kept up to date by the controller.
#[derive(Clone, Default)]
pub(super) struct RegionTable(Vec<Entry>);

#[derive(Clone)]
struct Entry {
    id: RegionId,
    at: At,
}

#[derive(Clone)]
enum At {
    /// Added to an address of ours, it gives the device's.
    Offset(u64),
    /// By huge page of the region that starts at the address.
    Pages(u64, Arc<[u64]>),
    /// The device cannot reach it.
    Nowhere,
}

impl RegionTable {
    const ABSENT: Entry = Entry { id: RegionId::NONE, at: At::Nowhere };

    /// Puts a region in the table; `None` says that the device cannot reach it.
    pub(super) fn set(&mut self, view: &RegionView, iova: Option<&Iova>) {
        let start = view.region.start().as_ptr() as u64;
        let at = match iova {
            Some(Iova::Linear(first)) => At::Offset(first.wrapping_sub(start)),
            Some(Iova::Pages(pages)) => At::Pages(start, Arc::clone(pages)),
            None => At::Nowhere,
        };
        let slot = view.id.slot();
        if slot >= self.0.len() {
            self.0.resize(slot + 1, Self::ABSENT);
        }
        self.0[slot] = Entry { id: view.id, at };
    }

    /// Takes a region out of the table.
    pub(super) fn clear(&mut self, id: RegionId) {
        if let Some(entry) = self.0.get_mut(id.slot())
            && entry.id == id
        {
            *entry = Self::ABSENT;
        }
    }

    /// What the table knows of a segment's region.
    #[inline]
    fn at(&self, segment: Segment) -> Result<&At, Unreachable> {
        match self.0.get(segment.region().slot()) {
            Some(entry) if entry.id == segment.region() => match &entry.at {
                At::Nowhere => Err(Unreachable::Never),
                at => Ok(at),
            },
            // Memory in no region is never mapped; a region that is not in the table may be yet.
            _ if segment.region() == RegionId::NONE => Err(Unreachable::Never),
            _ => Err(Unreachable::Yet(segment.region())),
        }
    }
}

impl At {
    /// The device's address of `address`, and how many bytes from there on are contiguous for it.
    #[inline]
    fn translate(&self, address: u64) -> (u64, u64) {
        match self {
            At::Offset(offset) => (address.wrapping_add(*offset), u64::MAX),
            At::Pages(start, pages) => {
                let distance = address.wrapping_sub(*start);
                let within = distance & HUGE_PAGE_MASK;
                // A segment lies within its region, and the table has a page for each of it.
                let page = pages.get((distance / HUGE_PAGE_SIZE as u64) as usize).copied();
                (page.unwrap_or(0) + within, HUGE_PAGE_SIZE as u64 - within)
            }
            At::Nowhere => (0, u64::MAX),
        }
    }
}

/// Why memory has no address for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// The region is new: the controller has to map it first.
    Yet(RegionId),
    /// The device cannot reach it at all.
    Never,
}

/// Why a payload has no data pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It may have one later: a region is to be mapped, or all descriptor lists are in use.
    Later(Want),
    /// The command must end with this status.
    Status(Status),
}

/// What a payload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Region(RegionId),
    List,
}

impl From<Unreachable> for Refusal {
    fn from(unreachable: Unreachable) -> Refusal {
        match unreachable {
            Unreachable::Yet(id) => Refusal::Later(Want::Region(id)),
            Unreachable::Never => Refusal::Status(Status::DATA_TRANSFER_ERROR),
        }
    }
}

/// What the controller takes for I/O commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scatter {
    /// PRP entries only.
    Prp,
    /// SGLs as well.
    Sgl,
}

/// Descriptor lists: memory for the entries that a command itself has no room for.
pub(super) struct Lists {
    piece: Piece,
    /// Bytes of each; a page is a multiple of it, so that no list crosses a page.
    stride: usize,
    free: Vec<u16>,
}

/// Names a list that a command holds; [`NO_LIST`] for none.
pub(super) type ListIndex = u16;
/// The command has no list.
pub(super) const NO_LIST: ListIndex = u16::MAX;

impl Lists {
    /// How many bytes a list takes for transfers of up to `transfer_max` bytes in up to `segments_max` segments.
    pub(super) fn stride(transfer_max: u32, segments_max: u16) -> usize {
        let prp = (transfer_max as usize).div_ceil(PAGE_SIZE) * size_of::<u64>();
        let sgl = usize::from(segments_max) * size_of::<SglDescriptor>();
        prp.max(sgl).next_power_of_two().clamp(64, PAGE_SIZE)
    }

    /// Lists of `stride` bytes in `piece`, as many as fit.
    pub(super) fn new(piece: Piece, stride: usize) -> Lists {
        let count = (piece.len() / stride).min(usize::from(NO_LIST));
        Lists { piece, stride, free: (0..count as u16).rev().collect() }
    }

    pub(super) fn take(&mut self) -> Option<ListIndex> {
        self.free.pop()
    }

    /// Makes a list free again; for [`NO_LIST`] there is nothing to do.
    #[inline]
    pub(super) fn give_back(&mut self, index: ListIndex) {
        if index != NO_LIST {
            self.free.push(index);
        }
    }

    /// Where list `index` is for the device.
    fn iova(&self, index: ListIndex) -> u64 {
        self.piece.iova() + (usize::from(index) * self.stride) as u64
    }

    /// Writes `value` to `offset` of list `index`. `None` when it does not fit there.
    fn write<T: zerocopy::IntoBytes + Copy>(
        &mut self,
        index: ListIndex,
        offset: usize,
        value: T,
    ) -> Option<()> {
        if offset + size_of::<T>() > self.stride {
            return None;
        }
        let start = usize::from(index) * self.stride + offset;
        let address: NonNull<u8> = self.piece.address();
        // SAFETY: `index` came from `take`, so the place is within the piece, and the device reads
        // the list of a command that it was not given yet no earlier than that.
        unsafe { address.add(start).cast::<T>().write_unaligned(value) };
        Some(())
    }
}

/// A command's data pointer, and the list that it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointed {
    pub(super) data: DataPointer,
    /// To be set in the command's flags.
    pub(super) flags: u8,
    pub(super) list: ListIndex,
}

/// The data pointer of a payload of one segment that two PRP entries can hold: the usual case.
#[inline]
pub(super) fn point_one(
    table: &RegionTable,
    segment: Segment,
) -> Result<Option<DataPointer>, Refusal> {
    let at = table.at(segment)?;
    let At::Offset(offset) = at else { return Ok(None) };
    let iova = (segment.address() as u64).wrapping_add(*offset);
    let first = PAGE_SIZE as u64 - (iova & PAGE_MASK);
    let length = u64::from(segment.len());
    let second = (iova & !PAGE_MASK) + PAGE_SIZE as u64;
    if length <= first {
        Ok(Some(DataPointer { prp1: iova, prp2: 0 }))
    } else if length <= first + PAGE_SIZE as u64 {
        Ok(Some(DataPointer { prp1: iova, prp2: second }))
    } else {
        Ok(None)
    }
}

/// The data pointer of any payload.
#[inline(never)]
pub(super) fn point(
    table: &RegionTable,
    lists: &mut Lists,
    scatter: Scatter,
    segments: impl Iterator<Item = Segment> + Clone,
) -> Result<Pointed, Refusal> {
    if scatter == Scatter::Sgl {
        // PRP entries that fit in the command are understood by every device, and read fastest.
        if let Some(data) = prp_pair(table, segments.clone())? {
            return Ok(Pointed { data, flags: 0, list: NO_LIST });
        }
        return point_sgl(table, lists, segments);
    }
    point_prp(table, lists, segments)
}

/// Calls `each` with every stretch that is contiguous for the device.
fn stretches(
    table: &RegionTable,
    segments: impl Iterator<Item = Segment>,
    mut each: impl FnMut(u64, u64) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    // Neighbours are joined: one region may be contiguous although its pages were looked up one by one.
    let mut open: Option<(u64, u64)> = None;
    for segment in segments {
        let at = table.at(segment)?;
        let mut address = segment.address() as u64;
        let mut left = u64::from(segment.len());
        while left > 0 {
            let (iova, contiguous) = at.translate(address);
            let length = left.min(contiguous);
            open = match open {
                Some((start, before)) if start + before == iova => Some((start, before + length)),
                Some((start, before)) => {
                    each(start, before)?;
                    Some((iova, length))
                }
                None => Some((iova, length)),
            };
            address += length;
            left -= length;
        }
    }
    open.map_or(Ok(()), |(start, length)| each(start, length))
}

/// Two PRP entries, if they are enough.
fn prp_pair(
    table: &RegionTable,
    segments: impl Iterator<Item = Segment>,
) -> Result<Option<DataPointer>, Refusal> {
    let mut prp = Prp::default();
    let fits = stretches(table, segments, |iova, length| {
        let in_command = Refusal::Status(Status::INVALID_FIELD);
        prp.add(iova, length, |_, _| None).ok_or(in_command)
    });
    match fits {
        Ok(()) => Ok(Some(DataPointer { prp1: prp.first, prp2: prp.second })),
        Err(Refusal::Status(Status::INVALID_FIELD)) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn point_prp(
    table: &RegionTable,
    lists: &mut Lists,
    segments: impl Iterator<Item = Segment> + Clone,
) -> Result<Pointed, Refusal> {
    if let Some(data) = prp_pair(table, segments.clone())? {
        return Ok(Pointed { data, flags: 0, list: NO_LIST });
    }
    let list = lists.take().ok_or(Refusal::Later(Want::List))?;
    let mut prp = Prp::default();
    let built = stretches(table, segments, |iova, length| {
        prp.add(iova, length, |index, entry| lists.write(list, index * size_of::<u64>(), entry))
            .ok_or(Refusal::Status(Status::INVALID_FIELD))
    });
    if let Err(refusal) = built {
        lists.give_back(list);
        return Err(refusal);
    }
    let data = DataPointer { prp1: prp.first, prp2: lists.iova(list) };
    Ok(Pointed { data, flags: 0, list })
}

/// PRP entries as they come.
#[derive(Default)]
struct Prp {
    first: u64,
    second: u64,
    entries: usize,
    /// The stretch before did not end with a page: nothing may follow.
    closed: bool,
}

impl Prp {
    /// Adds a stretch. Entries after the first go to `list` too, which says `None` when it is
    /// full; `None` as well for a stretch that PRP entries cannot express.
    fn add(
        &mut self,
        iova: u64,
        length: u64,
        mut list: impl FnMut(usize, u64) -> Option<()>,
    ) -> Option<()> {
        // Only the first entry may have an offset, a multiple of four (section 4.1.1), and only the last
        // page may be used in part.
        if self.closed || iova & 3 != 0 || (self.entries > 0 && iova & PAGE_MASK != 0) {
            return None;
        }
        let mut page = iova;
        let end = iova + length;
        while page < end {
            match self.entries {
                0 => self.first = page,
                1 => {
                    self.second = page;
                    // Whether there is a list at all shows with the third entry.
                    let _ = list(0, page);
                }
                2.. => list(self.entries - 1, page)?,
            }
            self.entries += 1;
            page = (page & !PAGE_MASK) + PAGE_SIZE as u64;
        }
        self.closed = end & PAGE_MASK != 0;
        Some(())
    }
}

fn point_sgl(
    table: &RegionTable,
    lists: &mut Lists,
    segments: impl Iterator<Item = Segment>,
) -> Result<Pointed, Refusal> {
    let mut count = 0_usize;
    let mut only = SglDescriptor::default();
    let mut list = NO_LIST;
    let built = stretches(table, segments, |iova, length| {
        let Ok(length) = u32::try_from(length) else {
            return Err(Refusal::Status(Status::INVALID_FIELD));
        };
        let descriptor = SglDescriptor::new(SglDescriptor::DATA_BLOCK, iova, length);
        if count == 0 {
            only = descriptor;
        } else {
            if count == 1 {
                list = lists.take().ok_or(Refusal::Later(Want::List))?;
                write_descriptor(lists, list, 0, only)?;
            }
            write_descriptor(lists, list, count, descriptor)?;
        }
        count += 1;
        Ok(())
    });
    if let Err(refusal) = built {
        lists.give_back(list);
        return Err(refusal);
    }
    let descriptor = match list {
        NO_LIST => only,
        list => SglDescriptor::new(
            SglDescriptor::LAST_SEGMENT,
            lists.iova(list),
            (count * size_of::<SglDescriptor>()) as u32,
        ),
    };
    Ok(Pointed { data: descriptor.data_pointer(), flags: SubmissionEntry::PSDT_SGL, list })
}

fn write_descriptor(
    lists: &mut Lists,
    list: ListIndex,
    index: usize,
    descriptor: SglDescriptor,
) -> Result<(), Refusal> {
    lists
        .write(list, index * size_of::<SglDescriptor>(), descriptor)
        .ok_or(Refusal::Status(Status::INVALID_FIELD))
}

/// A data pointer to `value`, put in a list of its own: for the ranges of Dataset Management.
pub(super) fn point_value<T: zerocopy::IntoBytes + Copy>(
    lists: &mut Lists,
    value: T,
) -> Result<Pointed, Refusal> {
    let list = lists.take().ok_or(Refusal::Later(Want::List))?;
    lists.write(list, 0, value).ok_or(Refusal::Status(Status::INVALID_FIELD))?;
    let data = DataPointer { prp1: lists.iova(list), prp2: 0 };
    Ok(Pointed { data, flags: 0, list })
}
