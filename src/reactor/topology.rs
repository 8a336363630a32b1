//! What lies near what: NUMA nodes and caches of cores, read from sysfs.
//!
//! All that the rest asks of the machine's topology goes through [`Topology`], so that another source
//! (hwloc) can take the place of sysfs. A machine that does not tell (containers hide parts of sysfs) is
//! taken for one node without shared caches; nothing fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::cores::parse_list;

/// Where a core is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Core {
    /// The system's number of it.
    pub id: usize,
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// Processor package (socket).
    pub package: Option<u32>,
    /// Cores that run on the same physical core (hyper-threads), this one included.
    pub siblings: Vec<usize>,
    /// Cores that share the last level of cache with it, this one included.
    pub cache_sharers: Vec<usize>,
    /// Size of that cache, in bytes.
    pub cache_bytes: Option<u64>,
}

/// The machine's cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    cores: BTreeMap<usize, Core>,
}

impl Topology {
    /// Reads this machine's.
    pub fn read() -> Topology {
        Topology::read_from(Path::new("/sys/devices/system"))
    }

    fn read_from(system: &Path) -> Topology {
        let online = read_list(&system.join("cpu/online")).unwrap_or_default();
        let mut cores: BTreeMap<usize, Core> =
            online.into_iter().map(|id| (id, read_core(system, id))).collect();
        for (number, path) in numbered(&system.join("node"), "node") {
            for id in read_list(&path.join("cpulist")).unwrap_or_default() {
                if let Some(core) = cores.get_mut(&id) {
                    core.numa_node = Some(number);
                }
            }
        }
        Topology { cores }
    }

    /// All cores that are online, by number.
    pub fn cores(&self) -> impl Iterator<Item = &Core> {
        self.cores.values()
    }

    /// One core.
    pub fn core(&self, id: usize) -> Option<&Core> {
        self.cores.get(&id)
    }

    /// The NUMA node of a core.
    pub fn numa_node(&self, core: usize) -> Option<u32> {
        self.core(core)?.numa_node
    }

    /// Whether two cores share a last-level cache: the difference between a message that costs some
    /// tens of nanoseconds and one that costs hundreds.
    pub fn share_cache(&self, a: usize, b: usize) -> bool {
        self.core(a).is_some_and(|core| core.cache_sharers.contains(&b))
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

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_machine_of_two_nodes_is_read() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "cpu/online", "0-3\n");
        for core in 0..4 {
            let node = core / 2;
            let path = format!("cpu/cpu{core}");
            let pair = if node == 0 { "0-1\n" } else { "2-3\n" };
            write(root, &format!("{path}/topology/physical_package_id"), &format!("{node}\n"));
            write(root, &format!("{path}/topology/thread_siblings_list"), &format!("{core}\n"));
            write(root, &format!("{path}/cache/index0/level"), "1\n");
            write(root, &format!("{path}/cache/index0/type"), "Data\n");
            write(root, &format!("{path}/cache/index3/level"), "3\n");
            write(root, &format!("{path}/cache/index3/type"), "Unified\n");
            write(root, &format!("{path}/cache/index3/shared_cpu_list"), pair);
            write(root, &format!("{path}/cache/index3/size"), "32768K\n");
            write(root, &format!("node/node{node}/cpulist"), pair);
        }
        let topology = Topology::read_from(root);
        assert_eq!(
            topology.core(2),
            Some(&Core {
                id: 2,
                numa_node: Some(1),
                package: Some(1),
                siblings: vec![2],
                cache_sharers: vec![2, 3],
                cache_bytes: Some(32 << 20),
            })
        );
        assert!(topology.share_cache(0, 1));
        assert!(!topology.share_cache(1, 2));
        assert_eq!(topology.numa_node(1), Some(0));
        assert_eq!(topology.cores().count(), 4);
    }

    #[test]
    fn a_machine_that_tells_nothing_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Topology::read_from(root.path()), Topology::default());
        write(root.path(), "cpu/online", "0\n");
        let topology = Topology::read_from(root.path());
        assert_eq!(topology.numa_node(0), None);
        assert_eq!(topology.core(0).unwrap().cache_sharers, [0]);
        assert!(!topology.share_cache(0, 1));
    }
}
