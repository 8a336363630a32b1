//! What hwloc tells (feature `hwloc`). It knows machines whose firmware is wrong, and takes other sources than the running system:
//! `HWLOC_XMLFILE` and `HWLOC_SYNTHETIC` in the environment stand for another machine.

use std::collections::BTreeMap;

use hwlocality::Topology;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::distance::DistancesKind;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::{BuildFlags, TopologyBuilder, TypeFilter};

use super::machine::{Core, Locality, Machine};
use crate::base::{Error, ErrorKind, Result};

/// Reads the machine's topology.
pub(super) fn read() -> Result<Machine> {
    load(Topology::builder())
}

fn load(builder: TopologyBuilder) -> Result<Machine> {
    let fault = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Io, format!("hwloc does not tell the machine's topology: {error}"))
    };
    let topology = builder
        // Cores that this process may not use are still near or far.
        .with_flags(BuildFlags::INCLUDE_DISALLOWED)
        .map_err(|error| fault(&error))?
        // Drives that no kernel driver is bound to are of no importance to hwloc by default.
        .with_type_filter(ObjectType::PCIDevice, TypeFilter::KeepAll)
        .map_err(|error| fault(&error))?
        .build()
        .map_err(|error| fault(&error))?;
    Ok(Machine {
        cores: cores(&topology),
        nodes: nodes(&topology),
        functions: functions(&topology),
    })
}

fn cores(topology: &Topology) -> BTreeMap<usize, Core> {
    let units = topology.objects_with_type(ObjectType::PU);
    units.filter_map(|unit| Some((unit.os_index()?, core(unit)?))).collect()
}

fn core(unit: &TopologyObject) -> Option<Core> {
    let id = unit.os_index()?;
    let ancestor =
        |kind| unit.ancestors().find(|object: &&TopologyObject| object.object_type() == kind);
    // The outermost that holds data.
    let last_cache =
        unit.ancestors().filter(|object| object.object_type().is_cpu_data_cache()).last();
    let cache_bytes = last_cache.and_then(|cache| match cache.attributes() {
        Some(ObjectAttributes::Cache(attributes)) => attributes.size().map(|size| size.get()),
        _ => None,
    });
    Some(Core {
        id,
        // Of several kinds of memory at the same place, the ordinary one has the lowest number.
        numa_node: node_numbers(unit).first().copied(),
        package: ancestor(ObjectType::Package)
            .and_then(TopologyObject::os_index)
            .and_then(|index| index.try_into().ok()),
        siblings: ancestor(ObjectType::Core).map_or_else(|| vec![id], core_numbers),
        cache_sharers: last_cache.map_or_else(|| vec![id], core_numbers),
        cache_bytes,
    })
}

fn core_numbers(object: &TopologyObject) -> Vec<usize> {
    object.cpuset().map(|set| set.iter_set().map(usize::from).collect()).unwrap_or_default()
}

fn node_numbers(object: &TopologyObject) -> Vec<u32> {
    let numbers = |index| u32::try_from(usize::from(index)).ok();
    object.nodeset().map(|set| set.iter_set().filter_map(numbers).collect()).unwrap_or_default()
}

fn nodes(topology: &Topology) -> BTreeMap<u32, BTreeMap<u32, u32>> {
    let number = |object: &TopologyObject| u32::try_from(object.os_index()?).ok();
    let mut nodes: BTreeMap<u32, BTreeMap<u32, u32>> = topology
        .objects_with_type(ObjectType::NUMANode)
        .filter_map(|node| Some((number(node)?, BTreeMap::new())))
        .collect();
    let kind = DistancesKind::FROM_OS | DistancesKind::MEANS_LATENCY;
    for matrix in topology.distances(Some(kind)).unwrap_or_default() {
        for ((from, to), distance) in matrix.object_distances() {
            if let (Some(from), Some(to)) = (from, to)
                && [from, to].iter().all(|end| end.object_type() == ObjectType::NUMANode)
                && let (Some(from), Some(to)) = (number(from), number(to))
                && let Ok(distance) = u32::try_from(distance)
                && let Some(row) = nodes.get_mut(&from)
            {
                row.insert(to, distance);
            }
        }
    }
    nodes
}

fn functions(topology: &Topology) -> BTreeMap<String, Locality> {
    topology
        .objects_with_type(ObjectType::PCIDevice)
        .filter_map(|object| {
            let Some(ObjectAttributes::PCIDevice(at)) = object.attributes() else { return None };
            let address = format!(
                "{:04x}:{:02x}:{:02x}.{:x}",
                at.domain(),
                at.bus_id(),
                at.bus_device(),
                at.function()
            );
            let place = object.first_non_io_ancestor()?;
            // Below the whole machine hangs what hwloc knows no better place for.
            let numa_node = match node_numbers(place)[..] {
                [node] => Some(node),
                _ => None,
            };
            Some((address, Locality { numa_node, cores: core_numbers(place) }))
        })
        .collect()
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use super::*;

    fn synthetic(description: &str) -> Machine {
        load(Topology::builder().from_synthetic(description).unwrap()).unwrap()
    }

    #[test]
    fn a_synthetic_machine_of_two_packages_is_read() {
        let machine = synthetic("pack:2 numa:2 l3:1(size=8388608) core:2 pu:2");
        assert_eq!(machine.cores.len(), 16);
        assert_eq!(
            machine.cores[&13],
            Core {
                id: 13,
                numa_node: Some(3),
                package: Some(1),
                siblings: vec![12, 13],
                cache_sharers: vec![12, 13, 14, 15],
                cache_bytes: Some(8 << 20),
            }
        );
        assert_eq!(machine.nodes.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(machine.nodes.values().all(BTreeMap::is_empty), "it has no distances");
    }

    #[test]
    fn a_machine_without_caches_is_read() {
        let machine = synthetic("numa:2 core:1 pu:1");
        let core = &machine.cores[&1];
        assert_eq!((core.numa_node, core.package), (Some(1), None));
        assert_eq!((&core.siblings[..], &core.cache_sharers[..]), (&[1][..], &[1][..]));
        assert_eq!(core.cache_bytes, None);
    }

    #[test]
    fn distances_and_pci_functions_are_read() {
        let xml = include_str!("two_nodes.xml");
        let machine = load(Topology::builder().from_xml(xml).unwrap()).unwrap();
        assert_eq!(machine.nodes[&0], BTreeMap::from([(0, 10), (1, 21)]));
        assert_eq!(machine.nodes[&1], BTreeMap::from([(0, 22), (1, 10)]));
        let near = |address: &str| machine.functions[address].clone();
        let second = Locality { numa_node: Some(1), cores: vec![2, 3] };
        assert_eq!(near("0000:81:00.0"), second);
        assert_eq!(near("0001:02:1f.7"), second);
        let anywhere = Locality { numa_node: None, cores: vec![0, 1, 2, 3] };
        assert_eq!(near("0000:00:04.0"), anywhere);
        assert_eq!(machine.functions.len(), 3);
    }

    #[test]
    fn this_machine_is_read_as_sysfs_reads_it() {
        let machine = read().unwrap();
        let sysfs = super::super::sysfs::Sysfs::system().read();
        if std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("HWLOC_")) {
            println!("skipped: the environment names another machine");
            return;
        }
        let places = |machine: &Machine| -> Vec<(usize, Option<u32>)> {
            machine.cores.values().map(|core| (core.id, core.numa_node)).collect()
        };
        assert!(!machine.cores.is_empty());
        if sysfs.nodes.is_empty() {
            println!("skipped: this machine does not tell of its nodes");
        } else {
            assert_eq!(places(&machine), places(&sysfs));
        }
    }
}
