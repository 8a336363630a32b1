//! What sysfs tells. A machine that does not tell (containers hide parts of it) is taken for one node without
//! shared caches; nothing fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::machine::{Core, Locality, Machine};
use crate::reactor::cores::parse_list;

/// A file system of the kernel's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sysfs(PathBuf);

impl Sysfs {
    /// This machine's.
    pub(super) fn system() -> Sysfs {
        Sysfs::at(Path::new("/sys"))
    }

    pub(super) fn at(root: &Path) -> Sysfs {
        Sysfs(root.to_owned())
    }

    /// Reads all cores and nodes.
    pub(super) fn read(&self) -> Machine {
        let system = self.0.join("devices/system");
        let online = read_list(&system.join("cpu/online")).unwrap_or_default();
        let mut cores: BTreeMap<usize, Core> =
            online.into_iter().map(|id| (id, read_core(&system, id))).collect();
        let mut nodes = BTreeMap::new();
        let folders = numbered(&system.join("node"), "node");
        // A row of distances has the nodes that are online, in order, and no numbers of theirs.
        let numbers: Vec<u32> = match read_list(&system.join("node/online")) {
            Some(online) => online.into_iter().filter_map(|id| id.try_into().ok()).collect(),
            None => folders.iter().map(|(number, _)| *number).collect(),
        };
        for (number, path) in folders {
            for id in read_list(&path.join("cpulist")).unwrap_or_default() {
                if let Some(core) = cores.get_mut(&id) {
                    core.numa_node = Some(number);
                }
            }
            let row = read_text(&path.join("distance")).unwrap_or_default();
            let distances: Vec<Option<u32>> =
                row.split_whitespace().map(|distance| distance.parse().ok()).collect();
            let known = distances.len() == numbers.len();
            let pairs = numbers.iter().zip(distances).filter(|_| known);
            nodes.insert(number, pairs.filter_map(|(&to, far)| Some((to, far?))).collect());
        }
        Machine { cores, nodes, functions: BTreeMap::new() }
    }

    /// What is near the PCI function at `address`, as far as is told.
    pub(super) fn near_pci(&self, address: &str) -> Option<Locality> {
        // An address is no path.
        let digits = |byte: u8| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.';
        if !address.bytes().all(digits) || address.contains("..") || !address.contains(':') {
            return None;
        }
        let folder = self.0.join("bus/pci/devices").join(address);
        // The kernel writes -1 for none.
        let numa_node = read_number(&folder.join("numa_node"));
        let cores = read_list(&folder.join("local_cpulist"))?;
        Some(Locality { numa_node, cores })
    }
}

fn read_core(system: &Path, id: usize) -> Core {
    let path = system.join(format!("cpu/cpu{id}"));
    let last_cache = numbered(&path.join("cache"), "index")
        .into_iter()
        .filter(|(_, cache)| {
            read_text(&cache.join("type")).is_none_or(|kind| kind != "Instruction")
        })
        .max_by_key(|(_, cache)| read_number(&cache.join("level")).unwrap_or(0));
    let (cache_sharers, cache_bytes) = match &last_cache {
        Some((_, cache)) => (
            read_list(&cache.join("shared_cpu_list")).unwrap_or_else(|| vec![id]),
            read_text(&cache.join("size"))
                .and_then(|size| crate::base::parse_size(&size).ok())
                .map(|size| size.0),
        ),
        None => (vec![id], None),
    };
    Core {
        id,
        numa_node: None,
        package: read_number(&path.join("topology/physical_package_id")),
        siblings: read_list(&path.join("topology/thread_siblings_list"))
            .unwrap_or_else(|| vec![id]),
        cache_sharers,
        cache_bytes,
    }
}

fn read_text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn read_number(path: &Path) -> Option<u32> {
    read_text(path)?.parse().ok()
}

/// A list of numbers and ranges, as sysfs writes sets of cores.
fn read_list(path: &Path) -> Option<Vec<usize>> {
    parse_list(&read_text(path)?)
}

/// The entries of a folder that are `name` followed by a number.
fn numbered(folder: &Path, name: &str) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(name)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect()
}
