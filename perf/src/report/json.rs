//! The report for programs: one JSON object. The names at its top level are fixed; more may come beside
//! them.

use serde_json::{Map, Value, json};

use super::{Figures, Group, Latency, Run, status_text};
use crate::measure::{Class, ClassMeasure};
use crate::plan::JobPlan;

/// The report.
pub fn render(run: &Run) -> Value {
    let (group, total) = run.total();
    let mut object = figures(&total);
    object.extend(by_class(run, &group));
    object.insert("distribution".into(), distribution(run, &group.measure.total()));
    object.insert("error_statuses".into(), errors(&group));
    object.insert("seconds".into(), json!(total.seconds));
    object.insert("tool_ns_per_io".into(), json!(run.tool.ns_per_io));
    object.insert("tool_cycles_per_io".into(), json!(run.tool.cycles_per_io));
    object.insert("lost".into(), json!(run.lost()));
    object.insert("interrupted".into(), json!(run.interrupted));
    let jobs = run.plan.jobs.iter().enumerate().map(|(index, job)| job_object(run, index, job));
    object.insert("jobs".into(), jobs.collect());
    let devices = run.devices.iter().enumerate().map(|(index, device)| {
        let (group, sum) = run.device(index);
        let mut object = Map::new();
        object.insert("name".into(), json!(device.name));
        object.insert("product_name".into(), json!(device.product_name));
        object.insert("block_size".into(), json!(device.block_size));
        object.insert("capacity".into(), json!(device.capacity));
        object.extend(figures(&sum));
        object.extend(by_class(run, &group));
        Value::Object(object)
    });
    object.insert("devices".into(), devices.collect());
    let cores = run.cores.iter().enumerate().map(|(index, core)| {
        let (group, sum) = run.core(index);
        let time = run.core_times[index];
        let mut object = Map::new();
        object.insert("core".into(), json!(core));
        object.insert("busy".into(), json!(time.busy));
        object.insert("cpu_share".into(), json!(time.cpu_share));
        object.extend(figures(&sum));
        object.extend(by_class(run, &group));
        Value::Object(object)
    });
    object.insert("cores".into(), cores.collect());
    object.insert("timeline".into(), timeline(run));
    object.insert(
        "options".into(),
        json!({
            "bdevs": run.specs,
            "seconds": run.plan.duration.as_secs_f64(),
            "warmup_seconds": run.plan.warmup.as_secs_f64(),
        }),
    );
    object.insert(
        "host".into(),
        json!({
            "name": run.host.name,
            "kernel": run.host.kernel,
            "cpu": run.host.cpu,
            "cpus": run.host.cpus,
            "tsc_hz": run.host.tsc_rate,
        }),
    );
    object.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
    Value::Object(object)
}

fn figures(sum: &Figures) -> Map<String, Value> {
    let mut latency = Map::new();
    let get = |value: fn(&Latency) -> f64| sum.latency.as_ref().map(value);
    latency.insert("mean".into(), json!(get(|latency| latency.mean)));
    for (index, (name, _)) in Latency::QUANTILES.iter().enumerate() {
        let value = sum.latency.as_ref().map(|latency| latency.quantiles[index]);
        latency.insert(name.replace('.', "_"), json!(value));
    }
    latency.insert("max".into(), json!(get(|latency| latency.max)));
    let mut object = Map::new();
    object.insert("iops".into(), json!(sum.iops));
    object.insert("mib_per_s".into(), json!(sum.mib_per_s));
    object.insert("latency_us".into(), Value::Object(latency));
    object.insert("cycles_per_io".into(), json!(sum.cycles_per_io));
    object.insert("errors".into(), json!(sum.errors));
    object.insert("ios".into(), json!(sum.ops));
    object
}

/// `read`, `write` and `other`, as far as there were any.
fn by_class(run: &Run, group: &Group) -> Map<String, Value> {
    let mut object = Map::new();
    for class in Class::ALL {
        if group.measure.classes[class as usize].ops > 0 {
            let mut of_class = figures(&group.class(class, run.rate()));
            // Neither is told apart by class.
            of_class.remove("errors");
            of_class.remove("cycles_per_io");
            object.insert(class.name().into(), Value::Object(of_class));
        }
    }
    object
}

/// Percentiles with their latency in microseconds, denser towards 100.
fn distribution(run: &Run, sum: &ClassMeasure) -> Value {
    super::plot::quantiles(sum)
        .into_iter()
        .map(|(quantile, ticks)| json!([quantile * 100.0, ticks as f64 / run.rate() * 1e6]))
        .collect()
}

fn errors(group: &Group) -> Value {
    let statuses = group.measure.errors.iter().map(|(status, count)| {
        json!({
            "sct": status.sct(), "sc": status.sc(), "text": status_text(*status), "count": count,
        })
    });
    statuses.collect()
}

fn job_object(run: &Run, index: usize, job: &JobPlan) -> Value {
    let (group, sum) = run.job(index);
    let mut object = Map::new();
    object.insert("name".into(), json!(job.name));
    object.insert(
        "options".into(),
        json!({
            "workload": job.workload.name(),
            "depth": job.depth,
            "size": job.sizes.text(),
            "read_percent": job.workload.is_mixed().then_some(job.read_percent),
            "rate": job.rate,
            "offsets": job.offsets.text(),
            "seed": job.seed,
            "count": job.count,
            "fua": job.fua,
            "devices": job.devices,
        }),
    );
    object.extend(figures(&sum));
    object.extend(by_class(run, &group));
    object.insert("behind".into(), json!(run.behind(index)));
    if let Some(found) = run.findings(index) {
        let first = found.first.map(|first| {
            json!({
                "lba": first.lba, "field": first.field.to_string(), "expected": first.expected,
                "found": first.found, "byte": first.byte, "zeros": first.zeros,
            })
        });
        object.insert(
            "verify".into(),
            json!({
                "checked": found.checked, "bad": found.bad, "first_bad": first,
                "generation": found.generation, "incomplete": found.incomplete,
            }),
        );
    }
    Value::Object(object)
}

fn timeline(run: &Run) -> Value {
    let timeline = run.timeline();
    let samples = timeline.samples.iter().map(|sample| json!([sample.ops, sample.bytes]));
    json!({
        "period_s": timeline.period as f64 / run.rate(),
        "ios_and_bytes": samples.collect::<Vec<_>>(),
    })
}
