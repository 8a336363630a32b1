//! The vocabulary: units, I/O status, errors, limits. No I/O and no unsafe code.

#![forbid(unsafe_code)]

mod error;
pub mod limits;
mod size;
mod status;
mod time;
mod units;

pub use error::{Error, ErrorKind, Result};
pub use size::{format_size, parse_size};
pub use status::Status;
pub use time::Time;
pub use units::{BlockCount, BlockSize, ByteCount, ByteOffset, Geometry, Lba};
pub use uuid::Uuid;
