//! Line plots as SVG.

use std::fmt::Write;

use crate::measure::ClassMeasure;

/// Quantiles with their latency in ticks: ten for each factor of ten that is left to 1, up to what the
/// number of samples supports; then the maximum.
pub fn quantiles(sum: &ClassMeasure) -> Vec<(f64, u64)> {
    if sum.ops == 0 {
        return Vec::new();
    }
    let value = |quantile| sum.latency.value_at_quantile(quantile).min(sum.latency_max);
    let mut points = vec![(0.0, sum.latency.min().min(sum.latency_max))];
    let steps = ((sum.ops as f64).log10() * 10.0).floor() as u32;
    for step in 1..=steps {
        let quantile = 1.0 - 10_f64.powf(-f64::from(step) / 10.0);
        points.push((quantile, value(quantile)));
    }
    points.push((1.0, sum.latency_max));
    points
}

/// One axis: where values go, and what is written beside it.
pub struct Axis {
    /// What it measures, with the unit.
    pub label: &'static str,
    /// Its ends, as positions.
    pub from: f64,
    /// Its ends, as positions.
    pub to: f64,
    /// Positions with their text.
    pub marks: Vec<(f64, String)>,
}

impl Axis {
    /// A linear axis from 0 to a round number at or above `most`.
    pub fn linear(label: &'static str, most: f64) -> Axis {
        let most = if most > 0.0 { most } else { 1.0 };
        let magnitude = 10_f64.powf((most / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * magnitude)
            .find(|step| step * 6.0 >= most)
            .unwrap_or(most);
        let count = (most / step).ceil() as u32;
        let marks = (0..=count).map(|index| {
            let value = f64::from(index) * step;
            (value, short(value))
        });
        Axis { label, from: 0.0, to: f64::from(count) * step, marks: marks.collect() }
    }

    /// A logarithmic axis around `least` and `most`; positions are decimal logarithms.
    pub fn logarithmic(label: &'static str, least: f64, most: f64) -> Axis {
        let from = least.max(1e-6).log10().floor();
        let to = most.max(1e-6).log10().ceil().max(from + 1.0);
        let marks = (from as i32..=to as i32)
            .map(|power| (f64::from(power), short(10_f64.powi(power))))
            .collect();
        Axis { label, from, to, marks }
    }

    fn place(&self, value: f64) -> f64 {
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }
}

/// `1.5M`, `20k`, `0.1`.
fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = format!("{scaled:.4}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// A line.
pub struct Series {
    /// What it shows.
    pub name: String,
    /// Positions on the axes.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 45.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 55.0;
const COLOURS: [&str; 4] = ["#1f6feb", "#d1570a", "#2f855a", "#8250df"];

/// A plot as an SVG element.
pub fn line_plot(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let across = |value: f64| LEFT + x.place(value) * inner_width;
    let down = |value: f64| TOP + (1.0 - y.place(value)) * inner_height;
    let bottom = TOP + inner_height;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>{title}</title>\n"
    );
    // Writing to a string does not fail.
    let mut put = |text: std::fmt::Arguments<'_>| _ = svg.write_fmt(text);
    for (value, text) in &x.marks {
        let at = across(*value);
        put(format_args!(
            "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>\n",
            bottom + 18.0
        ));
    }
    for (value, text) in &y.marks {
        let at = down(*value);
        put(format_args!(
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>\n",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        ));
    }
    put(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
         <text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
        LEFT + inner_width / 2.0,
        HEIGHT - 12.0,
        x.label,
        TOP + inner_height / 2.0,
        y.label
    ));
    for (index, line) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<String> =
            line.points.iter().map(|&(a, b)| format!("{:.1},{:.1}", across(a), down(b))).collect();
        put(format_args!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\n",
            points.join(" ")
        ));
        let at = LEFT + 14.0 + 110.0 * index as f64;
        put(format_args!(
            "<line x1=\"{at}\" y1=\"16\" x2=\"{:.1}\" y2=\"16\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <text x=\"{:.1}\" y=\"20\">{}</text>\n",
            at + 22.0,
            at + 28.0,
            line.name
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_axes_end_on_round_numbers() {
        for (most, to) in [(0.0, 1.0), (1.0, 1.0), (97.0, 100.0), (1.3e6, 1.5e6), (6.0, 6.0)] {
            let axis = Axis::linear("x", most);
            assert!((axis.to - to).abs() < 1e-9 * to.max(1.0), "{most}: {}", axis.to);
            assert!((2..=8).contains(&axis.marks.len()), "{most}: {:?}", axis.marks);
        }
    }

    #[test]
    fn logarithmic_axes_hold_their_values() {
        let axis = Axis::logarithmic("y", 0.07, 230.0);
        assert_eq!((axis.from, axis.to), (-2.0, 3.0));
        assert_eq!(axis.marks[0].1, "0.01");
        assert_eq!(axis.marks[5].1, "1k");
    }

    #[test]
    fn quantiles_end_where_samples_do() {
        let mut measure = crate::measure::Measure::new();
        for latency in 1..=1000 {
            measure.record(weft::bdev::Opcode::Read, latency, 1, 1);
        }
        let points = quantiles(&measure.total());
        assert_eq!(points.first(), Some(&(0.0, 1)));
        assert_eq!(points.last(), Some(&(1.0, 1000)));
        assert_eq!(points.len(), 32);
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
    }
}
