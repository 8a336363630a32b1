//! The report for people.

use weft::base::{ByteCount, format_size};

use super::table::{align, number};
use super::{Figures, Latency, Run, status_text};
use crate::measure::Class;
use crate::plan::{JobPlan, Workload};

/// The report, several lines.
pub fn render(run: &Run) -> String {
    let mut text = String::new();
    let seconds = run.total().1.seconds;
    let cores: Vec<String> = run.cores.iter().map(usize::to_string).collect();
    text.push_str(&format!(
        "{seconds:.2} s measured on core {}{}\n",
        cores.join(", "),
        if run.interrupted { " (interrupted)" } else { "" }
    ));
    for device in &run.devices {
        text.push_str(&format!(
            "device {}: {}, {}, blocks of {} B\n",
            device.name,
            device.product_name,
            format_size(ByteCount(device.capacity)),
            device.block_size
        ));
    }
    for job in &run.plan.jobs {
        text.push_str(&format!("job {}: {}\n", job.name, describe(job)));
    }
    text.push('\n');
    text.push_str(&figures_table(run));
    text.push_str(&notes(run));
    text
}

/// A job in one line.
pub(super) fn describe(job: &JobPlan) -> String {
    let mut parts = vec![job.workload.name().to_string()];
    if job.workload.is_mixed() {
        parts.push(format!("{} % reads", job.read_percent));
    }
    if job.workload.opcode().has_range() {
        parts.push(format!("{} B", job.sizes.text()));
        parts.push(job.offsets.text());
    }
    parts.push(format!("queue depth {}", job.depth));
    if let Some(rate) = job.rate {
        parts.push(format!("{rate} arrivals/s"));
    }
    if job.fua {
        parts.push("FUA".into());
    }
    if job.workload == Workload::Verify {
        parts.push(format!("seed {}", job.seed));
    }
    parts.join(", ")
}

fn row(name: String, figures: &Figures, with_cycles: bool) -> Vec<String> {
    let mut cells = vec![name, format!("{:.0}", figures.iops), format!("{:.1}", figures.mib_per_s)];
    match &figures.latency {
        Some(latency) => {
            cells.push(number(latency.mean));
            cells.extend(latency.quantiles.iter().map(|&value| number(value)));
            cells.push(number(latency.max));
        }
        None => cells.extend(vec!["-".to_string(); Latency::QUANTILES.len() + 2]),
    }
    if with_cycles {
        cells.push(figures.cycles_per_io.map_or("-".into(), number));
        cells.push(figures.errors.to_string());
    }
    cells
}

fn figures_table(run: &Run) -> String {
    let mut header: Vec<String> = ["", "IOPS", "MiB/s", "mean µs"].map(String::from).into();
    header.extend(Latency::QUANTILES.map(|(name, _)| name.to_string()));
    header.extend(["max", "cycles/IO", "errors"].map(String::from));
    let mut rows = vec![header];
    let (group, total) = run.total();
    rows.push(row("total".into(), &total, true));
    let classes: Vec<Class> = Class::ALL
        .into_iter()
        .filter(|&class| group.measure.classes[class as usize].ops > 0)
        .collect();
    if classes.len() > 1 {
        for class in classes {
            let figures = group.class(class, run.rate());
            rows.push(row(format!("  {}", class.name()), &figures, false));
        }
    }
    let jobs = &run.plan.jobs;
    if jobs.len() > 1 {
        for (index, job) in jobs.iter().enumerate() {
            rows.push(row(format!("job {}", job.name), &run.job(index).1, true));
        }
    }
    for (index, device) in run.devices.iter().enumerate() {
        rows.push(row(format!("device {}", device.name), &run.device(index).1, true));
    }
    for (index, core) in run.cores.iter().enumerate() {
        rows.push(row(format!("core {core}"), &run.core(index).1, true));
    }
    align(&rows)
}

fn notes(run: &Run) -> String {
    let mut text = format!(
        "\nThe tool's own part: {} ns, {} cycles per I/O (measured over an empty queue)\n",
        number(run.tool.ns_per_io),
        number(run.tool.cycles_per_io)
    );
    for (status, count) in &run.total().0.measure.errors {
        text.push_str(&format!("errors: {count} × {}\n", status_text(*status)));
    }
    for (index, job) in run.plan.jobs.iter().enumerate() {
        let behind = run.behind(index);
        if behind > 0 {
            text.push_str(&format!(
                "job {}: {behind} requests were due and had not been issued: the rate is more than \
                 the devices take at this depth\n",
                job.name
            ));
        }
        let Some(found) = run.findings(index) else { continue };
        text.push_str(&format!("verify {}: {} blocks checked, ", job.name, found.checked));
        match &found.first {
            None => text.push_str("all as written"),
            Some(first) => text.push_str(&format!("{} BAD; first bad block: {first}", found.bad)),
        }
        if found.incomplete {
            text.push_str("; INCOMPLETE: ended before the range was covered");
        }
        text.push_str(&format!(
            "\n  (to check again later: --verify-only --seed {} --generation {})\n",
            job.seed, found.generation
        ));
    }
    if run.lost() > 0 {
        text.push_str(&format!("{} requests never completed\n", run.lost()));
    }
    text
}
