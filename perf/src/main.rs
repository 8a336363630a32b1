//! The benchmark tool.

mod core;
mod empty;
mod load;
mod measure;
mod payload;
mod plan;
mod verify;
mod worker;

fn main() {}
