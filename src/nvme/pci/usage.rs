//! Whether somebody uses a drive: why it should not be taken away, per device.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::drive::{BlockDevice, KernelDrive};
use super::function::{PciFunction, VFIO_DRIVER, nvme_functions};
use super::isolated;
use super::paths::{HostPaths, names, read_text, read_word};
use super::signature::Image;

/// How long a drive may take to answer a look at it before it counts as one that cannot be checked.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// A device on a drive, and who uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// The device: a namespace, a partition, or what stands on one.
    pub device: String,
    /// Why.
    pub reason: Reason,
}

/// How a device is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Mounted there.
    Mounted(String),
    /// Swap space in use.
    Swap,
    /// Another block device stands on it.
    Holder(String),
    /// It is divided into so many partitions.
    Partitions(usize),
    /// It holds this.
    Signature(&'static str),
    /// It holds this, which is Weft's own: told, but no reason to refuse it to Weft.
    Own(String),
    /// Somebody in the kernel has it for himself.
    Claimed,
    /// A process has it open.
    Open {
        /// Number of the process.
        process: u32,
        /// Its name.
        name: String,
    },
    /// It could not be checked.
    Unknown(String),
}

impl InUse {
    /// Whether the drive should be refused for it.
    pub fn refuses(&self) -> bool {
        !matches!(self.reason, Reason::Own(_))
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = &self.device;
        match &self.reason {
            Reason::Mounted(at) => write!(f, "{device} mounted at {at}"),
            Reason::Swap => write!(f, "{device} is swap in use"),
            Reason::Holder(holder) => write!(f, "{device} used by {holder}"),
            Reason::Partitions(count) => {
                write!(f, "{device} has {count} partition{}", if *count == 1 { "" } else { "s" })
            }
            Reason::Signature(what) => write!(f, "{device} holds {what}"),
            Reason::Own(what) => write!(f, "{device} holds {what}"),
            Reason::Claimed => write!(f, "{device} is held exclusively"),
            Reason::Open { process, name } => {
                write!(f, "{device} open in process {process} ({name})")
            }
            Reason::Unknown(why) => write!(f, "{device} cannot be checked: {why}"),
        }
    }
}

/// Tells what of Weft's own stands at the start of a drive. The formats are known further up.
pub type OwnLabel<'a> = &'a dyn Fn(&[u8]) -> Option<String>;

/// All uses of the drive on `function`. Nothing is changed by looking.
pub fn uses(paths: &HostPaths, function: &PciFunction, own: OwnLabel<'_>) -> Vec<InUse> {
    let mut found = Found::new(paths);
    if let Some(drive) = KernelDrive::read(paths, function) {
        for block in &drive.blocks {
            found.block_tree(&block.name);
            found.contents(block, own);
        }
        let devices = found.seen.iter().chain(&drive.characters);
        let devices: Vec<String> = devices.cloned().collect();
        found.processes(&devices);
    }
    found.vfio_users(function);
    found.uses
}

struct Found<'a> {
    paths: &'a HostPaths,
    mounts: Vec<Mount>,
    swaps: Vec<String>,
    seen: BTreeSet<String>,
    uses: Vec<InUse>,
}

struct Mount {
    number: String,
    point: String,
    source: String,
}

