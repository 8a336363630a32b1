//! `weft quickstart`: the main job on an embedded default. Starts the service, builds a striped mirror
//! over files, writes and verifies under load, fails a leg, rebuilds it, and says what to use next.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::output::{Columns, Format, elements, number, text};
use super::session::Session;
use crate::base::{ByteCount, Error, ErrorKind, Result, format_size, parse_size};

/// Size of one I/O of the exercise, in bytes.
const IO_SIZE: u64 = 64 << 10;
/// Size of a block of the drives, in bytes.
const BLOCK_SIZE: u64 = 4096;
/// How long the daemon may take to answer for the first time.
const START_MAX: Duration = Duration::from_secs(20);
/// How long any one stage may take before the quickstart gives up.
const STAGE_MAX: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_millis(20);
/// After this long without writes a mirror has cleared its intent map: legs are known to be equal.
const INTENT_MAP_CLEARED: Duration = Duration::from_secs(4);

/// Runs the main job from start to end: service, file-backed drives, a striped mirror, verified load, a
/// failed leg, a delta rebuild. Needs no root and no special hardware
#[derive(Debug, Args)]
pub struct QuickstartCommand {
    /// Where drives, socket and configuration go (a fresh folder below the system's temporary one when not
    /// given)
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Size of each of the four drives
    #[arg(long, default_value = "256M", value_name = "SIZE")]
    drive_size: String,
    /// Stops the service and removes everything at the end
    #[arg(long)]
    once: bool,
}

impl QuickstartCommand {
    /// Runs it.
    ///
    /// # Errors
    /// The stage that went wrong, and why.
    pub fn run(&self) -> Result<()> {
        let drive_size = parse_size(&self.drive_size)?;
        if drive_size.0 < 16 << 20 {
            return Err(Error::invalid("--drive-size is at least 16M"));
        }
        let folder = match &self.state_dir {
            Some(folder) => folder.clone(),
            None => std::env::temp_dir().join(format!("weft-quickstart-{}", std::process::id())),
        };
        fs::create_dir_all(&folder)
            .map_err(|error| Error::os(format!("create {}", folder.display()), error))?;
        let mut stage = Stage::start(&folder)?;
        let outcome = stage.play(drive_size);
        match (&outcome, self.once) {
            (Ok(()), false) => stage.leave_running(),
            (Ok(()), true) => {
                stage.shut_down()?;
                fs::remove_dir_all(&folder)
                    .map_err(|error| Error::os(format!("remove {}", folder.display()), error))?;
                println!("\nThe service is stopped and {} is removed.", folder.display());
            }
            (Err(_), _) => {
                // The first error is the one to report.
                stage.shut_down().ok();
                eprintln!("the log of the service is {}", stage.log.display());
            }
        }
        outcome
    }
}

/// The service of the quickstart, and what has been learnt of it.
struct Stage {
    folder: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    daemon: Child,
    session: Session,
    terminal: bool,
    summary: Vec<(String, String)>,
}

