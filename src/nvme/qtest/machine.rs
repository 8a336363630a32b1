//! The machine: its controllers, and what is where in its memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::json;

use super::bus::{self, Slot};
use super::dialogue::Dialogue;
use super::monitor;
use crate::base::{Error, ErrorKind, Result};
use crate::memory::Region;
use crate::reactor::Context;

/// Where BARs are put: the hole for devices below 4 GiB, clear of the interrupt controllers at its end.
const BARS: std::ops::Range<u64> = 0xe000_0000..0xfe00_0000;
/// The largest BAR that is believed.
const BAR_MAX: u64 = 1 << 20;

/// Class code of an NVMe I/O controller: mass storage, non-volatile memory, NVMe.
const CLASS_NVME: u32 = 0x01_0802;

/// Offsets in configuration space, and bits of the command register.
const COMMAND: u8 = 0x04;
const CLASS: u8 = 0x08;
const HEADER_TYPE: u8 = 0x0c;
const BAR0: u8 = 0x10;
const BAR1: u8 = 0x14;
const MEMORY_SPACE: u32 = 1 << 1;
const BUS_MASTER: u32 = 1 << 2;
const INTERRUPT_DISABLE: u32 = 1 << 10;

/// A machine of QEMU's.
pub struct Machine {
    pub(super) ports: Dialogue,
    monitor: Dialogue,
    places: Mutex<Places>,
}

/// What is where in the machine's memory.
struct Places {
    bars: BTreeMap<Slot, Bar>,
    next_bar: u64,
    modules: Vec<Module>,
}

/// A register window, and how long it is.
#[derive(Clone, Copy)]
pub(super) struct Bar {
    pub(super) address: u64,
    pub(super) length: u64,
}

/// What is known of a region.
enum Known {
    At(u64),
    /// It is being plugged in.
    Coming,
    /// Nothing; this is the number of its module.
    Reserved(usize),
}

impl Places {
    fn find_or_reserve(&mut self, region: &Arc<Region>) -> Known {
        let is_it = |module: &&Module| std::ptr::eq(module.region.as_ptr(), Arc::as_ptr(region));
        match self.modules.iter().find(is_it) {
            Some(Module { address: Some(address), .. }) => Known::At(*address),
            Some(_) => Known::Coming,
            None => {
                self.modules.push(Module { region: Arc::downgrade(region), address: None });
                Known::Reserved(self.modules.len() - 1)
            }
        }
    }
}

struct Module {
    region: Weak<Region>,
    /// `None` while it is being plugged in.
    address: Option<u64>,
}

impl Machine {
    /// Connects to QEMU's two sockets. Everything that it is asked has to be answered within `patience`.
    ///
    /// # Errors
    /// When nobody listens there, or the monitor does not answer.
    pub async fn connect(
        cx: &Context,
        qtest: &Path,
        monitor: &Path,
        patience: Duration,
    ) -> Result<Arc<Machine>> {
        let machine = Machine {
            ports: Dialogue::connect(qtest, patience, bus::is_answer)?,
            monitor: Dialogue::connect(monitor, patience, monitor::is_answer)?,
            places: Mutex::new(Places {
                bars: BTreeMap::new(),
                next_bar: BARS.start,
                modules: Vec::new(),
            }),
        };
        monitor::execute(cx, &machine.monitor, "qmp_capabilities", json!({})).await?;
        Ok(Arc::new(machine))
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // No code panics under the lock.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The NVMe controllers on bus 0.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub async fn controllers(&self, cx: &Context) -> Result<Vec<Slot>> {
        let mut found = Vec::new();
        for device in 0..32 {
            for function in 0..8 {
                let slot = Slot { device, function };
                let read = |offset| bus::read_config(cx, &self.ports, slot, offset);
                let present = read(0).await? != u32::MAX;
                if present && read(CLASS).await? >> 8 == CLASS_NVME {
                    found.push(slot);
                }
                // Only a device that says so has more functions than its first (bit 7 of the header type).
                let many = present && read(HEADER_TYPE).await? & 1 << 23 != 0;
                if function == 0 && !many {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Gives the registers of the controller at `slot` a place, and turns its access to memory on.
    pub(super) async fn open(&self, cx: &Context, slot: Slot) -> Result<Bar> {
        let write = |offset, value| bus::write_config(cx, &self.ports, slot, offset, value);
        if bus::read_config(cx, &self.ports, slot, CLASS).await? >> 8 != CLASS_NVME {
            return Err(Error::new(
                ErrorKind::NoDevice,
                format!("{}: no NVMe controller at {slot:?}", self.ports.name()),
            ));
        }
        write(COMMAND, INTERRUPT_DISABLE).await?;
        let bar = self.place(cx, slot).await?;
        write(BAR0, bar.address as u32).await?;
        write(BAR1, 0).await?;
        write(COMMAND, MEMORY_SPACE | BUS_MASTER | INTERRUPT_DISABLE).await?;
        Ok(bar)
    }

    /// A place for the register window of `slot`, the same each time.
    async fn place(&self, cx: &Context, slot: Slot) -> Result<Bar> {
        if let Some(bar) = self.places().bars.get(&slot) {
            return Ok(*bar);
        }
        bus::write_config(cx, &self.ports, slot, BAR0, u32::MAX).await?;
        bus::write_config(cx, &self.ports, slot, BAR1, u32::MAX).await?;
        let low = bus::read_config(cx, &self.ports, slot, BAR0).await?;
        let high = bus::read_config(cx, &self.ports, slot, BAR1).await?;
        // A BAR of memory, of 64 bits (NVMe over PCIe Transport Specification, section 3.8.1.3): the bits that cannot be
        // set say how long it is.
        let length = (u64::from(high) << 32 | u64::from(low & !0xf)).wrapping_neg();
        if low & 0b111 != 0b100 || !length.is_power_of_two() || length > BAR_MAX {
            return Err(Error::invalid(format!(
                "{}: {slot:?} has no usable BAR0 ({high:#010x}{low:08x} when set to all ones)",
                self.ports.name()
            )));
        }
        let mut places = self.places();
        let address = places.next_bar.next_multiple_of(length);
        if address + length > BARS.end {
            let what = format!("{}: no room for the BAR of {slot:?}", self.ports.name());
            return Err(Error::new(ErrorKind::NoSpace, what));
        }
        places.next_bar = address + length;
        let bar = Bar { address, length };
        places.bars.insert(slot, bar);
        Ok(bar)
    }

    /// Where the machine's devices find a region.
    pub(super) async fn module(&self, cx: &Context, region: &Arc<Region>) -> Result<u64> {
        let number = loop {
            match self.places().find_or_reserve(region) {
                Known::At(address) => return Ok(address),
                Known::Reserved(number) => break number,
                // Another controller's task is at it.
                Known::Coming => {}
            }
            cx.yield_now().await;
        };
        let reserved = Reserved { machine: self, number };
        let address = monitor::plug(cx, &self.monitor, region, number).await?;
        self.places().modules[number].address = Some(address);
        drop(reserved);
        Ok(address)
    }
}

/// The number of a module that is being plugged in. Given up, it is used up, and the region may be tried again.
struct Reserved<'a> {
    machine: &'a Machine,
    number: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let module = &mut self.machine.places().modules[self.number];
        if module.address.is_none() {
            module.region = Weak::new();
        }
    }
}
