//! What a run does: jobs with every option settled, before any device is there. The checks against
//! a device's geometry are here too; nothing here does I/O.

use std::time::Duration;

use clap::ValueEnum;
use weft::base::{BlockCount, BlockSize, Error, Geometry, Lba, Result, parse_size};
use weft::bdev::Opcode;

use crate::load::SizeMix;

/// What a job asks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Workload {
    /// Sequential reads
    Read,
    /// Sequential writes
    Write,
    /// Random reads
    RandRead,
    /// Random writes
    RandWrite,
    /// Sequential reads and writes, mixed by -M
    Rw,
    /// Random reads and writes, mixed by -M
    RandRw,
    /// Writes checksummed patterns over the range, then reads them back
    Verify,
    /// Resets
    Reset,
    /// Flushes
    Flush,
    /// Unmaps (sequential, or see --offsets)
    Unmap,
    /// Write-zeroes (sequential, or see --offsets)
    #[value(name = "write_zeroes", alias = "writezeroes")]
    WriteZeroes,
}

impl Workload {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Read => "read",
            Workload::Write => "write",
            Workload::RandRead => "randread",
            Workload::RandWrite => "randwrite",
            Workload::Rw => "rw",
            Workload::RandRw => "randrw",
            Workload::Verify => "verify",
            Workload::Reset => "reset",
            Workload::Flush => "flush",
            Workload::Unmap => "unmap",
            Workload::WriteZeroes => "write_zeroes",
        }
    }

    /// Whether reads and writes are mixed.
    pub fn is_mixed(self) -> bool {
        matches!(self, Workload::Rw | Workload::RandRw)
    }

    /// The opcode, of the writes in a mix.
    pub fn opcode(self) -> Opcode {
        match self {
            Workload::Read | Workload::RandRead => Opcode::Read,
            Workload::Reset => Opcode::Reset,
            Workload::Flush => Opcode::Flush,
            Workload::Unmap => Opcode::Unmap,
            Workload::WriteZeroes => Opcode::WriteZeroes,
            _ => Opcode::Write,
        }
    }

    /// Whether it changes what the device holds.
    pub fn writes(self) -> bool {
        !matches!(self, Workload::Read | Workload::RandRead | Workload::Reset | Workload::Flush)
    }

    /// Whether the order of the offsets is one that `--offsets` names, when it names none.
    pub fn is_random(self) -> bool {
        matches!(
            self,
            Workload::RandRead | Workload::RandWrite | Workload::RandRw | Workload::Verify
        )
    }
}

/// Where the I/Os go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Offsets {
    /// One after the other, from the start again at the end.
    Sequential,
    /// Each offset equally often.
    Uniform,
    /// A few offsets most of the time: the exponent.
    Zipf(f64),
}

impl Offsets {
    /// The exponent where none is given: that of YCSB.
    const THETA: f64 = 0.99;

    /// Reads `sequential`, `uniform`, `zipf` or `zipf:1.2`.
    ///
    /// # Errors
    /// `Invalid` on anything else.
    pub fn parse(text: &str) -> Result<Offsets> {
        match text.split_once(':') {
            None if matches!(text, "seq" | "sequential") => Ok(Offsets::Sequential),
            None if text == "uniform" => Ok(Offsets::Uniform),
            None if text == "zipf" => Ok(Offsets::Zipf(Offsets::THETA)),
            Some(("zipf", theta)) => {
                let theta: f64 = theta.parse().unwrap_or(f64::NAN);
                if !(theta > 0.0 && theta <= 8.0) {
                    return Err(Error::invalid("the exponent of zipf is above 0 and at most 8"));
                }
                Ok(Offsets::Zipf(theta))
            }
            _ => Err(Error::invalid(format!(
                "'{text}' is no way to pick offsets (sequential, uniform, zipf, zipf:THETA)"
            ))),
        }
    }

    /// As given.
    pub fn text(self) -> String {
        match self {
            Offsets::Sequential => "sequential".into(),
            Offsets::Uniform => "uniform".into(),
            Offsets::Zipf(theta) => format!("zipf:{theta}"),
        }
    }
}

/// The part of a device that a job uses, as given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    start: Bound,
    end: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    Bytes(u64),
    Percent(f64),
}

impl Bound {
    fn parse(text: &str) -> Result<Bound> {
        match text.trim().strip_suffix('%') {
            None => Ok(Bound::Bytes(parse_size(text)?.0)),
            Some(number) => match number.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Bound::Percent(percent)),
                _ => Err(Error::invalid(format!("'{text}' is not a percentage from 0% to 100%"))),
            },
        }
    }

    fn block(self, geometry: Geometry) -> Result<u64> {
        match self {
            Bound::Percent(percent) => Ok((geometry.blocks.0 as f64 * percent / 100.0) as u64),
            Bound::Bytes(bytes) => {
                if !bytes.is_multiple_of(u64::from(geometry.block_size.bytes())) {
                    return Err(Error::invalid(format!(
                        "--range: {bytes} is not a multiple of the block size of {}",
                        geometry.block_size.bytes()
                    )));
                }
                Ok(bytes >> geometry.block_size.shift())
            }
        }
    }
}

