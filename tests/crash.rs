//! `kill -9` of the daemon in mid-write, again and again, on a striped mirror over four files.
//!
//! After each restart the mirrors find their legs by label and copy what the intent map says may differ. Then
//! every block must be of a pass that was flushed before the kill, or of the one that was being
//! written; and the legs of each mirror must hold the same bytes.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::rpc::Client;

const DRIVE: u64 = 24 << 20;
const KILLS: u64 = 5;
/// Far beyond what a loaded machine needs; only a hang takes that long.
const PATIENCE: Duration = Duration::from_secs(120);

struct Daemon {
    child: Child,
    client: Client,
}

impl Daemon {
    fn start(folder: &Path) -> Daemon {
        let socket = folder.join("weft.sock");
        let log = File::options().append(true).create(true).open(folder.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weftd"))
            .args(["--huge-pages", "never", "--rpc-socket"])
            .arg(&socket)
            .arg("--config")
            .arg(folder.join("config.json"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let began = Instant::now();
        let client = loop {
            // The socket of the killed daemon is still there, and refuses.
            if let Ok(mut client) = Client::connect(&socket)
                && client.call("framework_wait_init", &Value::Null).is_ok()
            {
                break client;
            }
            assert!(began.elapsed() < PATIENCE, "weftd does not answer:\n{}", log_of(folder));
            thread::sleep(Duration::from_millis(5));
        };
        Daemon { child, client }
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        match self.client.call(method, &params) {
            Ok(result) => result,
            Err(error) => panic!("{method} {params}: {error}"),
        }
    }

    /// Asks again and again until `done` finds what it looks for.
    fn wait<T>(
        &mut self,
        method: &str,
        params: &Value,
        mut done: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        let began = Instant::now();
        loop {
            let answer = self.call(method, params.clone());
            if let Some(found) = done(&answer) {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "{method} {params}: still {answer}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until both mirrors have both legs and nothing is copied.
    fn wait_until_whole(&mut self) {
        self.wait("bdev_raid_get_bdevs", &json!({"category": "all"}), |raids| {
            let whole = |raid: &Value| {
                raid["state"] == "online"
                    && raid["num_base_bdevs_operational"] == raid["num_base_bdevs"]
                    && raid.get("process").is_none()
            };
            let raids = raids.as_array().unwrap();
            (raids.len() == 3 && raids.iter().all(whole)).then_some(())
        });
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(mut self) {
        self.call("spdk_kill_instance", json!({"sig_name": "SIGTERM"}));
        assert!(self.child.wait().unwrap().success());
    }
}

fn log_of(folder: &Path) -> String {
    let mut text = String::new();
    File::open(folder.join("log")).unwrap().read_to_string(&mut text).ok();
    text
}

fn drive(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("drive{index}"))
}

/// Files for the drives, and a configuration. The mirrors are not in it once they carry labels.
fn prepare(folder: &Path) {
    for index in 0..4 {
        File::create(drive(folder, index)).unwrap().set_len(DRIVE).unwrap();
    }
    write_config(folder, true);
}

fn write_config(folder: &Path, first: bool) {
    let mut calls = Vec::new();
    for index in 0..4 {
        calls.push(json!({"method": "bdev_uring_create", "params": {
            "name": format!("drive{index}"), "filename": drive(folder, index), "block_size": 4096,
        }}));
    }
    for (name, legs) in [("mirror0", ["drive0", "drive1"]), ("mirror1", ["drive2", "drive3"])] {
        if first {
            calls.push(json!({"method": "bdev_raid_create", "params": {
                "name": name, "raid_level": "raid1", "base_bdevs": legs, "superblock": true,
            }}));
        }
    }
    // Waits for the mirrors where they are still being assembled.
    calls.push(json!({"method": "bdev_raid_create", "params": {
        "name": "volume", "raid_level": "raid0", "strip_size_kb": 16,
        "base_bdevs": ["mirror0", "mirror1"],
    }}));
    let config = json!({"subsystems": [{"subsystem": "bdev", "config": calls}]});
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// The legs of each mirror hold the same bytes from the start of the data on.
fn assert_legs_equal(folder: &Path, data_offset: u64) {
    for (one, other) in [(0, 1), (2, 3)] {
        let read = |index| {
            let mut bytes = vec![0; (DRIVE - data_offset) as usize];
            let file = File::open(drive(folder, index)).unwrap();
            file.read_exact_at(&mut bytes, data_offset).unwrap();
            bytes
        };
        let (one_bytes, other_bytes) = (read(one), read(other));
        let differing = one_bytes
            .chunks(4096)
            .zip(other_bytes.chunks(4096))
            .position(|(one, other)| one != other);
        assert_eq!(differing, None, "drive{one} and drive{other} differ in this block of the data");
    }
}

#[test]
fn kill_minus_nine_in_mid_write_loses_nothing_that_was_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder);
    let mut daemon = Daemon::start(folder);
    write_config(folder, false);
    let mut generation = 1;
    for kill in 0..KILLS {
        daemon.wait_until_whole();
        let load = daemon.call(
            "weft_load_start",
            json!({"bdev_name": "volume", "mode": "write_verify", "io_size": 8192,
                   "queue_depth": 64, "seed": 5, "generation": generation}),
        );
        // Kill at another point of the pass each time.
        let percent = 15 + kill * 70 / KILLS;
        let durable = daemon.wait("weft_load_get", &json!({"name": load}), |loads| {
            let load = &loads[0];
            assert_eq!(load["fault"], Value::Null, "{load}");
            let durable = load["durable_generation"].as_u64().unwrap();
            (durable >= generation && load["pass_percent"].as_u64().unwrap() >= percent)
                .then_some(durable)
        });
        daemon.kill();

        daemon = Daemon::start(folder);
        daemon.wait_until_whole();
        // Passes may have ended between the last look and the kill.
        let newest = durable + 1000;
        let check = daemon.call(
            "weft_load_start",
            json!({"bdev_name": "volume", "mode": "check", "io_size": 65536, "seed": 5,
                   "oldest": durable, "newest": newest}),
        );
        daemon.wait("weft_load_get", &json!({"name": check}), |loads| {
            loads[0]["finished"].as_bool().unwrap().then_some(())
        });
        let checked = daemon.call("weft_load_stop", json!({"name": check}));
        assert_eq!(checked["fault"], Value::Null, "after kill {kill}: {checked}");
        let raids = daemon.call("bdev_raid_get_bdevs", json!({"category": "all"}));
        let mirror =
            raids.as_array().unwrap().iter().find(|raid| raid["name"] == "mirror0").unwrap();
        let offset = mirror["base_bdevs_list"][0]["data_offset"].as_u64().unwrap() * 4096;
        assert!(offset > 0, "a mirror with a label keeps room for it: {mirror}");
        daemon.stop();
        assert_legs_equal(folder, offset);
        println!("kill {kill} at {percent} % of pass {}: {checked}", durable + 1);

        generation = newest + 1;
        daemon = Daemon::start(folder);
    }
    daemon.stop();
}
