//! Rows by their number, with a digest that follows every change.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a table holds.
pub trait Entity: Serialize {
    /// Its number.
    type Key: Ord + Copy;
    /// Keeps equal bytes of different kinds apart.
    const KIND: u64;
    /// Its number.
    fn key(&self) -> Self::Key;
}

#[derive(Clone, Debug)]
struct Row<T> {
    value: T,
    /// Its part of the digest; 0 before the first.
    digest: u64,
    is_dirty: bool,
}

/// Rows by their number. Whoever gets hold of a row to change it has it counted as changed, so the digest cannot miss anything.
#[derive(Clone, Debug)]
pub struct Table<T: Entity> {
    rows: BTreeMap<T::Key, Row<T>>,
    dirty: Vec<T::Key>,
    digest: u64,
    scratch: Vec<u8>,
}

impl<T: Entity> Default for Table<T> {
    fn default() -> Self {
        Table { rows: BTreeMap::new(), dirty: Vec::new(), digest: 0, scratch: Vec::new() }
    }
}

impl<T: Entity> Table<T> {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn get(&self, key: T::Key) -> Option<&T> {
        self.rows.get(&key).map(|row| &row.value)
    }

    pub fn get_mut(&mut self, key: T::Key) -> Option<&mut T> {
        let row = self.rows.get_mut(&key)?;
        if !row.is_dirty {
            row.is_dirty = true;
            self.dirty.push(key);
        }
        Some(&mut row.value)
    }

    /// Every row, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let dirty = &mut self.dirty;
        self.rows.iter_mut().map(|(key, row)| {
            if !row.is_dirty {
                row.is_dirty = true;
                dirty.push(*key);
            }
            &mut row.value
        })
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.rows.values().map(|row| &row.value)
    }

    /// Adds a row, or replaces the one of the same number.
    pub fn insert(&mut self, value: T) {
        let key = value.key();
        self.remove(key);
        self.dirty.push(key);
        self.rows.insert(key, Row { value, digest: 0, is_dirty: true });
    }

    pub fn remove(&mut self, key: T::Key) -> Option<T> {
        let row = self.rows.remove(&key)?;
        self.digest = self.digest.wrapping_sub(row.digest);
        Some(row.value)
    }

    /// Brings the digest up to date.
    pub fn settle(&mut self) {
        for key in self.dirty.drain(..) {
            let Some(row) = self.rows.get_mut(&key).filter(|row| row.is_dirty) else { continue };
            self.scratch.clear();
            let digest = digest_of(T::KIND, &row.value, &mut self.scratch);
            self.digest = self.digest.wrapping_add(digest).wrapping_sub(row.digest);
            row.digest = digest;
            row.is_dirty = false;
        }
    }

    /// The sum of what the rows are, as of the last [`Table::settle`].
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

/// The 64-bit digest of a value's postcard bytes.
fn digest_of<T: Serialize>(kind: u64, value: &T, scratch: &mut Vec<u8>) -> u64 {
    // Nothing that the picture holds fails to serialize into memory; were it so, it would fail alike on every node.
    match postcard::to_extend(value, std::mem::take(scratch)) {
        Ok(bytes) => {
            *scratch = bytes;
            digest_bytes(kind, scratch)
        }
        Err(_) => 0,
    }
}

/// A digest of bytes that is the same on every machine. It finds differences, not forgeries.
pub fn digest_bytes(kind: u64, bytes: &[u8]) -> u64 {
    let mut digest = mix(kind ^ (bytes.len() as u64) << 32);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut raw = [0; 8];
        raw.copy_from_slice(word);
        digest = mix(digest ^ u64::from_le_bytes(raw));
    }
    let mut raw = [0; 8];
    raw[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(digest ^ u64::from_le_bytes(raw))
}

/// Spreads every bit of a word over all bits: the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
pub fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
