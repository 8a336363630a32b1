//! DPDK as a source of memory (feature `dpdk`).

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use serde_json::json;

use crate::base::{Error, ErrorKind, Result};
use crate::memory::dpdk::Environment;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::NoParams;
use crate::rpc::services::Services;

methods! {
    /// Writes what DPDK holds of memory to a file: its segments, heaps and zones.
    Runtime fn env_dpdk_get_mem_stats(NoParams) -> "an object with `filename`, the file's path.";
}

async fn env_dpdk_get_mem_stats(_services: Rc<Services>, _params: NoParams) -> Outcome {
    let environment = Environment::running().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "DPDK does not run here (weftd --memory dpdk starts it)")
    })?;
    let path = std::env::temp_dir().join(format!("weft_dpdk_memory_{}.txt", std::process::id()));
    replace(&path, &environment.memory_report()?)?;
    Ok(json!({ "filename": path.display().to_string() }))
}

/// Writes a file anew, in a folder where others may write: never through a link that somebody put there.
fn replace(path: &Path, text: &str) -> Result<()> {
    let fault = |error| Error::os(format!("write {}", path.display()), error);
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault(error)),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
    file.write_all(text.as_bytes()).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_way_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, path) = (folder.path().join("victim"), folder.path().join("report"));
        fs::write(&victim, "keep").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        replace(&path, "one").unwrap();
        replace(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "keep");
        assert!(replace(&folder.path().join("no/folder"), "").is_err());
    }
}
