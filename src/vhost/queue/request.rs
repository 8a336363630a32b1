//! From a chain of descriptors to a request of the bdev layer (VIRTIO 5.2.6).
//!
//! A driver may cut header, data and status into pieces as it likes (VIRTIO 2.7.4); nearly all give each a piece, or
//! more than one for data only.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use zerocopy::IntoBytes;

use super::slots::{Room, Slot};
use crate::base::{Lba, limits};
use crate::bdev::{Opcode, Request, RequestFlags};
use crate::memory::Segment;
use crate::vhost::disk::{Disk, RANGE_SECTORS_MAX, RANGES_MAX};
use crate::virtio::memory::GuestMemory;
use crate::virtio::ring::device::Piece;
use crate::virtio::spec::block::{
    RangeDescriptor, RequestHeader, RequestStatus, RequestType, SECTOR_SHIFT,
};

/// What becomes of a request.
#[derive(Debug)]
pub enum Step {
    /// It goes to the device.
    Submit(Request),
    /// It is over.
    Done(RequestStatus),
}

use Step::{Done, Submit};

/// Header and status are apart from the data.
#[derive(Debug)]
pub struct Frame<'a> {
    /// What is asked for.
    pub header: RequestHeader,
    /// Where the guest looks for the outcome.
    pub status: NonNull<u8>,
    /// The data that the device reads.
    readable: &'a [Piece],
    /// The data that the device writes.
    writable: &'a [Piece],
}

