//! Reactors, and in the words of SPDK the threads that run on them: Weft has one on each.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::reactor::{IdlePolicy, PollerStats, ReactorStats, Tsc};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{NoParams, param_enum, params};
use crate::rpc::services::Services;

methods! {
    /// Tells what the reactors do: cycles busy and idle since the start, and processor times.
    Runtime fn framework_get_reactors(NoParams)
        -> "`tick_rate`, `pid`, and `reactors`, an array of objects. SPDK's fields, and those of \
            Weft: `idle_policy`, `in_sleep`, `sleeps`, `sleep_ticks`, `rounds`, `messages`, `calls`, \
            `task_polls`.";
    /// Tells what the threads do; there is one for each reactor.
    Runtime fn thread_get_stats(NoParams) -> "`tick_rate` and `threads`, an array of objects.";
    /// Tells what the pollers do.
    Runtime fn thread_get_pollers(NoParams)
        -> "`tick_rate` and `threads`, an array of objects with `active_pollers`, `timed_pollers` and \
            `paused_pollers`. Weft adds to each poller `busy_ticks`, `idle_ticks`, `last_run_ticks` \
            and `longest_run_ticks`.";
    /// Sets what reactors do when there is nothing to do.
    Runtime fn weft_reactor_set_idle_policy(SetIdlePolicy) -> "`true`.";
}

/// SPDK numbers its threads from 1.
fn thread_id(stats: &ReactorStats) -> usize {
    stats.index + 1
}

async fn framework_get_reactors(services: Rc<Services>, _params: NoParams) -> Outcome {
    let reactor = |stats: &ReactorStats| {
        json!({
            "lcore": stats.core,
            "numa_id": stats.numa_node,
            "tid": stats.tid,
            "busy": stats.busy_ticks,
            "idle": stats.idle_ticks,
            "in_interrupt": stats.in_sleep,
            "irq": stats.cpu.interrupt,
            "sys": stats.cpu.system,
            "usr": stats.cpu.user,
            "lw_threads": [{
                "name": stats.name,
                "id": thread_id(stats),
                "cpumask": stats.core_mask,
                "elapsed": stats.elapsed_ticks,
            }],
            "idle_policy": stats.policy.name(),
            "in_sleep": stats.in_sleep,
            "sleeps": stats.sleeps,
            "sleep_ticks": stats.sleep_ticks,
            "rounds": stats.rounds,
            "messages": stats.messages,
            "calls": stats.calls,
            "task_polls": stats.task_polls,
        })
    };
    let stats = services.reactors.stats().await;
    Ok(json!({
        "tick_rate": Tsc::rate(),
        "pid": std::process::id(),
        "reactors": stats.iter().map(reactor).collect::<Vec<_>>(),
    }))
}

async fn thread_get_stats(services: Rc<Services>, _params: NoParams) -> Outcome {
    let thread = |stats: &ReactorStats| {
        json!({
            "name": stats.name,
            "id": thread_id(stats),
            "cpumask": stats.core_mask,
            "busy": stats.busy_ticks,
            "idle": stats.idle_ticks,
            "active_pollers_count": stats.active_pollers(),
            "timed_pollers_count": stats.timed_pollers(),
            "paused_pollers_count": 0,
        })
    };
    let stats = services.reactors.stats().await;
    Ok(json!({
        "tick_rate": Tsc::rate(),
        "threads": stats.iter().map(thread).collect::<Vec<_>>(),
    }))
}

async fn thread_get_pollers(services: Rc<Services>, _params: NoParams) -> Outcome {
    let thread = |stats: &ReactorStats| {
        let of = |timed: bool| -> Vec<Value> {
            let pollers = stats.pollers.iter();
            pollers.filter(|it| it.period_ticks.is_some() == timed).map(poller).collect()
        };
        json!({
            "name": stats.name,
            "id": thread_id(stats),
            "active_pollers": of(false),
            "timed_pollers": of(true),
            "paused_pollers": [],
        })
    };
    let stats = services.reactors.stats().await;
    Ok(json!({
        "tick_rate": Tsc::rate(),
        "threads": stats.iter().map(thread).collect::<Vec<_>>(),
    }))
}

fn poller(stats: &PollerStats) -> Value {
    let mut poller = json!({
        "name": stats.name,
        "id": stats.id.0,
        "state": "waiting",
        "run_count": stats.run_count,
        "busy_count": stats.busy_count,
    });
    if let Some(period) = stats.period_ticks {
        poller["period_ticks"] = json!(period);
    }
    poller["busy_ticks"] = json!(stats.busy_ticks);
    poller["idle_ticks"] = json!(stats.idle_ticks);
    poller["last_run_ticks"] = json!(stats.last_run_ticks);
    poller["longest_run_ticks"] = json!(stats.longest_run_ticks);
    poller
}

param_enum! {
    /// Idle policies.
    enum Policy {
        /// Never sleep.
        Poll = "poll",
        /// Sleep until something comes.
        Adaptive = "adaptive",
    }
}

params! {
    /// Of `weft_reactor_set_idle_policy`.
    struct SetIdlePolicy {
        /// `poll` never sleeps; `adaptive` spins for a while, then sleeps until something comes.
        policy: Policy,
        /// Core of the reactor; all reactors by default.
        lcore: Option<u32>,
    }
}

async fn weft_reactor_set_idle_policy(services: Rc<Services>, params: SetIdlePolicy) -> Outcome {
    let policy = match params.policy {
        Policy::Poll => IdlePolicy::Poll,
        Policy::Adaptive => IdlePolicy::Adaptive,
    };
    let index = match params.lcore {
        None => None,
        Some(core) => Some(services.reactors.on_core(core as usize).ok_or_else(|| {
            crate::base::Error::new(
                crate::base::ErrorKind::NotFound,
                format!("lcore: no reactor runs on core {core}"),
            )
        })?),
    };
    services.reactors.set_idle_policy(index, policy)?;
    Ok(json!(true))
}
