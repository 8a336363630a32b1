//! The address of a PCI function.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::base::{Error, Result};

/// Domain, bus, device and function number of a PCI function.
///
/// Reads as Linux writes it (`0000:00:04.0`), without the domain (`00:04.0`), and with dots as SPDK takes it
/// where a colon separates other things (`0000.00.04.0`). Writes itself as Linux does, which sysfs needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// Devices on a bus.
const DEVICES: u8 = 32;
/// Functions of a device.
const FUNCTIONS: u8 = 8;

impl PciAddress {
    /// The address of these numbers.
    ///
    /// # Errors
    /// `Invalid` for a device number above 31 or a function number above 7.
    pub fn new(domain: u32, bus: u8, device: u8, function: u8) -> Result<PciAddress> {
        if device >= DEVICES || function >= FUNCTIONS {
            return Err(Error::invalid(format!(
                "PCI device {device:#04x} function {function}: there are 32 devices of 8 functions on a bus"
            )));
        }
        Ok(PciAddress { domain, bus, device, function })
    }

    /// The domain; most machines have only 0.
    pub fn domain(self) -> u32 {
        self.domain
    }

    /// The bus.
    pub fn bus(self) -> u8 {
        self.bus
    }

    /// The device on the bus.
    pub fn device(self) -> u8 {
        self.device
    }

    /// The function of the device.
    pub fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Domains above 16 bits exist (Intel VMD begins at 0x10000): the width is a minimum.
        let text =
            format!("{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function);
        f.pad(&text)
    }
}

impl FromStr for PciAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<PciAddress> {
        let bad = || {
            Error::invalid(format!(
                "'{text}' is no PCI address (write 0000:00:04.0, or 00:04.0; weft nvme list shows them)"
            ))
        };
        let parts: Vec<&str> = text.trim().split([':', '.']).collect();
        let (domain, [bus, device, function]) = match parts.as_slice() {
            [domain, rest @ ..] if rest.len() == 3 => (*domain, [rest[0], rest[1], rest[2]]),
            [bus, device, function] => ("0", [*bus, *device, *function]),
            _ => return Err(bad()),
        };
        let number = |digits: &str, width: usize| {
            // `from_str_radix` would take a sign.
            let fits = (1..=width).contains(&digits.len());
            let valid = fits && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            valid.then(|| u32::from_str_radix(digits, 16).ok()).flatten().ok_or_else(bad)
        };
        let small = |digits: &str| number(digits, 2).map(|number| number as u8);
        PciAddress::new(number(domain, 8)?, small(bus)?, small(device)?, small(function)?)
            .map_err(|error| bad().because(error))
    }
}

impl Serialize for PciAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_ways_to_write_an_address_read_the_same() {
        let address = PciAddress::new(0, 0x0a, 0x1f, 7).unwrap();
        for text in ["0000:0a:1f.7", "0a:1f.7", "0000.0a.1f.7", "0:a:1f.7", " 0000:0A:1F.7\n"] {
            assert_eq!(text.parse::<PciAddress>().unwrap(), address, "{text}");
        }
        assert_eq!(address.to_string(), "0000:0a:1f.7");
        assert_eq!("10000:01:00.0".parse::<PciAddress>().unwrap().to_string(), "10000:01:00.0");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ".",
            "0",
            "00:04",
            "00:20.0",
            "00:04.8",
            "0000:00:04.0.0",
            "+0:04.0",
            "0000:000:04.0",
            "0x0:04.0",
            "000000000:00:04.0",
            "0000:00:0g.0",
            "0000:00:04.",
            "nvme0",
        ] {
            let error = text.parse::<PciAddress>().unwrap_err().to_string();
            assert!(error.contains("no PCI address"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn an_address_reads_back(domain: u32, bus: u8, device in 0..32_u8, function in 0..8_u8) {
            let address = PciAddress::new(domain, bus, device, function).unwrap();
            prop_assert_eq!(address.to_string().parse::<PciAddress>().unwrap(), address);
            let dotted = address.to_string().replace(':', ".");
            prop_assert_eq!(dotted.parse::<PciAddress>().unwrap(), address);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,24}") {
            let _ = text.parse::<PciAddress>();
        }
    }
}
