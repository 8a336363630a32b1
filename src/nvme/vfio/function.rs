//! One open PCI function: its configuration space, its registers, its removal.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tracing::{debug, info, warn};
use vfio_bindings::bindings::vfio as abi;

use super::capability;
use super::ioctl;
use super::window::Window;
use crate::base::{Error, ErrorKind, Result};
use crate::reactor::Tsc;

/// Vendor ID register (PCI Local Bus Specification, section 6.1).
const VENDOR: u64 = 0x00;
/// Command register (section 6.2.2), and its bits.
const COMMAND: u64 = 0x04;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTERRUPT_DISABLE: u16 = 1 << 10;

/// Registers before the doorbells (NVMe PCIe Transport Specification, section 3.1.1), and the admin queue's two.
const WINDOW_MIN: u64 = 0x1008;

/// How often the events are looked at, at most.
const EVENT_PERIOD: Duration = Duration::from_millis(1);

/// A function, and what the kernel told of it. Owns the device's descriptor; the registers are unmapped and the descriptor
/// closed when it is dropped, which resets the function.
#[derive(Debug)]
pub(super) struct Function {
    address: String,
    device: File,
    /// Where in the descriptor's file the configuration space and BAR0 are.
    config: u64,
    registers: u64,
    length: u64,
    window: Window,
    events: Events,
    gone: AtomicBool,
    event_period: u64,
    next_look: AtomicU64,
}

/// Signalled by the kernel; absent where it has no such event for the function.
#[derive(Debug)]
struct Events {
    /// The kernel asks to have the function back: it is being removed, or unbound.
    request: Option<OwnedFd>,
    /// The function reported an error that it cannot correct.
    error: Option<OwnedFd>,
}

