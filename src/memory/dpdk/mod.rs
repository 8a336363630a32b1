//! DPDK as a source of memory (feature `dpdk`), and of what else its environment abstraction layer (EAL) tells: the
//! IOVA mode, and the PCI functions that it finds.
//!
//! All of DPDK is behind this module. The EAL starts once per process and is never stopped: its memory would go
//! from under devices that use it. It runs in in-memory mode, so that it leaves no files and no two processes meet; without
//! telemetry; without lcores of its own, and with every device of every bus excluded from probing, so that none of its
//! drivers takes one. It pins the thread that starts it, which is undone, and keeps one or two threads of its own,
//! which sleep.

mod block;
mod environment;
mod iova;
mod log;
mod pci;
mod stream;

pub use block::Block;
pub use environment::Environment;
pub use iova::IovaMode;
pub use pci::PciFunction;
