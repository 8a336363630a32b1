//! Where a command's data lie: PRP entries and lists, SGL descriptors and segments, followed and checked.

use super::dma::{Dma, NotMapped};
use crate::base::Status;
use crate::nvme::spec::{SglDescriptor, SubmissionEntry};

/// Address and length of a contiguous piece of data.
type Piece = (u64, u64);

/// Segments of one SGL that the model follows.
const SGL_SEGMENTS_MAX: usize = 256;
/// Descriptors in one segment that it takes.
const SGL_DESCRIPTORS_MAX: u32 = 4096;

impl From<NotMapped> for Status {
    fn from(_: NotMapped) -> Status {
        Status::DATA_TRANSFER_ERROR
    }
}

/// How the controller was configured, as far as data pointers go.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Host memory page in bytes.
    pub(super) page: u64,
    /// Whether SGLs are supported.
    pub(super) sgl: bool,
}

/// The data of a command, `total` bytes, in pieces.
fn pieces(
    dma: &mut Dma,
    rules: Rules,
    entry: &SubmissionEntry,
    total: u64,
) -> Result<Vec<Piece>, Status> {
    match entry.flags & SubmissionEntry::PSDT_MASK {
        0 => prp(dma, rules.page, entry, total),
        SubmissionEntry::PSDT_SGL if rules.sgl => {
            sgl(dma, SglDescriptor::from_data_pointer(entry.data), total)
        }
        _ => Err(Status::INVALID_FIELD),
    }
}

/// Base Specification, section 4.1.1.
fn prp(
    dma: &mut Dma,
    page: u64,
    entry: &SubmissionEntry,
    total: u64,
) -> Result<Vec<Piece>, Status> {
    let pointer = entry.data;
    if !pointer.prp1.is_multiple_of(4) {
        return Err(Status::INVALID_PRP_OFFSET);
    }
    let first = total.min(page - pointer.prp1 % page);
    let mut pieces = vec![(pointer.prp1, first)];
    let mut left = total - first;
    if left == 0 {
        return Ok(pieces);
    }
    if left <= page {
        if !pointer.prp2.is_multiple_of(page) {
            return Err(Status::INVALID_PRP_OFFSET);
        }
        pieces.push((pointer.prp2, left));
        return Ok(pieces);
    }
    let mut at = pointer.prp2;
    if !at.is_multiple_of(8) {
        return Err(Status::INVALID_PRP_OFFSET);
    }
    while left > 0 {
        let value: u64 = dma.read_value(at)?;
        if !value.is_multiple_of(page) {
            return Err(Status::INVALID_PRP_OFFSET);
        }
        // The last entry of a page points at the next list, if more than one entry is to come.
        if (at + 8).is_multiple_of(page) && left > page {
            at = value;
            continue;
        }
        let length = left.min(page);
        pieces.push((value, length));
        left -= length;
        at += 8;
    }
    Ok(pieces)
}

/// Base Specification, section 4.1.2.
fn sgl(dma: &mut Dma, first: SglDescriptor, total: u64) -> Result<Vec<Piece>, Status> {
    let mut pieces = Vec::new();
    let mut length = 0;
    let mut block = |descriptor: SglDescriptor| {
        pieces.push((descriptor.address, u64::from(descriptor.length)));
        length += u64::from(descriptor.length);
    };
    let mut segment = match first.kind {
        SglDescriptor::DATA_BLOCK => {
            block(first);
            None
        }
        SglDescriptor::SEGMENT | SglDescriptor::LAST_SEGMENT => Some(first),
        _ => return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
    };
    let mut segments = 0;
    while let Some(current) = segment.take() {
        segments += 1;
        let count = current.length / 16;
        if !current.length.is_multiple_of(16) || count == 0 {
            return Err(Status::INVALID_SGL_SEGMENT);
        }
        if segments > SGL_SEGMENTS_MAX || count > SGL_DESCRIPTORS_MAX {
            return Err(Status::INVALID_SGL_COUNT);
        }
        for index in 0..count {
            let descriptor: SglDescriptor =
                dma.read_value(current.address.wrapping_add(u64::from(index) * 16))?;
            let is_last = index == count - 1;
            match descriptor.kind {
                SglDescriptor::DATA_BLOCK => block(descriptor),
                // Only the last descriptor of a segment that is not the last points on.
                SglDescriptor::SEGMENT | SglDescriptor::LAST_SEGMENT
                    if is_last && current.kind == SglDescriptor::SEGMENT =>
                {
                    segment = Some(descriptor);
                }
                SglDescriptor::SEGMENT | SglDescriptor::LAST_SEGMENT => {
                    return Err(Status::INVALID_SGL_SEGMENT);
                }
                _ => return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
            }
        }
        if current.kind == SglDescriptor::SEGMENT && segment.is_none() {
            return Err(Status::INVALID_SGL_SEGMENT);
        }
    }
    if length != total {
        return Err(Status::DATA_SGL_LENGTH_INVALID);
    }
    Ok(pieces)
}

/// Fetches a command's data from the host.
pub(super) fn fetch(
    dma: &mut Dma,
    rules: Rules,
    entry: &SubmissionEntry,
    bytes: usize,
) -> Result<Vec<u8>, Status> {
    let mut data = vec![0; bytes];
    let mut rest = &mut data[..];
    for (address, length) in pieces(dma, rules, entry, bytes as u64)? {
        let (now, later) = rest.split_at_mut(length as usize);
        dma.read(address, now)?;
        rest = later;
    }
    Ok(data)
}

