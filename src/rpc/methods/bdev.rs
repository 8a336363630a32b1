//! All bdevs: what there is, options, examination; and what the methods of single kinds share.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base::{BlockCount, BlockSize, Error, ErrorKind, Geometry, Result};
use crate::bdev::vbdev::mirror::RaidOptions;
use crate::bdev::{ConfigEntry, Device, Opcode};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{NoParams, params};
use crate::rpc::services::{BdevOptions, Services};

methods! {
    /// Sets options of the bdev layer. `bdev_auto_examine` has an effect; the sizes are those of SPDK's
    /// pools, which Weft's queues do without, and are only kept for the saved configuration.
    Startup fn bdev_set_options(SetOptions) -> "`true`.";
    /// Describes bdevs.
    Runtime fn bdev_get_bdevs(GetBdevs)
        -> "an array of objects, in the order in which the bdevs were made.";
    /// Looks at a bdev for labels, and makes the bdevs that these describe.
    Runtime fn bdev_examine(Examine) -> "`true`.";
    /// Waits until all bdevs are examined.
    Runtime fn bdev_wait_for_examine(NoParams) -> "`true`.";
}

/// How often a bdev that is waited for is looked for.
const APPEARANCE_POLL: Duration = Duration::from_millis(1);

params! {
    /// Of `bdev_set_options`.
    struct SetOptions {
        /// Requests in the shared pool; without effect.
        bdev_io_pool_size: Option<u32>,
        /// Requests kept per thread; without effect.
        bdev_io_cache_size: Option<u32>,
        /// Whether each new bdev is looked at for labels; true by default.
        bdev_auto_examine: Option<bool>,
        /// Small buffers kept per thread; without effect.
        iobuf_small_cache_size: Option<u32>,
        /// Large buffers kept per thread; without effect.
        iobuf_large_cache_size: Option<u32>,
    }
}

async fn bdev_set_options(services: Rc<Services>, params: SetOptions) -> Outcome {
    if let Some(on) = params.bdev_auto_examine {
        services.bdevs.set_auto_examine(on);
    }
    let mut options = services.bdev_options.borrow_mut();
    *options = BdevOptions {
        io_pool_size: params.bdev_io_pool_size.or(options.io_pool_size),
        io_cache_size: params.bdev_io_cache_size.or(options.io_cache_size),
        auto_examine: params.bdev_auto_examine.or(options.auto_examine),
        iobuf_small_cache_size: params.iobuf_small_cache_size.or(options.iobuf_small_cache_size),
        iobuf_large_cache_size: params.iobuf_large_cache_size.or(options.iobuf_large_cache_size),
    };
    Ok(json!(true))
}

params! {
    /// Of `bdev_get_bdevs`.
    struct GetBdevs {
        /// Name or UUID of one bdev; all, by default.
        name: Option<String>,
        /// How long to wait for that bdev to appear, in milliseconds.
        timeout: u64 = 0,
    }
}

async fn bdev_get_bdevs(services: Rc<Services>, params: GetBdevs) -> Outcome {
    let Some(name) = params.name else {
        let devices = services.bdevs.list();
        return Ok(devices.iter().map(|device| describe(&services, device)).collect());
    };
    let start = Instant::now();
    loop {
        match services.bdevs.get(&name) {
            Ok(device) => return Ok(json!([describe(&services, &device)])),
            Err(error) if start.elapsed() >= Duration::from_millis(params.timeout) => {
                return Err(error.into());
            }
            Err(_) => services.cx.sleep(APPEARANCE_POLL).await,
        }
    }
}

/// What a bdev serves, by itself or since the channel makes up for it, under SPDK's names.
fn supported_io_types(device: &Device) -> Value {
    let has = |opcode| device.supports(opcode);
    json!({
        "read": has(Opcode::Read),
        "write": has(Opcode::Write),
        "unmap": has(Opcode::Unmap),
        "flush": has(Opcode::Flush),
        "reset": has(Opcode::Reset),
        "nvme_admin": has(Opcode::NvmeAdmin),
        "nvme_io": has(Opcode::NvmeIo),
        "nvme_io_md": false,
        "write_zeroes": has(Opcode::WriteZeroes),
        "zcopy": false,
        "get_zone_info": false,
        "zone_management": false,
        "zone_append": false,
        "compare": has(Opcode::Compare),
        "compare_and_write": has(Opcode::CompareAndWrite),
        "abort": false,
        "seek_hole": false,
        "seek_data": false,
        "copy": false,
        "nvme_iov_md": false,
        "nvme_nssr": false,
        "write_uncorrectable": false,
    })
}

