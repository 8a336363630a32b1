//! Work for a device from inside the process: stamped blocks that can be told from any others, and an
//! exercise that writes and verifies them under load. The quickstart, the crash check and an
//! operator's burn-in run the exercise over RPC; the benchmark uses the stamps.

mod exercise;
pub mod random;
mod stamp;
mod table;
mod transfer;

pub use exercise::{Exercise, ExercisePlan, Mode, Progress, Snapshot};
pub use stamp::{Field, Mismatch, Stamp};
pub use table::{LoadStatus, Loads};
pub use transfer::{Transfer, Way};
