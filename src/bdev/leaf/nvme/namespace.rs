//! A namespace as a bdev.

use std::sync::Arc;

use serde_json::{Value, json};

use super::queue::{NamespaceQueue, Target, Unmap};
use crate::base::{Result, limits};
use crate::bdev::device::{Bdev, Info, IoLimits};
use crate::bdev::queue::Queue;
use crate::bdev::request::{Opcode, OpcodeSet};
use crate::nvme::spec::IdentifyController;
use crate::nvme::{Controller, Namespace, QueueOpener};
use crate::reactor::Context;

/// Most blocks of one command: the number of logical blocks has 16 bits.
const BLOCKS_MAX: u32 = 1 << 16;
/// Most segments where SGLs are used: half of what a list holds, since a segment may lie in two pieces of
/// physical memory.
const SEGMENTS_MAX: u16 = 128;

/// The bdev.
pub struct NvmeBdev {
    info: Info,
    target: Target,
    opener: QueueOpener,
    description: Value,
    controller: String,
}

impl NvmeBdev {
    /// The bdev `name` of a namespace.
    pub(super) fn new(
        name: &str,
        controller: &Controller,
        namespace: &Arc<Namespace>,
    ) -> Arc<NvmeBdev> {
        let identify = controller.identify();
        let (native, unmap) = native(&identify, namespace, controller.write_cache());
        let mut info = Info::new(name, "NVMe disk", namespace.geometry);
        let block_size = namespace.geometry.block_size.bytes();
        info.uuid = namespace.uuid;
        info.native = native;
        info.limits = io_limits(controller, namespace);
        info.volatile_write_cache = controller.write_cache();
        info.physical_block_size = namespace
            .preferred_write
            .checked_mul(block_size)
            .filter(|bytes| bytes.is_power_of_two() && *bytes <= 1 << 20)
            .unwrap_or(block_size);
        info.numa_node = controller.transport().numa_node();
        let block_shift = namespace.geometry.block_size.shift();
        Arc::new(NvmeBdev {
            info,
            target: Target { nsid: namespace.nsid, block_shift, unmap },
            opener: controller.opener(),
            description: describe(controller, &identify, namespace),
            controller: controller.transport().address().to_owned(),
        })
    }

    /// Address of the controller.
    pub fn controller(&self) -> &str {
        &self.controller
    }
}

/// Which opcodes the namespace takes, and how it unmaps.
fn native(
    identify: &IdentifyController,
    namespace: &Namespace,
    write_cache: bool,
) -> (OpcodeSet, Unmap) {
    let mut native = OpcodeSet::READ_WRITE.with(Opcode::NvmeIo);
    let mut unmap = Unmap::None;
    if write_cache {
        native = native.with(Opcode::Flush);
    }
    if identify.supports_compare() {
        native = native.with(Opcode::Compare);
        if identify.supports_fused_compare_and_write() {
            native = native.with(Opcode::CompareAndWrite);
        }
    }
    if identify.supports_write_zeroes() {
        native = native.with(Opcode::WriteZeroes);
        if namespace.write_zeroes_deallocates {
            unmap = Unmap::Deallocating;
        } else if identify.supports_dsm() && namespace.reads_zeros {
            unmap = Unmap::ZeroThenDeallocate;
        }
        if unmap != Unmap::None {
            native = native.with(Opcode::Unmap);
        }
    }
    (native, unmap)
}

fn io_limits(controller: &Controller, namespace: &Namespace) -> IoLimits {
    let block_size = namespace.geometry.block_size;
    let sgl = controller.takes_sgl();
    let transfer_max = u64::from(controller.transfer_max());
    IoLimits {
        transfer_max: transfer_max.min(u64::from(BLOCKS_MAX) << block_size.shift()) as u32,
        segments_max: if sgl { SEGMENTS_MAX } else { limits::SEGMENTS_MAX as u16 },
        // PRP entries and, on many controllers, SGL data blocks are multiples of four.
        memory_alignment: 4,
        edge_alignment: if sgl { 1 } else { 4096 },
        // A boundary that is no power of two costs more to keep than to cross.
        boundary: match namespace.optimal_boundary {
            boundary if boundary.is_power_of_two() => boundary,
            _ => 0,
        },
        range_max: match controller.write_zeroes_max() {
            Some(bytes) => (bytes >> block_size.shift()).clamp(1, u64::from(BLOCKS_MAX)) as u32,
            None => BLOCKS_MAX,
        },
        compare_and_write_max: namespace.atomic_compare_and_write.max(1),
    }
}

/// The `driver_specific` object, as SPDK has it: a list, since a namespace may have several paths.
fn describe(
    controller: &Controller,
    identify: &IdentifyController,
    namespace: &Namespace,
) -> Value {
    let transport = controller.transport();
    let mut path = json!({
        "trid": { "trtype": transport.kind(), "traddr": transport.address() },
        "ctrlr_data": {
            "cntlid": identify.cntlid,
            "vendor_id": format!("{:#06x}", identify.vid),
            "model_number": identify.model_number(),
            "serial_number": identify.serial_number(),
            "firmware_revision": identify.firmware_revision(),
            "subnqn": identify.subsystem_nqn(),
            "oacs": {
                "security": u8::from(identify.supports_security()),
                "format": u8::from(identify.supports_format()),
                "firmware": u8::from(identify.supports_firmware()),
                "ns_manage": u8::from(identify.supports_namespace_management()),
            },
            "multi_ctrlr": identify.multiple_controllers(),
            "ana_reporting": identify.asymmetric_access(),
        },
        "vs": {
            "nvme_version":
                format!("{}.{}", controller.version().major(), controller.version().minor()),
        },
        "ns_data": {
            "id": namespace.nsid,
            "can_share": namespace.shared,
            "atomic_write_blocks": namespace.atomic_write,
            "atomic_write_blocks_power_fail": namespace.atomic_write_power_fail,
            "atomic_compare_and_write_blocks": namespace.atomic_compare_and_write,
            "atomic_boundary_power_fail_blocks": namespace.atomic_boundary_power_fail,
            "optimal_io_boundary_blocks": namespace.optimal_boundary,
        },
    });
    if transport.kind() == "PCIe" {
        path["pci_address"] = transport.address().into();
    }
    for (name, value) in [
        ("nguid", namespace.nguid.map(|id| hex(&id))),
        ("eui64", namespace.eui64.map(|id| hex(&id))),
    ] {
        if let Some(value) = value {
            path["ns_data"][name] = value.into();
        }
    }
    json!({ "nvme": [path], "mp_policy": "active_passive" })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

impl Bdev for NvmeBdev {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(NamespaceQueue::new(self.opener.open(cx)?, cx, self.target, depth)))
    }

    fn driver_specific(&self) -> Value {
        self.description.clone()
    }
}