impl Function {
    /// Makes a function ready: registers mapped, memory space and bus mastering on.
    pub(super) fn new(address: &str, device: OwnedFd) -> Result<Function> {
        let doing = |what: &str| format!("{address}: {what}");
        let config = ioctl::region_info(device.as_fd(), abi::VFIO_PCI_CONFIG_REGION_INDEX)
            .map_err(|error| Error::os(doing("no configuration space"), error))?;
        let bar = ioctl::region_info(device.as_fd(), abi::VFIO_PCI_BAR0_REGION_INDEX)
            .map_err(|error| Error::os(doing("no registers (BAR0)"), error))?;
        let has = |flag| bar.head.flags & flag != 0;
        let length = bar.head.size;
        if length < WINDOW_MIN
            || !has(abi::VFIO_REGION_INFO_FLAG_READ)
            || !has(abi::VFIO_REGION_INFO_FLAG_WRITE)
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                doing(&format!("{length} bytes of registers are too few for an NVMe controller")),
            ));
        }
        let sparse = if has(abi::VFIO_REGION_INFO_FLAG_CAPS) {
            capability::sparse_areas(&bar.bytes, bar.head.cap_offset, length)
                .map_err(|error| error.context(address))?
        } else {
            None
        };
        let everything = 0..length;
        let areas = match &sparse {
            _ if !has(abi::VFIO_REGION_INFO_FLAG_MMAP) => &[],
            Some(areas) => &areas[..],
            None => std::slice::from_ref(&everything),
        };
        let window = Window::map(device.as_fd(), bar.head.offset, length, areas)
            .map_err(|error| error.context(address))?;
        let events = Events::of(&device);
        let function = Function {
            address: address.into(),
            device: device.into(),
            config: config.head.offset,
            registers: bar.head.offset,
            length,
            window,
            events,
            gone: AtomicBool::new(false),
            event_period: Tsc::ticks(EVENT_PERIOD),
            next_look: AtomicU64::new(0),
        };
        // Pins and messages stay off: the driver polls, and nobody would answer an interrupt.
        function
            .command(|command| command | MEMORY_SPACE | BUS_MASTER | INTERRUPT_DISABLE)
            .map_err(|error| Error::os(doing("cannot switch the function on"), error))?;
        Ok(function)
    }

    /// Changes the command register.
    fn command(&self, change: impl FnOnce(u16) -> u16) -> io::Result<()> {
        let mut bytes = [0; 2];
        self.device.read_exact_at(&mut bytes, self.config + COMMAND)?;
        let command = change(u16::from_le_bytes(bytes));
        self.device.write_all_at(&command.to_le_bytes(), self.config + COMMAND)
    }

    /// Keeps the function from reading and writing memory, before that is unmapped.
    pub(super) fn stop(&self) {
        if let Err(error) = self.command(|command| command & !BUS_MASTER) {
            // A function that was pulled out: it can do no harm either.
            debug!(address = self.address, %error, "cannot switch bus mastering off");
        }
    }

    /// Bytes of registers.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The window onto them.
    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Reads a register; all ones from a function that is gone.
    pub(super) fn load(&self, offset: u64) -> u32 {
        if self.gone.load(Ordering::Acquire) {
            return u32::MAX;
        }
        let value = self.window.load(offset).unwrap_or_else(|| {
            let mut bytes = [0xff; 4];
            // On an error the answer stays all ones, which is looked into below.
            let _ = self.device.read_exact_at(&mut bytes, self.registers + offset);
            u32::from_le_bytes(bytes)
        });
        // Few registers may hold this (the interrupt mask does); a function without a vendor is none.
        if value == u32::MAX {
            self.look_for_vendor();
        }
        value
    }

    /// Writes a register.
    pub(super) fn store(&self, offset: u64, value: u32) {
        if self.gone.load(Ordering::Acquire) || self.window.store(offset, value).is_some() {
            return;
        }
        if self.device.write_all_at(&value.to_le_bytes(), self.registers + offset).is_err() {
            self.look_for_vendor();
        }
    }

    /// Asks the configuration space whether the function is still there.
    fn look_for_vendor(&self) {
        let mut vendor = [0xff; 2];
        let read = self.device.read_exact_at(&mut vendor, self.config + VENDOR);
        if read.is_err() || vendor == [0xff; 2] {
            self.note_gone("it does not answer");
        }
    }

    fn note_gone(&self, why: &str) {
        if !self.gone.swap(true, Ordering::AcqRel) {
            info!(address = self.address, why, "the device is gone");
        }
    }

    /// Whether the function is gone, or the kernel wants it back. Costs a system call once in a millisecond at
    /// most.
    pub(super) fn is_gone(&self) -> bool {
        if self.gone.load(Ordering::Acquire) {
            return true;
        }
        if self.window.is_gone() {
            self.note_gone("its registers went away");
            return true;
        }
        let now = Tsc::read().0;
        if now < self.next_look.load(Ordering::Relaxed) {
            return false;
        }
        self.next_look.store(now.saturating_add(self.event_period), Ordering::Relaxed);
        if is_signalled(self.events.error.as_ref()) {
            // Not the end for sure: the driver finds out by its commands, and resets.
            warn!(address = self.address, "the device reports a PCIe error that it cannot correct");
            self.look_for_vendor();
        }
        if is_signalled(self.events.request.as_ref()) {
            self.note_gone("its removal was requested");
        }
        self.gone.load(Ordering::Acquire)
    }
}

impl Events {
    fn of(device: &OwnedFd) -> Events {
        let event = |index: u32| {
            if ioctl::event_count(device.as_fd(), index).ok()? == 0 {
                return None;
            }
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
            match ioctl::signal_event(device.as_fd(), index, event.as_fd()) {
                Ok(()) => Some(event),
                Err(error) => {
                    warn!(index, %error, "VFIO does not announce an event");
                    None
                }
            }
        };
        Events {
            request: event(abi::VFIO_PCI_REQ_IRQ_INDEX),
            error: event(abi::VFIO_PCI_ERR_IRQ_INDEX),
        }
    }
}

/// Whether an event has come since the last look.
fn is_signalled(event: Option<&OwnedFd>) -> bool {
    let mut count = [0; 8];
    event.is_some_and(|event| rustix::io::read(event, &mut count) == Ok(8))
}
