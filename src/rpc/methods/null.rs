//! Null bdevs.

use std::rc::Rc;

use serde_json::json;

use super::bdev::{check_unsupported, geometry, unregister};
use crate::base::{BlockCount, Error, Uuid};
use crate::bdev::leaf::null::Null;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::params;
use crate::rpc::services::Services;

const PRODUCT: &str = "Null disk";

methods! {
    /// Makes a bdev that stores nothing: writes vanish, and reads leave the buffers as they are.
    Runtime fn bdev_null_create(Create) -> "the bdev's name.";
    /// Removes a null bdev.
    Runtime fn bdev_null_delete(Delete) -> "`true`.";
    /// Changes the capacity of a null bdev.
    Runtime fn bdev_null_resize(Resize) -> "`true`.";
}

params! {
    /// Of `bdev_null_create`.
    struct Create {
        /// The bdev's name.
        name: String,
        /// Block size in bytes: a power of two from 512 to 65536.
        block_size: u32,
        /// Capacity in blocks.
        num_blocks: u64,
        /// The bdev's UUID; a random one by default.
        uuid: Option<Uuid>,
        /// Physical block size in bytes; the block size by default.
        physical_block_size: Option<u32>,
        /// Metadata per block; 0 is possible.
        md_size: u32 = 0,
        /// Protection information; 0 is possible.
        dif_type: i32 = 0,
        /// Format of protection information; 0 is possible.
        dif_pi_format: u32 = 0,
        /// Where protection information stands; false is possible.
        dif_is_head_of_md: bool = false,
        /// A hint to writers, in blocks; 0 is possible.
        preferred_write_granularity: u32 = 0,
        /// A hint to writers, in blocks; 0 is possible.
        preferred_write_alignment: u32 = 0,
        /// A hint to writers, in blocks; 0 is possible.
        optimal_write_size: u32 = 0,
        /// A hint for unmap, in blocks; 0 is possible.
        preferred_unmap_granularity: u32 = 0,
        /// A hint for unmap, in blocks; 0 is possible.
        preferred_unmap_alignment: u32 = 0,
    }
}

async fn bdev_null_create(services: Rc<Services>, params: Create) -> Outcome {
    check_unsupported(&[
        ("md_size", params.md_size != 0),
        ("dif_type", params.dif_type != 0),
        ("dif_pi_format", params.dif_pi_format != 0),
        ("dif_is_head_of_md", params.dif_is_head_of_md),
        ("preferred_write_granularity", params.preferred_write_granularity != 0),
        ("preferred_write_alignment", params.preferred_write_alignment != 0),
        ("optimal_write_size", params.optimal_write_size != 0),
        ("preferred_unmap_granularity", params.preferred_unmap_granularity != 0),
        ("preferred_unmap_alignment", params.preferred_unmap_alignment != 0),
    ])?;
    let geometry = geometry(params.block_size, params.num_blocks, params.physical_block_size)?;
    let device =
        services.bdevs.register(Null::create(&params.name, params.uuid, geometry), vec![])?;
    Ok(json!(device.name()))
}

params! {
    /// Of `bdev_null_delete`.
    struct Delete {
        /// The bdev's name.
        name: String,
    }
}

async fn bdev_null_delete(services: Rc<Services>, params: Delete) -> Outcome {
    unregister(&services, &params.name, PRODUCT).await
}

params! {
    /// Of `bdev_null_resize`.
    struct Resize {
        /// The bdev's name.
        name: String,
        /// New capacity in MiB.
        new_size: u64,
    }
}

async fn bdev_null_resize(services: Rc<Services>, params: Resize) -> Outcome {
    let device = super::bdev::of_product(&services, &params.name, PRODUCT)?;
    let block_size = device.geometry().block_size;
    let blocks = params
        .new_size
        .checked_mul(1 << 20)
        .filter(|bytes| *bytes > 0)
        .map(|bytes| BlockCount(bytes >> block_size.shift()))
        .ok_or_else(|| Error::invalid(format!("new_size: {} MiB", params.new_size)))?;
    Null::resize(&services.bdevs, device.name(), blocks)?;
    Ok(json!(true))
}
