//! Mirror (raid1): the same bytes on two to four legs.
//!
//! | part | job |
//! | --- | --- |
//! | `queue`, `slow`, `op`, `legs`, `bounce` | a reactor's queue: reads to the least busy leg, writes to all; what waits or failed |
//! | `shared` | what queues and the control task share: the view of the legs, the intent map, the mailbox |
//! | `control`, `add` | the control task, which alone decides what a leg is good for |
//! | `rebuild`, `copy`, `progress`, `options` | rounds that make legs equal beside running I/O, and their pace |
//! | `metadata`, `leg_io` | labels and pages of the intent map on the legs (`docs/on-disk-format.md`) |
//! | `assemble` | finding mirrors by the labels of their legs |
//! | `kind`, `raid`, `device` | the level raid1, the mirror as a raid and as a bdev |
//!
//! What always holds:
//!
//! - Overlapping writes are done one after the other on all legs, whichever queues they came from, and a read
//!   waits for the writes in flight that overlap it.
//! - A write is acknowledged when every leg in service has done it. A leg that has not is out of service first:
//!   that is recorded on the others, and every queue knows it.
//! - The last leg in sync stays in service; its errors are the caller's.
//! - Before the first write to a region is issued, its intent bit is durable on all legs in service.
//! - A leg is `InSync` only when it holds everything; what clients write while it is being copied to goes to it too.
//!
//! A mirror that was made without a superblock keeps its intent map in memory and its data at block 0. It does not look at the
//! contents of its legs when it is made: blocks that were never written may read differently on different legs. A leg
//! that went out of service and comes back as the same device, not written to meanwhile, gets what differs; any other gets all
//! that was ever written.
//!
//! Compare-and-write is the channel's, under the lock of the mirror's own device: evaluated once, written to all.

mod add;
mod assemble;
mod bounce;
mod control;
mod copy;
mod device;
mod kind;
mod leg_io;
mod legs;
mod metadata;
mod op;
mod options;
mod progress;
mod queue;
mod raid;
mod rebuild;
mod shared;
mod slow;

pub use kind::MirrorKind;
pub use options::RaidOptions;
