//! The command line: what can be said, and the plan that comes out of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use weft::base::{Error, Result, limits};
use weft::daemon::MemorySource;
use weft::memory::HugePages;

use crate::load::{SizeMix, parse_size_mix};
use crate::plan::{JobPlan, Offsets, Passes, Range, RunPlan, VerifyPlan, Workload};
use crate::spec;

/// Benchmark for bdevs, in this process: no daemon is needed
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-perf", version, max_term_width = 100)]
pub struct Arguments {
    /// A device to make and drive, such as 'malloc:size=512M,block=4096' or
    /// 'stripe:unit=64K(uring:/a,uring:/b)'; repeat for several (kinds are listed below)
    #[arg(long = "bdev", value_name = "SPEC")]
    pub bdevs: Vec<String>,

    /// The block device of a vhost-user back end, such as a vhost target's, to drive from one virtqueue a core: short for
    /// --bdev virtio:SOCKET,…; options: queues=N, entries=N, ring=split|packed, indirect=BOOL, event-idx=BOOL
    #[arg(long, value_name = "SOCKET[,OPTION=VALUE…]")]
    pub vhost: Vec<String>,

    /// Make the devices of this configuration (SPDK's JSON form, as save_config writes it) and drive
    /// those that no other stands on
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Cores to run on, one worker each per job and device: a mask (0x3) or a list ([0,1-3])
    /// [default: the first core allowed]
    #[arg(short = 'm', long = "cores", value_name = "CORES")]
    pub cores: Option<String>,

    /// How long to measure: seconds, or with a unit (500ms, 5s, 2m)
    #[arg(short = 't', long, value_name = "TIME", value_parser = duration, allow_hyphen_values = true)]
    pub time: Option<Duration>,

    /// How long to run before that
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0")]
    pub warmup: Duration,

    /// What jobs do unless they say otherwise
    #[command(flatten)]
    pub job: JobArguments,

    /// A job of its own, besides others: 'NAME: OPTIONS', such as 'log: -w write -q 1 --rate 10K';
    /// options are those above that have no other place, and default to what is given outside
    #[arg(long = "job", value_name = "JOB")]
    pub jobs: Vec<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// Write a page with plots of latency and throughput
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// No progress line
    #[arg(long)]
    pub quiet: bool,

    /// Memory of buffers and malloc bdevs: in huge pages or not
    #[arg(long, value_name = "POLICY", default_value = "try")]
    pub huge_pages: HugePagesPolicy,

    /// Where that memory comes from
    #[arg(long, value_name = "SOURCE", default_value = "system")]
    pub memory: MemorySource,

    /// Arguments of DPDK's EAL for --memory dpdk, such as '--no-huge -m 256' or '--iova-mode=va'
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    pub dpdk_args: Option<String>,

    /// I/O errors do not make the exit code 1 (a failed verification does)
    #[arg(long)]
    pub allow_errors: bool,

    /// How long to wait at the end for requests in flight
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub drain: Duration,
}

/// What a job can say.
#[derive(Args, Clone, Debug, Default)]
pub struct JobArguments {
    /// What to do
    #[arg(short = 'w', long, value_name = "WORKLOAD", help_heading = "Job")]
    pub workload: Option<Workload>,

    /// Requests in flight, on each device and core [default: 32]
    #[arg(short = 'q', long, value_name = "N", help_heading = "Job")]
    pub depth: Option<u32>,

    /// Size of a request, or a mix: 4K,64K evenly, 4K:70,64K:30 by weight [default: 4096]
    #[arg(short = 'o', long = "size", value_name = "SIZE", value_parser = parse_size_mix, help_heading = "Job")]
    pub sizes: Option<SizeMix>,

    /// Percentage of reads in rw and randrw [default: 50]
    #[arg(short = 'M', long = "read-mix", value_name = "PERCENT", help_heading = "Job")]
    pub read_mix: Option<u8>,

    /// Arrivals per second in all (10K, 1.5M); latency counts from when a request was due
    #[arg(long, value_name = "IOPS", value_parser = rate, help_heading = "Job")]
    pub rate: Option<f64>,

