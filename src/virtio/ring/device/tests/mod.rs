//! Both rings against drivers that are written down as plainly as can be.

mod crash;
mod hostile;
mod log;
mod malformed;
mod model;
mod packed_driver;
mod properties;
mod records;
mod split_driver;
