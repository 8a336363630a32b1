//! Whether the machine's IOMMU protects memory from drives.

use super::paths::{HostPaths, names, read_text};
use crate::base::{Error, ErrorKind, Result};

/// The state of the machine's IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iommu {
    /// The units, such as `dmar0`.
    pub units: Vec<String>,
    /// How many groups of functions there are; none while it is off.
    pub groups: usize,
    /// Whether interrupts are remapped; unknown where the kernel does not say.
    pub interrupt_remapping: Option<bool>,
    /// Whether VFIO may do without an IOMMU, which lets a drive write to any memory.
    pub unsafe_without: bool,
}

impl Iommu {
    /// Reads this machine's.
    pub fn read(paths: &HostPaths) -> Iommu {
        let parameter = |path: &str| {
            read_text(&paths.sys.join(path))
                .is_some_and(|value| matches!(value.as_str(), "Y" | "y" | "1"))
        };
        Iommu {
            units: names(&paths.sys.join("class/iommu")),
            groups: names(&paths.sys.join("kernel/iommu_groups")).len(),
            interrupt_remapping: interrupt_remapping(paths),
            unsafe_without: parameter("module/vfio/parameters/enable_unsafe_noiommu_mode"),
        }
    }

    /// Whether functions are in groups, so that VFIO can protect memory from them.
    pub fn is_on(&self) -> bool {
        self.groups > 0
    }
}

/// What to do to switch it on.
pub const HOW_TO_ENABLE: &str = "switch it on in the firmware (VT-d, AMD-Vi or SMMU) and boot with intel_iommu=on \
     (Intel; AMD and Arm need no parameter unless amd_iommu=off or iommu=off is set)";

/// An error where VFIO has no IOMMU and may not do without.
///
/// # Errors
/// That, with what to do.
pub(super) fn check(paths: &HostPaths) -> Result<()> {
    let iommu = Iommu::read(paths);
    if iommu.is_on() || iommu.unsafe_without {
        return Ok(());
    }
    let text = if iommu.units.is_empty() {
        format!(
            "VFIO needs an IOMMU, and none is on: {HOW_TO_ENABLE}. In a virtual machine, give it a virtual IOMMU. To do \
             without, at the price that a drive can write to any memory: modprobe vfio enable_unsafe_noiommu_mode=1"
        )
    } else {
        format!(
            "there is an IOMMU ({}), but it has no groups: {HOW_TO_ENABLE}",
            iommu.units.join(", ")
        )
    };
    Err(Error::new(ErrorKind::Unsupported, text))
}

/// Interrupts that pass through the remapping hardware belong to an interrupt chip whose name has `IR-` in front.
fn interrupt_remapping(paths: &HostPaths) -> Option<bool> {
    let text = std::fs::read_to_string(paths.proc.join("interrupts")).ok()?;
    text.contains("MSI").then(|| text.contains("IR-"))
}