    /// How offsets are picked: uniform, zipf, zipf:THETA, sequential
    #[arg(long, value_name = "HOW", value_parser = Offsets::parse, help_heading = "Job")]
    pub offsets: Option<Offsets>,

    /// Part of each device: END, START-END or START+LENGTH, in bytes or percent
    #[arg(long, value_name = "RANGE", value_parser = Range::parse, help_heading = "Job")]
    pub range: Option<Range>,

    /// Seed of random numbers and patterns [default: 1]
    #[arg(long, value_name = "N", help_heading = "Job")]
    pub seed: Option<u64>,

    /// End after this many I/Os
    #[arg(short = 'n', long, value_name = "N", help_heading = "Job")]
    pub count: Option<u64>,

    /// Writes with Force Unit Access
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Job")]
    pub fua: bool,

    /// Only on this device: its name, or its number in the report, from 0; repeat for several
    #[arg(long = "device", value_name = "DEVICE", help_heading = "Job")]
    pub devices: Vec<String>,

    /// verify: check what an earlier run with the same seed and generation wrote; write nothing
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Job")]
    pub verify_only: bool,

    /// verify: generation that the first pass writes, or that --verify-only expects [default: 1]
    #[arg(long, value_name = "N", help_heading = "Job")]
    pub generation: Option<u64>,

    /// verify: how often to write and read back [default: once; with -t until the time is over]
    #[arg(long, value_name = "N", help_heading = "Job")]
    pub passes: Option<u64>,
}

/// As [`HugePages`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum HugePagesPolicy {
    /// Where the system has enough free
    Try,
    /// Or fail
    Require,
    /// Ordinary memory
    Never,
}

impl From<HugePagesPolicy> for HugePages {
    fn from(policy: HugePagesPolicy) -> HugePages {
        match policy {
            HugePagesPolicy::Try => HugePages::Try,
            HugePagesPolicy::Require => HugePages::Require,
            HugePagesPolicy::Never => HugePages::Never,
        }
    }
}

/// A job in `--job`: its options alone.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct JobLine {
    #[command(flatten)]
    job: JobArguments,
}

const TIME_DEFAULT: Duration = Duration::from_secs(5);
const TIME_MAX: f64 = 366.0 * 86_400.0;

fn duration(text: &str) -> Result<Duration> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "m" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let seconds = number.trim().parse().unwrap_or(f64::NAN) * scale;
    if (0.0..=TIME_MAX).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(Error::invalid(format!("'{text}' is not a time (write 5, 500ms, 2m)")))
    }
}

/// Arrivals per second, with decimal suffixes: IOPS are no bytes.
fn rate(text: &str) -> Result<f64> {
    let (number, scale) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        _ => (text, 1.0),
    };
    let rate = number.parse().unwrap_or(f64::NAN) * scale;
    if (0.001..=1e9).contains(&rate) {
        Ok(rate)
    } else {
        Err(Error::invalid(format!("'{text}' is not a rate (write 500, 10K, 1.5M)")))
    }
}

impl JobArguments {
    /// What `self` leaves out is as in `general`.
    fn over(self, general: &JobArguments) -> JobArguments {
        JobArguments {
            workload: self.workload.or(general.workload),
            depth: self.depth.or(general.depth),
            sizes: self.sizes.or_else(|| general.sizes.clone()),
            read_mix: self.read_mix.or(general.read_mix),
            rate: self.rate.or(general.rate),
            offsets: self.offsets.or(general.offsets),
            range: self.range.or(general.range),
            seed: self.seed.or(general.seed),
            count: self.count.or(general.count),
            fua: self.fua || general.fua,
            devices: if self.devices.is_empty() { general.devices.clone() } else { self.devices },
            verify_only: self.verify_only || general.verify_only,
            generation: self.generation.or(general.generation),
            passes: self.passes.or(general.passes),
        }
    }

