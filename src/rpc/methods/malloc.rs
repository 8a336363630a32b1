//! Malloc bdevs: memory of the daemon.

use std::rc::Rc;

use serde_json::json;

use super::bdev::{check_unsupported, geometry, unregister};
use crate::base::{Error, Result, Uuid};
use crate::bdev::leaf::malloc::Malloc;
use crate::memory::RegionOptions;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::params;
use crate::rpc::services::Services;

const PRODUCT: &str = "Malloc disk";

methods! {
    /// Makes a bdev out of memory. What is written to it is gone with the daemon.
    Runtime fn bdev_malloc_create(Create) -> "the bdev's name.";
    /// Removes a malloc bdev.
    Runtime fn bdev_malloc_delete(Delete) -> "`true`.";
}

params! {
    /// Of `bdev_malloc_create`.
    struct Create {
        /// The bdev's name; `Malloc0`, `Malloc1`, … by default.
        name: Option<String>,
        /// Block size in bytes: a power of two from 512 to 65536.
        block_size: u32,
        /// Capacity in blocks.
        num_blocks: u64,
        /// The bdev's UUID; a random one by default.
        uuid: Option<Uuid>,
        /// A boundary that no request may cross, in blocks; 0 is possible.
        optimal_io_boundary: u32 = 0,
        /// Metadata per block; 0 is possible.
        md_size: u32 = 0,
        /// Where metadata stand; false is possible.
        md_interleave: bool = false,
        /// Protection information; 0 is possible.
        dif_type: i32 = 0,
        /// Where protection information stands; false is possible.
        dif_is_head_of_md: bool = false,
        /// Physical block size in bytes; the block size by default.
        physical_block_size: Option<u32>,
        /// Format of protection information; 0 is possible.
        dif_pi_format: u32 = 0,
        /// NUMA node that the memory should lie on; -1 for any.
        numa_id: i32 = -1,
    }
}

async fn bdev_malloc_create(services: Rc<Services>, params: Create) -> Outcome {
    check_unsupported(&[
        ("optimal_io_boundary", params.optimal_io_boundary != 0),
        ("md_size", params.md_size != 0),
        ("md_interleave", params.md_interleave),
        ("dif_type", params.dif_type != 0),
        ("dif_is_head_of_md", params.dif_is_head_of_md),
        ("dif_pi_format", params.dif_pi_format != 0),
    ])?;
    let memory =
        RegionOptions { numa_node: numa_node(&services, params.numa_id)?, ..services.memory };
    let geometry = geometry(params.block_size, params.num_blocks, params.physical_block_size)?;
    let name = match params.name {
        Some(name) => name,
        None => free_name(&services),
    };
    // Checked before memory is taken; `register` checks again.
    super::bdev::check_name_free(&services, &name)?;
    let malloc = Malloc::create(&name, params.uuid, geometry, memory)?;
    let device = services.bdevs.register(malloc, vec![])?;
    Ok(json!(device.name()))
}

/// The node of SPDK's number for it.
fn numa_node(services: &Services, numa_id: i32) -> Result<Option<u32>> {
    if numa_id == -1 {
        return Ok(None);
    }
    let nodes = services.reactors.topology().nodes();
    match u32::try_from(numa_id) {
        Ok(node) if nodes.contains(&node) => Ok(Some(node)),
        _ => Err(Error::invalid(format!(
            "numa_id: there is no NUMA node {numa_id} (there are {nodes:?}; -1 is for any)"
        ))),
    }
}

fn free_name(services: &Services) -> String {
    let mut number = 0;
    loop {
        let name = format!("Malloc{number}");
        if services.bdevs.find(&name).is_none() {
            return name;
        }
        number += 1;
    }
}

params! {
    /// Of `bdev_malloc_delete`.
    struct Delete {
        /// The bdev's name.
        name: String,
    }
}

async fn bdev_malloc_delete(services: Rc<Services>, params: Delete) -> Outcome {
    unregister(&services, &params.name, PRODUCT).await
}
