//! The vhost methods: what they refuse, what they answer, and what of them is saved.

mod weftd;

use serde_json::{Value, json};
use weft::rpc::RpcError;
use weftd::Weftd;

const NOT_FOUND: i32 = -2;
const EXISTS: i32 = -17;
const NO_DEVICE: i32 = -19;
const INVALID: i32 = -22;
const UNSUPPORTED: i32 = -95;

#[test]
fn transports_are_known_by_name() {
    let daemon = Weftd::start(&[]);
    let all = json!([{ "name": "vhost_user_blk" }]);
    assert_eq!(daemon.call("virtio_blk_get_transports", json!({})), all);
    assert_eq!(daemon.call("virtio_blk_get_transports", json!({ "name": "VHOST_USER_BLK" })), all);
    for (method, name, code, word) in [
        ("virtio_blk_get_transports", "vfio_user", NO_DEVICE, "vhost_user_blk"),
        ("virtio_blk_create_transport", "vhost_user_blk", EXISTS, "always"),
        ("virtio_blk_create_transport", "vfio_user", UNSUPPORTED, "vhost_user_blk"),
        ("virtio_blk_create_transport", "carrier_pigeon", NOT_FOUND, "carrier_pigeon"),
    ] {
        let (said, text) = daemon.refusal(method, json!({ "name": name }));
        assert!(said == code && text.contains(word), "{method} {name}: {said} {text}");
    }
}

#[test]
fn parameters_that_make_no_sense_are_named() {
    let daemon = Weftd::start(&["-m", "0x1"]);
    daemon.call("bdev_null_create", json!({"name": "n0", "num_blocks": 1024, "block_size": 512}));
    let create = "vhost_create_blk_controller";
    let tune = "vhost_controller_set_coalescing";
    for (method, params, code, words) in [
        (create, json!({"ctrlr": "vm0", "dev_name": "n0", "cpumask": "0x0"}), INVALID, "cpumask"),
        (create, json!({"ctrlr": "vm0", "dev_name": "n0", "cpumask": "[x]"}), INVALID, "cpumask"),
        (create, json!({"ctrlr": "vm0", "dev_name": "n0", "cpumask": "0x3"}), INVALID, "core 1"),
        (create, json!({"ctrlr": "vm0", "dev_name": "n0", "transport": "ccw"}), INVALID, "'ccw'"),
        (create, json!({"ctrlr": "vm0"}), RpcError::INVALID_PARAMS, "'dev_name' is missing"),
        (
            tune,
            json!({"ctrlr": "vm0", "delay_base_us": 5, "iops_threshold": 0}),
            INVALID,
            "threshold",
        ),
        (
            tune,
            json!({"ctrlr": "vm0", "delay_base_us": 5, "iops_threshold": 9}),
            NO_DEVICE,
            "'vm0'",
        ),
        ("vhost_delete_controller", json!({"ctrlr": "vm0"}), NO_DEVICE, "'vm0'"),
        (
            "weft_vhost_move_queue",
            json!({"ctrlr": "vm0", "queue": 0, "core": 1}),
            INVALID,
            "core 1",
        ),
        (
            "weft_vhost_move_queue",
            json!({"ctrlr": "vm0", "queue": 0, "core": 0}),
            NO_DEVICE,
            "'vm0'",
        ),
    ] {
        let (said, text) = daemon.refusal(method, params.clone());
        assert!(said == code && text.contains(words), "{method} {params}: {said} {text}");
    }
    let config = daemon.call("framework_get_config", json!({"name": "vhost_blk"}));
    assert_eq!(config, json!([]));
}

/// The configuration of a daemon as a file that another one can be started with.
fn save(daemon: &Weftd, path: &std::path::Path) -> Value {
    let saved = |name: &str| {
        let config = daemon.call("framework_get_config", json!({ "name": name }));
        json!({ "subsystem": name, "config": config })
    };
    let config = json!({ "subsystems": [saved("bdev"), saved("vhost_blk")] });
    std::fs::write(path, config.to_string()).unwrap();
    config
}

#[test]
fn a_controller_is_described_as_spdk_does_and_comes_back_with_the_configuration() {
    let mut daemon = Weftd::start(&[]);
    for name in ["a", "b"] {
        let params = json!({"name": name, "num_blocks": 4096, "block_size": 512});
        daemon.call("bdev_malloc_create", params);
    }
    daemon.call(
        "bdev_raid_create",
        json!({"name": "r", "raid_level": "raid0", "strip_size_kb": 64, "base_bdevs": ["a", "b"]}),
    );
    // Of a device that is made after others of the configuration.
    daemon.call("bdev_set_qos_limit", json!({"name": "r", "rw_mbytes_per_sec": 100}));
    let create = json!({"ctrlr": "vm0", "dev_name": "r", "cpumask": "0x1", "readonly": true,
        "packed_ring": true, "transport": "vhost_user_blk"});
    daemon.call("vhost_create_blk_controller", create.clone());
    let (code, text) = daemon.refusal("vhost_create_blk_controller", create);
    assert!(code == EXISTS && text.contains("'vm0'"), "{text}");
    let tuned = json!({"ctrlr": "vm0", "delay_base_us": 20, "iops_threshold": 5000});
    daemon.call("vhost_controller_set_coalescing", tuned);

    let socket = daemon.folder.path().join("vm0");
    let described = json!([{
        "ctrlr": "vm0", "cpumask": "0x1", "delay_base_us": 20, "iops_threshold": 5000,
        "socket": socket, "sessions": [],
        "backend_specific": {"block": {"readonly": true, "bdev": "r", "transport": "vhost_user_blk",
            "packed_ring": true}},
    }]);
    let get = |daemon: &Weftd| daemon.call("vhost_get_controllers", json!({ "name": "vm0" }));
    assert_eq!(get(&daemon), described);
    let (code, _) = daemon.refusal("vhost_get_controllers", json!({ "name": "vm1" }));
    assert_eq!(code, NO_DEVICE);
    let path = daemon.folder.path().join("config.json");
    let saved = save(&daemon, &path);
    assert!(daemon.stop().success());
    assert!(!socket.exists(), "the socket goes with the daemon");

    let folder = std::mem::replace(&mut daemon.folder, tempfile::tempdir().unwrap());
    let again = Weftd::start_in(folder, &[]);
    assert_eq!(get(&again), described);
    assert_eq!(save(&again, &path), saved);
    again.call("vhost_delete_controller", json!({ "ctrlr": "vm0" }));
    assert!(!socket.exists());
    assert_eq!(again.call("vhost_get_controllers", json!({})), json!([]));

    // Without its bdev, a controller stays, and says so.
    again.call("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "r"}));
    again.call("bdev_raid_delete", json!({ "name": "r" }));
    assert_eq!(get(&again)[0]["backend_specific"]["block"]["bdev"], Value::Null);
}

#[test]
fn sockets_are_made_where_the_option_says() {
    let sockets = tempfile::tempdir().unwrap();
    let place = sockets.path().join("of/machines");
    let daemon = Weftd::start(&["-S", place.to_str().unwrap()]);
    daemon.call("bdev_null_create", json!({"name": "n0", "num_blocks": 1024, "block_size": 512}));
    daemon.call("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "n0"}));
    assert!(place.join("vm0").exists());
}