    fn plan(self, name: &str, timed: bool) -> Result<JobPlan> {
        let refuse = |what: String| Err(Error::invalid(what));
        let workload = self.workload.unwrap_or(Workload::RandRead);
        let depth = self.depth.unwrap_or(32);
        if depth == 0 || depth > limits::QUEUE_DEPTH_MAX {
            return refuse(format!("-q {depth}: 1 to {} is possible", limits::QUEUE_DEPTH_MAX));
        }
        if self.read_mix.is_some_and(|percent| percent > 100) {
            return refuse("-M is a percentage, 0 to 100".into());
        }
        if self.read_mix.is_some() && !workload.is_mixed() {
            return refuse(format!("-M is for rw and randrw, not for {}", workload.name()));
        }
        let offsets = match self.offsets {
            None if workload.is_random() => Offsets::Uniform,
            None => Offsets::Sequential,
            Some(given) => given,
        };
        let random = match workload {
            Workload::Read => Some(Workload::RandRead),
            Workload::Write => Some(Workload::RandWrite),
            Workload::Rw => Some(Workload::RandRw),
            _ => None,
        };
        if let Some(random) = random
            && offsets != Offsets::Sequential
        {
            let name = workload.name();
            return refuse(format!(
                "-w {name} is sequential: for --offsets {} say -w {}",
                offsets.text(),
                random.name()
            ));
        }
        let is_verify = workload == Workload::Verify;
        let for_verify = self.verify_only || self.passes.is_some() || self.generation.is_some();
        if for_verify && !is_verify {
            return refuse(format!(
                "--verify-only, --generation and --passes are for -w verify, not for {}",
                workload.name()
            ));
        }
        if is_verify {
            if matches!(offsets, Offsets::Zipf(_)) {
                return refuse("verify meets every block once: zipf has no meaning".into());
            }
            if self.sizes.as_ref().is_some_and(|sizes| sizes.0.len() > 1) {
                return refuse("verify takes one size, not a mix".into());
            }
            if self.count.is_some() {
                return refuse("verify covers its range: use --range instead of --count".into());
            }
        }
        if self.passes == Some(0) || self.count == Some(0) {
            return refuse("--passes and --count are 1 at least".into());
        }
        let passes = match self.passes {
            Some(passes) => Passes::Count(passes),
            None if timed && !self.verify_only => Passes::Timed,
            None => Passes::Count(1),
        };
        Ok(JobPlan {
            name: name.into(),
            workload,
            depth,
            sizes: self.sizes.unwrap_or_else(|| SizeMix(vec![(4096, 1)])),
            read_percent: self.read_mix.unwrap_or(50),
            rate: self.rate,
            offsets,
            range: self.range,
            seed: self.seed.unwrap_or(1),
            count: self.count,
            fua: self.fua,
            devices: self.devices,
            verify: VerifyPlan {
                only: self.verify_only,
                generation: self.generation.unwrap_or(1),
                passes,
            },
        })
    }
}

