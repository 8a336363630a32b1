//! PCI functions that the daemon drives.

use std::fmt::Write;
use std::rc::Rc;

use serde_json::{Value, json};

use crate::nvme::pci::{HostPaths, PciFunction, driven_by_us};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::NoParams;
use crate::rpc::services::Services;

methods! {
    /// Lists the PCI functions that the daemon drives, with their configuration space.
    Runtime fn framework_get_pci_devices(NoParams)
        -> "an array of objects with `address`, `type` (`pci`), `numa_id` (-1 where unknown) and `config_space`: hexadecimal, of 256 bytes, or of 4096 when the rest is not all zeros, or of the 64 that the system shows without privileges.";
}

async fn framework_get_pci_devices(_services: Rc<Services>, _params: NoParams) -> Outcome {
    let functions = driven_by_us(&HostPaths::system());
    functions.iter().map(row).collect::<crate::base::Result<Value>>().map_err(Into::into)
}

fn row(function: &PciFunction) -> crate::base::Result<Value> {
    Ok(json!({
        "address": function.address,
        "type": "pci",
        "numa_id": function.numa_node.map_or(-1, i64::from),
        "config_space": hexadecimal(shown(&function.config_space()?)),
    }))
}

/// Bytes of the configuration space that every PCI function has; PCI Express adds to it.
const CONVENTIONAL: usize = 256;

fn shown(space: &[u8]) -> &[u8] {
    match space.split_at_checked(CONVENTIONAL) {
        Some((conventional, extended)) if extended.iter().all(|&byte| byte == 0) => conventional,
        _ => space,
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02X}").expect("a string grows");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_space_of_zeros_is_left_out() {
        let mut space = vec![0; 4096];
        space[1] = 0xab;
        assert_eq!(hexadecimal(shown(&space)[..2].as_ref()), "00AB");
        assert_eq!(shown(&space).len(), 256);
        space[4095] = 1;
        assert_eq!(shown(&space).len(), 4096);
        assert_eq!(shown(&space[..64]).len(), 64);
    }
}