/// Brings a command's data to the host.
pub(super) fn deliver(
    dma: &mut Dma,
    rules: Rules,
    entry: &SubmissionEntry,
    data: &[u8],
) -> Result<(), Status> {
    let mut rest = data;
    for (address, length) in pieces(dma, rules, entry, data.len() as u64)? {
        let (now, later) = rest.split_at(length as usize);
        dma.write(address, now)?;
        rest = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{HugePages, Region};
    use crate::nvme::spec::DataPointer;

    const RULES: Rules = Rules { page: 4096, sgl: true };

    fn setup() -> (Dma, u64) {
        let region = Arc::new(Region::allocate(1 << 20, HugePages::Never).unwrap());
        let mut dma = Dma::new();
        let at = dma.map(&region, 1);
        (dma, at)
    }

    fn with_prp(prp1: u64, prp2: u64) -> SubmissionEntry {
        SubmissionEntry { data: DataPointer { prp1, prp2 }, ..SubmissionEntry::default() }
    }

    #[test]
    fn prp_lists_are_followed_and_chained() {
        let (mut dma, at) = setup();
        let direct = with_prp(at + 0x104, at + 0x2000);
        let found = pieces(&mut dma, RULES, &direct, 5000).unwrap();
        assert_eq!(found, [(at + 0x104, 0xefc), (at + 0x2000, 5000 - 0xefc)]);
        // A list that begins two entries before the end of its page.
        let list = at + 0x4000 - 16;
        dma.write(list, (at + 0x8000).as_bytes()).unwrap();
        dma.write(list + 8, (at + 0x6000).as_bytes()).unwrap();
        for index in 0..2 {
            dma.write(at + 0x6000 + index * 8, (at + 0x9000 + index * 0x1000).as_bytes()).unwrap();
        }
        let found = pieces(&mut dma, RULES, &with_prp(at, list), 4 * 4096).unwrap();
        let addresses: Vec<u64> = found.iter().map(|piece| piece.0 - at).collect();
        assert_eq!(addresses, [0, 0x8000, 0x9000, 0xa000]);
        // With one page less, the last entry of the page is a page itself.
        let found = pieces(&mut dma, RULES, &with_prp(at, list), 3 * 4096).unwrap();
        assert_eq!(found[2], (at + 0x6000, 4096));
    }

    #[test]
    fn wrong_prps_are_refused() {
        let (mut dma, at) = setup();
        let mut status =
            |prp1, prp2, total| pieces(&mut dma, RULES, &with_prp(prp1, prp2), total).unwrap_err();
        assert_eq!(status(at + 2, 0, 512), Status::INVALID_PRP_OFFSET);
        assert_eq!(status(at, at + 512, 8192), Status::INVALID_PRP_OFFSET);
        assert_eq!(status(at, at + 4, 1 << 16), Status::INVALID_PRP_OFFSET);
        assert_eq!(status(at, 0, 1 << 16), Status::DATA_TRANSFER_ERROR);
        assert_eq!(dma.faults.len(), 1);
    }

    #[test]
    fn sgl_segments_are_followed() {
        let (mut dma, at) = setup();
        let data =
            |offset, length| SglDescriptor::new(SglDescriptor::DATA_BLOCK, at + offset, length);
        let command = |descriptor: SglDescriptor| SubmissionEntry {
            flags: SubmissionEntry::PSDT_SGL,
            data: descriptor.data_pointer(),
            ..SubmissionEntry::default()
        };
        let last = SglDescriptor::new(SglDescriptor::LAST_SEGMENT, at + 0x5000, 32);
        dma.write(at + 0x4000, data(0, 100).as_bytes()).unwrap();
        dma.write(at + 0x4010, last.as_bytes()).unwrap();
        dma.write(at + 0x5000, data(200, 300).as_bytes()).unwrap();
        dma.write(at + 0x5010, data(600, 12).as_bytes()).unwrap();
        let first = SglDescriptor::new(SglDescriptor::SEGMENT, at + 0x4000, 32);
        let found = pieces(&mut dma, RULES, &command(first), 412).unwrap();
        assert_eq!(found, [(at, 100), (at + 200, 300), (at + 600, 12)]);
        let mut status = |descriptor: SglDescriptor, total| {
            pieces(&mut dma, RULES, &command(descriptor), total).unwrap_err()
        };
        assert_eq!(status(first, 411), Status::DATA_SGL_LENGTH_INVALID);
        let kind = SglDescriptor::LAST_SEGMENT;
        assert_eq!(status(SglDescriptor { kind, ..first }, 412), Status::INVALID_SGL_SEGMENT);
        assert_eq!(status(SglDescriptor { length: 17, ..first }, 412), Status::INVALID_SGL_SEGMENT);
        assert_eq!(
            status(SglDescriptor { kind: 0x40, ..first }, 1),
            Status::SGL_DESCRIPTOR_TYPE_INVALID
        );
        // A segment that points at itself.
        let circle = SglDescriptor::new(SglDescriptor::SEGMENT, at + 0x7000, 16);
        dma.write(at + 0x7000, circle.as_bytes()).unwrap();
        assert_eq!(
            pieces(&mut dma, RULES, &command(circle), 1).unwrap_err(),
            Status::INVALID_SGL_COUNT
        );
    }

    use zerocopy::IntoBytes;
}