impl Arguments {
    /// Reads the command line; ends the process on `--help` or what clap refuses.
    pub fn from_command_line() -> Arguments {
        let command = Arguments::command()
            .after_long_help(spec::help())
            .after_help("--help lists the kinds of bdev and their options, -h is brief.");
        let matches = command.get_matches();
        Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Where the devices come from, for reports.
    pub fn sources(&self) -> Vec<String> {
        let config = self.config.iter().map(|path| format!("configuration {}", path.display()));
        config.chain(self.specs()).collect()
    }

    /// The devices to make.
    pub fn specs(&self) -> impl Iterator<Item = String> {
        let vhost = self.vhost.iter().map(|device| format!("virtio:{device}"));
        self.bdevs.iter().cloned().chain(vhost)
    }

    /// The plan.
    ///
    /// # Errors
    /// `Invalid` with what does not go together.
    pub fn plan(&self) -> Result<RunPlan> {
        let timed = self.time.is_some();
        let duration = self.time.unwrap_or(TIME_DEFAULT);
        if duration.is_zero() {
            return Err(Error::invalid("-t is more than 0"));
        }
        let mut jobs = Vec::new();
        for text in &self.jobs {
            let (name, rest) = text.split_once(':').ok_or_else(|| {
                Error::invalid(format!("--job '{text}': write it as 'NAME: OPTIONS'"))
            })?;
            let name = name.trim();
            if name.is_empty() || jobs.iter().any(|job: &JobPlan| job.name == name) {
                return Err(Error::invalid(format!(
                    "--job '{text}': each job needs a name of its own"
                )));
            }
            let line = JobLine::try_parse_from(rest.split_whitespace()).map_err(|error| {
                let text = error.render().to_string();
                let first = text.lines().next().unwrap_or_default().to_string();
                Error::invalid(format!("--job '{name}': {}", first.trim_start_matches("error: ")))
            })?;
            let plan = line.job.over(&self.job).plan(name, timed);
            jobs.push(plan.map_err(|error| error.context(format_args!("--job '{name}'")))?);
        }
        if jobs.is_empty() {
            let job = self.job.clone().plan("", timed)?;
            jobs.push(JobPlan { name: job.workload.name().into(), ..job });
        }
        Ok(RunPlan { jobs, duration, warmup: self.warmup })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> std::result::Result<RunPlan, String> {
        let words = std::iter::once("weft-perf").chain(line.split(' ').filter(|w| !w.is_empty()));
        let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        arguments.plan().map_err(|error| error.to_string())
    }

    #[test]
    fn clap_agrees() {
        Arguments::command().debug_assert();
        JobLine::command().debug_assert();
    }

    #[test]
    fn the_line_for_scripts_reads() {
        let line =
            "--bdev malloc:size=512M,block=4096 -q 32 -o 4096 -w randread -t 5 -m 0x2 --json";
        let plan = plan(line).unwrap();
        assert_eq!(plan.duration, Duration::from_secs(5));
        let job = &plan.jobs[0];
        assert_eq!((job.depth, job.workload), (32, Workload::RandRead));
        assert_eq!((job.sizes.text(), job.offsets), ("4096".into(), Offsets::Uniform));
    }

    #[test]
    fn jobs_take_what_they_leave_out_from_outside() {
        let words = [
            "weft-perf",
            "-q",
            "4",
            "--seed",
            "9",
            "--job",
            "log: -w write -o 64K --rate 10K",
            "--job",
            "scan: -w read -q 128",
        ];
        let plan = Arguments::try_parse_from(words).unwrap().plan().unwrap();
        let [log, scan] = &plan.jobs[..] else { panic!("{plan:?}") };
        assert_eq!((&*log.name, log.depth, log.seed, log.rate), ("log", 4, 9, Some(10_000.0)));
        assert_eq!((log.sizes.largest(), log.workload), (65536, Workload::Write));
        assert_eq!((&*scan.name, scan.depth, scan.workload), ("scan", 128, Workload::Read));
    }

    #[test]
    fn verify_runs_once_or_as_long_as_told() {
        assert_eq!(plan("-w verify").unwrap().jobs[0].verify.passes, Passes::Count(1));
        assert_eq!(plan("-w verify -t 3").unwrap().jobs[0].verify.passes, Passes::Timed);
        assert_eq!(
            plan("-w verify -t 3 --passes 2").unwrap().jobs[0].verify.passes,
            Passes::Count(2)
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (line, why) in [
            ("-q 0", "1 to 4096"),
            ("-q 5000", "1 to 4096"),
            ("-M 50", "-M is for rw"),
            ("-w randrw -M 101", "percentage"),
            ("-w read --offsets zipf", "say -w randread"),
            ("-w verify --offsets zipf", "zipf has no meaning"),
            ("-w verify -o 4K,8K", "one size"),
            ("-w verify -n 5", "--range"),
            ("--verify-only", "for -w verify"),
            ("-t 0", "more than 0"),
            ("-t soon", "not a time"),
            ("--rate 0", "not a rate"),
            ("-n 0", "1 at least"),
            ("-w dance", "invalid value 'dance'"),
            ("--job x", "NAME: OPTIONS"),
            ("--job a: --job a:", "name of its own"),
            ("--job a:-q=0", "--job 'a': -q 0"),
            ("--job a:--json", "--job 'a': unexpected argument '--json'"),
        ] {
            let error = plan(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
