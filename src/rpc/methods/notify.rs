//! Notifications of what happened to devices.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::bdev::Registry;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{NoParams, params};
use crate::rpc::services::Services;

methods! {
    /// Lists the types of notifications.
    Runtime fn notify_get_types(NoParams) -> "an array of names.";
    /// Lists what happened to devices. The last 1024 notifications are kept.
    Runtime fn notify_get_notifications(GetNotifications)
        -> "an array of objects with `id`, `type` and `ctx`, the device's name.";
}

async fn notify_get_types(_services: Rc<Services>, _params: NoParams) -> Outcome {
    Ok(json!(Registry::NOTIFICATION_TYPES))
}

params! {
    /// Of `notify_get_notifications`.
    struct GetNotifications {
        /// Number of the first one to list.
        id: u64 = 0,
        /// How many to list at most; all, by default.
        max: Option<u64>,
    }
}

async fn notify_get_notifications(services: Rc<Services>, params: GetNotifications) -> Outcome {
    let max = params.max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
    let listed = services.bdevs.notifications(params.id, max).into_iter();
    Ok(listed.map(|it| json!({"type": it.kind, "ctx": it.context, "id": it.id})).collect::<Value>())
}
