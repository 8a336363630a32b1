//! The EAL: starting it, and what it says of itself.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use dpdk_sys as sys;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tracing::{info, warn};

use super::block::Block;
use super::iova::IovaMode;
use super::log;
use super::pci::{self, PciFunction};
use super::stream::printed;
use crate::base::{Error, ErrorKind, Result};

/// The EAL, which runs. There is one in a process, for good.
pub struct Environment {
    arguments: String,
    version: String,
    mode: IovaMode,
}

/// What has become of the EAL in this process. The lock is held while it starts.
static STATE: Mutex<State> = Mutex::new(State::New);

enum State {
    New,
    Runs(&'static Environment),
    Failed,
}

/// Options that would undo what this module promises, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("-a", "no device is given to DPDK's drivers"),
    ("--allow", "no device is given to DPDK's drivers"),
    ("-b", "no device is given to DPDK's drivers"),
    ("--block", "no device is given to DPDK's drivers"),
    ("--vdev", "no device is given to DPDK's drivers"),
    ("-d", "no drivers are loaded by name"),
    ("-c", "Weft's reactors run on cores, DPDK's do not (-m of weftd names them)"),
    ("-l", "Weft's reactors run on cores, DPDK's do not (-m of weftd names them)"),
    ("--lcores", "Weft's reactors run on cores, DPDK's do not (-m of weftd names them)"),
    ("-s", "DPDK has no service cores here"),
    ("-S", "DPDK has no service cores here"),
    ("--proc-type", "each process has memory of its own"),
    ("--legacy-mem", "memory is taken as it is needed"),
    ("--telemetry", "there is no telemetry socket"),
    ("-h", "DPDK would print its options and end the process"),
    ("--help", "DPDK would print its options and end the process"),
    ("-v", "DPDK would print its version"),
    ("--version", "DPDK would print its version"),
];

impl Environment {
    /// Starts the EAL, or gives the one that runs if it was started with the same arguments. To be called before
    /// the calling thread is pinned: the threads that the EAL keeps run on the cores that it finds allowed.
    ///
    /// # Errors
    /// `Invalid` for an argument that would undo what this module promises; `Busy` when it runs with other
    /// arguments, or has failed to start before (it can be tried once in a process); otherwise what it complains of.
    pub fn start(arguments: &str) -> Result<&'static Environment> {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        for word in &words {
            check(word)?;
        }
        let arguments = words.join(" ");
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Runs(running) if running.arguments == arguments => return Ok(running),
            State::Runs(running) => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "DPDK runs in this process already, with the arguments '{}', and cannot be \
                         started anew with '{arguments}'",
                        running.arguments
                    ),
                ));
            }
            State::Failed => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "DPDK has failed to start in this process before, and can be tried only once",
                ));
            }
            State::New => {}
        }
        // Whatever happens, there is no second try.
        *state = State::Failed;
        let version = initialize(&words)?;
        // SAFETY: the EAL runs.
        let mode = match unsafe { sys::rte_eal_iova_mode() } {
            sys::rte_iova_mode::RTE_IOVA_PA => IovaMode::Physical,
            _ => IovaMode::Virtual,
        };
        info!(%version, iova_mode = mode.name(), "DPDK runs as a source of memory");
        let environment: &'static Environment =
            Box::leak(Box::new(Environment { arguments, version, mode }));
        *state = State::Runs(environment);
        Ok(environment)
    }

    /// The one that runs.
    pub fn running() -> Option<&'static Environment> {
        match &*STATE.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Runs(environment) => Some(environment),
            State::New | State::Failed => None,
        }
    }

    /// DPDK's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What devices are to be told as an address of its memory.
    pub fn iova_mode(&self) -> IovaMode {
        self.mode
    }

    /// `length` bytes of zeros out of its heap, a multiple of [`HUGE_PAGE_SIZE`](crate::memory::HUGE_PAGE_SIZE);
    /// on NUMA node `node` if it has them there.
    ///
    /// # Errors
    /// `NoMemory`; `NotPermitted` when physical addresses are needed and not told.
    pub fn allocate(&self, length: usize, node: Option<u32>) -> Result<Block> {
        Block::allocate(length, node, self.mode)
    }

    /// The PCI functions that DPDK finds: those that some kernel driver is bound to. Each call looks anew.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn pci_functions(&self) -> Result<Vec<PciFunction>> {
        pci::functions(Path::new("/sys/bus/pci/devices"))
    }

    /// What it holds: the memory of its heaps, by segments, and what is taken of it.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn memory_report(&self) -> Result<String> {
        let dumped = printed(|stream| {
            // SAFETY: the EAL runs; the stream is open for the time of the calls.
            unsafe {
                sys::rte_dump_physmem_layout(stream);
                sys::rte_malloc_dump_stats(stream, std::ptr::null());
                sys::rte_malloc_dump_heaps(stream);
                sys::rte_memzone_dump(stream);
            }
        })?;
        // SAFETY: the EAL runs.
        let size = unsafe { sys::rte_eal_get_physmem_size() };
        Ok(format!(
            "{}, EAL arguments '{}', IOVA mode {}\nDPDK memory size {size}\n{dumped}",
            self.version,
            self.arguments,
            self.mode.name()
        ))
    }
}

