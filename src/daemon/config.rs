//! The configuration file: RPC calls by subsystem, in the form of SPDK's `save_config`.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::base::{Error, ErrorKind, Result};
use crate::rpc::{self, Method, RpcError, Services};

#[derive(Deserialize)]
struct File {
    subsystems: Vec<Subsystem>,
}

#[derive(Deserialize)]
struct Subsystem {
    subsystem: String,
    /// Calls, or arrays of those that were made as a batch; SPDK writes null for none.
    #[serde(default)]
    config: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    method: String,
    #[serde(default)]
    params: Value,
}

/// Subsystems that serve devices to others. Each begins when all devices are there: one that is assembled from what
/// is found on drives may appear only after the last call for devices.
const FRONT_ENDS: &[&str] = &["vhost_blk"];

/// How often, and after what pause each time, a call that finds something busy is made again: 10 s in all.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

struct Entry {
    front_end: bool,
    /// Where it stands, for messages.
    place: String,
    method: &'static Method,
    params: Value,
}

/// A configuration that was read and whose methods are known.
#[derive(Default)]
pub(super) struct Config {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is no configuration, or names a method that there is not.
    pub(super) fn read(path: &Path) -> Result<Config> {
        let fault = |error| Error::os(format!("read the configuration {}", path.display()), error);
        let text = std::fs::read(path).map_err(fault)?;
        Config::parse(path, &text)
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Config> {
        let shown = path.display();
        let file: File = serde_json::from_slice(text).map_err(|error| {
            Error::invalid(format!(
                "the configuration {shown} does not have the form \
                 {{\"subsystems\": [{{\"subsystem\": …, \"config\": [{{\"method\": …, \"params\": …}}]}}]}}"
            ))
            .because(error)
        })?;
        let mut entries = Vec::new();
        for Subsystem { subsystem, config } in file.subsystems {
            let calls = config.into_iter().flatten().flat_map(|element| match element {
                Value::Array(calls) => calls,
                call => vec![call],
            });
            for (index, call) in calls.enumerate() {
                let place = format!("subsystem '{subsystem}', entry {}", index + 1);
                let Call { method: name, params } = Call::deserialize(call).map_err(|error| {
                    Error::invalid(format!("the configuration {shown}, {place}")).because(error)
                })?;
                let place = format!("{place} ({name})");
                let Some(method) = rpc::methods::find(&name) else {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("the configuration {shown}, {place}: there is no such method"),
                    ));
                };
                let front_end = FRONT_ENDS.contains(&subsystem.as_str());
                entries.push(Entry { front_end, place, method, params });
            }
        }
        entries.sort_by_key(|entry| entry.front_end);
        Ok(Config { path: path.to_owned(), entries })
    }

    /// The same without what serves devices to others: for tools that use the devices themselves.
    pub(super) fn without_front_ends(mut self) -> Config {
        self.entries.retain(|entry| !entry.front_end);
        self
    }

    /// Makes the calls that the present state admits, in their order; those that can be made before
    /// initialization are for before.
    ///
    /// # Errors
    /// The first that fails, with its place in the file.
    pub(super) async fn apply(&self, services: &Rc<Services>, running: bool) -> Result<()> {
        let at_start = |entry: &Entry| entry.method.states.admit(false);
        for entry in self.entries.iter().filter(|entry| at_start(entry) != running) {
            if entry.front_end {
                services.bdevs.wait_for_examine().await;
            }
            call_patiently(services, entry).await.map_err(|error| {
                Error::invalid(format!(
                    "the configuration {}, {}",
                    self.path.display(),
                    entry.place
                ))
                .because(error)
            })?;
        }
        Ok(())
    }
}

/// Makes an entry's call. A daemon that was killed keeps its locks until the kernel has ended its I/O, and the one that takes its place is there
/// sooner: what is busy is asked for again, for a while.
async fn call_patiently(
    services: &Rc<Services>,
    entry: &Entry,
) -> std::result::Result<Value, RpcError> {
    let mut left = BUSY_TRIES;
    loop {
        match rpc::call(services, entry.method.name, &entry.params).await {
            Err(error) if error.code == -libc::EBUSY && left > 0 => {
                left -= 1;
                services.cx.sleep(BUSY_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        match Config::parse(Path::new("x.json"), text.as_bytes()) {
            Ok(_) => panic!("{text} was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn faults_say_where() {
        assert!(fault("{}").contains("missing field `subsystems`"));
        assert!(fault("{\"subsystems\": [").contains("line 1 column"));
        let unknown = r#"{"subsystems": [{"subsystem": "bdev", "config": [
            {"method": "bdev_wait_for_examine"}, {"method": "bdev_xyz_create", "params": {}}]}]}"#;
        assert!(fault(unknown).contains("subsystem 'bdev', entry 2 (bdev_xyz_create)"));
    }

    #[test]
    fn takes_what_save_config_writes() {
        let text = r#"{"subsystems": [{"subsystem": "keyring", "config": null},
            {"subsystem": "bdev", "config": [
                {"method": "bdev_null_create", "params": {"name": "a"}},
                [{"method": "bdev_wait_for_examine"}]]}]}"#;
        assert_eq!(Config::parse(Path::new("x"), text.as_bytes()).unwrap().entries.len(), 2);
    }

    #[test]
    fn front_ends_come_after_all_devices_and_tools_go_without() {
        let text = r#"{"subsystems": [
            {"subsystem": "vhost_blk", "config": [
                {"method": "vhost_create_blk_controller", "params": {"ctrlr": "v", "dev_name": "a"}}]},
            {"subsystem": "bdev", "config": [
                {"method": "bdev_null_create", "params": {"name": "a"}},
                {"method": "bdev_wait_for_examine"}]}]}"#;
        let names = |config: &Config| -> Vec<&str> {
            config.entries.iter().map(|entry| entry.method.name).collect()
        };
        let config = Config::parse(Path::new("x"), text.as_bytes()).unwrap();
        let devices = ["bdev_null_create", "bdev_wait_for_examine"];
        assert_eq!(names(&config), [devices[0], devices[1], "vhost_create_blk_controller"]);
        assert_eq!(names(&config.without_front_ends()), devices);
    }
}