impl Range {
    /// Reads `END`, `START-END` or `START+LENGTH`; each is a size or a percentage of the device.
    ///
    /// # Errors
    /// `Invalid` on anything else, or where the range would be empty.
    pub fn parse(text: &str) -> Result<Range> {
        let range = if let Some((start, end)) = text.split_once('-') {
            Range { start: Bound::parse(start)?, end: Bound::parse(end)? }
        } else if let Some((start, length)) = text.split_once('+') {
            let start = Bound::parse(start)?;
            let end = match (start, Bound::parse(length)?) {
                (Bound::Bytes(start), Bound::Bytes(length)) => {
                    Bound::Bytes(start.checked_add(length).ok_or_else(|| {
                        Error::invalid(format!("--range {text} ends beyond every device"))
                    })?)
                }
                (Bound::Percent(start), Bound::Percent(length)) => Bound::Percent(start + length),
                _ => {
                    return Err(Error::invalid(format!(
                        "--range {text}: write both parts in bytes or both in percent"
                    )));
                }
            };
            Range { start, end }
        } else {
            Range { start: Bound::Bytes(0), end: Bound::parse(text)? }
        };
        Ok(range)
    }
}

/// Blocks `start .. start + blocks` of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first block.
    pub start: Lba,
    /// How many.
    pub blocks: BlockCount,
}

impl Extent {
    /// Slice `part` of `parts` of this extent, cut at multiples of `unit` blocks. May be empty.
    pub fn slice(self, part: u64, parts: u64, unit: u64) -> Extent {
        let units = self.blocks.0.div_ceil(unit);
        let cut =
            |part: u64| (u128::from(units) * u128::from(part) / u128::from(parts)) as u64 * unit;
        let (from, to) = (cut(part), cut(part + 1).min(self.blocks.0));
        Extent { start: self.start + BlockCount(from), blocks: BlockCount(to.saturating_sub(from)) }
    }
}

/// How `verify` goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyPlan {
    /// Only read and check what an earlier run with the same seed wrote.
    pub only: bool,
    /// Generation of the first pass; each pass writes the next one.
    pub generation: u64,
    /// How many passes, unless the run has a time: then as many as are begun within it.
    pub passes: Passes,
}

/// How often `verify` writes and reads the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// So many times.
    Count(u64),
    /// Until the time is over; a pass that was begun is finished.
    Timed,
}

/// A job: one worker on each device and core.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPlan {
    /// Its name in reports.
    pub name: String,
    /// What it asks for.
    pub workload: Workload,
    /// Requests in flight on each device and core.
    pub depth: u32,
    /// How large.
    pub sizes: SizeMix,
    /// Share of reads in a mix, in percent.
    pub read_percent: u8,
    /// Arrivals per second, over all its workers; without it a completion brings the next request.
    pub rate: Option<f64>,
    /// Where.
    pub offsets: Offsets,
    /// On which part of each device.
    pub range: Option<Range>,
    /// Of all random numbers and patterns.
    pub seed: u64,
    /// How many I/Os in all, unless the time is over before.
    pub count: Option<u64>,
    /// Writes with Force Unit Access.
    pub fua: bool,
    /// On which devices: their names or numbers in the order given; all when empty.
    pub devices: Vec<String>,
    /// For `verify`.
    pub verify: VerifyPlan,
}

/// The whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunPlan {
    /// At least one.
    pub jobs: Vec<JobPlan>,
    /// How long it is measured.
    pub duration: Duration,
    /// How long it runs before that.
    pub warmup: Duration,
}

impl JobPlan {
    /// The blocks of a device that this job uses.
    ///
    /// # Errors
    /// `Invalid` when a size is no multiple of the block size, or the range does not fit the
    /// device or the sizes.
    pub fn extent_on(&self, device: &str, geometry: Geometry) -> Result<Extent> {
        let block = u64::from(geometry.block_size.bytes());
        for &(bytes, _) in &self.sizes.0 {
            if !bytes.is_multiple_of(block) {
                return Err(Error::invalid(format!(
                    "-o {bytes}: not a multiple of the block size of '{device}', {block}"
                )));
            }
        }
        let (start, end) = match self.range {
            None => (0, geometry.blocks.0),
            Some(range) => (range.start.block(geometry)?, range.end.block(geometry)?),
        };
        if end > geometry.blocks.0 {
            return Err(Error::invalid(format!(
                "--range ends at byte {}, beyond the end of '{device}' ({} bytes)",
                u128::from(end) * u128::from(block),
                geometry.capacity()
            )));
        }
        if start >= end {
            return Err(Error::invalid(format!("--range is empty on '{device}'")));
        }
        let extent = Extent { start: Lba(start), blocks: BlockCount(end - start) };
        let largest = self.sizes.largest() >> geometry.block_size.shift();
        if self.workload.opcode().has_range() && largest > extent.blocks.0 {
            return Err(Error::invalid(format!(
                "-o {}: larger than the range of {} bytes on '{device}'",
                self.sizes.largest(),
                geometry.bytes_of(extent.blocks)
            )));
        }
        Ok(extent)
    }