impl<'a> Frame<'a> {
    /// Reads the header of a chain and finds its status byte. `None` when there is no such: nothing can be
    /// answered then.
    #[inline]
    pub fn read(chain: &'a mut [Piece], memory: &GuestMemory) -> Option<Frame<'a>> {
        if has_usual_cut(chain) {
            return Frame::read_usual(chain, memory);
        }
        Frame::read_pieces(chain, memory)
    }

    /// The same for a chain whose header and status are in pieces of their own.
    #[inline]
    fn read_usual(chain: &'a [Piece], memory: &GuestMemory) -> Option<Frame<'a>> {
        let [first, data @ .., last] = chain else { return None };
        let header = read_header(first.address, memory)?;
        let status = memory.translate(last.address, 1)?;
        // The ring sees to it that what is read comes before what is written.
        let (readable, writable) = match data {
            [piece, ..] if piece.writable => (&[][..], data),
            _ => data.split_at(data.iter().take_while(|piece| !piece.writable).count()),
        };
        Some(Frame { header, status, readable, writable })
    }

    /// The same for a chain that is cut otherwise.
    #[cold]
    fn read_pieces(chain: &'a mut [Piece], memory: &GuestMemory) -> Option<Frame<'a>> {
        let readable = chain.iter().position(|piece| piece.writable).unwrap_or(chain.len());
        let (readable, writable) = chain.split_at_mut(readable);
        let (header, readable) = take_front(readable, memory)?;
        let (status, writable) = take_last(writable, memory)?;
        Some(Frame { header, status, readable, writable })
    }

    /// Makes the request of it. `id` is its token; `slot` and `room` are its own.
    #[inline]
    pub fn start(
        &self,
        id: u16,
        memory: &GuestMemory,
        disk: &Disk,
        slot: &mut Slot,
        room: &mut Room,
    ) -> Step {
        *slot = Slot { status: self.status, written: 1, ..Slot::EMPTY };
        let Some(kind) = RequestType::from_number(self.header.kind) else {
            return Done(RequestStatus::Unsupported);
        };
        slot.kind = kind;
        match kind {
            RequestType::In => self.transfer(Opcode::Read, id, memory, disk, slot, room),
            RequestType::Out if disk.is_read_only() => Done(RequestStatus::IoError),
            RequestType::Out => self.transfer(Opcode::Write, id, memory, disk, slot, room),
            RequestType::Flush => Submit(Request::bare(Opcode::Flush, Lba(0), 0, id.into())),
            RequestType::GetId => self.answer_id(memory, disk, slot),
            RequestType::Discard | RequestType::WriteZeroes | RequestType::SecureErase => {
                self.ranges(id, memory, disk, slot, room)
            }
        }
    }

    /// A read or a write.
    #[inline]
    fn transfer(
        &self,
        opcode: Opcode,
        id: u16,
        memory: &GuestMemory,
        disk: &Disk,
        slot: &mut Slot,
        room: &mut Room,
    ) -> Step {
        let pieces = if opcode == Opcode::Read { self.writable } else { self.readable };
        let (length, count) = match whole(pieces, memory) {
            Some(segment) => {
                slot.first = segment;
                (u64::from(segment.len()), 1)
            }
            None => match gather(pieces, memory, slot, room) {
                Some(gathered) => gathered,
                None => return Done(RequestStatus::IoError),
            },
        };
        slot.segments = count;
        let shift = disk.block_size().shift();
        let Some(lba) = lba_of(self.header.sector, shift) else {
            return Done(RequestStatus::IoError);
        };
        if length & ((1 << shift) - 1) != 0 || length > limits::TRANSFER_MAX {
            return Done(RequestStatus::IoError);
        }
        if length == 0 {
            return Done(RequestStatus::Ok);
        }
        let blocks = (length >> shift) as u32;
        let request = if count == 1 {
            Request::new(opcode, lba, blocks, slot.first, id.into())
        } else {
            // SAFETY: `gather` has filled so many; the room is the slot's until the request has completed.
            unsafe {
                let segments: *const Segment = room.segments().as_ptr().cast();
                let segments = std::slice::from_raw_parts(segments, usize::from(count));
                Request::scattered(opcode, lba, blocks, segments, id.into())
            }
        };
        if opcode == Opcode::Read {
            slot.written += length as u32;
            Submit(request)
        } else {
            Submit(request.with_flags(durability(disk)))
        }
    }

    #[cold]
    fn answer_id(&self, memory: &GuestMemory, disk: &Disk, slot: &mut Slot) -> Step {
        let mut rest = disk.serial().as_slice();
        let mut any = false;
        for piece in self.writable {
            let length = (piece.length as usize).min(rest.len());
            if length == 0 {
                continue;
            }
            let Some(address) = memory.translate(piece.address, length as u64) else {
                return Done(RequestStatus::IoError);
            };
            let (now, later) = rest.split_at(length);
            // SAFETY: the guest's memory of that length, which is mapped while `memory` lives; our own bytes are not in it.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), address.as_ptr(), length) };
            rest = later;
            any = true;
        }
        slot.written += (disk.serial().len() - rest.len()) as u32;
        if let (Some(piece), true) = (self.writable.first(), any)
            && let Some(segment) = memory.segment(piece.address, slot.written - 1)
        {
            (slot.first, slot.segments) = (segment, 1);
        }
        Done(RequestStatus::Ok)
    }

    /// A request over ranges: they are copied, checked, and done one after the other.
    #[cold]
    fn ranges(
        &self,
        id: u16,
        memory: &GuestMemory,
        disk: &Disk,
        slot: &mut Slot,
        room: &mut Room,
    ) -> Step {
        if disk.is_read_only() {
            return Done(RequestStatus::IoError);
        }
        if slot.kind == RequestType::SecureErase && !disk.erases() {
            return Done(RequestStatus::Unsupported);
        }
        let ranges = room.ranges();
        let mut at = Cursor::new(self.readable);
        let mut count = 0;
        while !at.is_at_end() {
            let mut bytes = [0; size_of::<RangeDescriptor>()];
            // The length of the data is a multiple of a range's (VIRTIO 5.2.6.1).
            if count == RANGES_MAX || at.read(&mut bytes, memory).is_none() {
                return Done(RequestStatus::IoError);
            }
            let range: RangeDescriptor = zerocopy::transmute!(bytes);
            match check(&range, slot.kind, disk) {
                Ok(()) => ranges[count] = MaybeUninit::new(range),
                Err(status) => return Done(status),
            }
            count += 1;
        }
        slot.ranges = count as u16;
        next_range(id, disk, slot, room).unwrap_or(Done(RequestStatus::Ok))
    }
}

/// The next range of a request that has one left.
pub fn next_range(id: u16, disk: &Disk, slot: &mut Slot, room: &mut Room) -> Option<Step> {
    let shift = disk.block_size().shift();
    while slot.next_range < slot.ranges {
        let index = usize::from(slot.next_range);
        slot.next_range += 1;
        // SAFETY: `Frame::ranges` has filled as many as `slot.ranges` says.
        let range = unsafe { room.ranges()[index].assume_init() };
        if range.sectors == 0 {
            continue;
        }
        let Some(lba) = lba_of(range.sector, shift) else {
            return Some(Done(RequestStatus::IoError));
        };
        let blocks = range.sectors >> (shift - SECTOR_SHIFT);
        let (opcode, flags) = match slot.kind {
            RequestType::Discard => (Opcode::Unmap, RequestFlags::NONE),
            _ => (Opcode::WriteZeroes, durability(disk)),
        };
        return Some(Submit(Request::bare(opcode, lba, blocks, id.into()).with_flags(flags)));
    }
    None
}

/// Whether a range can be done at all (VIRTIO 5.2.6.2).
fn check(range: &RangeDescriptor, kind: RequestType, disk: &Disk) -> Result<(), RequestStatus> {
    let flags_known = match kind {
        RequestType::WriteZeroes => RangeDescriptor::UNMAP,
        _ => 0,
    };
    if range.flags & !flags_known != 0 {
        return Err(RequestStatus::Unsupported);
    }
    let shift = disk.block_size().shift();
    let whole = range.sectors & ((1 << (shift - SECTOR_SHIFT)) - 1) == 0;
    if !whole || range.sectors > RANGE_SECTORS_MAX || lba_of(range.sector, shift).is_none() {
        return Err(RequestStatus::IoError);
    }
    Ok(())
}

/// The block that starts at a sector. `None` when none does.
#[inline]
fn lba_of(sector: u64, block_shift: u32) -> Option<Lba> {
    let shift = block_shift - SECTOR_SHIFT;
    let aligned = sector & ((1 << shift) - 1) == 0;
    aligned.then_some(Lba(sector >> shift))
}

/// How durable a write must be when it completes.
#[inline]
fn durability(disk: &Disk) -> RequestFlags {
    if disk.writes_through() { RequestFlags::FUA } else { RequestFlags::NONE }
}

/// The segment that data in one piece are, unless they lie in several regions of the guest's memory.
#[inline]
fn whole(pieces: &[Piece], memory: &GuestMemory) -> Option<Segment> {
    let [piece] = pieces else { return None };
    memory.segment(piece.address, piece.length).filter(|segment| segment.len() == piece.length)
}

/// Collects the segments of data in several pieces. Returns its length and how many segments it has; `None`
/// when a piece is not the guest's memory, or there are too many.
#[cold]
fn gather(
    pieces: &[Piece],
    memory: &GuestMemory,
    slot: &mut Slot,
    room: &mut Room,
) -> Option<(u64, u16)> {
    let segments = room.segments();
    let (mut total, mut count) = (0, 0);
    for piece in pieces {
        let (mut address, mut left) = (piece.address, piece.length);
        while left > 0 {
            let segment = memory.segment(address, left)?;
            *segments.get_mut(count)? = MaybeUninit::new(segment);
            if count == 0 {
                slot.first = segment;
            }
            count += 1;
            total += u64::from(segment.len());
            left -= segment.len();
            address = address.checked_add(segment.len().into())?;
        }
    }
    Some((total, count as u16))
}

/// Whether the header and the status are each in a piece of their own, as nearly all drivers have them.
#[inline]
fn has_usual_cut(chain: &[Piece]) -> bool {
    matches!(chain, [first, .., last]
        if first.length == size_of::<RequestHeader>() as u32
            && !first.writable
            && last.length == 1
            && last.writable)
}

/// Reads a header that is in one piece. Once: the guest may change it meanwhile.
#[inline]
fn read_header(address: u64, memory: &GuestMemory) -> Option<RequestHeader> {
    let place = memory.translate(address, size_of::<RequestHeader>() as u64)?;
    // SAFETY: as many bytes of the guest's memory, which is mapped while `memory` lives.
    let bytes = unsafe { place.cast::<[u8; size_of::<RequestHeader>()]>().read_volatile() };
    Some(zerocopy::transmute!(bytes))
}

/// Reads the header off the front of the readable pieces.
fn take_front<'a>(
    pieces: &'a mut [Piece],
    memory: &GuestMemory,
) -> Option<(RequestHeader, &'a [Piece])> {
    let mut header = RequestHeader { kind: 0, reserved: 0, sector: 0 };
    let mut cursor = Cursor::new(pieces);
    cursor.read(header.as_mut_bytes(), memory)?;
    let (index, offset) = (cursor.index, cursor.offset);
    if let Some(piece) = pieces.get_mut(index) {
        piece.address += u64::from(offset);
        piece.length -= offset;
    }
    Some((header, &pieces[index..]))
}

/// Takes the status byte off the end of the writable pieces.
fn take_last<'a>(
    pieces: &'a mut [Piece],
    memory: &GuestMemory,
) -> Option<(NonNull<u8>, &'a [Piece])> {
    let mut end = pieces.len();
    while end > 0 && pieces[end - 1].length == 0 {
        end -= 1;
    }
    let last = pieces[..end].last_mut()?;
    let rest = last.length - 1;
    let status = memory.translate(last.address.checked_add(rest.into())?, 1)?;
    last.length = rest;
    Some((status, &pieces[..end - usize::from(rest == 0)]))
}

/// A place in a run of pieces.
struct Cursor<'a> {
    pieces: &'a [Piece],
    index: usize,
    /// Within the piece; never at its end.
    offset: u32,
}

