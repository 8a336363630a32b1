//! What operators say of drives and volumes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Where a node is, for copies to be apart. An empty name is a domain of its own for each host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domains {
    /// Rack.
    pub rack: String,
    /// Zone.
    pub zone: String,
}

/// Over what copies are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Spread {
    /// Different drives.
    Drive,
    /// Different nodes.
    #[default]
    Host,
    /// Different racks.
    Rack,
    /// Different zones.
    Zone,
}

/// A drive as it is added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveSpec {
    /// log2 of the block size in bytes.
    pub block_shift: u8,
    /// Blocks of an extent.
    pub extent_blocks: u64,
    /// Extents of the drive.
    pub extents: u32,
    /// Class of drive, such as "tlc".
    pub class: String,
    /// What volumes can ask for.
    pub tags: BTreeSet<String>,
}

/// How a volume's blocks lie on its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are what the line above each layout says.
pub enum Layout {
    /// One group after the other.
    Concatenated,
    /// In turns of `strip_blocks` over `width` groups; what is added by extending is striped for itself.
    Striped { width: u16, strip_blocks: u32 },
}

/// A volume as it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// log2 of the block size in bytes; its drives have the same.
    pub block_shift: u8,
    /// Size in blocks; a whole number of strips over the width.
    pub blocks: u64,
    /// Copies: 1, 2 or 3.
    pub copies: u8,
    /// How the blocks lie.
    pub layout: Layout,
    /// Over what the copies are spread.
    pub spread: Spread,
    /// Only drives of this class; any if empty.
    pub class: String,
    /// Only drives with all of these tags.
    pub tags: BTreeSet<String>,
    /// log2 of the bytes of a region: what one bit of an intent map stands for.
    pub region_shift: u8,
    /// Answers come from volatile caches; only what was flushed is promised to survive.
    pub write_back: bool,
}

/// How a volume is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachMode {
    /// By one node, which reads and writes.
    #[default]
    Exclusive,
    /// By any number of nodes, which read.
    SharedRead,
    /// By any number of nodes, which read and write.
    SharedWrite,
}

impl AttachMode {
    /// Whether who attaches so may write.
    pub fn may_write(self) -> bool {
        self != AttachMode::SharedRead
    }
}
