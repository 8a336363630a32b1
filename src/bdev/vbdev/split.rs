//! Split: equal parts of one base, each a device of its own, named after the base (`p0`, `p1`, …).
//!
//! The parts share one claim on the base. They keep their size when the base is resized, and go
//! together when it goes or [`delete`] is called. A part's queue is a channel of the base to which it
//! submits with the first block of the part added. A flush of a part is one of the whole base; a reset
//! concerns the queue's own requests only.

use std::sync::Arc;

use serde_json::{Value, json};
use tracing::warn;

use super::bases::{self, OnResize};
use crate::base::{BlockCount, Error, ErrorKind, Lba, Result, Uuid};
use crate::bdev::{
    Bdev, Channel, Completions, ConfigEntry, Device, Info, Queue, Registry, Request,
};
use crate::reactor::{Activity, Context};

/// The name of the claim on the base.
const OWNER: &str = "split";

/// A part of a base.
pub struct Part {
    info: Info,
    base: Arc<Device>,
    /// First block of the base.
    start: u64,
    spec: SplitSpec,
    /// Its number among the parts.
    index: u64,
}

/// What was asked for with `bdev_split_create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitSpec {
    /// Name of the base.
    pub base: String,
    /// Number of parts.
    pub count: u32,
    /// Size of each in MiB; 0 to share out the whole base.
    pub size_mib: u64,
}

impl SplitSpec {
    /// The call that makes the parts.
    pub fn config(&self) -> ConfigEntry {
        ConfigEntry {
            method: "bdev_split_create",
            params: json!({
                "base_bdev": self.base,
                "split_count": self.count,
                "split_size_mb": self.size_mib,
            }),
        }
    }
}

/// Length of each part in blocks, and how many parts there will be.
fn measure(spec: &SplitSpec, base: &Device) -> Result<(u64, u64)> {
    let geometry = base.geometry();
    let invalid = |what: String| Err(Error::invalid(format!("split '{}': {what}", spec.base)));
    if spec.count == 0 {
        return invalid("0 parts".into());
    }
    let blocks = if spec.size_mib == 0 {
        geometry.blocks.0 / u64::from(spec.count)
    } else {
        let Some(bytes) = spec.size_mib.checked_mul(1 << 20) else {
            return invalid(format!("parts of {} MiB", spec.size_mib));
        };
        // A block is a power of two of at most 64 KiB, so a MiB is whole blocks.
        bytes >> geometry.block_size.shift()
    };
    let possible = geometry.blocks.0.checked_div(blocks).unwrap_or(0);
    if possible == 0 {
        return invalid(format!("its {} blocks are too few for such parts", geometry.blocks));
    }
    let count = u64::from(spec.count).min(possible);
    if count < u64::from(spec.count) {
        warn!("'{}' has room for {count} of {} parts of {blocks} blocks", spec.base, spec.count);
    }
    Ok((blocks, count))
}

/// The UUID of a part of a base: always the same for the same blocks, and the same as SPDK's.
pub(super) fn part_uuid(base: Uuid, start: u64, blocks: u64) -> Uuid {
    const NAMESPACE: Uuid = Uuid::from_u128(0x976b899e_3e1e_4d71_ab69_c2b08e9df8b8);
    let mut name = [0; 32];
    name[..16].copy_from_slice(base.as_bytes());
    name[16..24].copy_from_slice(&start.to_le_bytes());
    name[24..].copy_from_slice(&blocks.to_le_bytes());
    Uuid::new_v5(&NAMESPACE, &name)
}

/// Splits a bdev. Fewer parts than asked for are made when the base has not room for all.
///
/// # Errors
/// `NoDevice` when there is no such base, `NotPermitted` when it is claimed, `Exists` when a name that a part
/// would have is taken, `Invalid` when the base is too small.
pub fn create(registry: &Registry, spec: &SplitSpec) -> Result<Vec<Arc<Device>>> {
    let base = registry.get(&spec.base)?;
    let (blocks, count) = measure(spec, &base)?;
    let names: Vec<String> = (0..count).map(|index| part_name(base.name(), index)).collect();
    // All or nothing: a failure half way would need a removal, which takes time.
    if let Some(taken) = names.iter().find(|name| registry.find(name).is_some()) {
        return Err(Error::new(
            ErrorKind::Exists,
            format!("split '{}': a bdev named '{taken}' exists", spec.base),
        ));
    }
    let parents: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bases = bases::open(registry, &[base.name()], OWNER, &parents, OnResize::Keep)?;
    let mut parts = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let index = index as u64;
        let mut info = if index == 0 {
            bases::derive_info(name, "Split Disk", &bases, BlockCount(blocks))?
        } else {
            let first: &Arc<Part> = &parts[0];
            Info { name: name.clone(), ..first.info.clone() }
        };
        let start = index * blocks;
        info.uuid = part_uuid(base.info().uuid, start, blocks);
        let base = Arc::clone(&base);
        parts.push(Arc::new(Part { info, base, start, spec: spec.clone(), index }));
    }
    // The first part holds the claim for all; `delete` removes it last.
    parts.into_iter().map(|part| registry.register(part, std::mem::take(&mut bases))).collect()
}

/// The name of a part of the bdev `base`.
pub fn part_name(base: &str, index: u64) -> String {
    format!("{base}p{index}")
}

/// Removes all parts of a bdev.
///
/// # Errors
/// `NoDevice` when there is no such base or it is not split; `Busy` when they are being removed.
pub async fn delete(registry: &Registry, base: &str) -> Result<()> {
    let base = registry.get(base)?;
    let is_part = |device: &Arc<Device>| {
        device.driver::<Part>().is_some_and(|part| Arc::ptr_eq(&part.base, &base))
    };
    let names = (0..).map(|index| part_name(base.name(), index));
    let parts: Vec<String> =
        names.map_while(|name| registry.find(&name).filter(is_part).map(|_| name)).collect();
    if parts.is_empty() {
        return Err(Error::new(
            ErrorKind::NoDevice,
            format!("bdev '{}' is not split", base.name()),
        ));
    }
    for part in parts.iter().rev() {
        registry.unregister(part).await?;
    }
    Ok(())
}

impl Bdev for Part {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(PartQueue { channel: self.base.open_channel(cx, depth)?, start: self.start }))
    }

    fn driver_specific(&self) -> Value {
        json!({ "split": { "base_bdev": self.base.name(), "offset_blocks": self.start } })
    }

    fn config(&self) -> Vec<ConfigEntry> {
        // One call makes all parts.
        if self.index == 0 { vec![self.spec.config()] } else { Vec::new() }
    }
}

struct PartQueue {
    channel: Channel,
    start: u64,
}

impl Queue for PartQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        for request in requests.iter_mut() {
            request.lba = Lba(request.lba.0 + self.start);
        }
        let taken = self.channel.submit(requests);
        for request in &mut requests[taken..] {
            request.lba = Lba(request.lba.0 - self.start);
        }
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        self.channel.poll(completions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_uuids_are_those_of_spdk() {
        let base = "73c1a73f-e229-4e01-a51f-235a7ba8d100".parse().unwrap();
        for (start, uuid) in [
            (0, "236d75fa-b242-5d4d-8f07-02c42f6238bc"),
            (524_288, "8a4d7e95-7722-5279-bcae-7901afa3c00b"),
        ] {
            assert_eq!(part_uuid(base, start, 524_288).to_string(), uuid);
        }
    }
}
