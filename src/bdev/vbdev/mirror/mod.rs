//! Mirror (raid1): the same bytes on two to four legs.

mod bounce;
mod device;
mod legs;
mod op;
mod queue;
mod shared;
mod slow;
