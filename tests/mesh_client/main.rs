//! The client machine among scripted targets.

mod chaos;
mod scenarios;
mod world;
