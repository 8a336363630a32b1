//! Sizes as people write them: `64K`, `1.5G`, `4096`.

use super::error::{Error, Result};
use super::units::ByteCount;

const UNITS: [(&str, u32); 6] = [("", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

/// Reads a size: digits, an optional decimal fraction, an optional `K`, `M`, `G`, `T` or `P`
/// (powers of 1024, any case), and an optional `B` or `iB` after the unit.
///
/// # Errors
/// `Invalid` on anything else, on a fraction that is no whole number of bytes, and on overflow.
pub fn parse_size(text: &str) -> Result<ByteCount> {
    let bad = || Error::invalid(format!("'{text}' is not a size (write 4096, 64K, 1.5G)"));
    let trimmed = text.trim();
    let digits_end =
        trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits_end);
    let unit = unit.trim().to_ascii_uppercase();
    let letter = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let (_, shift) = UNITS.iter().find(|(name, _)| *name == letter).ok_or_else(bad)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let mut bytes = u128::from(whole) << shift;
    if !fraction.is_empty() {
        if fraction.len() > 9 {
            return Err(bad());
        }
        let scaled = u128::from(fraction.parse::<u64>().map_err(|_| bad())?) << shift;
        let scale = 10_u128.pow(fraction.len() as u32);
        if !scaled.is_multiple_of(scale) {
            return Err(bad());
        }
        bytes += scaled / scale;
    }
    u64::try_from(bytes).map(ByteCount).map_err(|_| bad())
}

/// Writes a size for people: a whole number of the largest unit that gives one, else one decimal.
pub fn format_size(bytes: ByteCount) -> String {
    let (name, shift) =
        UNITS.iter().rev().find(|(_, shift)| bytes.0 >> shift > 0).unwrap_or(&UNITS[0]);
    let suffix = if *shift == 0 { "B" } else { "iB" };
    if bytes.0.trailing_zeros() >= *shift || bytes.0 == 0 {
        format!("{} {name}{suffix}", bytes.0 >> shift)
    } else {
        format!("{:.1} {name}{suffix}", bytes.0 as f64 / (1_u64 << shift) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("1.5G", 3 << 29),
            ("2 MB", 2 << 20),
        ] {
            assert_eq!(parse_size(text).unwrap(), ByteCount(bytes), "{text}");
        }
        for bad in ["", "K", "-1", "1.0.0", "1X", "0.3", "99999999P", "1e3"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(format_size(ByteCount(65536)), "64 KiB");
        assert_eq!(format_size(ByteCount(3 << 29)), "1.5 GiB");
        assert_eq!(format_size(ByteCount(0)), "0 B");
    }
}
