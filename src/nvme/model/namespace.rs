//! A namespace of the model.

use std::collections::BTreeSet;

use super::options::NamespaceOptions;
use super::store::Store;
use crate::nvme::spec::{IdentifyNamespace, LbaFormat};

pub(super) struct Namespace {
    pub(super) options: NamespaceOptions,
    pub(super) store: Store,
    /// Blocks that Write Uncorrectable spoiled.
    pub(super) uncorrectable: BTreeSet<u64>,
}

impl Namespace {
    pub(super) fn new(mut options: NamespaceOptions) -> Namespace {
        if options.formats.is_empty() {
            options.formats.push(LbaFormat::new(9, 0));
        }
        options.formats.truncate(64);
        options.format = options.format.min(options.formats.len() - 1);
        let mut namespace =
            Namespace { options, store: Store::default(), uncorrectable: BTreeSet::new() };
        namespace.store = Store::new(namespace.stored_bytes());
        namespace
    }

    pub(super) fn format(&self) -> LbaFormat {
        self.options.formats[self.options.format]
    }

    /// Bytes of data in a block.
    pub(super) fn data_bytes(&self) -> usize {
        self.format().data_size().unwrap_or(512) as usize
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.format().metadata_size().into()
    }

    fn stored_bytes(&self) -> usize {
        self.data_bytes() + self.metadata_bytes()
    }

    /// Whether `blocks` blocks from `start` on exist.
    pub(super) fn has(&self, start: u64, blocks: u64) -> bool {
        start.checked_add(blocks).is_some_and(|end| end <= self.options.blocks)
    }

    pub(super) fn has_uncorrectable(&self, start: u64, blocks: u64) -> Option<u64> {
        self.uncorrectable.range(start..start.saturating_add(blocks)).next().copied()
    }

    pub(super) fn clear_uncorrectable(&mut self, start: u64, blocks: u64) {
        let end = start.saturating_add(blocks);
        self.uncorrectable.retain(|lba| !(start..end).contains(lba));
    }

    /// Reads blocks as data and metadata, each in one piece.
    pub(super) fn read(&self, start: u64, blocks: u64) -> (Vec<u8>, Vec<u8>) {
        let (data, metadata) = (self.data_bytes(), self.metadata_bytes());
        let mut stored = vec![0; blocks as usize * (data + metadata)];
        self.store.read(start, &mut stored);
        if metadata == 0 || self.options.extended_metadata {
            return (stored, Vec::new());
        }
        let mut parts = (Vec::new(), Vec::new());
        for block in stored.chunks_exact(data + metadata) {
            parts.0.extend_from_slice(&block[..data]);
            parts.1.extend_from_slice(&block[data..]);
        }
        parts
    }

    /// Writes what [`Namespace::read`] would return.
    pub(super) fn write(&mut self, start: u64, data: &[u8], metadata: &[u8], through: bool) {
        let size = (self.data_bytes(), self.metadata_bytes());
        let blocks = if metadata.is_empty() {
            self.store.write(start, data, through);
            data.len() / self.stored_bytes()
        } else {
            let mut stored = Vec::with_capacity(data.len() + metadata.len());
            for (data, metadata) in data.chunks_exact(size.0).zip(metadata.chunks_exact(size.1)) {
                stored.extend_from_slice(data);
                stored.extend_from_slice(metadata);
            }
            self.store.write(start, &stored, through);
            data.len() / size.0
        };
        self.clear_uncorrectable(start, blocks as u64);
    }

    /// Bytes that a command of `blocks` blocks moves: data (with extended metadata), and separate metadata.
    pub(super) fn transfer_bytes(&self, blocks: u64) -> (usize, usize) {
        let (data, metadata) = (self.data_bytes(), self.metadata_bytes());
        if self.options.extended_metadata {
            (blocks as usize * (data + metadata), 0)
        } else {
            (blocks as usize * data, blocks as usize * metadata)
        }
    }

    /// Formats with the format `index`: as many blocks as go into the bytes there were.
    pub(super) fn reformat(&mut self, index: usize, extended_metadata: bool) {
        let bytes = self.options.blocks * self.data_bytes() as u64;
        self.options.format = index;
        self.options.extended_metadata = extended_metadata;
        self.options.blocks = bytes / self.data_bytes() as u64;
        self.store = Store::new(self.stored_bytes());
        self.uncorrectable.clear();
    }

    pub(super) fn resize(&mut self, blocks: u64) {
        self.options.blocks = blocks;
        self.store.truncate(blocks);
        self.uncorrectable.split_off(&blocks);
    }

    pub(super) fn identify(&self) -> Box<IdentifyNamespace> {
        let options = &self.options;
        let mut identify = IdentifyNamespace::zeroed();
        identify.nsze = options.blocks;
        identify.ncap = options.blocks;
        identify.nuse = self.store.allocated();
        // Own atomic units (bit 1).
        identify.nsfeat = 1 << 1;
        identify.nlbaf = (options.formats.len() - 1) as u8;
        let index = options.format as u8;
        identify.flbas = index & 0xf | u8::from(options.extended_metadata) << 4 | (index >> 4) << 5;
        // Metadata as extended LBAs and separate.
        identify.mc = 0b11;
        // Deallocated blocks read as zeros; Write Zeroes may deallocate.
        identify.dlfeat = 0b1001;
        identify.nawun = 255;
        identify.nawupf = options.atomic_write_power_fail;
        identify.nacwu = 255;
        identify.noiob = options.optimal_boundary;
        let bytes = u128::from(options.blocks) * self.data_bytes() as u128;
        identify.nvmcap = bytes.to_le_bytes();
        identify.nguid = options.nguid;
        identify.eui64 = options.eui64;
        for (place, &format) in identify.lbaf.iter_mut().zip(&options.formats) {
            *place = format;
        }
        identify
    }
}
