//! The buffer pools of the reactors, in the form of SPDK's `iobuf`.

use std::rc::Rc;

use serde_json::json;

use crate::reactor::ReactorStats;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::NoParams;
use crate::rpc::services::Services;

methods! {
    /// Tells how the buffer pools of the reactors fare. Weft's pools hold buffers of all sizes in one,
    /// so `large_pool` stays at zero.
    Runtime fn iobuf_get_stats(NoParams)
        -> "an array with an object for each reactor: `module` (its name), `small_pool` and \
            `large_pool`, each with `cache` (buffers given out so far), `main` (always 0), `retry` \
            (requests refused) and `cache_size` (buffers in use); and `reserved_bytes`.";
}

async fn iobuf_get_stats(services: Rc<Services>, _params: NoParams) -> Outcome {
    let row = |stats: &ReactorStats| {
        let pool = &stats.pool;
        json!({
            "module": stats.name,
            "small_pool": {
                "cache": pool.taken,
                "main": 0,
                "retry": pool.refused,
                "cache_size": pool.in_use,
            },
            "large_pool": {"cache": 0, "main": 0, "retry": 0, "cache_size": 0},
            "reserved_bytes": pool.reserved,
        })
    };
    Ok(services.reactors.stats().await.iter().map(row).collect())
}