impl Stage {
    fn start(folder: &Path) -> Result<Stage> {
        let socket = folder.join("weft.sock");
        let log = folder.join("weftd.log");
        let failed = |what: &str, error| Error::os(format!("{what} for the quickstart"), error);
        let log_file = fs::File::create(&log).map_err(|error| failed("make a log file", error))?;
        let program =
            std::env::current_exe().map_err(|error| failed("find this program", error))?;
        let began = Instant::now();
        // This program is the service as well, so that one binary is all that is needed.
        let mut daemon = Command::new(program)
            .arg("daemon")
            .arg("--rpc-socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file)
            .spawn()
            .map_err(|error| failed("start the service", error))?;
        let mut session = Session::new(socket.clone(), Format::Json);
        let version = loop {
            match session.call("spdk_get_version", json!({})) {
                Ok(version) => break version,
                Err(error) => {
                    if let Ok(Some(status)) = daemon.try_wait() {
                        return Err(Error::new(
                            ErrorKind::Io,
                            format!("the service ended ({status}); its log is {}", log.display()),
                        ));
                    }
                    if began.elapsed() > START_MAX {
                        daemon.kill().ok();
                        return Err(error.context("the service does not answer"));
                    }
                }
            }
            thread::sleep(Duration::from_millis(2));
        };
        println!(
            "service    {} answers on {} after {} ms",
            text(&version, "version"),
            socket.display(),
            began.elapsed().as_millis()
        );
        Ok(Stage {
            folder: folder.to_owned(),
            socket,
            log,
            daemon,
            session,
            terminal: std::io::stdout().is_terminal(),
            summary: Vec::new(),
        })
    }

    fn play(&mut self, drive_size: ByteCount) -> Result<()> {
        self.session.call("framework_wait_init", json!({}))?;
        self.make_devices(drive_size)?;
        let first = self.start_load(1, Some(1))?;
        self.wait_for("write and verify", &first, |load, _| {
            load.get("finished").and_then(Value::as_bool) == Some(true)
        })?;
        self.session.call("weft_load_stop", json!({ "name": first }))?;
        thread::sleep(INTENT_MAP_CLEARED);

        let load = self.start_load(2, None)?;
        self.wait_for("write and verify", &load, |load, _| number(load, "pass_percent") >= 2)?;
        let written = self.load(&load).map(|load| number(&load, "bytes_written"))?;
        self.session.call("bdev_uring_delete", json!({ "name": "drive1" }))?;
        println!("leg        drive1 is pulled out under load");
        self.wait_for("serve degraded", &load, |load, _| {
            number(load, "bytes_written") > written + drive_size.0 / 8
        })?;
        let raid = self.raid("mirror0")?;
        if number(&raid, "num_base_bdevs_operational") != 1 {
            return Err(Error::new(ErrorKind::Io, format!("mirror0 did not drop its leg: {raid}")));
        }

        self.make_drive(1, drive_size)?;
        println!("leg        drive1 is back; its mirror rebuilds what differs");
        self.wait_for("rebuild under load", &load, |_, raid| {
            raid.get("process").is_none() && number(raid, "num_base_bdevs_operational") == 2
        })?;
        let rebuilt = self.raid("mirror0")?;
        self.note_rebuild(&rebuilt);

        let end = self.session.call("weft_load_stop", json!({ "name": load }))?;
        check_fault(&end)?;
        self.summary.push(("written".into(), size_of(&end, "bytes_written")));
        self.summary.push(("verified under load".into(), size_of(&end, "bytes_verified")));
        let newest = number(&end, "generation");
        let check = self.session.call(
            "weft_load_start",
            json!({
                "bdev_name": "volume", "mode": "check", "io_size": IO_SIZE, "queue_depth": 16,
                "sequential": true,
                "oldest": number(&end, "durable_generation"), "newest": newest,
            }),
        )?;
        let check = check.as_str().unwrap_or_default().to_string();
        self.wait_for("verify every block", &check, |load, _| {
            load.get("finished").and_then(Value::as_bool) == Some(true)
        })?;
        let checked = self.session.call("weft_load_stop", json!({ "name": check }))?;
        check_fault(&checked)?;
        self.summary.push(("verified at the end".into(), size_of(&checked, "bytes_verified")));
        self.print_summary();
        Ok(())
    }

    /// Starts writing pass after pass, from `generation` on.
    fn start_load(&mut self, generation: u64, passes: Option<u64>) -> Result<String> {
        let load = self.session.call(
            "weft_load_start",
            json!({
                "bdev_name": "volume", "mode": "write_verify", "io_size": IO_SIZE,
                "queue_depth": 16, "sequential": true, "generation": generation, "passes": passes,
            }),
        )?;
        Ok(load.as_str().unwrap_or_default().to_string())
    }

    fn make_drive(&mut self, index: usize, size: ByteCount) -> Result<()> {
        let path = self.folder.join(format!("drive{index}.img"));
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(size.0));
        file.map_err(|error| Error::os(format!("make {}", path.display()), error))?;
        self.session.call(
            "bdev_uring_create",
            json!({ "name": format!("drive{index}"), "filename": path, "block_size": BLOCK_SIZE }),
        )?;
        Ok(())
    }

    fn make_devices(&mut self, drive_size: ByteCount) -> Result<()> {
        for index in 0..4 {
            self.make_drive(index, drive_size)?;
        }
        for (mirror, legs) in [("mirror0", ["drive0", "drive1"]), ("mirror1", ["drive2", "drive3"])]
        {
            self.session.call(
                "bdev_raid_create",
                json!({
                    "name": mirror, "raid_level": "raid1", "base_bdevs": legs, "superblock": true,
                }),
            )?;
        }
        self.session.call(
            "bdev_raid_create",
            json!({
                "name": "volume", "raid_level": "raid0", "strip_size_kb": 64,
                "base_bdevs": ["mirror0", "mirror1"],
            }),
        )?;
        let volume = self.session.call("bdev_get_bdevs", json!({ "name": "volume" }))?;
        let volume = volume.get(0).cloned().unwrap_or_default();
        let size = ByteCount(number(&volume, "num_blocks") * number(&volume, "block_size"));
        println!(
            "volume     {} striped over two mirrors of two file-backed drives each",
            format_size(size)
        );
        self.summary.push(("volume".into(), format_size(size)));
        Ok(())
    }

