//! Raids: stripes, mirrors and concatenations of bdevs.

use std::rc::Rc;

use serde_json::json;

use crate::base::Uuid;
use crate::bdev::vbdev::raid::{RaidLevel, RaidSpec, RaidState};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{param_enum, params};
use crate::rpc::services::Services;

methods! {
    /// Describes raids, whether they are devices (online), wait for base bdevs (configuring), or have
    /// lost one that they cannot do without (offline).
    Runtime fn bdev_raid_get_bdevs(GetBdevs) -> "an array of objects.";
    /// Makes a raid. It waits for base bdevs that are not there yet.
    Runtime fn bdev_raid_create(Create) -> "`true`.";
    /// Deletes a raid. Its base bdevs stay.
    Runtime fn bdev_raid_delete(Delete) -> "`true`.";
    /// Adds a base bdev to a raid that has an empty slot. What differs is copied to it meanwhile.
    Runtime fn bdev_raid_add_base_bdev(AddBase) -> "`true`.";
    /// Takes a base bdev out of the raid that it belongs to.
    Runtime fn bdev_raid_remove_base_bdev(RemoveBase) -> "`true`.";
    /// Sets options of rebuilds, for those that start from now on.
    Any fn bdev_raid_set_options(SetOptions) -> "`true`.";
}

param_enum! {
    /// What to list.
    enum Category {
        /// Everything.
        All = "all",
        /// Devices.
        Online = "online",
        /// Waiting.
        Configuring = "configuring",
        /// Out of service.
        Offline = "offline",
    }
}

params! {
    /// Of `bdev_raid_get_bdevs`.
    struct GetBdevs {
        /// Which raids.
        category: Category,
    }
}

async fn bdev_raid_get_bdevs(services: Rc<Services>, params: GetBdevs) -> Outcome {
    let state = match params.category {
        Category::All => None,
        Category::Online => Some(RaidState::Online),
        Category::Configuring => Some(RaidState::Configuring),
        Category::Offline => Some(RaidState::Offline),
    };
    Ok(json!(services.raids.list(state)))
}

param_enum! {
    /// Levels, under all names that SPDK takes.
    enum Level {
        /// Stripe.
        Raid0 = "raid0",
        /// Stripe.
        Zero = "0",
        /// Mirror.
        Raid1 = "raid1",
        /// Mirror.
        One = "1",
        /// Concatenation.
        Concat = "concat",
    }
}

params! {
    /// Of `bdev_raid_create`.
    struct Create {
        /// The raid's name.
        name: String,
        /// Size of a strip in KiB, for raid0 and concat.
        strip_size_kb: u32 = 0,
        /// How the data lie on the base bdevs.
        raid_level: Level,
        /// Names of the base bdevs, in order.
        base_bdevs: Vec<String>,
        /// The raid's UUID; a random one by default.
        uuid: Option<Uuid>,
        /// Keep a label on each base bdev, from which the raid is found again.
        superblock: bool = false,
    }
}

async fn bdev_raid_create(services: Rc<Services>, params: Create) -> Outcome {
    services
        .raids
        .create(RaidSpec {
            name: params.name,
            uuid: params.uuid.unwrap_or_else(Uuid::new_v4),
            level: match params.raid_level {
                Level::Raid0 | Level::Zero => RaidLevel::Raid0,
                Level::Raid1 | Level::One => RaidLevel::Raid1,
                Level::Concat => RaidLevel::Concat,
            },
            strip_size_kb: params.strip_size_kb,
            base_bdevs: params.base_bdevs,
            superblock: params.superblock,
        })
        .await?;
    Ok(json!(true))
}

params! {
    /// Of `bdev_raid_delete`.
    struct Delete {
        /// The raid's name.
        name: String,
        /// Also remove the labels from the base bdevs.
        clear_sb: bool = false,
    }
}

async fn bdev_raid_delete(services: Rc<Services>, params: Delete) -> Outcome {
    services.raids.delete(&params.name, params.clear_sb).await?;
    Ok(json!(true))
}

params! {
    /// Of `bdev_raid_add_base_bdev`.
    struct AddBase {
        /// The raid's name.
        raid_bdev: String,
        /// The base bdev's name.
        base_bdev: String,
    }
}

async fn bdev_raid_add_base_bdev(services: Rc<Services>, params: AddBase) -> Outcome {
    services.raids.add_base(&params.raid_bdev, &params.base_bdev).await?;
    Ok(json!(true))
}

params! {
    /// Of `bdev_raid_remove_base_bdev`.
    struct RemoveBase {
        /// The base bdev's name.
        name: String,
    }
}

async fn bdev_raid_remove_base_bdev(services: Rc<Services>, params: RemoveBase) -> Outcome {
    services.raids.remove_base(&params.name).await?;
    Ok(json!(true))
}

params! {
    /// Of `bdev_raid_set_options`.
    struct SetOptions {
        /// How much is copied at a time, in KiB.
        process_window_size_kb: Option<u32>,
        /// How much is copied per second at most, in MiB; 0 for no limit.
        process_max_bandwidth_mb_sec: Option<u32>,
    }
}

async fn bdev_raid_set_options(services: Rc<Services>, params: SetOptions) -> Outcome {
    let mut options = services.mirrors.options();
    if let Some(window) = params.process_window_size_kb {
        options.process_window_size_kb = window;
    }
    if let Some(bandwidth) = params.process_max_bandwidth_mb_sec {
        options.process_max_bandwidth_mb_sec = bandwidth;
    }
    services.mirrors.set_options(options)?;
    Ok(json!(true))
}