impl Found<'_> {
    fn new(paths: &HostPaths) -> Found<'_> {
        let text = |path: &str| fs::read_to_string(paths.proc.join(path)).unwrap_or_default();
        Found {
            paths,
            mounts: text("self/mountinfo").lines().filter_map(parse_mount).collect(),
            // The first line is a heading.
            swaps: text("swaps").lines().skip(1).filter_map(parse_swap).collect(),
            seen: BTreeSet::new(),
            uses: Vec::new(),
        }
    }

    fn add(&mut self, device: &str, reason: Reason) {
        self.uses.push(InUse { device: device.into(), reason });
    }

    /// The device, its partitions, and whatever stands on either.
    fn block_tree(&mut self, name: &str) {
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        let folder = self.paths.block(name);
        let number = read_text(&folder.join("dev"));
        let path = format!("/dev/{name}");
        let mounted: Vec<String> = self
            .mounts
            .iter()
            // File systems on several devices have a number of their own: they are known by the source.
            .filter(|mount| Some(&mount.number) == number.as_ref() || mount.source == path)
            .map(|mount| mount.point.clone())
            .collect();
        for point in mounted {
            self.add(name, Reason::Mounted(point));
        }
        if self.swaps.contains(&path) {
            self.add(name, Reason::Swap);
        }
        let partitions: Vec<String> = names(&folder)
            .into_iter()
            .filter(|entry| folder.join(entry).join("partition").exists())
            .collect();
        if !partitions.is_empty() {
            self.add(name, Reason::Partitions(partitions.len()));
        }
        for partition in partitions {
            self.block_tree(&partition);
        }
        for holder in names(&folder.join("holders")) {
            let shown = match read_word(&self.paths.block(&holder).join("dm/name")) {
                Some(mapped) => format!("{holder} ({mapped})"),
                None => holder.clone(),
            };
            self.add(name, Reason::Holder(shown));
            self.block_tree(&holder);
        }
    }

    /// What is on a namespace, and whether anybody in the kernel has it.
    fn contents(&mut self, block: &BlockDevice, own: OwnLabel<'_>) {
        let path = self.paths.dev.join(&block.name);
        match isolated::try_open(&path, true, LOOK_TIMEOUT) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                // Often the reason is already there: then this says nothing new.
                if self.uses.is_empty() {
                    self.add(&block.name, Reason::Claimed);
                }
            }
            // The device node is not made at once, or not at all in a container.
            Err(error) => {
                let why = look_error(&error, &path);
                return self.add(&block.name, Reason::Unknown(why));
            }
        }
        match Image::read(&path, block.bytes, LOOK_TIMEOUT) {
            Ok(image) => {
                for what in image.signatures() {
                    self.add(&block.name, Reason::Signature(what));
                }
                if let Some(what) = own(&image.head) {
                    self.add(&block.name, Reason::Own(what));
                }
            }
            Err(error) => {
                let why = look_error(&error, &path);
                self.add(&block.name, Reason::Unknown(why));
            }
        }
    }

    /// Processes that have one of these devices open.
    fn processes(&mut self, devices: &[String]) {
        let paths: Vec<String> = devices.iter().map(|device| format!("/dev/{device}")).collect();
        for (process, path) in open_files(self.paths, &paths) {
            let device = path.trim_start_matches("/dev/").to_owned();
            let name = process_name(self.paths, process);
            self.add(&device, Reason::Open { process, name });
        }
    }

    /// Processes that have the function's IOMMU group open, and so maybe the function: a driver does not let go of it
    /// before they do.
    fn vfio_users(&mut self, function: &PciFunction) {
        let Some(group) = &function.iommu_group else { return };
        for (process, path) in open_files(self.paths, &group_devices(group)) {
            let name = process_name(self.paths, process);
            self.add(&path, Reason::Open { process, name });
        }
    }
}

fn look_error(error: &io::Error, path: &Path) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => format!("it has not answered in {} s", LOOK_TIMEOUT.as_secs()),
        _ => format!("{}: {error}", path.display()),
    }
}

/// The functions that this process drives: those that VFIO has, in a group that is open here.
pub fn driven_by_us(paths: &HostPaths) -> Vec<PciFunction> {
    let open = links(&paths.proc.join("self/fd"));
    let is_open = |function: &PciFunction| {
        function
            .iommu_group
            .as_ref()
            .is_some_and(|group| group_devices(group).iter().any(|device| open.contains(device)))
    };
    nvme_functions(paths)
        .into_iter()
        .filter(|function| function.driver.as_deref() == Some(VFIO_DRIVER))
        .filter(is_open)
        .collect()
}

/// The files by which a group is opened, with and without an IOMMU.
fn group_devices(group: &str) -> [String; 2] {
    [format!("/dev/vfio/{group}"), format!("/dev/vfio/noiommu-{group}")]
}

/// Where the links in a folder lead.
fn links(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok())
        .collect()
}

/// Which processes have which of `paths` open. Those of other users show only to root.
fn open_files(host: &HostPaths, paths: &[String]) -> BTreeSet<(u32, String)> {
    let own = std::process::id();
    let mut open = BTreeSet::new();
    for name in names(&host.proc) {
        let Ok(process) = name.parse::<u32>() else { continue };
        if process == own {
            continue;
        }
        let targets = links(&host.proc.join(&name).join("fd"));
        let matching = targets.into_iter().filter(|target| paths.contains(target));
        open.extend(matching.map(|target| (process, target)));
    }
    open
}

fn process_name(host: &HostPaths, process: u32) -> String {
    read_word(&host.proc.join(format!("{process}/comm"))).unwrap_or_else(|| "?".into())
}

/// A line of mountinfo: id, parent, device number, root, mount point, options, optional fields up to a lone
/// hyphen, type, source (proc_pid_mountinfo(5)).
fn parse_mount(line: &str) -> Option<Mount> {
    let (fixed, rest) = line.split_once(" - ")?;
    let mut fixed = fixed.split(' ').skip(2);
    let (number, point) = (fixed.next()?.to_owned(), unescape(fixed.nth(1)?));
    Some(Mount { number, point, source: unescape(rest.split(' ').nth(1)?) })
}

fn parse_swap(line: &str) -> Option<String> {
    line.split_ascii_whitespace().next().map(unescape)
}

/// Blanks and backslashes stand as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) if first == b'\\' => {
                let value =
                    digits.iter().fold(0_u16, |value, digit| value * 8 + u16::from(digit - b'0'));
                bytes.push(value as u8);
                rest = &after[3..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
