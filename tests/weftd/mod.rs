//! A `weftd` of its own for each test, and clients of it.

#![allow(dead_code, reason = "each test file uses a part")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use weft::rpc::{CallError, Client};

/// Longer than anything here takes on a loaded machine: a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running daemon. Dropping it kills it.
pub struct Weftd {
    pub folder: TempDir,
    pub child: Child,
    notifications: UnixDatagram,
}

/// The command that starts a daemon with its files in `folder`.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weftd"));
    command
        .args(["--state-dir".as_ref(), folder.as_os_str()])
        .args(arguments)
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

impl Weftd {
    /// Starts a daemon and waits until it says that it is ready.
    pub fn start(arguments: &[&str]) -> Weftd {
        Weftd::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    pub fn start_in(folder: TempDir, arguments: &[&str]) -> Weftd {
        let path = folder.path().join("notify");
        std::fs::remove_file(&path).ok();
        let notifications = UnixDatagram::bind(&path).unwrap();
        notifications.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = command(folder.path(), arguments)
            .env("NOTIFY_SOCKET", &path)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start weftd");
        let daemon = Weftd { folder, child, notifications };
        assert!(daemon.notification().starts_with("READY=1"));
        daemon
    }

    /// What the daemon tells the service manager next.
    pub fn notification(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.notifications.recv(&mut buffer).expect("a notification of weftd");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("weft.sock")
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap().with_timeout(PATIENCE)
    }

    /// A connection without a client's manners.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Runs a method that is to succeed.
    pub fn call(&self, method: &str, params: Value) -> Value {
        match self.client().request(method, &params) {
            Ok(result) => result,
            Err(error) => panic!("{method} {params}: {error}"),
        }
    }

    /// Runs a method that is to be refused; its code and text.
    pub fn refusal(&self, method: &str, params: Value) -> (i32, String) {
        match self.client().request(method, &params) {
            Err(CallError::Refused(error)) => (error.code, error.message),
            other => panic!("{method} {params}: {other:?}"),
        }
    }

    /// Memory that the daemon has in use.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Ends the daemon over RPC.
    pub fn stop(&mut self) -> ExitStatus {
        self.call("spdk_kill_instance", json!({"sig_name": "SIGTERM"}));
        self.child.wait().unwrap()
    }

    /// Kills the daemon and keeps its files.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for Weftd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends `text`, says that this is all, and reads to the end.
pub fn exchange(mut stream: UnixStream, text: &str) -> Vec<Value> {
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    serde_json::Deserializer::from_str(&answers).into_iter().map(Result::unwrap).collect()
}
