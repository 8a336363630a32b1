//! The commands of the NVM command set (NVM Command Set Specification, section 3).

use zerocopy::FromBytes;

use super::namespace::Namespace;
use super::payload::{deliver, fetch};
use super::queues::Outcome;
use super::state::Controller;
use crate::base::Status;
use crate::nvme::spec::{DsmRange, IoOpcode, NSID_ALL, SubmissionEntry};

/// Bits of ONCS.
const COMPARE: u16 = 1 << 0;
const WRITE_UNCORRECTABLE: u16 = 1 << 1;
const DSM: u16 = 1 << 2;
const WRITE_ZEROES: u16 = 1 << 3;
const VERIFY: u16 = 1 << 7;

/// Force Unit Access, in command dword 12.
const FUA: u32 = 1 << 30;

impl Controller {
    pub(super) fn execute_io(&mut self, entry: &SubmissionEntry) -> Outcome {
        self.execute_io_command(entry).map_err(Into::into)
    }

    fn execute_io_command(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let needs = match entry.opcode {
            IoOpcode::FLUSH | IoOpcode::WRITE | IoOpcode::READ => 0,
            IoOpcode::COMPARE => COMPARE,
            IoOpcode::WRITE_UNCORRECTABLE => WRITE_UNCORRECTABLE,
            IoOpcode::DATASET_MANAGEMENT => DSM,
            IoOpcode::WRITE_ZEROES => WRITE_ZEROES,
            IoOpcode::VERIFY => VERIFY,
            _ => return Err(Status::INVALID_OPCODE),
        };
        if self.options.oncs & needs != needs {
            return Err(Status::INVALID_OPCODE);
        }
        if entry.opcode == IoOpcode::FLUSH {
            return self.flush(entry.nsid);
        }
        let rules = self.rules();
        let through = !self.write_cache_enabled();
        let data_max = match self.options.mdts {
            0 => u64::MAX,
            mdts => 4096 << mdts,
        };
        let Controller { namespaces, dma, logs, .. } = self;
        let namespace = namespaces.get_mut(&entry.nsid).ok_or(Status::INVALID_NAMESPACE)?;
        if entry.opcode == IoOpcode::DATASET_MANAGEMENT {
            let count = (entry.cdw10 & 0xff) as usize + 1;
            let list = fetch(dma, rules, entry, count * size_of::<DsmRange>())?;
            return dataset_management(namespace, entry.cdw11, &list, through);
        }

        let start = u64::from(entry.cdw11) << 32 | u64::from(entry.cdw10);
        let blocks = u64::from(entry.cdw12 & 0xffff) + 1;
        if !namespace.has(start, blocks) {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        let through = through || entry.cdw12 & FUA != 0;
        let (data_bytes, metadata_bytes) = namespace.transfer_bytes(blocks);
        let moves_data =
            matches!(entry.opcode, IoOpcode::READ | IoOpcode::WRITE | IoOpcode::COMPARE);
        if moves_data && data_bytes as u64 > data_max {
            return Err(Status::INVALID_FIELD);
        }
        let reads = matches!(entry.opcode, IoOpcode::READ | IoOpcode::COMPARE | IoOpcode::VERIFY);
        if reads && namespace.has_uncorrectable(start, blocks).is_some() {
            return Err(Status::UNRECOVERED_READ_ERROR);
        }
        match entry.opcode {
            IoOpcode::READ => {
                let (data, metadata) = namespace.read(start, blocks);
                deliver(dma, rules, entry, &data)?;
                dma.write(entry.metadata, &metadata)?;
                logs.bytes_read += data.len() as u64;
            }
            IoOpcode::WRITE => {
                let data = fetch(dma, rules, entry, data_bytes)?;
                let mut metadata = vec![0; metadata_bytes];
                dma.read(entry.metadata, &mut metadata)?;
                namespace.write(start, &data, &metadata, through);
                logs.bytes_written += data.len() as u64;
            }
            IoOpcode::COMPARE => {
                let theirs = fetch(dma, rules, entry, data_bytes)?;
                let mut their_metadata = vec![0; metadata_bytes];
                dma.read(entry.metadata, &mut their_metadata)?;
                if (theirs, their_metadata) != namespace.read(start, blocks) {
                    return Err(Status::COMPARE_FAILURE);
                }
            }
            IoOpcode::WRITE_ZEROES => {
                // Deallocate (DEAC, dword 12 bit 25): they read as zeros either way.
                if entry.cdw12 & 1 << 25 != 0 {
                    namespace.store.deallocate(start, blocks, through);
                    namespace.clear_uncorrectable(start, blocks);
                } else {
                    let (data, metadata) = (vec![0; data_bytes], vec![0; metadata_bytes]);
                    namespace.write(start, &data, &metadata, through);
                }
            }
            IoOpcode::WRITE_UNCORRECTABLE => namespace.uncorrectable.extend(start..start + blocks),
            // Verify has nothing left to look at: what is stored here does not decay.
            _ => {}
        }
        Ok(0)
    }

    fn flush(&mut self, nsid: u32) -> Result<u32, Status> {
        if nsid == NSID_ALL {
            for namespace in self.namespaces.values_mut() {
                namespace.store.flush();
            }
            return Ok(0);
        }
        let namespace = self.namespaces.get_mut(&nsid).ok_or(Status::INVALID_NAMESPACE)?;
        namespace.store.flush();
        Ok(0)
    }
}

fn dataset_management(
    namespace: &mut Namespace,
    attributes: u32,
    list: &[u8],
    through: bool,
) -> Result<u32, Status> {
    let ranges: Vec<DsmRange> =
        list.chunks_exact(16).filter_map(|range| DsmRange::read_from_bytes(range).ok()).collect();
    if !ranges.iter().all(|range| namespace.has(range.start, range.blocks.into())) {
        return Err(Status::LBA_OUT_OF_RANGE);
    }
    if attributes & DsmRange::DEALLOCATE != 0 {
        for range in ranges {
            namespace.store.deallocate(range.start, range.blocks.into(), through);
            namespace.clear_uncorrectable(range.start, range.blocks.into());
        }
    }
    Ok(0)
}
