//! The raid family: what stripe, linear and mirror have in common towards an operator.
//!
//! A [`RaidSpec`] is what was asked for, a [`RaidSummary`] what `bdev_raid_get_bdevs` reports. Each level
//! brings a [`RaidKind`], which checks a specification and builds the device, and a [`Raid`] for
//! every device that it built. [`Raids`](super::Raids) keeps the table of both.
//!
//! Control work only, on the control reactor.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::base::{Error, ErrorKind, Result, Uuid};
use crate::bdev::{ConfigEntry, Device, Registry};

/// Control work that ends with a result.
pub type RaidFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// How the data lie on the base bdevs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RaidLevel {
    /// Striped ([`stripe`](super::stripe)).
    Raid0,
    /// Mirrored.
    Raid1,
    /// One base bdev after the other ([`linear`](super::linear)).
    Concat,
}

impl RaidLevel {
    /// The name that is reported.
    pub const fn name(self) -> &'static str {
        match self {
            RaidLevel::Raid0 => "raid0",
            RaidLevel::Raid1 => "raid1",
            RaidLevel::Concat => "concat",
        }
    }

    /// The level of this name, as operators write it (`raid0` or `0`, `raid1` or `1`, `concat`).
    ///
    /// # Errors
    /// `Invalid` for any other name.
    pub fn parse(name: &str) -> Result<RaidLevel> {
        match name {
            "raid0" | "0" => Ok(RaidLevel::Raid0),
            "raid1" | "1" => Ok(RaidLevel::Raid1),
            "concat" => Ok(RaidLevel::Concat),
            _ => Err(Error::invalid(format!(
                "'{name}' is not a raid level (raid0, raid1 and concat are)"
            ))),
        }
    }
}

/// Where a raid is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RaidState {
    /// Registered as a bdev.
    Online,
    /// Waits for base bdevs.
    Configuring,
    /// Taken out of service by the loss of a base bdev that it cannot do without.
    Offline,
}

impl RaidState {
    /// The name that is reported.
    pub const fn name(self) -> &'static str {
        match self {
            RaidState::Online => "online",
            RaidState::Configuring => "configuring",
            RaidState::Offline => "offline",
        }
    }
}

/// What was asked for with `bdev_raid_create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaidSpec {
    /// Name of the new device.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// How the data lie.
    pub level: RaidLevel,
    /// Strip size in KiB; 0 where the level has none.
    pub strip_size_kb: u32,
    /// Names of the base bdevs, in order.
    pub base_bdevs: Vec<String>,
    /// Whether each base bdev carries a label that describes the raid.
    pub superblock: bool,
}

impl RaidSpec {
    /// The call that makes the raid again, as `save_config` writes it: none for a raid whose
    /// base bdevs carry its description.
    pub fn config(&self) -> Vec<ConfigEntry> {
        if self.superblock {
            return Vec::new();
        }
        let mut params = json!({ "name": self.name, "uuid": self.uuid.to_string() });
        if self.strip_size_kb != 0 {
            params["strip_size_kb"] = self.strip_size_kb.into();
        }
        params["raid_level"] = self.level.name().into();
        params["base_bdevs"] = self.base_bdevs.clone().into();
        vec![ConfigEntry { method: "bdev_raid_create", params }]
    }
}

/// One slot of [`RaidInfo::base_bdevs_list`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RaidBase {
    /// Name; none for a slot whose base bdev was removed.
    pub name: Option<String>,
    /// UUID; nil for a base bdev that has not been seen.
    pub uuid: Uuid,
    /// Whether it is part of the raid now.
    pub is_configured: bool,
    /// First block of the raid's data on it.
    pub data_offset: u64,
    /// Number of blocks of the raid's data on it.
    pub data_size: u64,
}

impl RaidBase {
    /// The slot of a base bdev that is in use from block `data_offset` on, `data_size` blocks long.
    pub fn configured(device: &Device, data_offset: u64, data_size: u64) -> RaidBase {
        RaidBase {
            name: Some(device.name().into()),
            uuid: device.info().uuid,
            is_configured: true,
            data_offset,
            data_size,
        }
    }

    /// The slot of a base bdev that is not in use.
    pub fn missing(name: Option<String>) -> RaidBase {
        RaidBase { name, uuid: Uuid::nil(), is_configured: false, data_offset: 0, data_size: 0 }
    }
}

/// Progress of background work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RaidProgress {
    /// Blocks done.
    pub blocks: u64,
    /// The same in percent of the raid.
    pub percent: u32,
}

