//! Mirror (raid1): the same bytes on two to four legs.
mod add;
mod assemble;
mod bounce;
mod control;
mod copy;
mod device;
mod leg_io;
mod legs;
mod metadata;
mod op;
mod options;
mod queue;
mod raid;
mod rebuild;
mod shared;
mod slow;

pub use options::RaidOptions;
pub use raid::MirrorKind;
