//! What a reactor has done, for people and for RPC.

use std::fs;

use super::idle::IdlePolicy;
use super::poller::PollerId;
use crate::memory::PoolStats;

/// A reactor's figures at one moment. Ticks are those of [`Tsc`](super::Tsc).
#[derive(Clone, Debug)]
pub struct ReactorStats {
    /// Index among the process's reactors.
    pub index: usize,
    /// Its thread's name.
    pub name: String,
    /// The core that it is pinned to.
    pub core: usize,
    /// The core as a hexadecimal mask, without `0x`.
    pub core_mask: String,
    /// The core's NUMA node; 0 where the system does not tell.
    pub numa_node: u32,
    /// The kernel's id of its thread.
    pub tid: u32,
    /// Ticks since it started.
    pub elapsed_ticks: u64,
    /// Ticks in which something was done.
    pub busy_ticks: u64,
    /// All other ticks, those asleep included.
    pub idle_ticks: u64,
    /// Ticks asleep.
    pub sleep_ticks: u64,
    /// What it does when idle.
    pub policy: IdlePolicy,
    /// Whether it was asleep when the figures were asked for.
    pub in_sleep: bool,
    /// How often it slept.
    pub sleeps: u64,
    /// Poll rounds.
    pub rounds: u64,
    /// Messages received from reactors, itself included.
    pub messages: u64,
    /// Calls received from any thread.
    pub calls: u64,
    /// How often a task of its executor was polled.
    pub task_polls: u64,
    /// Processor time of its core and thread.
    pub cpu: CpuTimes,
    /// Its pollers, in the order in which they were added.
    pub pollers: Vec<PollerStats>,
    /// Its buffer pool.
    pub pool: PoolStats,
}

impl ReactorStats {
    /// How many pollers run in every round.
    pub fn active_pollers(&self) -> usize {
        self.pollers.iter().filter(|poller| poller.period_ticks.is_none()).count()
    }

    /// How many pollers run periodically.
    pub fn timed_pollers(&self) -> usize {
        self.pollers.len() - self.active_pollers()
    }
}

/// A poller's figures at one moment.
#[derive(Clone, Debug)]
pub struct PollerStats {
    /// Its name.
    pub name: String,
    /// Its number, unique on its reactor.
    pub id: PollerId,
    /// How often it is due; `None` for every round.
    pub period_ticks: Option<u64>,
    /// How often it ran.
    pub run_count: u64,
    /// How often it found something to do.
    pub busy_count: u64,
    /// Ticks of the runs that found something to do.
    pub busy_ticks: u64,
    /// Its share of the reactor's idle ticks outside of sleeps: runs that find nothing are too short to
    /// be timed one by one, so each counts as much as any other.
    pub idle_ticks: u64,
    /// Length of the last run that found something to do, in ticks.
    pub last_run_ticks: u64,
    /// Length of the longest such run, in ticks.
    pub longest_run_ticks: u64,
}

/// Processor times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// The core's time in user mode, in kernel clock ticks (1/100 s).
    pub user: u64,
    /// The core's time in the kernel, in kernel clock ticks.
    pub system: u64,
    /// The core's time in interrupts, in kernel clock ticks.
    pub interrupt: u64,
    /// The reactor thread's own time in user mode, in kernel clock ticks.
    pub thread_user: u64,
    /// The reactor thread's own time in the kernel, in kernel clock ticks.
    pub thread_system: u64,
}

impl CpuTimes {
    /// Reads the times of a core and of a thread of this process; zeros for what the system hides.
    pub(super) fn read(core: usize, tid: u32) -> CpuTimes {
        let mut times = CpuTimes::default();
        if let Ok(text) = fs::read_to_string("/proc/stat") {
            times.take_core(&text, core);
        }
        if let Ok(text) = fs::read_to_string(format!("/proc/self/task/{tid}/stat")) {
            times.take_thread(&text);
        }
        times
    }

    /// From `/proc/stat` (proc_stat(5)): `cpuN user nice system idle iowait irq softirq …`.
    fn take_core(&mut self, text: &str, core: usize) {
        let name = format!("cpu{core}");
        let line = text
            .lines()
            .map(str::split_ascii_whitespace)
            .find_map(|mut fields| (fields.next() == Some(name.as_str())).then_some(fields));
        let Some(fields) = line else { return };
        let values: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        let at = |place: usize| values.get(place).copied().unwrap_or(0);
        (self.user, self.system, self.interrupt) = (at(0), at(2), at(5));
    }

    /// From `/proc/PID/task/TID/stat` (proc_pid_stat(5)): utime and stime are fields 14 and 15;
    /// field 2, the name, is in parentheses and may contain anything.
    fn take_thread(&mut self, text: &str) {
        let Some((_, rest)) = text.rsplit_once(')') else { return };
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let mut next = || fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
        (self.thread_user, self.thread_system) = (next(), next());
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let mut times = CpuTimes::default();
        times.take_core("cpu  9 9 9 9 9 9\ncpu1 1 2 3 4 5 6 7\ncpu11 11 12 13 14 15 16 17\n", 11);
        times.take_thread("17 (a) b) c) R 1 2 3 4 5 6 7 8 9 10 77 88 0 0\n");
        let expected =
            CpuTimes { user: 11, system: 13, interrupt: 16, thread_user: 77, thread_system: 88 };
        assert_eq!(times, expected);
        times.take_core("cpu0 broken", 0);
        times.take_thread("broken");
        assert_eq!((times.user, times.thread_user), (0, 77));
    }
}