/// Background work, such as a rebuild.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RaidProcess {
    /// What is done: "rebuild".
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The base bdev that it is done to.
    pub target: String,
    /// How far it has come.
    pub progress: RaidProgress,
}

/// Background work that has ended. SPDK does not report it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RaidProcessEnd {
    /// What was done: "rebuild", "resync".
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The base bdev that it was done to, or the raid itself.
    pub target: String,
    /// Blocks copied or found not to need it any more; a delta is less than the raid.
    pub blocks: u64,
    /// Whether it came to its end.
    pub completed: bool,
}

/// What is reported of a raid besides its name: also the `raid` object of its `driver_specific`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RaidInfo {
    /// UUID of the raid.
    pub uuid: Uuid,
    /// Strip size in KiB; 0 where the level has none.
    pub strip_size_kb: u32,
    /// Where it is in its life.
    pub state: RaidState,
    /// How the data lie.
    pub raid_level: RaidLevel,
    /// Whether the base bdevs carry a label.
    pub superblock: bool,
    /// Number of slots.
    pub num_base_bdevs: u32,
    /// Number of slots whose base bdev is in use.
    pub num_base_bdevs_discovered: u32,
    /// Number of base bdevs that the raid is to work with.
    pub num_base_bdevs_operational: u32,
    /// Background work, when there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<RaidProcess>,
    /// The last background work that ended, when there was any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weft_last_process: Option<RaidProcessEnd>,
    /// Blocks of the regions that the intent map of a mirror holds as perhaps different on its legs: what a leg that went away now
    /// would at least be copied when it is back. Falls some seconds after the writes have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weft_intent_blocks: Option<u64>,
    /// The slots in order.
    pub base_bdevs_list: Vec<RaidBase>,
}

/// One entry of the answer to `bdev_raid_get_bdevs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RaidSummary {
    /// Name of the raid.
    pub name: String,
    /// The rest.
    #[serde(flatten)]
    pub info: RaidInfo,
}

impl RaidSummary {
    /// The summary of a raid in `state` that was made from `spec` and has these `bases` now. All
    /// its slots count as operational and no background work runs.
    pub fn new(spec: &RaidSpec, state: RaidState, bases: Vec<RaidBase>) -> RaidSummary {
        let slots = bases.len() as u32;
        let discovered = bases.iter().filter(|base| base.is_configured).count() as u32;
        RaidSummary {
            name: spec.name.clone(),
            info: RaidInfo {
                uuid: spec.uuid,
                strip_size_kb: spec.strip_size_kb,
                state,
                raid_level: spec.level,
                superblock: spec.superblock,
                num_base_bdevs: slots,
                num_base_bdevs_discovered: discovered,
                num_base_bdevs_operational: slots,
                process: None,
                weft_last_process: None,
                weft_intent_blocks: None,
                base_bdevs_list: bases,
            },
        }
    }

    /// The `driver_specific` object of the raid's bdev.
    pub fn driver_specific(&self) -> Value {
        json!({ "raid": self.info })
    }
}

/// A raid that was built: what the table can ask of it.
pub trait Raid {
    /// How it is now.
    fn summary(&self) -> RaidSummary;

    /// Takes the base bdev `name` into an empty slot.
    fn add_base<'a>(&'a self, _name: &'a str) -> RaidFuture<'a, ()> {
        let summary = self.summary();
        let level = summary.info.raid_level.name();
        let error = Error::new(
            ErrorKind::Unsupported,
            format!(
                "a base bdev cannot be added to '{}': a {level} has no empty slot",
                summary.name
            ),
        );
        Box::pin(std::future::ready(Err(error)))
    }

    /// Lets go of the base bdev `name`. `Ok(false)` says that the raid cannot do without it: the table
    /// takes the raid offline.
    fn remove_base<'a>(&'a self, _name: &'a str) -> RaidFuture<'a, bool> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// What is left to do when the raid is deleted for good, with its bdev unregistered and the base
    /// bdevs free again: with `clear_superblock`, wipes the labels.
    fn deleted(&self, _clear_superblock: bool) -> RaidFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// One level of raid: how its devices are made.
pub trait RaidKind {
    /// Which.
    fn level(&self) -> RaidLevel;

    /// Looks at the specification alone, before any base bdev is there.
    ///
    /// # Errors
    /// `Invalid` with what is wrong.
    fn check(&self, spec: &RaidSpec) -> Result<()>;

    /// Builds and registers the device. All base bdevs of `spec` exist, and nobody's claim is on them
    /// when this is called: it claims all of them before it first awaits anything.
    fn create(&self, registry: Registry, spec: RaidSpec) -> RaidFuture<'static, Rc<dyn Raid>>;
}
