//! The benchmark tool.

mod arguments;
mod core;
mod empty;
mod load;
mod measure;
mod payload;
mod plan;
mod spec;
mod verify;
mod worker;

fn main() {}
