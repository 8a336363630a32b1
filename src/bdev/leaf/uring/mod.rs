//! A device in a regular file or on a block device, driven through io_uring.
//!
//! | file | its job |
//! | --- | --- |
//! | `medium` | opens the file, keeps others from writing to it, finds out its size |
//! | `facts` | what the medium can do: alignment, caches, hole punching |
//! | `ring` | one io_uring: its flags, how submissions go in and when the kernel must be entered |
//! | `fixed` | the ring's table of registered buffers, which follows the memory registry |
//! | `slot` | one outstanding request, and the submission queue entry that it makes |
//! | `queue` | the queue pair: slots and rings put together |
//! | `device` | the bdev: options, RPC configuration, rescan |
//!
//! `docs/uring.md` says what a flush, FUA, unmap and write-zeroes mean on each kind of medium.

mod device;
mod facts;
mod fixed;
mod medium;
mod queue;
mod ring;
mod slot;

pub use device::{Method, Uring, UringOptions};