    fn load(&mut self, name: &str) -> Result<Value> {
        let loads = self.session.call("weft_load_get", json!({ "name": name }))?;
        Ok(loads.get(0).cloned().unwrap_or_default())
    }

    fn raid(&mut self, name: &str) -> Result<Value> {
        let raids = self.session.call("bdev_raid_get_bdevs", json!({ "category": "all" }))?;
        let found = raids.as_array().into_iter().flatten().find(|raid| text(raid, "name") == name);
        Ok(found.cloned().unwrap_or_default())
    }

    /// Shows the load, and the mirror that is worked on, until `done` says so.
    fn wait_for(
        &mut self,
        doing: &str,
        load_name: &str,
        done: impl Fn(&Value, &Value) -> bool,
    ) -> Result<()> {
        let began = Instant::now();
        loop {
            let load = self.load(load_name)?;
            let raid = self.raid("mirror0")?;
            let ended = done(&load, &raid);
            let line = format!(
                "{doing:<20} pass {} at {:>3} %  written {:>9}  verified {:>9}  legs {}/2{}",
                number(&load, "generation"),
                number(&load, "pass_percent"),
                size_of(&load, "bytes_written"),
                size_of(&load, "bytes_verified"),
                number(&raid, "num_base_bdevs_operational"),
                rebuild_text(&raid),
            );
            if self.terminal {
                print!("\r{line:<110}");
                std::io::stdout().flush().ok();
            }
            if ended {
                println!("{}{line:<110}", if self.terminal { "\r" } else { "" });
                return check_fault(&load);
            }
            if check_fault(&load).is_err() || began.elapsed() > STAGE_MAX {
                println!();
                check_fault(&load)?;
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("'{doing}' took longer than {} s", STAGE_MAX.as_secs()),
                ));
            }
            thread::sleep(TICK);
        }
    }

    fn note_rebuild(&mut self, raid: &Value) {
        let Some(rebuilt) = raid.get("weft_last_process") else { return };
        let blocks = number(rebuilt, "blocks");
        let of =
            elements(raid, "base_bdevs_list").first().map_or(0, |leg| number(leg, "data_size"));
        let share = 100.0 * blocks as f64 / of.max(1) as f64;
        let amount = format_size(ByteCount(blocks * BLOCK_SIZE));
        self.summary
            .push(("copied by the rebuild".into(), format!("{amount} ({share:.0} % of the leg)")));
    }

    fn print_summary(&self) {
        let mut columns = Columns::new(&["summary", "#"]);
        for (what, value) in &self.summary {
            columns.row([what.clone(), value.clone()]);
        }
        println!("\n{}", columns.text());
    }

    fn leave_running(&self) {
        let socket = self.socket.display();
        println!(
            "\nThe service goes on (pid {}). Look at it, or use any SPDK client:\n\
             \x20 weft -s {socket} bdev list\n\
             \x20 weft -s {socket} raid list\n\
             \x20 weft -s {socket} iostat\n\
             \x20 spdk-rpc -s {socket} bdev_get_bdevs\n\
             Stop it with: weft -s {socket} rpc spdk_kill_instance --sig_name SIGTERM\n\
             Its drives and its log are in {}.",
            self.daemon.id(),
            self.folder.display()
        );
    }

    fn shut_down(&mut self) -> Result<()> {
        let asked = self.session.call("spdk_kill_instance", json!({ "sig_name": "SIGTERM" }));
        if asked.is_err() {
            self.daemon.kill().ok();
        }
        let status =
            self.daemon.wait().map_err(|error| Error::os("wait for the service", error))?;
        if status.success() || asked.is_err() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Io,
            format!("the service ended with {status}; its log is {}", self.log.display()),
        ))
    }
}

fn size_of(load: &Value, field: &str) -> String {
    format_size(ByteCount(number(load, field)))
}

fn rebuild_text(raid: &Value) -> String {
    let Some(process) = raid.get("process") else { return String::new() };
    let progress = process.get("progress").cloned().unwrap_or_default();
    format!("  rebuild {:>3} %", number(&progress, "percent"))
}

fn check_fault(load: &Value) -> Result<()> {
    match load.get("fault").and_then(Value::as_str) {
        None => Ok(()),
        Some(fault) => Err(Error::new(ErrorKind::Corrupt, format!("verification failed: {fault}"))),
    }
}
