//! The machine that a run was on, for its report.

use std::fs;

/// What is worth knowing when figures are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
    /// How many processors are online.
    pub cpus: usize,
    /// Rate of the time-stamp counter, in Hz.
    pub tsc_rate: u64,
}

impl Host {
    /// Asks the system; what it does not say is empty.
    pub fn read(tsc_rate: u64) -> Host {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or("", |(_, model)| model.trim());
        Host {
            name: line("/proc/sys/kernel/hostname"),
            kernel: line("/proc/sys/kernel/osrelease"),
            cpu: cpu.into(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            tsc_rate,
        }
    }
}
