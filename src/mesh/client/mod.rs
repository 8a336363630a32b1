//! The client's side of an attached volume.
