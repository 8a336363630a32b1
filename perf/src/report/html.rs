//! The report for browsers: one file that needs nothing else, well-formed as XML too.

use super::plot::{Axis, Series, line_plot, quantiles};
use super::{Run, text};
use crate::measure::Class;

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2128; background: #fff; \
max-width: 940px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
pre { background: #f6f8fa; padding: 1em; overflow-x: auto; font-size: 12px; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: #57606a; }
svg .grid { stroke: #d8dee4; stroke-width: 1; }
dt { font-weight: 600; } dd { margin: 0 0 .4em 0; }
";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page.
pub fn render(run: &Run) -> String {
    let jobs: Vec<String> = run.plan.jobs.iter().map(text::describe).collect();
    let title = escape(&format!("weft-perf: {}", jobs.join("; ")));
    let host = &run.host;
    let specs: Vec<String> = run.specs.iter().map(|spec| escape(spec)).collect();
    format!(
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\
         <meta charset=\"utf-8\"/><title>{title}</title><style>{STYLE}</style></head>\n<body>\n\
         <h1>{title}</h1>\n\
         <dl><dt>Devices</dt><dd><code>{}</code></dd>\n\
         <dt>Host</dt><dd>{}, {}, {} CPUs, Linux {}; weft-perf {}</dd></dl>\n\
         <h2>Latency distribution</h2>\n\
         <p>How long the given share of I/Os took at most. Both axes are logarithmic; the share \
         gets finer towards 100 %.</p>\n{}\
         <h2>Throughput over time</h2>\n{}{}\
         <h2>Figures</h2>\n<pre>{}</pre>\n</body>\n</html>\n",
        specs.join("<br/>"),
        escape(&host.name),
        escape(&host.cpu),
        host.cpus,
        escape(&host.kernel),
        env!("CARGO_PKG_VERSION"),
        latency_plot(run),
        throughput_plot(run, "I/Os per second", |sample| sample.ops as f64),
        throughput_plot(run, "MiB per second", |sample| {
            sample.bytes as f64 / f64::from(1 << 20)
        }),
        escape(&text::render(run)),
    )
}

fn latency_plot(run: &Run) -> String {
    let (group, _) = run.total();
    let mut series = Vec::new();
    let (mut least, mut most, mut nines) = (f64::MAX, 0_f64, 1_f64);
    for class in Class::ALL {
        let sum = &group.measure.classes[class as usize];
        // The last step before 1 is as far as the samples go: the maximum is drawn one step on.
        let end = ((sum.ops.max(1) as f64).log10() * 10.0).floor() / 10.0 + 0.1;
        let points: Vec<(f64, f64)> = quantiles(sum)
            .into_iter()
            .map(|(quantile, ticks)| {
                let micros = (ticks as f64 / run.rate() * 1e6).max(1e-3);
                (least, most) = (least.min(micros), most.max(micros));
                let at = if quantile < 1.0 { -(1.0 - quantile).log10() } else { end };
                (at, micros.log10())
            })
            .collect();
        if !points.is_empty() {
            nines = nines.max(end);
            series.push(Series { name: class.name().into(), points });
        }
    }
    if series.is_empty() {
        return "<p>No I/O completed.</p>\n".into();
    }
    let marks = (0..=nines.ceil() as u32).map(|nine| {
        let text = match nine {
            0 => "0 %".into(),
            1 => "90 %".into(),
            2 => "99 %".into(),
            more => format!("99.{} %", "9".repeat(more as usize - 2)),
        };
        (f64::from(nine), text)
    });
    let x = Axis { label: "share of I/Os", from: 0.0, to: nines.ceil(), marks: marks.collect() };
    let y = Axis::logarithmic("latency, µs", least, most);
    line_plot("Latency distribution", &x, &y, &series)
}

fn throughput_plot(
    run: &Run,
    label: &'static str,
    value: impl Fn(&crate::measure::Sample) -> f64,
) -> String {
    let timeline = run.timeline();
    let period = timeline.period as f64 / run.rate();
    let total = run.total().1.seconds;
    let mut points = Vec::new();
    for (index, sample) in timeline.samples.iter().enumerate() {
        let from = index as f64 * period;
        // The last period may be cut short.
        let length = (total - from).min(period);
        // A sliver at the end says nothing about a rate.
        if length >= period / 10.0 || points.is_empty() {
            points.push((from + length / 2.0, value(sample) / length.max(1e-9)));
        }
    }
    let most = points.iter().map(|&(_, rate)| rate).fold(0.0, f64::max);
    if most == 0.0 {
        return String::new();
    }
    // The last round ends a little late: that is no reason for another mark.
    let (x, y) = (Axis::linear("time, s", total * 0.999), Axis::linear(label, most));
    line_plot("Throughput over time", &x, &y, &[Series { name: label.into(), points }])
}
