//! `weft nvme` against a daemon that the test plays: one controller with one namespace, in memory.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Value, json};
use weft::nvme::spec::{
    CompletionEntry, IdentifyController, IdentifyNamespace, LbaFormat, SubmissionEntry,
};
use zerocopy::{FromBytes, IntoBytes};

/// A drive of 2 MiB.
struct Drive {
    data: Vec<u8>,
    block_log2: u8,
    claimed: bool,
    /// It can only format all namespaces at once, and has a second one.
    all_at_once: bool,
    /// It fails every Format.
    broken: bool,
    calls: Vec<String>,
}

const BYTES: usize = 2 << 20;

impl Drive {
    fn identify(&self, cns: u32, nsid: u32) -> Vec<u8> {
        match cns {
            0 if nsid == 1 => {
                let mut namespace = IdentifyNamespace::zeroed();
                namespace.nsze = (BYTES >> self.block_log2) as u64;
                namespace.nlbaf = 1;
                namespace.lbaf[0] = LbaFormat::new(9, 0);
                namespace.lbaf[1] = LbaFormat::new(12, 0);
                namespace.flbas = u8::from(self.block_log2 == 12);
                namespace.as_bytes().to_vec()
            }
            0 => vec![0; 4096],
            1 => {
                let mut about = IdentifyController::zeroed();
                about.oacs = 1 << 1;
                // One transfer is at most 8 KiB.
                about.mdts = 1;
                about.fna = u8::from(self.all_at_once);
                about.as_bytes().to_vec()
            }
            2 => {
                let mut list = vec![0; 4096];
                list[0] = 1;
                list[4] = u8::from(self.all_at_once) * 2;
                list
            }
            other => panic!("CNS {other}"),
        }
    }

    fn command(&mut self, params: &Value) -> Value {
        assert_eq!(params["name"], "N0");
        assert_eq!(params["data_direction"], "c2h");
        let bytes = URL_SAFE.decode(params["cmdbuf"].as_str().unwrap()).unwrap();
        let entry = SubmissionEntry::read_from_bytes(&bytes).unwrap();
        let length = params["data_len"].as_u64().unwrap_or(0) as usize;
        let mut data = Vec::new();
        let mut status = 0;
        match (params["cmd_type"].as_str().unwrap(), entry.opcode) {
            ("admin", 0x06) => data = self.identify(entry.cdw10, entry.nsid),
            ("admin", 0x80) if self.broken => status = 0x10a,
            ("admin", 0x80) => {
                self.block_log2 = if entry.cdw10 & 0xf == 1 { 12 } else { 9 };
                self.data.fill(0);
                self.calls.push(format!("format {:#x}", entry.cdw10));
            }
            ("io", 0x02) => {
                let start = (entry.cdw10 as usize) << self.block_log2;
                let bytes = (entry.cdw12 as usize + 1) << self.block_log2;
                assert!(bytes <= 8192 && bytes == length, "{bytes} {length}");
                data = self.data[start..start + bytes].to_vec();
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(data.len(), length);
        let status = (status & 0xff) << 1 | (status >> 8) << 9;
        let completion = CompletionEntry { status, ..CompletionEntry::default() };
        json!({"cpl": URL_SAFE.encode(completion.as_bytes()), "data": URL_SAFE.encode(data)})
    }

    fn answer(&mut self, method: &str, params: &Value) -> Value {
        if method != "bdev_nvme_send_cmd" {
            self.calls.push(format!("{method} {params}"));
        }
        match method {
            "bdev_nvme_send_cmd" => self.command(params),
            "bdev_get_bdevs" => {
                json!([{"name": "N0n1", "claimed": self.claimed, "claim_type": "exclusive_write",
                "block_size": 1 << self.block_log2, "num_blocks": BYTES >> self.block_log2,
                "driver_specific": {"nvme": [{"trid": {"trtype": "VFIOUSER", "traddr": "/run/target"},
                    "ctrlr_data": {"model_number": "Played  ", "serial_number": "s0"}}]}}])
            }
            "bdev_nvme_get_controllers" => json!([{"name": "N0",
                "ctrlrs": [{"state": "enabled", "trid": {"trtype": "VFIOUSER", "traddr": "/run/target"}}]}]),
            "bdev_nvme_attach_controller" => json!(["N0n1", "N0n2"]),
            "bdev_nvme_get_controller_health_info" => {
                json!({"critical_warning": 1, "percentage_used": 7})
            }
            _ => json!(true),
        }
    }
}

/// The drive and the socket of its daemon.
struct Played {
    folder: tempfile::TempDir,
    drive: Arc<Mutex<Drive>>,
}

impl Played {
    fn new() -> Played {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("rpc")).unwrap();
        let drive = Arc::new(Mutex::new(Drive {
            data: vec![0; BYTES],
            block_log2: 9,
            claimed: false,
            all_at_once: false,
            broken: false,
            calls: Vec::new(),
        }));
        let served = Arc::clone(&drive);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut answers = stream.try_clone().unwrap();
                for call in serde_json::Deserializer::from_reader(stream).into_iter::<Value>() {
                    let call = call.unwrap();
                    let method = call["method"].as_str().unwrap();
                    let result = served.lock().unwrap().answer(method, &call["params"]);
                    let answer = json!({"jsonrpc": "2.0", "id": call["id"], "result": result});
                    answers.write_all(answer.to_string().as_bytes()).unwrap();
                }
            }
        });
        Played { folder, drive }
    }

    fn weft(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_weft"))
            .arg("-s")
            .arg(self.folder.path().join("rpc"))
            .arg("nvme")
            .args(arguments.split(' '))
            .output()
            .unwrap()
    }

    fn succeeds(&self, arguments: &str) -> String {
        let output = self.weft(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, arguments: &str) -> String {
        let output = self.weft(arguments);
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn drive(&self) -> std::sync::MutexGuard<'_, Drive> {
        self.drive.lock().unwrap()
    }

    fn formats(&self) -> Vec<String> {
        let calls = self.drive().calls.clone();
        calls.into_iter().filter(|call| call.starts_with("format")).collect()
    }
}

