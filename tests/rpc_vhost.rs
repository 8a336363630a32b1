//! The vhost methods: what they refuse, what they answer, and what of them is saved.

mod weftd;

use serde_json::json;
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
