//! The daemon: start, configuration, readiness, the socket's guard, and an end in good order.

mod weftd;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use serde_json::{Value, json};
use weft::rpc::{Client, RpcError};
use weftd::{PATIENCE, Weftd, command};

/// Runs a daemon that is to fail, and gives what it says.
fn failure(folder: &std::path::Path, arguments: &[&str]) -> String {
    let output = command(folder, arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} should fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The files of a stopped daemon.
fn left_behind(folder: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("weft.sock"));
    names
}

#[test]
fn starts_tells_that_it_is_ready_and_stops_leaving_nothing() {
    for signal in ["TERM", "INT"] {
        let mut daemon = Weftd::start(&[]);
        let mode = std::fs::metadata(daemon.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        daemon.call("bdev_malloc_create", json!({"block_size": 512, "num_blocks": 2048}));
        let killed = Command::new("kill")
            .args([format!("-{signal}"), daemon.child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        assert!(daemon.child.wait().unwrap().success(), "{signal}");
        assert!(daemon.notification().starts_with("STOPPING=1"));
        assert_eq!(left_behind(daemon.folder.path()), Vec::<String>::new());
    }
    let mut daemon = Weftd::start(&[]);
    assert!(daemon.stop().success());
    assert_eq!(left_behind(daemon.folder.path()), Vec::<String>::new());
}

#[test]
fn requests_under_way_are_answered_before_the_end() {
    let daemon = Weftd::start(&[]);
    let text = [
        r#"{"id":1,"method":"spdk_kill_instance","params":{"sig_name":"SIGTERM"}}"#,
        r#"{"id":2,"method":"thread_get_stats"}"#,
        r#"{"id":3,"method":"spdk_get_version"}"#,
    ]
    .concat();
    let answers = weftd::exchange(daemon.connect(), &text);
    assert_eq!(answers.len(), 3);
}

#[test]
fn a_second_daemon_on_the_socket_is_refused_and_the_first_goes_on() {
    let daemon = Weftd::start(&[]);
    let said = failure(daemon.folder.path(), &[]);
    assert!(said.contains(&format!("process {}", daemon.child.id())), "{said}");
    daemon.call("spdk_get_version", json!({}));
}

#[test]
fn a_stale_socket_is_replaced_and_other_files_are_not() {
    let folder = Weftd::start(&[]).kill();
    assert_eq!(left_behind(folder.path()).len(), 2, "a killed daemon leaves its files");
    let mut daemon = Weftd::start_in(folder, &[]);
    assert!(daemon.stop().success());

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("weft.sock"), "precious").unwrap();
    let said = failure(folder.path(), &[]);
    assert!(said.contains("no socket"), "{said}");
    assert_eq!(std::fs::read(folder.path().join("weft.sock")).unwrap(), b"precious");

    // A process that listens without the lock.
    let folder = tempfile::tempdir().unwrap();
    let _other = UnixListener::bind(folder.path().join("weft.sock")).unwrap();
    assert!(failure(folder.path(), &[]).contains("listens on"));
}

#[test]
fn a_client_without_a_daemon_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weft.sock");
    let error = Client::connect(&path).err().unwrap().to_string();
    assert!(error.contains("is weftd running") && error.contains("weft.sock"), "{error}");
}

fn write_config(folder: &std::path::Path, config: &Value) -> String {
    let path = folder.join("start.json");
    std::fs::write(&path, config.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn bdev_config(entries: Value) -> Value {
    json!({"subsystems": [{"subsystem": "iobuf", "config": null}, {"subsystem": "bdev", "config": entries}]})
}

#[test]
fn a_configuration_that_does_not_work_is_named_by_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let make = json!({"method": "bdev_null_create", "params": {"name": "a", "block_size": 512, "num_blocks": 8}});
    for (config, wanted) in [
        (
            bdev_config(json!([make, {"method": "bdev_void_create"}])),
            "entry 2 (bdev_void_create): there is no such method",
        ),
        (bdev_config(json!([make, make])), "entry 2 (bdev_null_create): a bdev with the name 'a'"),
        (
            bdev_config(json!([{"method": "bdev_null_create", "params": {"name": "a"}}])),
            "'block_size' is missing",
        ),
        (json!({"subsystem": []}), "does not have the form"),
    ] {
        let path = write_config(folder.path(), &config);
        let said = failure(folder.path(), &["-c", &path]);
        assert!(said.contains("start.json") && said.contains(wanted), "{said}");
        assert_eq!(left_behind(folder.path()), Vec::<String>::new());
    }
    let said = failure(folder.path(), &["-c", "/nonexistent/weft.json"]);
    assert!(said.contains("/nonexistent/weft.json"), "{said}");
    assert!(failure(folder.path(), &["-m", "0xfffff0000000000000000"]).contains("core"));
}

#[test]
fn sources_of_memory_that_do_not_work_end_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let said = failure(folder.path(), &["--dpdk-args=--no-huge"]);
    assert!(said.contains("--dpdk-args is for --memory dpdk"), "{said}");
    let said = failure(folder.path(), &["--memory", "dpdk", "--huge-pages", "never"]);
    assert!(said.contains("--dpdk-args=--no-huge"), "{said}");
    if cfg!(not(feature = "dpdk")) {
        let said = failure(folder.path(), &["--memory", "dpdk"]);
        assert!(said.contains("--features dpdk"), "{said}");
    }
    assert_eq!(left_behind(folder.path()), Vec::<String>::new());
}

#[test]
fn options_of_a_configuration_stand_before_its_devices_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let config = bdev_config(json!([
        {"method": "bdev_null_create", "params": {"name": "a", "block_size": 512, "num_blocks": 8}},
        {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 1234}},
        {"method": "bdev_passthru_create", "params": {"name": "p", "base_bdev_name": "a"}},
        {"method": "bdev_wait_for_examine"},
    ]));
    let path = write_config(folder.path(), &config);
    let daemon = Weftd::start_in(folder, &["-c", &path]);
    let saved = daemon.call("framework_get_config", json!({"name": "bdev"}));
    let methods: Vec<&str> =
        saved.as_array().unwrap().iter().map(|entry| entry["method"].as_str().unwrap()).collect();
    assert_eq!(
        methods,
        ["bdev_set_options", "bdev_null_create", "bdev_passthru_create", "bdev_wait_for_examine"]
    );
    assert_eq!(saved[0]["params"]["bdev_io_pool_size"], 1234);
}

