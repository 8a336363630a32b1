//! What lies near what: NUMA nodes and caches of cores, and what is near a PCI function.
//!
//! All that the rest asks of the machine's topology goes through [`Topology`]. It has two sources that tell the same:
//! hwloc, where that feature is built in and works, and sysfs. A machine that does not tell (containers hide parts of
//! sysfs) is taken for one node without shared caches; nothing fails.

#[cfg(feature = "hwloc")]
mod hwloc;
mod machine;
mod sysfs;

use machine::Machine;
pub use machine::{Core, Locality};
use sysfs::Sysfs;

/// The machine's cores and NUMA nodes, and their distances from each other and from devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    machine: Machine,
    /// For devices that came since.
    sysfs: Sysfs,
}

impl Topology {
    /// Reads this machine's. To be called before the thread is pinned: hwloc may look at cores by moving
    /// onto them.
    pub fn read() -> Topology {
        let sysfs = Sysfs::system();
        #[cfg(feature = "hwloc")]
        match hwloc::read() {
            Ok(machine) => return Topology { machine, sysfs },
            Err(error) => tracing::warn!(%error, "the topology is read from sysfs"),
        }
        Topology { machine: sysfs.read(), sysfs }
    }

    /// All cores that are online, by number.
    pub fn cores(&self) -> impl Iterator<Item = &Core> {
        self.machine.cores.values()
    }

    /// One core.
    pub fn core(&self, id: usize) -> Option<&Core> {
        self.machine.cores.get(&id)
    }

    /// The NUMA node of a core.
    pub fn numa_node(&self, core: usize) -> Option<u32> {
        self.core(core)?.numa_node
    }

    /// The NUMA nodes, in order; those of memory alone are among them. None on a machine that does not tell.
    pub fn nodes(&self) -> Vec<u32> {
        self.machine.nodes.keys().copied().collect()
    }

    /// Whether two cores share a last-level cache: the difference between a message that costs some
    /// tens of nanoseconds and one that costs hundreds.
    pub fn share_cache(&self, a: usize, b: usize) -> bool {
        self.core(a).is_some_and(|core| core.cache_sharers.contains(&b))
    }

    /// How far memory of NUMA node `node` is from a core, as firmware has it: 10 is the core's own node, 20 is twice as far.
    /// `None` where the machine does not tell.
    pub fn distance(&self, core: usize, node: u32) -> Option<u32> {
        self.machine.nodes.get(&self.numa_node(core)?)?.get(&node).copied()
    }

    /// What is near the PCI function at `address`, such as `0000:3b:00.0`: the NUMA node and cores that its memory
    /// accesses reach first.
    pub fn near_pci(&self, address: &str) -> Locality {
        let address = address.to_ascii_lowercase();
        let known = self.machine.functions.get(&address).cloned();
        let mut near = known.or_else(|| self.sysfs.near_pci(&address)).unwrap_or_default();
        if near.cores.is_empty() {
            let on_node =
                |core: &&Core| near.numa_node.is_none() || core.numa_node == near.numa_node;
            near.cores = self.cores().filter(on_node).map(|core| core.id).collect();
        }
        near
    }

    /// Which of `cores` is the best for work with a device: one that is near it, else the one whose node is the least
    /// far from it; the first of equals.
    pub fn nearest(&self, cores: &[usize], device: &Locality) -> Option<usize> {
        cores.iter().copied().min_by_key(|core| {
            let far = device.numa_node.and_then(|node| self.distance(*core, node));
            (!device.cores.contains(core), far.unwrap_or(u32::MAX))
        })
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn read_from(root: &Path) -> Topology {
        let sysfs = Sysfs::at(root);
        Topology { machine: sysfs.read(), sysfs }
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_machine_of_two_nodes_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let root = &directory.path().join("devices/system");
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
        write(root, "node/online", "0-1,4\n");
        write(root, "node/node0/distance", "10 21 17\n");
        write(root, "node/node1/distance", "21 10 28\n");
        // Memory alone.
        write(root, "node/node4/cpulist", "\n");
        write(root, "node/node4/distance", "17 28\n");
        let pci = &directory.path().join("bus/pci/devices");
        write(pci, "0000:3b:00.0/numa_node", "1\n");
        write(pci, "0000:3b:00.0/local_cpulist", "2-3\n");
        write(pci, "10000:01:00.0/numa_node", "-1\n");
        write(pci, "10000:01:00.0/local_cpulist", "0-3\n");
        let topology = read_from(directory.path());
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

        assert_eq!(topology.nodes(), [0, 1, 4]);
        assert_eq!(
            [0, 1, 4].map(|node| topology.distance(3, node)),
            [Some(21), Some(10), Some(28)]
        );
        assert_eq!(topology.distance(0, 4), Some(17));
        assert_eq!(topology.distance(0, 2), None);
        assert_eq!(topology.distance(9, 0), None);

        let drive = topology.near_pci("0000:3B:00.0");
        assert_eq!(drive, Locality { numa_node: Some(1), cores: vec![2, 3] });
        let anywhere = Locality { numa_node: None, cores: vec![0, 1, 2, 3] };
        for address in ["10000:01:00.0", "0000:99:00.0", "0000:3b:00.0/", "../0000:3b:00.0", ""] {
            assert_eq!(topology.near_pci(address), anywhere, "{address}");
        }

        assert_eq!(topology.nearest(&[0, 1, 3, 2], &drive), Some(3));
        assert_eq!(topology.nearest(&[1, 0], &drive), Some(1));
        assert_eq!(topology.nearest(&[], &drive), None);
        let memory = Locality { numa_node: Some(4), cores: vec![] };
        assert_eq!(topology.nearest(&[2, 3, 1], &memory), Some(1));
    }

    #[test]
    fn rows_of_distances_that_do_not_fit_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let root = &directory.path().join("devices/system");
        write(root, "cpu/online", "0\n");
        write(root, "node/node0/cpulist", "0\n");
        write(root, "node/online", "0-1\n");
        write(root, "node/node0/distance", "10\n");
        assert_eq!(read_from(directory.path()).distance(0, 0), None);
        write(root, "node/node0/distance", "10 far\n");
        let topology = read_from(directory.path());
        assert_eq!((topology.distance(0, 0), topology.distance(0, 1)), (Some(10), None));
    }

    #[test]
    fn a_machine_that_tells_nothing_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read_from(root.path()).machine, Machine::default());
        assert_eq!(read_from(root.path()).near_pci("0000:00:04.0"), Locality::default());
        write(root.path(), "devices/system/cpu/online", "0\n");
        let topology = read_from(root.path());
        assert_eq!(topology.numa_node(0), None);
        assert_eq!(topology.distance(0, 0), None);
        assert_eq!(topology.core(0).unwrap().cache_sharers, [0]);
        assert!(!topology.share_cache(0, 1));
    }
}
