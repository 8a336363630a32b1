//! What the kernel says in a uevent about a PCI function.
//!
//! The text comes from the kernel, but fields of it from devices and drivers: any bytes give an event or none.

use super::address::PciAddress;
use super::function::NVME_CLASS;

/// What happened to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciEventKind {
    /// It is there.
    Added,
    /// It is gone.
    Removed,
    /// A driver has taken it.
    Bound,
    /// Its driver has let it go.
    Unbound,
}

/// Something that happened to an NVMe function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciEvent {
    /// The function.
    pub address: PciAddress,
    /// What happened.
    pub kind: PciEventKind,
    /// The driver that has taken it, where one has.
    pub driver: Option<String>,
}

/// Reads a message: a heading `ACTION@PATH`, then `NAME=VALUE` fields, each ended by a zero byte. Nothing comes of
/// messages on anything but NVMe functions, and of those that cannot be read.
pub(super) fn parse(message: &[u8]) -> Option<PciEvent> {
    let mut fields = message.split(|&byte| byte == 0);
    // The heading of udev's messages, which say the same again later, has no '@'.
    fields.next()?.contains(&b'@').then_some(())?;
    let (mut action, mut subsystem, mut class, mut slot, mut driver) =
        (None, None, None, None, None);
    for field in fields {
        let Ok(field) = std::str::from_utf8(field) else { continue };
        match field.split_once('=') {
            Some(("ACTION", value)) => action = Some(value),
            Some(("SUBSYSTEM", value)) => subsystem = Some(value),
            Some(("PCI_CLASS", value)) => class = u32::from_str_radix(value, 16).ok(),
            Some(("PCI_SLOT_NAME", value)) => slot = value.parse().ok(),
            Some(("DRIVER", value)) => driver = Some(value.to_owned()),
            _ => {}
        }
    }
    if subsystem != Some("pci") || class != Some(NVME_CLASS) {
        return None;
    }
    let kind = match action? {
        "add" => PciEventKind::Added,
        "remove" => PciEventKind::Removed,
        "bind" => PciEventKind::Bound,
        "unbind" => PciEventKind::Unbound,
        // "change", "online", "offline", "move": nothing that hot plug follows.
        _ => return None,
    };
    Some(PciEvent { address: slot?, kind, driver: driver.filter(|_| kind == PciEventKind::Bound) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A message as the kernel sends it.
    pub fn message(action: &str, address: &str, class: &str, driver: Option<&str>) -> Vec<u8> {
        let mut fields = vec![
            format!("{action}@/devices/pci0000:00/{address}"),
            format!("ACTION={action}"),
            format!("DEVPATH=/devices/pci0000:00/{address}"),
            "SUBSYSTEM=pci".into(),
        ];
        fields.extend(driver.map(|driver| format!("DRIVER={driver}")));
        fields.push(format!("PCI_CLASS={class}"));
        fields.push("PCI_ID=1B36:0010".into());
        fields.push(format!("PCI_SLOT_NAME={address}"));
        fields.push("SEQNUM=3122".into());
        fields.iter().flat_map(|field| [field.as_bytes(), b"\0"].concat()).collect()
    }

    #[test]
    fn the_kernels_messages_are_read() {
        let address: PciAddress = "0000:01:00.0".parse().unwrap();
        for (action, driver, kind) in [
            ("add", None, PciEventKind::Added),
            ("bind", Some("vfio-pci"), PciEventKind::Bound),
            ("unbind", None, PciEventKind::Unbound),
            ("remove", None, PciEventKind::Removed),
        ] {
            let event = parse(&message(action, "0000:01:00.0", "10802", driver)).unwrap();
            let driver = driver.map(str::to_owned);
            assert_eq!(event, PciEvent { address, kind, driver });
        }
    }

    #[test]
    fn other_messages_are_none_of_ours() {
        for bytes in [
            message("add", "0000:01:00.0", "20000", None),
            message("change", "0000:01:00.0", "10802", None),
            message("add", "nonsense", "10802", None),
            [b"libudev\0".to_vec(), message("add", "0000:01:00.0", "10802", None)].concat(),
            b"add@/x\0ACTION=add\0SUBSYSTEM=block\0PCI_CLASS=10802\0PCI_SLOT_NAME=0000:01:00.0\0"
                .to_vec(),
            b"add@/x\0SUBSYSTEM=pci\0PCI_CLASS=10802\0PCI_SLOT_NAME=0000:01:00.0\0".to_vec(),
            b"add@\xff\0ACTION=\xff\0".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(parse(&bytes), None, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, cut in 0..200_usize) {
            parse(&bytes);
            let mut message = message("add", "0000:01:00.0", "10802", Some("x"));
            message.truncate(cut);
            message.extend(bytes);
            parse(&message);
        }
    }
}
