//! Controllers that QEMU emulates, without a guest: registers over the socket of QEMU's test protocol (qtest), memory of
//! ours as modules that are plugged into the machine over its monitor (QMP). For tests.
//!
//! QEMU is started with its processors stopped, and with slots for memory:
//! `qemu-system-x86_64 -S -accel tcg -machine q35 -nodefaults -display none -m 16M,slots=256,maxmem=64G -device nvme,…
//! -qtest unix:Q,server=on,wait=off -qmp unix:M,server=on,wait=off`. No firmware runs: [`Machine`] does the little of
//! its work that is needed, finding the functions on PCI bus 0 and giving each BAR a place.
//!
//! A module cannot be unplugged without a guest that agrees. Memory that was mapped once therefore stays reachable
//! until QEMU ends; QEMU has its own reference to the file behind it.

mod bus;
mod device;
mod dialogue;
mod machine;
mod monitor;

pub use bus::Slot;
pub use machine::Machine;
