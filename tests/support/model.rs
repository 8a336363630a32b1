//! What a device should hold: plain bytes, and which of them are certain.

use weft::bdev::Opcode;

pub struct Model {
    bytes: Vec<u8>,
    /// A failed write leaves its blocks with either content; so does one of several parts.
    known: Vec<bool>,
    block: usize,
}

impl Model {
    /// A device of zeros. Of one that does not store what is written nothing is ever known.
    pub fn new(length: usize, block: usize, stores: bool) -> Model {
        Model { bytes: vec![0; length], known: vec![stores; length / block], block }
    }

    pub fn bytes(&self, offset: usize, length: usize) -> &[u8] {
        &self.bytes[offset..offset + length]
    }

    fn blocks(&self, offset: usize, length: usize) -> std::ops::Range<usize> {
        offset / self.block..(offset + length) / self.block
    }

    pub fn all_known(&self, offset: usize, length: usize) -> bool {
        self.known[self.blocks(offset, length)].iter().all(|&known| known)
    }

    /// The range holds `data` now (zeros when there are none).
    pub fn write(&mut self, offset: usize, length: usize, data: Option<&[u8]>, stores: bool) {
        let range = &mut self.bytes[offset..offset + length];
        match data {
            Some(data) => range.copy_from_slice(data),
            None => range.fill(0),
        }
        let blocks = self.blocks(offset, length);
        self.known[blocks].fill(stores);
    }

    /// The range may hold anything now.
    pub fn forget(&mut self, offset: usize, length: usize) {
        let blocks = self.blocks(offset, length);
        self.known[blocks].fill(false);
    }

    /// Whether `data` is what a read of the range may return.
    pub fn allows(&self, offset: usize, data: &[u8]) -> Result<(), String> {
        for (index, block) in data.chunks(self.block).enumerate() {
            let at = offset + index * self.block;
            if self.known[at / self.block] && block != &self.bytes[at..at + self.block] {
                return Err(format!("block {} differs from what was written", at / self.block));
            }
        }
        Ok(())
    }
}

/// Whether two requests on the same blocks at once have no certain outcome.
pub fn conflict(a: Opcode, b: Opcode) -> bool {
    a.is_write() || b.is_write()
}
