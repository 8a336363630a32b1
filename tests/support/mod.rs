//! Random stacks of bdevs, and what exercises them.

pub mod drive;
pub mod model;
pub mod tree;