    /// The sizes in blocks, with their weights. [`JobPlan::extent_on`] has checked that they are
    /// whole.
    pub fn block_sizes(&self, block_size: BlockSize) -> Vec<(u32, u32)> {
        let blocks = |&(bytes, weight): &(u64, u32)| ((bytes >> block_size.shift()) as u32, weight);
        self.sizes.0.iter().map(blocks).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::parse_size_mix;

    pub(crate) fn job(workload: Workload) -> JobPlan {
        JobPlan {
            name: "job".into(),
            workload,
            depth: 8,
            sizes: parse_size_mix("4K").unwrap(),
            read_percent: 50,
            rate: None,
            offsets: if workload.is_random() { Offsets::Uniform } else { Offsets::Sequential },
            range: None,
            seed: 1,
            count: None,
            fua: false,
            devices: Vec::new(),
            verify: VerifyPlan { only: false, generation: 1, passes: Passes::Count(1) },
        }
    }

    fn geometry() -> Geometry {
        Geometry::new(BlockSize::B4096, BlockCount(1000)).unwrap()
    }

    fn extent(range: &str) -> std::result::Result<(u64, u64), String> {
        let mut job = job(Workload::Read);
        job.range = Some(Range::parse(range).map_err(|error| error.to_string())?);
        let extent = job.extent_on("disk", geometry()).map_err(|error| error.to_string())?;
        Ok((extent.start.0, extent.blocks.0))
    }

    #[test]
    fn ranges_resolve() {
        assert_eq!(extent("40K"), Ok((0, 10)));
        assert_eq!(extent("8K-40K"), Ok((2, 8)));
        assert_eq!(extent("8K+40K"), Ok((2, 10)));
        assert_eq!(extent("10%-50%"), Ok((100, 400)));
        assert_eq!(extent("100%"), Ok((0, 1000)));
    }

    #[test]
    fn bad_ranges_say_why() {
        for (range, why) in [
            ("5M", "beyond the end"),
            ("8K-8K", "empty"),
            ("16K-8K", "empty"),
            ("1000", "not a multiple"),
            ("101%", "percentage"),
            ("10%+4K", "both"),
            ("16383P+1P", "ends beyond"),
            ("x", "not a size"),
        ] {
            let error = extent(range).unwrap_err();
            assert!(error.contains(why), "{range}: {error}");
        }
    }

    #[test]
    fn sizes_must_fit_the_device() {
        let mut job = job(Workload::RandRead);
        job.sizes = parse_size_mix("512").unwrap();
        let error = job.extent_on("disk", geometry()).unwrap_err().to_string();
        assert!(error.contains("not a multiple of the block size of 'disk', 4096"), "{error}");
        job.sizes = parse_size_mix("8M").unwrap();
        let error = job.extent_on("disk", geometry()).unwrap_err().to_string();
        assert!(error.contains("larger than the range"), "{error}");
    }

    #[test]
    fn slices_cover_an_extent_once() {
        let whole = Extent { start: Lba(7), blocks: BlockCount(1003) };
        for parts in 1..9 {
            for unit in [1, 8, 16, 2000] {
                let mut next = whole.start;
                for part in 0..parts {
                    let slice = whole.slice(part, parts, unit);
                    if slice.blocks.0 == 0 {
                        continue;
                    }
                    assert_eq!(slice.start, next);
                    assert_eq!((slice.start.0 - 7) % unit, 0);
                    next = slice.start + slice.blocks;
                }
                assert_eq!(next, Lba(1010), "{parts} parts of unit {unit}");
            }
        }
    }

    #[test]
    fn offsets_read() {
        assert_eq!(Offsets::parse("zipf:1.2").unwrap(), Offsets::Zipf(1.2));
        assert_eq!(Offsets::parse("seq").unwrap(), Offsets::Sequential);
        for bad in ["", "zipf:", "zipf:0", "zipf:-1", "zipf:nan", "pareto"] {
            assert!(Offsets::parse(bad).is_err(), "{bad}");
        }
    }
}
