//! Sizes of I/O: one, or a mix by weights.

use weft::base::{Error, Result, limits, parse_size};

/// Most sizes in one mix.
const SIZES_MAX: usize = 16;

/// Sizes in bytes with their weights; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeMix(pub Vec<(u64, u32)>);

/// Reads `4096`, `4K,64K` (evenly mixed) or `4K:70,64K:30` (by weights).
///
/// # Errors
/// `Invalid` with what is wrong.
pub fn parse_size_mix(text: &str) -> Result<SizeMix> {
    let mut sizes = Vec::new();
    for part in text.split(',') {
        let (size, weight) = match part.split_once(':') {
            Some((size, weight)) => {
                let weight: u32 = weight.trim().parse().map_err(|_| {
                    Error::invalid(format!("'{weight}' is not a weight (write 4K:70,64K:30)"))
                })?;
                (size, weight)
            }
            None => (part, 1),
        };
        let bytes = parse_size(size)?.0;
        if bytes == 0 || bytes > limits::TRANSFER_MAX {
            return Err(Error::invalid(format!(
                "an I/O size of {bytes} bytes (1 block to {} MiB is possible)",
                limits::TRANSFER_MAX >> 20
            )));
        }
        if weight > 0 {
            sizes.push((bytes, weight));
        }
    }
    if sizes.is_empty() || sizes.len() > SIZES_MAX {
        return Err(Error::invalid(format!(
            "'{text}': a mix of 1 to {SIZES_MAX} sizes with a weight above 0 is possible"
        )));
    }
    Ok(SizeMix(sizes))
}

impl SizeMix {
    /// The largest.
    pub fn largest(&self) -> u64 {
        self.0.iter().map(|&(bytes, _)| bytes).max().unwrap_or(0)
    }

    /// As given: `4096` or `4096:70,65536:30`.
    pub fn text(&self) -> String {
        match self.0.as_slice() {
            [(bytes, _)] => bytes.to_string(),
            several => several
                .iter()
                .map(|(bytes, weight)| format!("{bytes}:{weight}"))
                .collect::<Vec<_>>()
                .join(","),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_read() {
        assert_eq!(parse_size_mix("4k").unwrap(), SizeMix(vec![(4096, 1)]));
        assert_eq!(parse_size_mix("4K,64K").unwrap(), SizeMix(vec![(4096, 1), (65536, 1)]));
        assert_eq!(parse_size_mix("4K:70,64K:30").unwrap(), SizeMix(vec![(4096, 70), (65536, 30)]));
        for bad in ["", "0", "4K:", "4K:-1", "4K:0", "64M", "4K,", "x"] {
            assert!(parse_size_mix(bad).is_err(), "{bad}");
        }
    }
}