impl<'a> Cursor<'a> {
    fn new(pieces: &'a [Piece]) -> Cursor<'a> {
        let mut cursor = Cursor { pieces, index: 0, offset: 0 };
        cursor.settle();
        cursor
    }

    fn is_at_end(&self) -> bool {
        self.index == self.pieces.len()
    }

    /// Moves on from the end of a piece.
    fn settle(&mut self) {
        while let Some(piece) = self.pieces.get(self.index)
            && piece.length == self.offset
        {
            self.index += 1;
            self.offset = 0;
        }
    }

    /// Reads the next bytes; `None` when there are fewer, or not in the guest's memory.
    fn read(&mut self, mut bytes: &mut [u8], memory: &GuestMemory) -> Option<()> {
        while !bytes.is_empty() {
            let piece = self.pieces.get(self.index)?;
            let length = ((piece.length - self.offset) as usize).min(bytes.len());
            let address = piece.address.checked_add(self.offset.into())?;
            let address = memory.translate(address, length as u64)?;
            // SAFETY: as many bytes of the guest's memory, which is mapped while `memory` lives.
            unsafe { std::ptr::copy_nonoverlapping(address.as_ptr(), bytes.as_mut_ptr(), length) };
            bytes = &mut bytes[length..];
            self.offset += length as u32;
            self.settle();
        }
        Some(())
    }
}