impl PartialEq for Environment {
    fn eq(&self, other: &Environment) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Environment {}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("version", &self.version)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

fn check(word: &str) -> Result<()> {
    let refused = REFUSED.iter().find(|(option, _)| {
        let value = |rest: &str| rest.is_empty() || rest.starts_with('=');
        // The value of a short option may follow it without a space.
        let is_short = !option.starts_with("--");
        word.strip_prefix(option)
            .is_some_and(|rest| value(rest) || (is_short && !word.starts_with("--")))
    });
    match refused {
        Some((_, reason)) => {
            Err(Error::invalid(format!("'{word}' among the arguments for DPDK: {reason}")))
        }
        None => Ok(()),
    }
}

/// Starts the EAL and gives its version.
fn initialize(words: &[&str]) -> Result<String> {
    let failed = |what: String| Error::new(ErrorKind::Io, format!("DPDK does not start: {what}"));
    let allowed =
        sched_getaffinity(None).map_err(|errno| Error::os("which cores DPDK may run on", errno))?;
    let core = (0..CpuSet::MAX_CPU)
        .find(|&core| allowed.is_set(core))
        .ok_or_else(|| failed("no core is allowed".into()))?;

    // One lcore, which is the calling thread: no workers are started.
    let mut all = vec!["weft".into(), "--no-telemetry".into(), format!("--lcores=0@{core}")];
    let mode: &[&str] = if words.contains(&"--no-huge") {
        // Which the EAL does not combine with in-memory mode; this leaves no files either.
        &["--no-shconf"]
    } else {
        // Memory in one piece then lies in one file, so that it can be given to another process.
        &["--in-memory", "--single-file-segments"]
    };
    all.extend(mode.iter().map(|&word| word.to_owned()));
    all.extend(pci::exclude_all_devices());
    all.extend(words.iter().map(|&word| word.to_owned()));
    let mut arguments = Vec::with_capacity(all.len() + 1);
    for word in all {
        let word = CString::new(word)
            .map_err(|_| Error::invalid("an argument for DPDK has a byte 0 in it"))?;
        arguments.push(word.into_raw());
    }
    let count = arguments.len() as i32;
    arguments.push(std::ptr::null_mut());
    // The EAL may keep pointers to its arguments, and reorders them.
    let arguments = arguments.leak().as_mut_ptr();

    if !log::redirect() {
        warn!("DPDK's log goes to standard error");
    }
    let (result, complaints) = log::complaints_of(|| {
        // SAFETY: the arguments are `count` C strings and a null pointer, and stay for good; nobody else calls this (the
        // caller holds the lock).
        unsafe { sys::rte_eal_init(count, arguments) }
    });
    let errno = sys::rte_errno();
    if let Err(error) = sched_setaffinity(None, &allowed) {
        warn!(%error, core, "DPDK has left this thread on one core");
    }
    if result < 0 {
        let complaints = if complaints.is_empty() {
            sys::error_text(errno)
        } else {
            format!("{} ({})", complaints.join("; "), sys::error_text(errno))
        };
        if errno == rustix::io::Errno::INVAL.raw_os_error() {
            return Err(Error::invalid(format!("DPDK does not start: {complaints}")));
        }
        return Err(failed(format!(
            "{complaints}. It needs free huge pages (/proc/sys/vm/nr_hugepages), or to be told to do \
             without (--dpdk-args=--no-huge)"
        )));
    }
    // What it complains of and starts all the same (sizes of huge pages that nobody reserved) is a detail, and logged
    // as such.
    // SAFETY: it gives back a constant string.
    let version = unsafe { CStr::from_ptr(sys::rte_version()) };
    Ok(version.to_string_lossy().into_owned())
}
