//! The command line of `weftd`.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

use crate::base::{Error, Result};
use crate::memory::{self, RegionOptions, Sharing, Source};
use crate::reactor::{CoreList, IdlePolicy};
use crate::rpc::{LogLevel, default_socket};

/// Software-defined shared NVMe in user space: the service, one per host.
#[derive(Clone, Debug, Parser)]
#[command(name = "weftd", version)]
pub struct Options {
    /// Cores to run on, one reactor each: a mask (0x3) or a list ([0,2-3]) [default: the first
    /// core that the process may run on]
    #[arg(short = 'm', long, value_name = "CORES")]
    pub cpumask: Option<CoreList>,

    /// Unix socket to serve JSON-RPC on [default: weft.sock in the state directory if one is given;
    /// else $WEFT_SOCKET; else $XDG_RUNTIME_DIR/weft.sock for users other than root; else
    /// /var/tmp/weft.sock]
    #[arg(short = 'r', long, value_name = "PATH")]
    pub rpc_socket: Option<PathBuf>,

    /// Configuration to start with, as save_config writes it [default: config.json in the state
    /// directory if there is one]
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Directory for the daemon's own files; made if it is not there
    #[arg(long, value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,

    /// Directory for the sockets of virtual machines' disks; made if it is not there [default: the directory of the RPC
    /// socket]
    #[arg(short = 'S', long, value_name = "DIRECTORY")]
    pub vhost_dir: Option<PathBuf>,

    /// Least severe log records to write
    #[arg(short = 'L', long, value_name = "LEVEL", default_value = "notice", ignore_case = true)]
    pub log_level: LogLevelName,

    /// Whether to take memory in huge pages
    #[arg(long, value_name = "POLICY", default_value = "try")]
    pub huge_pages: HugePages,

    /// Where memory comes from
    #[arg(long, value_name = "SOURCE", default_value = "system")]
    pub memory: MemorySource,

    /// Arguments of DPDK's EAL for --memory dpdk, such as '--no-huge -m 256' or '--iova-mode=va'
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    pub dpdk_args: Option<String>,

    /// Take ordinary memory so that other processes can be given it: vfio-user devices need it where there are no huge
    /// pages
    #[arg(long)]
    pub shared_memory: bool,

    /// Drive NVMe drives without an IOMMU: a fault of a drive can then overwrite any memory of the machine
    #[arg(long)]
    pub unsafe_no_iommu: bool,

    /// What reactors do when there is nothing to do: poll on, or sleep until something comes
    #[arg(long, value_name = "POLICY", default_value = "adaptive")]
    pub idle: Idle,

    /// Wait for the RPC framework_start_init before making devices
    #[arg(long)]
    pub wait_for_rpc: bool,
}

/// SPDK's names of log levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevelName {
    /// Errors only
    Error,
    /// And warnings
    Warning,
    /// And what is worth knowing
    Notice,
    /// And what is being done
    Info,
    /// And all details
    Debug,
}

/// Where memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MemorySource {
    /// The system
    System,
    /// DPDK (of programs that were built with the feature dpdk)
    Dpdk,
}

/// Whether to take huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HugePages {
    /// Huge pages if there are some
    Try,
    /// Huge pages or nothing
    Require,
    /// Ordinary pages
    Never,
}

/// What to do with nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// Never sleep
    Poll,
    /// Sleep until something comes
    Adaptive,
}

impl From<LogLevelName> for LogLevel {
    fn from(name: LogLevelName) -> LogLevel {
        match name {
            LogLevelName::Error => LogLevel::Error,
            LogLevelName::Warning => LogLevel::Warning,
            LogLevelName::Notice => LogLevel::Notice,
            LogLevelName::Info => LogLevel::Info,
            LogLevelName::Debug => LogLevel::Debug,
        }
    }
}

impl From<HugePages> for memory::HugePages {
    fn from(policy: HugePages) -> memory::HugePages {
        match policy {
            HugePages::Try => memory::HugePages::Try,
            HugePages::Require => memory::HugePages::Require,
            HugePages::Never => memory::HugePages::Never,
        }
    }
}

impl From<Idle> for IdlePolicy {
    fn from(policy: Idle) -> IdlePolicy {
        match policy {
            Idle::Poll => IdlePolicy::Poll,
            Idle::Adaptive => IdlePolicy::Adaptive,
        }
    }
}

impl MemorySource {
    /// Memory from there. DPDK is started: to be called before threads are pinned.
    ///
    /// # Errors
    /// When the options do not go together, or DPDK does not start.
    pub fn open(
        self,
        dpdk_args: Option<&str>,
        huge_pages: memory::HugePages,
    ) -> Result<RegionOptions> {
        let source = match (self, dpdk_args) {
            (MemorySource::System, None) => Source::System,
            (MemorySource::System, Some(_)) => {
                return Err(Error::invalid("--dpdk-args is for --memory dpdk"));
            }
            (MemorySource::Dpdk, arguments) => {
                if huge_pages == memory::HugePages::Never {
                    return Err(Error::invalid(
                        "--huge-pages never: with --memory dpdk, say --dpdk-args=--no-huge",
                    ));
                }
                Source::dpdk(arguments.unwrap_or_default())?
            }
        };
        Ok(RegionOptions { huge_pages, source, ..RegionOptions::default() })
    }
}

impl Options {
    /// What memory is like. DPDK is started if it is asked for.
    ///
    /// # Errors
    /// As [`MemorySource::open`].
    pub fn memory(&self) -> Result<RegionOptions> {
        let memory = self.memory.open(self.dpdk_args.as_deref(), self.huge_pages.into())?;
        Ok(match self.shared_memory {
            true => RegionOptions { sharing: Sharing::Always, ..memory },
            false => memory,
        })
    }

    /// The cores to run on.
    ///
    /// # Errors
    /// When the process may not run on them.
    pub fn cores(&self) -> Result<CoreList> {
        match &self.cpumask {
            Some(cores) => Ok(cores.clone()),
            None => CoreList::first_allowed(),
        }
    }

    /// The socket to serve.
    pub fn socket(&self) -> PathBuf {
        match (&self.rpc_socket, &self.state_dir) {
            (Some(socket), _) => socket.clone(),
            (None, Some(directory)) => directory.join("weft.sock"),
            (None, None) => default_socket(),
        }
    }

    /// The directory for the sockets of virtual machines' disks, as an absolute path: front ends have other working
    /// directories.
    ///
    /// # Errors
    /// When the system does not tell the working directory.
    pub fn vhost_directory(&self) -> Result<PathBuf> {
        let directory = match &self.vhost_dir {
            Some(directory) => directory.clone(),
            None => match self.socket().parent() {
                Some(parent) if parent != Path::new("") => parent.to_owned(),
                _ => PathBuf::from("."),
            },
        };
        std::path::absolute(&directory)
            .map_err(|error| Error::os(format!("find {}", directory.display()), error))
    }

    /// The configuration to load, if there is any.
    ///
    /// # Errors
    /// When the system does not tell whether there is one.
    pub fn config_file(&self) -> Result<Option<PathBuf>> {
        if self.config.is_some() {
            return Ok(self.config.clone());
        }
        let Some(directory) = &self.state_dir else { return Ok(None) };
        let path = directory.join("config.json");
        match std::fs::metadata(&path) {
            Ok(_) => Ok(Some(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::os(format!("look at {}", path.display()), error)),
        }
    }
}
