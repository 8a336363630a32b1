//! The picture of the mesh: what each command does to it, and what always holds.

mod fixture;
mod random;
mod states;
