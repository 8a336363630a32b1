//! What is known of a namespace.

use crate::base::{Geometry, Uuid};

/// What a namespace is like.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// Namespace identifier (NSID).
    pub nsid: u32,
    /// Block size and capacity (NSZE).
    pub geometry: Geometry,
    /// Its identity, the same on every controller that shows the namespace: its UUID, or one derived from its
    /// NGUID or EUI64, or from the drive's serial number where it has none of them.
    pub uuid: Uuid,
    /// Namespace Globally Unique Identifier (NGUID).
    pub nguid: Option<[u8; 16]>,
    /// IEEE Extended Unique Identifier (EUI64).
    pub eui64: Option<[u8; 8]>,
    /// The namespace may be attached to more than one controller (NMIC).
    pub shared: bool,
    /// Blocks between boundaries that commands had better not cross (NOIOB); 0 for none.
    pub optimal_boundary: u32,
    /// What a deallocated block reads as.
    pub reads_zeros: bool,
    /// Write Zeroes takes the Deallocate attribute (DLFEAT bit 3).
    pub write_zeroes_deallocates: bool,
    /// Blocks that are written atomically in normal operation (NAWUN, or the controller's AWUN),
    pub atomic_write: u32,
    /// and when power fails (NAWUPF or AWUPF).
    pub atomic_write_power_fail: u32,
    /// Blocks that a fused compare-and-write handles atomically (NACWU or ACWU).
    pub atomic_compare_and_write: u32,
    /// Blocks between boundaries of atomicity when power fails (NABSPF); 0 for none.
    pub atomic_boundary_power_fail: u32,
    /// Smallest write that costs no read, in blocks (NPWG); 1 where it is not known.
    pub preferred_write: u32,
}
