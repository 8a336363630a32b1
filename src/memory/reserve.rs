//! The system's reserve of huge pages: how many there are, how many are free, and making it larger.

use std::fs;
use std::path::{Path, PathBuf};

use super::page::HUGE_PAGE_SIZE;
use crate::base::{ByteCount, Error, ErrorKind, Result};

/// The huge pages of one NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeReserve {
    /// The node.
    pub node: u32,
    /// How many pages of [`HUGE_PAGE_SIZE`] are reserved.
    pub total: u64,
    /// How many of them nobody has.
    pub free: u64,
}

/// The reserve of each NUMA node; `sys` is where sysfs is mounted. A machine that does not tell its nodes has
/// one.
pub fn reserves(sys: &Path) -> Vec<NodeReserve> {
    let of = |(node, folder): (u32, PathBuf)| {
        let number = |name: &str| read(&folder.join(name));
        Some(NodeReserve { node, total: number("nr_hugepages")?, free: number("free_hugepages")? })
    };
    folders(sys).into_iter().filter_map(of).collect()
}

/// Sees to it that the reserve has at least `bytes` on `node`, or without one, on all nodes together in equal parts. Asking
/// twice is asking once, and nothing is ever taken away. Gives how many pages were added.
///
/// # Errors
/// When the system refuses, when there is no such node, and `NoMemory` when there is not enough memory in whole
/// pieces of that size.
pub fn reserve(sys: &Path, bytes: ByteCount, node: Option<u32>) -> Result<u64> {
    let folders: Vec<(u32, PathBuf)> = folders(sys)
        .into_iter()
        .filter(|(number, _)| node.is_none_or(|node| node == *number))
        .collect();
    if folders.is_empty() {
        let text = match node {
            Some(node) => format!("there is no NUMA node {node} that has huge pages"),
            None => "this kernel has no huge pages of 2 MiB".into(),
        };
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    let pages = bytes.0.div_ceil(HUGE_PAGE_SIZE as u64).div_ceil(folders.len() as u64);
    let mut added = 0;
    for (number, folder) in folders {
        added += reserve_on(&folder, number, pages)?;
    }
    Ok(added)
}

fn reserve_on(folder: &Path, node: u32, pages: u64) -> Result<u64> {
    let path = folder.join("nr_hugepages");
    let Some(total) = read(&path) else {
        let text = format!("cannot read the huge pages of NUMA node {node} in {}", path.display());
        return Err(Error::new(ErrorKind::Io, text));
    };
    let missing = pages.saturating_sub(total);
    if missing == 0 {
        return Ok(0);
    }
    fs::write(&path, pages.to_string()).map_err(|error| {
        let text = format!(
            "cannot reserve {missing} more huge pages on NUMA node {node}: write to {} (it takes root)",
            path.display()
        );
        Error::os(text, error)
    })?;
    // The kernel reserves as many as it finds, and does not call it an error when those are fewer.
    let now = read(&path).unwrap_or(total);
    if now < pages {
        let text = format!(
            "NUMA node {node} got {} of {missing} more huge pages: its memory is full or in pieces; reserve them earlier, \
             or at boot (hugepages=… on the kernel's command line)",
            now.saturating_sub(total)
        );
        return Err(Error::new(ErrorKind::NoMemory, text));
    }
    Ok(missing)
}

/// The folder with the numbers of each node.
fn folders(sys: &Path) -> Vec<(u32, PathBuf)> {
    let size = format!("hugepages-{}kB", HUGE_PAGE_SIZE >> 10);
    let entries = fs::read_dir(sys.join("devices/system/node")).into_iter().flatten().flatten();
    let mut nodes: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            Some((number, entry.path().join("hugepages").join(&size)))
        })
        .filter(|(_, folder)| folder.is_dir())
        .collect();
    nodes.sort();
    if nodes.is_empty() {
        let all = sys.join("kernel/mm/hugepages").join(&size);
        nodes.extend(all.is_dir().then_some((0, all)));
    }
    nodes
}

fn read(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(nodes: &[(u32, u64, u64)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        for (node, total, free) in nodes {
            let folder = sys
                .path()
                .join(format!("devices/system/node/node{node}/hugepages/hugepages-2048kB"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("nr_hugepages"), format!("{total}\n")).unwrap();
            fs::write(folder.join("free_hugepages"), format!("{free}\n")).unwrap();
        }
        sys
    }

    fn totals(sys: &Path) -> Vec<u64> {
        reserves(sys).iter().map(|reserve| reserve.total).collect()
    }

    #[test]
    fn what_is_missing_is_added_to_each_node() {
        let sys = machine(&[(0, 10, 4), (1, 0, 0)]);
        assert_eq!(reserve(sys.path(), ByteCount(24 << 20), None).unwrap(), 6);
        assert_eq!(totals(sys.path()), [10, 6]);
        assert_eq!(reserve(sys.path(), ByteCount(24 << 20), None).unwrap(), 0);
        assert_eq!(reserve(sys.path(), ByteCount(24 << 20), Some(0)).unwrap(), 2);
        assert_eq!(totals(sys.path()), [12, 6]);
    }

    #[test]
    fn a_node_that_is_not_there_is_an_error() {
        let sys = machine(&[(0, 0, 0)]);
        assert!(
            reserve(sys.path(), ByteCount(1), Some(3)).unwrap_err().to_string().contains("node 3")
        );
        let none = tempfile::tempdir().unwrap();
        assert!(reserves(none.path()).is_empty());
        assert!(reserve(none.path(), ByteCount(1), None).is_err());
    }
}
