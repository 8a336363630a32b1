//! `weft dd`: copies between files and devices, in a process of its own.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use crate::base::{ByteCount, ByteOffset, Error, Lba, Result, format_size, parse_size};
use crate::bdev::Claim;
use crate::daemon::{load_devices, remove_devices};
use crate::load::{Transfer, Way};
use crate::memory::{HugePages, RegionOptions, Sharing};
use crate::reactor::{self, Context, CoreList, IdlePolicy, ReactorOptions, Reactors};
use crate::rpc::Services;

const HOG_LIMIT: Duration = Duration::from_secs(1);

/// Copies a file onto a device or a device into a file, without a running weftd: the devices come from a
/// configuration, as save_config writes it
#[derive(Debug, Args)]
pub struct DdCommand {
    /// Configuration with the device
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// File to read
    #[arg(long = "if", value_name = "FILE", conflicts_with_all = ["ib", "output_file"], requires = "output_bdev")]
    input_file: Option<PathBuf>,
    /// Device to read
    #[arg(
        long = "ib",
        value_name = "BDEV",
        id = "ib",
        conflicts_with = "output_bdev",
        requires = "output_file"
    )]
    input_bdev: Option<String>,
    /// File to write
    #[arg(long = "of", value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Device to write
    #[arg(long = "ob", value_name = "BDEV", id = "output_bdev")]
    output_bdev: Option<String>,
    /// Size of one request
    #[arg(long, default_value = "256K", value_name = "SIZE")]
    bs: String,
    /// How much to copy [default: the whole input]
    #[arg(long, value_name = "SIZE")]
    length: Option<String>,
    /// Where to start in the input
    #[arg(long, default_value = "0", value_name = "SIZE")]
    skip: String,
    /// Where to start in the output
    #[arg(long, default_value = "0", value_name = "SIZE")]
    seek: String,
    /// Requests outstanding at once
    #[arg(long, default_value_t = 8)]
    qd: u32,
    /// Core to run on [default: the first that the process may run on]
    #[arg(short = 'm', long, value_name = "CORES")]
    cpumask: Option<CoreList>,
}

impl DdCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What cannot be opened, does not fit, or fails.
    pub fn run(&self) -> Result<()> {
        let (bdev, path, way) =
            match (&self.input_file, &self.input_bdev, &self.output_file, &self.output_bdev) {
                (Some(file), _, _, Some(bdev)) => (bdev, file, Way::ToDevice),
                (_, Some(bdev), Some(file), _) => (bdev, file, Way::ToFile),
                _ => {
                    return Err(Error::invalid(
                        "give a file and a device: --if FILE --ob BDEV, or --ib BDEV --of FILE",
                    ));
                }
            };
        let file = open(path, way)?;
        // A device of the configuration may be in another process.
        let memory = RegionOptions { sharing: Sharing::Always, ..HugePages::Try.into() };
        let reactors = ReactorOptions {
            cores: self.cpumask.clone().map_or_else(CoreList::first_allowed, Ok)?,
            idle: IdlePolicy::Adaptive,
            hog_limit: HOG_LIMIT,
            pool: memory.into(),
        };
        let began = Instant::now();
        let copied = reactor::run(reactors, async |cx: Context, reactors: Reactors| {
            let services = load_devices(&cx, &reactors, &self.config, memory.into()).await?;
            let copied = self.copy(&services, bdev, &file, way).await;
            remove_devices(&services).await;
            copied
        })??;
        if way == Way::ToFile {
            file.sync_all()
                .map_err(|error| Error::os(format!("sync {}", path.display()), error))?;
        }
        let seconds = began.elapsed().as_secs_f64();
        let rate = copied.0 as f64 / seconds / f64::from(1 << 20);
        println!("{} copied, {seconds:.3} s, {rate:.1} MiB/s", format_size(copied));
        Ok(())
    }

    async fn copy(
        &self,
        services: &Services,
        bdev: &str,
        file: &File,
        way: Way,
    ) -> Result<ByteCount> {
        let claim = if way == Way::ToDevice { Claim::Write } else { Claim::Read };
        let descriptor = services.bdevs.open(bdev, claim, |_| ())?;
        let geometry = descriptor.device().geometry();
        let transfer = self.transfer(way, file, geometry.capacity())?;
        let device_offset = if way == Way::ToDevice { &self.seek } else { &self.skip };
        let device_offset = parse_size(device_offset)?.0;
        if !device_offset.is_multiple_of(u64::from(geometry.block_size.bytes())) {
            return Err(Error::invalid(
                "the offset on the device is no multiple of its block size",
            ));
        }
        let lba = Lba(device_offset >> geometry.block_size.shift());
        let channel = descriptor.device().open_channel(&services.cx, self.qd)?;
        Transfer { lba, ..transfer }.run(&services.cx, channel, file, way).await?;
        Ok(transfer.length)
    }

    /// The transfer, but for where it starts on the device.
    fn transfer(&self, way: Way, file: &File, capacity: ByteCount) -> Result<Transfer> {
        let skip = parse_size(&self.skip)?.0;
        let file_size =
            file.metadata().map_err(|error| Error::os("look at the file", error))?.len();
        let input = if way == Way::ToDevice { file_size } else { capacity.0 };
        let whole = input.checked_sub(skip).ok_or_else(|| {
            Error::invalid(format!("--skip {skip} is beyond the input's {input} bytes"))
        })?;
        let length = match &self.length {
            Some(length) => parse_size(length)?,
            None => ByteCount(whole),
        };
        if length.0 > whole {
            return Err(Error::invalid(format!("the input has {whole} bytes there, not {length}")));
        }
        let file_offset = if way == Way::ToDevice { skip } else { parse_size(&self.seek)?.0 };
        Ok(Transfer {
            file_offset: ByteOffset(file_offset),
            lba: Lba(0),
            length,
            io_size: parse_size(&self.bs)?,
            depth: self.qd,
        })
    }
}

fn open(path: &Path, way: Way) -> Result<File> {
    let mut options = OpenOptions::new();
    match way {
        Way::ToDevice => options.read(true),
        // What stands in the file outside of what is copied stays.
        Way::ToFile => options.write(true).create(true).truncate(false),
    };
    options.open(path).map_err(|error| Error::os(format!("open {}", path.display()), error))
}
