//! What commands print: aligned tables for people, JSON for programs.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::Value;

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tables.
    Text,
    /// The daemon's answer, as JSON.
    Json,
}

/// A table under construction. Columns of numbers are aligned right.
pub struct Columns {
    table: Table,
    numeric: Vec<bool>,
}

impl Columns {
    /// A table with these headings; one that starts with `#` is a column of numbers.
    pub fn new(headings: &[&str]) -> Columns {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let numeric: Vec<bool> = headings.iter().map(|heading| heading.starts_with('#')).collect();
        table.set_header(headings.iter().zip(&numeric).map(|(heading, &numeric)| {
            // Not the case of `µs`.
            Self::cell(
                heading.trim_start_matches('#').to_ascii_uppercase().replace("µS", "µs"),
                numeric,
            )
        }));
        let mut columns = Columns { table, numeric };
        for index in 0..headings.len() {
            if let Some(column) = columns.table.column_mut(index) {
                column.set_padding((0, 2));
            }
        }
        columns
    }

    fn cell(text: String, numeric: bool) -> Cell {
        let alignment = if numeric { CellAlignment::Right } else { CellAlignment::Left };
        Cell::new(text).set_alignment(alignment)
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().zip(&self.numeric);
        self.table.add_row(cells.map(|(text, &numeric)| Self::cell(text, numeric)));
    }

    /// The table, without blanks at the ends of lines.
    pub fn text(&self) -> String {
        let lines: Vec<String> = self.table.lines().map(|line| line.trim_end().into()).collect();
        lines.join("\n")
    }
}

/// Prints the answer of the daemon as JSON.
pub fn print_json(value: &Value) {
    println!("{value:#}");
}

/// The text of a field, whatever its type; `-` when there is none.
pub fn text(object: &Value, field: &str) -> String {
    match object.get(field) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The number in a field, 0 when there is none.
pub fn number(object: &Value, field: &str) -> u64 {
    object.get(field).and_then(Value::as_u64).unwrap_or(0)
}

/// The elements of a field that is an array.
pub fn elements<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A rate or count in thousands or millions, with three digits: `999`, `12.3k`, `4.56M`.
pub fn short_count(count: f64) -> String {
    let (scaled, unit) = match count {
        c if c >= 999_500_000.0 => (c / 1e9, "G"),
        c if c >= 999_500.0 => (c / 1e6, "M"),
        c if c >= 999.5 => (c / 1e3, "k"),
        c => return format!("{c:.0}"),
    };
    let decimals = if scaled >= 99.95 {
        0
    } else if scaled >= 9.995 {
        1
    } else {
        2
    };
    format!("{scaled:.decimals$}{unit}")
}

/// Microseconds with a sensible number of digits.
pub fn short_micros(micros: f64) -> String {
    match micros {
        m if m <= 0.0 => "-".into(),
        m if m < 10.0 => format!("{m:.2}"),
        m if m < 100.0 => format!("{m:.1}"),
        m => format!("{m:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_line_up_on_the_right() {
        let mut columns = Columns::new(&["name", "#blocks"]);
        columns.row(["a".into(), "5".into()]);
        columns.row(["longer".into(), "12345".into()]);
        assert_eq!(columns.text(), "NAME    BLOCKS\na            5\nlonger   12345");
    }

    #[test]
    fn counts_keep_three_digits() {
        for (count, short) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1.00k"),
            (12_345.0, "12.3k"),
            (999_400.0, "999k"),
            (999_600.0, "1.00M"),
            (45_600_000.0, "45.6M"),
        ] {
            assert_eq!(short_count(count), short);
        }
    }

    #[test]
    fn fields_of_any_kind_have_a_text() {
        let object = json!({"a": "x", "b": 3, "c": null, "d": [1]});
        let texts: Vec<String> = ["a", "b", "c", "e"].iter().map(|f| text(&object, f)).collect();
        assert_eq!(texts, ["x", "3", "-", "-"]);
        assert_eq!(elements(&object, "d").len(), 1);
        assert_eq!(elements(&object, "a").len(), 0);
    }
}
