//! What a verification found, and how the findings of several workers add up.

use weft::load::Mismatch;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Blocks that were read and checked.
    pub checked: u64,
    /// How many of them were not what was written.
    pub bad: u64,
    /// The one of the lowest address.
    pub first: Option<Mismatch>,
    /// Generation of the last pass.
    pub generation: u64,
    /// Whether the last pass was cut off before it was through.
    pub incomplete: bool,
}

impl Findings {
    /// Adds those of another worker.
    pub fn add(&mut self, other: &Findings) {
        self.checked += other.checked;
        self.bad += other.bad;
        self.generation = self.generation.max(other.generation);
        self.incomplete |= other.incomplete;
        if let Some(theirs) = other.first {
            self.note(theirs);
        }
    }

    /// Takes note of a block that is not what it should be; it is not counted here.
    pub fn note(&mut self, mismatch: Mismatch) {
        if self.first.is_none_or(|first| mismatch.lba < first.lba) {
            self.first = Some(mismatch);
        }
    }
}
