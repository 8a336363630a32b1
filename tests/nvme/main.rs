//! The NVMe driver against the model of a controller: an honest device first, then one that is not.

mod honest;
mod hostile;
mod rig;
