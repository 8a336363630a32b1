//! Rate limits of bdevs.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::base::Error;
use crate::bdev::{ConfigEntry, Device, QosLimits};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::params;
use crate::rpc::services::Services;

methods! {
    /// Limits the rate of requests of a bdev, over all its users together. Limits that are not given
    /// stay as they are.
    Runtime fn bdev_set_qos_limit(SetQosLimit) -> "`true`.";
}

params! {
    /// Of `bdev_set_qos_limit`.
    struct SetQosLimit {
        /// The bdev.
        name: String,
        /// Reads and writes per second; 0 for no limit.
        rw_ios_per_sec: Option<u64>,
        /// MiB read and written per second; 0 for no limit.
        rw_mbytes_per_sec: Option<u64>,
        /// MiB read per second; 0 for no limit.
        r_mbytes_per_sec: Option<u64>,
        /// MiB written per second; 0 for no limit.
        w_mbytes_per_sec: Option<u64>,
    }
}

async fn bdev_set_qos_limit(services: Rc<Services>, params: SetQosLimit) -> Outcome {
    let device = services.bdevs.get(&params.name)?;
    let given = [
        params.rw_ios_per_sec,
        params.rw_mbytes_per_sec,
        params.r_mbytes_per_sec,
        params.w_mbytes_per_sec,
    ];
    if given.iter().all(Option::is_none) {
        return Err(Error::invalid(
            "no limit is given (rw_ios_per_sec, rw_mbytes_per_sec, r_mbytes_per_sec, \
             w_mbytes_per_sec)",
        )
        .into());
    }
    let present = device.qos_limits();
    device.set_qos_limits(QosLimits {
        rw_ios_per_sec: params.rw_ios_per_sec.unwrap_or(present.rw_ios_per_sec),
        rw_mbytes_per_sec: params.rw_mbytes_per_sec.unwrap_or(present.rw_mbytes_per_sec),
        r_mbytes_per_sec: params.r_mbytes_per_sec.unwrap_or(present.r_mbytes_per_sec),
        w_mbytes_per_sec: params.w_mbytes_per_sec.unwrap_or(present.w_mbytes_per_sec),
    });
    Ok(json!(true))
}

/// The limits as `bdev_get_bdevs` shows them.
pub(super) fn limits(device: &Device) -> Value {
    let limits = device.qos_limits();
    json!({
        "rw_ios_per_sec": limits.rw_ios_per_sec,
        "rw_mbytes_per_sec": limits.rw_mbytes_per_sec,
        "r_mbytes_per_sec": limits.r_mbytes_per_sec,
        "w_mbytes_per_sec": limits.w_mbytes_per_sec,
    })
}

/// The call that sets the limits of a device as they are now.
pub(super) fn config(device: &Device) -> Option<ConfigEntry> {
    if device.qos_limits().is_unlimited() {
        return None;
    }
    let mut params = json!({"name": device.name()});
    if let (Value::Object(params), Value::Object(limits)) = (&mut params, limits(device)) {
        params.extend(limits);
    }
    Some(ConfigEntry { method: "bdev_set_qos_limit", params })
}
