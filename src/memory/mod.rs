//! DMA-able memory: regions, the registry that tells devices of each region, per-reactor buffer
//! pools, scatter lists and copy kernels.
//!
//! A [`Region`] is a run of memory that devices may address: buffers of ours (huge pages, or
//! ordinary aligned memory), or memory of somebody else that was mapped here, such as a guest's.
//! The [`Registry`] gives each region a [`RegionId`]. Every [`Segment`] of a request carries the id
//! of the region that it lies in, so that a driver translates an address with one array access:
//! the id picks the driver's own entry for the region (fixed-buffer index, IOVA, memory key), and
//! the distance from the region's start does the rest.

pub mod copy;
#[cfg(feature = "dpdk")]
pub mod dpdk;
mod numa;
mod page;
mod pool;
mod region;
mod registry;
mod reserve;
mod segment;
mod shared;
mod sigbus;
mod source;

pub use page::{Backing, DeviceAddresses, HUGE_PAGE_SIZE, HugePages, PageKind};
pub use pool::{Buffer, Pool, PoolOptions, PoolStats};
pub use region::Region;
pub use registry::{RegionId, RegionView, Registry, Subscription};
pub use reserve::{NodeReserve, reserve, reserves};
pub use segment::{Segment, SegmentList};
pub use sigbus::{Substitute, Watch};
pub use source::{RegionOptions, Sharing, Source};
