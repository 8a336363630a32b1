//! PCI functions as DPDK finds them.
//!
//! Its bus code can scan and probe, and its list of drivers is whatever is installed, so the scan at start-up is made
//! to find nothing: each bus is told to allow one device that does not exist. When somebody asks, the functions that
//! there are become allowed and the bus is scanned again, which does not probe.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use dpdk_sys as sys;
use tracing::debug;

use super::stream::printed;
use crate::base::{Error, ErrorKind, Result};

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciFunction {
    /// Domain, bus, device and function, as in `0000:00:04.0`.
    pub address: String,
    /// Vendor.
    pub vendor: u16,
    /// Device, in the vendor's numbers.
    pub device: u16,
    /// Class, subclass and programming interface in 24 bits. DPDK knows it but does not tell; it comes from sysfs.
    pub class: Option<u32>,
    /// The NUMA node that it is near.
    pub numa_node: Option<u32>,
}

/// A PCI function that there is not: the last of a domain that firmware does not hand out.
const NOWHERE: &str = "pci:ffff:ff:1f.7";

/// Functions that DPDK was told of. Held while it scans: its list has no lock.
static ALLOWED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Arguments by which no device of any bus is probed when the EAL starts.
pub(super) fn exclude_all_devices() -> Vec<String> {
    // The PCI bus comes with the program, not as a plug-in that may be missing: it is linked because it is named here.
    std::hint::black_box(sys::rte_pci_dump as *const ());
    let mut devices = vec![NOWHERE];
    // These come as plug-ins, which a shared EAL loads where they are installed. Each has its own word for nothing.
    for (library, nothing) in [
        ("librte_bus_auxiliary.so", "auxiliary:"),
        ("librte_bus_vmbus.so", "vmbus:00000000-0000-0000-0000-000000000000"),
    ] {
        if is_plug_in(library) {
            devices.push(nothing);
        }
    }
    devices.into_iter().map(|device| format!("--allow={device}")).collect()
}

fn is_plug_in(library: &str) -> bool {
    let folder = CStr::from_bytes_until_nul(sys::RTE_EAL_PMD_PATH).unwrap_or(c"");
    let Ok(entries) = fs::read_dir(Path::new(&*folder.to_string_lossy())) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(library))
}

/// The functions that DPDK finds among those in `folder`, by address.
pub(super) fn functions(folder: &Path) -> Result<Vec<PciFunction>> {
    let mut allowed = ALLOWED.lock().unwrap_or_else(PoisonError::into_inner);
    let fault = |error| Error::os(format!("PCI functions in {}", folder.display()), error);
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(fault)? {
        there.insert(entry.map_err(fault)?.file_name().to_string_lossy().into_owned());
    }
    for address in &there {
        if !allowed.contains(address) && allow(address) {
            allowed.insert(address.clone());
        }
    }
    // SAFETY: the EAL runs, and the lock keeps others away.
    if unsafe { sys::rte_bus_scan() } != 0 {
        let text = sys::error_text(sys::rte_errno());
        return Err(Error::new(ErrorKind::Io, format!("DPDK's scan of the busses: {text}")));
    }
    let identities = identities(&printed(|stream| {
        // SAFETY: the EAL runs; the stream is open for the time of the call.
        unsafe { sys::rte_pci_dump(stream) };
    })?);
    let mut functions = Vec::new();
    for (address, numa_node) in listed()? {
        // The scan only ever adds: what was unplugged stays on DPDK's list.
        if let Some(&(vendor, device)) = identities.get(&address)
            && there.contains(&address)
        {
            let class = class_of(&folder.join(&address));
            functions.push(PciFunction { address, vendor, device, class, numa_node });
        }
    }
    functions.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(functions)
}

/// Lets a scan see a function.
fn allow(address: &str) -> bool {
    let Ok(device) = CString::new(format!("pci:{address}")) else { return false };
    // SAFETY: the EAL runs; it copies the string.
    let result =
        unsafe { sys::rte_devargs_add(sys::rte_devtype::RTE_DEVTYPE_ALLOWED, device.as_ptr()) };
    if result != 0 {
        debug!(address, "DPDK does not take this for a PCI address");
    }
    result == 0
}

/// Addresses and NUMA nodes of the functions on DPDK's list.
fn listed() -> Result<Vec<(String, Option<u32>)>> {
    let mut iterator = sys::rte_dev_iterator {
        dev_str: std::ptr::null(),
        bus_str: std::ptr::null(),
        cls_str: std::ptr::null(),
        bus: std::ptr::null_mut(),
        cls: std::ptr::null_mut(),
        device: std::ptr::null_mut(),
        class_device: std::ptr::null_mut(),
    };
    sys::clear_rte_errno();
    // SAFETY: the EAL runs; the string is constant.
    if unsafe { sys::rte_dev_iterator_init(&raw mut iterator, c"bus=pci".as_ptr()) } != 0 {
        let text = sys::error_text(sys::rte_errno());
        return Err(Error::new(ErrorKind::Unsupported, format!("DPDK's PCI bus: {text}")));
    }
    let mut functions = Vec::new();
    loop {
        // SAFETY: initialized above; nothing leaves the list meanwhile.
        let device = unsafe { sys::rte_dev_iterator_next(&raw mut iterator) };
        if device.is_null() {
            return Ok(functions);
        }
        // SAFETY: a device of the list has a name, a C string.
        let name = unsafe { CStr::from_ptr(sys::rte_dev_name(device)) };
        // SAFETY: a device of the list.
        let node = unsafe { sys::rte_dev_numa_node(device) };
        functions.push((name.to_string_lossy().into_owned(), u32::try_from(node).ok()));
    }
}

/// Vendor and device of each function in what DPDK prints: lines such as `0000:00:04.0 - vendor:8086 device:5845`,
/// with others (the resources) in between.
fn identities(text: &str) -> BTreeMap<String, (u16, u16)> {
    let number = |text: &str| u16::from_str_radix(text, 16).ok();
    text.lines()
        .filter_map(|line| {
            let (address, rest) = line.split_once(" - vendor:")?;
            let (vendor, device) = rest.split_once(" device:")?;
            Some((address.trim().to_owned(), (number(vendor.trim())?, number(device.trim())?)))
        })
        .collect()
}

fn class_of(folder: &Path) -> Option<u32> {
    let text = fs::read_to_string(folder.join("class")).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_functions_are_read() {
        let text = "0000:00:04.0 - vendor:8086 device:5845\n   00000000fe000000 0000000000004000\n\
                    0001:3a:1f.7 - vendor:1b36 device:10\nnonsense\n0000:00:05.0 - vendor:x device:1\n";
        let read = identities(text);
        assert_eq!(
            read.into_iter().collect::<Vec<_>>(),
            [
                ("0000:00:04.0".to_owned(), (0x8086, 0x5845)),
                ("0001:3a:1f.7".to_owned(), (0x1b36, 0x10)),
            ]
        );
    }
}