#[test]
fn an_empty_namespace_is_formatted() {
    let played = Played::new();
    let said = played.succeeds("format N0 --namespace 1 --block-size 4096");
    assert!(said.contains("blocks of 4096 bytes, 2 MiB"), "{said}");
    assert_eq!(played.formats(), ["format 0x1"]);
    // And as it is, with everything gone for good.
    let said = played.succeeds("--json format N0 --namespace 1 --secure-erase");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["block_size"], &said["num_blocks"]), (&json!(4096), &json!(512)));
    assert_eq!(played.formats(), ["format 0x1", "format 0x201"]);
}

#[test]
fn a_namespace_that_would_be_missed_is_refused() {
    let played = Played::new();
    let format = "format N0 --namespace 1 --block-size 4096";
    played.drive().claimed = true;
    assert!(played.fails(format).contains("N0n1 is in use (exclusive_write)"));
    played.drive().claimed = false;

    // At the start, across the limit of one transfer, and at the end.
    for (at, bytes, what) in [
        (1080, [0x53, 0xef].as_slice(), "ext2/3/4"),
        (65_600, b"_BHRfS_M", "Btrfs"),
        (BYTES - 512, b"EFI PART", "GPT partition table"),
        (0, b"WEFTLABL", "a Weft label"),
    ] {
        played.drive().data.fill(0);
        played.drive().data[at..at + bytes.len()].copy_from_slice(bytes);
        let error = played.fails(format);
        assert!(error.contains(&format!("N0n1 holds {what}")), "{error}");
    }
    assert!(played.formats().is_empty());
    played.succeeds(&format!("{format} --force"));
    assert_eq!(played.formats(), ["format 0x1"]);
}

#[test]
fn a_format_that_reaches_further_is_refused() {
    let played = Played::new();
    played.drive().all_at_once = true;
    let error = played.fails("format N0 --namespace 1 --lbaf 1");
    assert!(error.contains("all of its namespaces at once ([1, 2])"), "{error}");
    assert!(played.fails("format N0 --namespace 7 --lbaf 1").contains("no active namespace 7"));
    assert!(played.fails("format N0 --namespace 1 --block-size 520").contains("1: blocks of 4096"));
    assert!(played.formats().is_empty());
}

#[test]
fn what_the_drive_says_is_passed_on() {
    let played = Played::new();
    played.drive().broken = true;
    let error = played.fails("format N0 --namespace 1 --lbaf 1");
    assert!(error.contains("N0: command 80h on namespace 1: Invalid Format"), "{error}");
}

#[test]
fn controllers_are_attached_and_shown() {
    let played = Played::new();
    assert_eq!(played.succeeds("attach N0 /run/target --queues 3"), "N0n1\nN0n2\n");
    assert_eq!(played.succeeds("reset N0"), "");
    assert_eq!(played.succeeds("detach N0"), "");
    assert_eq!(
        played.drive().calls,
        [
            r#"bdev_nvme_attach_controller {"name":"N0","trtype":"VFIOUSER","traddr":"/run/target","num_io_queues":3}"#,
            r#"bdev_nvme_reset_controller {"name":"N0"}"#,
            r#"bdev_nvme_detach_controller {"name":"N0"}"#,
        ]
    );
    let list = played.succeeds("list");
    let line = list.lines().find(|line| line.starts_with("/run/target")).unwrap();
    for part in ["Played", "s0", "2 MiB", "N0"] {
        assert!(line.contains(part), "{list}");
    }
    let health = played.succeeds("smart N0");
    assert!(
        health.contains("spare blocks below the threshold") && health.contains("7 %"),
        "{health}"
    );
}

#[test]
fn drives_that_are_not_there_are_not_bound() {
    let played = Played::new();
    let output = played.weft("--json bind ffff:1f:1f.7");
    assert!(!output.status.success());
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&rows[0]["result"], &rows[0]["address"]),
        (&json!("failed"), &json!("ffff:1f:1f.7"))
    );
    assert!(played.fails("bind").contains("ADDRESS"));
    assert!(played.fails("bind nonsense").contains("no PCI address"));
}