/// A bdev as `bdev_get_bdevs` shows it.
fn describe(services: &Services, device: &Arc<Device>) -> Value {
    let info = device.info();
    let geometry = device.geometry();
    let uuid = info.uuid.to_string();
    let mut description = json!({
        "name": info.name,
        "aliases": [uuid],
        "product_name": info.product_name,
        "block_size": geometry.block_size.bytes(),
        "num_blocks": geometry.blocks.0,
        "preferred_write_alignment": 0,
        "preferred_write_granularity": 0,
        "optimal_write_size": 0,
        "preferred_unmap_alignment": 0,
        "preferred_unmap_granularity": 0,
        "uuid": uuid,
        "numa_id": info.numa_node.map_or(-1, i64::from),
        "assigned_rate_limits": super::qos::limits(device),
        "claimed": false,
        "zoned": false,
        "supported_io_types": supported_io_types(device),
        "driver_specific": device.bdev().driver_specific(),
    });
    if services.bdevs.claimed_by(device.name()).is_some() {
        description["claimed"] = json!(true);
        description["claim_type"] = json!("exclusive_write");
    }
    description
}

params! {
    /// Of `bdev_examine`.
    struct Examine {
        /// The bdev's name.
        name: String,
    }
}

async fn bdev_examine(services: Rc<Services>, params: Examine) -> Outcome {
    let device = services.bdevs.get(&params.name)?;
    services.bdevs.examine(&device);
    Ok(json!(true))
}

async fn bdev_wait_for_examine(services: Rc<Services>, _params: NoParams) -> Outcome {
    services.bdevs.wait_for_examine().await;
    Ok(json!(true))
}

/// The calls that make all bdevs again, bases before what stands on them.
pub(super) fn config(services: &Services) -> Vec<ConfigEntry> {
    let mut entries = Vec::new();
    let options = services.bdev_options.borrow();
    if *options != BdevOptions::default() {
        entries.push(ConfigEntry { method: "bdev_set_options", params: options.params() });
    }
    let raid_options = services.mirrors.options();
    if raid_options != RaidOptions::default() {
        let params = json!({
            "process_window_size_kb": raid_options.process_window_size_kb,
            "process_max_bandwidth_mb_sec": raid_options.process_max_bandwidth_mb_sec,
        });
        entries.push(ConfigEntry { method: "bdev_raid_set_options", params });
    }
    entries.extend(services.nvme.config());
    entries.extend(services.hotplug.config());
    entries.extend(services.virtio.config());
    for device in services.bdevs.list() {
        entries.extend(device.bdev().config());
    }
    entries.extend(services.waiting.config());
    entries.extend(services.raids.config());
    entries.push(ConfigEntry { method: "bdev_wait_for_examine", params: Value::Null });
    // When all are there: a raid comes after what it is made of, or of itself.
    for device in services.bdevs.list() {
        entries.extend(super::qos::config(&device));
        entries.extend(super::statistics::config(&device));
    }
    entries
}

/// A geometry out of parameters.
pub(super) fn geometry(
    block_size: u32,
    num_blocks: u64,
    physical_block_size: Option<u32>,
) -> Result<Geometry> {
    let block_size = BlockSize::new(block_size.into()).map_err(|e| e.context("block_size"))?;
    if num_blocks == 0 {
        return Err(Error::invalid("num_blocks: a bdev of 0 blocks"));
    }
    if let Some(physical) = physical_block_size
        && (!physical.is_power_of_two() || physical < block_size.bytes())
    {
        return Err(Error::invalid(format!(
            "physical_block_size: {physical} is no power of two from {} on",
            block_size.bytes()
        )));
    }
    Geometry::new(block_size, BlockCount(num_blocks)).map_err(|e| e.context("num_blocks"))
}

/// Refuses parameters of SPDK's that have a value which Weft cannot honour.
pub(super) fn check_unsupported(set: &[(&str, bool)]) -> Result<()> {
    match set.iter().find(|(_, set)| *set) {
        Some((name, _)) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("'{name}' is not supported with another value than its default"),
        )),
        None => Ok(()),
    }
}

/// The bdev `name`, if it is of this kind.
pub(super) fn of_product(services: &Services, name: &str, product: &str) -> Result<Arc<Device>> {
    let device = services.bdevs.get(name)?;
    if device.info().product_name != product {
        return Err(Error::new(
            ErrorKind::NoDevice,
            format!("bdev '{name}' is no {product} but a {}", device.info().product_name),
        ));
    }
    Ok(device)
}

/// Refuses a name that is taken.
pub(super) fn check_name_free(services: &Services, name: &str) -> Result<()> {
    match services.bdevs.find(name) {
        Some(_) => Err(Error::new(ErrorKind::Exists, format!("a bdev '{name}' exists"))),
        None => Ok(()),
    }
}

/// Removes the bdev `name` of this kind.
pub(super) async fn unregister(services: &Services, name: &str, product: &str) -> Outcome {
    let device = of_product(services, name, product)?;
    services.bdevs.unregister(device.name()).await?;
    Ok(json!(true))
}
