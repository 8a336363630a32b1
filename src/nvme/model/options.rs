//! What a model is made with.

use crate::nvme::spec::{LbaFormat, Version};

/// Properties of a model of a controller. The default is an honest, well-equipped drive.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// What the transport calls it.
    pub address: String,
    /// Serial number.
    pub serial: String,
    /// Version that it claims.
    pub version: Version,
    /// Largest I/O queue, in entries (2 to 65536).
    pub queue_entries_max: u32,
    /// How many I/O queue pairs it has.
    pub io_queues: u16,
    /// Distance between doorbells: 4 bytes times two to this power (0 to 7).
    pub doorbell_stride_log2: u8,
    /// CAP.TO, in units of 500 ms.
    pub timeout_half_seconds: u8,
    /// How many reads of CSTS it takes until a change of CC.EN, or a shutdown, shows there.
    pub ready_after_reads: u32,
    /// Maximum data transfer size: pages of 4 KiB times two to this power; 0 for none.
    pub mdts: u8,
    /// Whether it takes SGLs.
    pub sgl: bool,
    /// Whether it has a volatile write cache.
    pub volatile_write_cache: bool,
    /// Whether it has Doorbell Buffer Config.
    pub shadow_doorbells: bool,
    /// Optional commands that it has, as in ONCS.
    pub oncs: u16,
    /// Whether it has fused compare-and-write.
    pub fused: bool,
    /// Abort commands that may be outstanding.
    pub abort_limit: u8,
    /// Asynchronous Event Requests that may be outstanding.
    pub async_event_limit: u8,
    /// Whether Abort finds commands; one that does not answers so for each.
    pub abort_works: bool,
    /// Addresses are given to huge pages one by one, out of order: what physical memory looks like without an IOMMU.
    pub scattered: bool,
    /// Completions come out of order, late by some steps, as this seed says.
    pub reorder: Option<u64>,
    /// Reads and writes of I/O queues move no data and are checked against nothing, for measuring a driver.
    pub fast: bool,
    /// The namespaces at the start.
    pub namespaces: Vec<NamespaceOptions>,
}

impl Default for ModelOptions {
    fn default() -> ModelOptions {
        ModelOptions {
            address: "model".into(),
            serial: "MODEL0".into(),
            version: Version::new(2, 0, 0),
            queue_entries_max: 1024,
            io_queues: 16,
            doorbell_stride_log2: 0,
            timeout_half_seconds: 4,
            ready_after_reads: 2,
            mdts: 8,
            sgl: true,
            volatile_write_cache: true,
            shadow_doorbells: false,
            // Compare, Write Uncorrectable, Dataset Management, Write Zeroes, Verify.
            oncs: 0b1000_1111,
            fused: true,
            abort_limit: 4,
            async_event_limit: 4,
            abort_works: true,
            scattered: false,
            reorder: None,
            fast: false,
            namespaces: vec![NamespaceOptions::default()],
        }
    }
}

/// Properties of a namespace of the model.
#[derive(Clone, Debug)]
pub struct NamespaceOptions {
    /// Its id, from 1.
    pub nsid: u32,
    /// Size in blocks of its format.
    pub blocks: u64,
    /// LBA formats that it can be formatted with, 1 to 64.
    pub formats: Vec<LbaFormat>,
    /// Which of them it has.
    pub format: usize,
    /// Metadata, where the format has them, follow each block's data.
    pub extended_metadata: bool,
    /// Optimal I/O boundary in blocks; 0 for none.
    pub optimal_boundary: u16,
    /// Namespace UUID; zeros for none.
    pub uuid: [u8; 16],
    /// NGUID; zeros for none.
    pub nguid: [u8; 16],
    /// EUI64; zeros for none.
    pub eui64: [u8; 8],
    /// Atomic write unit for power failures, 0's based (NAWUPF).
    pub atomic_write_power_fail: u16,
}

impl Default for NamespaceOptions {
    fn default() -> NamespaceOptions {
        NamespaceOptions {
            nsid: 1,
            blocks: 1 << 15,
            formats: vec![LbaFormat::new(9, 0), LbaFormat::new(12, 0), LbaFormat::new(9, 8)],
            format: 0,
            extended_metadata: false,
            optimal_boundary: 0,
            uuid: [0; 16],
            nguid: [0; 16],
            eui64: [0; 8],
            atomic_write_power_fail: 0,
        }
    }
}

impl NamespaceOptions {
    /// A namespace of `blocks` blocks of 512 bytes.
    pub fn small_blocks(nsid: u32, blocks: u64) -> NamespaceOptions {
        NamespaceOptions { nsid, blocks, uuid: uuid_of(nsid), ..NamespaceOptions::default() }
    }

    /// A namespace of `blocks` blocks of 4 KiB.
    pub fn large_blocks(nsid: u32, blocks: u64) -> NamespaceOptions {
        NamespaceOptions { format: 1, ..NamespaceOptions::small_blocks(nsid, blocks) }
    }
}

/// A UUID (RFC 9562, version 8) for a namespace of the model.
fn uuid_of(nsid: u32) -> [u8; 16] {
    let mut uuid = *b"WeftMod\x80\x80l\0\0\0\0\0\0";
    uuid[12..].copy_from_slice(&nsid.to_be_bytes());
    uuid
}