#[test]
fn waits_for_the_rpc_to_initialize() {
    let daemon = Weftd::start(&["--wait-for-rpc"]);
    let (code, text) = daemon.refusal("bdev_get_bdevs", json!({}));
    assert_eq!(code, RpcError::INVALID_STATE);
    assert!(text.contains("framework_start_init"), "{text}");
    let callable = daemon.call("rpc_get_methods", json!({"current": true}));
    let callable: Vec<&str> =
        callable.as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert!(callable.contains(&"bdev_set_options") && !callable.contains(&"bdev_get_bdevs"));
    daemon.call("bdev_set_options", json!({"bdev_auto_examine": false}));

    let socket = daemon.socket();
    let waiter = std::thread::spawn(move || {
        let mut client = Client::connect(&socket).unwrap().with_timeout(PATIENCE);
        client.call("framework_wait_init", &json!({})).unwrap()
    });
    assert_eq!(daemon.call("framework_start_init", json!({})), json!(true));
    assert_eq!(waiter.join().unwrap(), json!(true));
    assert_eq!(daemon.refusal("framework_start_init", json!({})).0, RpcError::INVALID_STATE);
    assert_eq!(daemon.refusal("bdev_set_options", json!({})).0, RpcError::INVALID_STATE);
    assert_eq!(daemon.call("bdev_get_bdevs", json!({})), json!([]));
}

#[test]
fn a_daemon_that_waits_can_be_stopped() {
    let mut daemon = Weftd::start(&["--wait-for-rpc"]);
    let killed =
        Command::new("kill").args(["-TERM", &daemon.child.id().to_string()]).status().unwrap();
    assert!(killed.success() && daemon.child.wait().unwrap().success());
}

#[test]
fn the_log_follows_its_methods() {
    let daemon = Weftd::start(&["-L", "warning"]);
    assert_eq!(daemon.call("log_get_level", json!({})), "WARNING");
    daemon.call("log_set_level", json!({"level": "DEBUG"}));
    assert_eq!(daemon.call("log_get_level", json!({})), "DEBUG");
    assert_eq!(daemon.call("log_get_print_level", json!({})), "WARNING");
    daemon.call("log_set_flag", json!({"flag": "rpc"}));
    assert_eq!(daemon.call("log_get_flags", json!({}))["rpc"], true);
    daemon.call("log_clear_flag", json!({"flag": "all"}));
    assert_eq!(daemon.call("log_get_flags", json!({}))["rpc"], false);
    assert_eq!(daemon.refusal("log_set_flag", json!({"flag": "nope"})).0, -22);
    assert_eq!(
        daemon.refusal("log_set_level", json!({"level": "LOUD"})).0,
        RpcError::INVALID_PARAMS
    );
}

#[test]
fn reactors_show_and_take_another_idle_policy() {
    let daemon = Weftd::start(&["--idle", "poll"]);
    let reactors = daemon.call("framework_get_reactors", json!({}));
    let reactor = &reactors["reactors"][0];
    assert_eq!(reactor["idle_policy"], "poll");
    assert_eq!(reactors["pid"], daemon.child.id());
    daemon.call(
        "weft_reactor_set_idle_policy",
        json!({"policy": "adaptive", "lcore": reactor["lcore"]}),
    );
    let reactors = daemon.call("framework_get_reactors", json!({}));
    assert_eq!(reactors["reactors"][0]["idle_policy"], "adaptive");
    assert_eq!(
        daemon
            .refusal("weft_reactor_set_idle_policy", json!({"policy": "poll", "lcore": 100_000}))
            .0,
        -2
    );
    let pollers = daemon.call("thread_get_pollers", json!({}));
    let names = pollers["threads"][0]["active_pollers"].as_array().unwrap();
    assert!(names.iter().any(|poller| poller["name"] == "rpc_server"));
}
