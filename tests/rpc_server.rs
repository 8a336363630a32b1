//! The RPC server over its socket: many requests and clients at once, bad input, and clients without
//! manners.

mod weftd;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};

use serde_json::{Value, json};
use weft::base::limits::{RPC_CLIENTS_MAX, RPC_REQUEST_SIZE_MAX, RPC_REQUESTS_IN_FLIGHT_MAX};
use weft::rpc::RpcError;
use weftd::{Weftd, exchange};

fn request(id: impl Into<Value>, method: &str, params: Value) -> String {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params}).to_string()
}

fn codes(answers: &[Value]) -> Vec<i64> {
    answers.iter().map(|answer| answer["error"]["code"].as_i64().unwrap_or(0)).collect()
}

#[test]
fn many_requests_in_flight_are_each_answered_once() {
    let daemon = Weftd::start(&[]);
    let count = RPC_REQUESTS_IN_FLIGHT_MAX * 3;
    // Every second one has to wait for the reactors.
    let methods = ["spdk_get_version", "thread_get_stats"];
    let text: String = (0..count).map(|id| request(id, methods[id % 2], json!({}))).collect();
    let answers = exchange(daemon.connect(), &text);
    assert_eq!(answers.len(), count);
    let ids: BTreeSet<u64> = answers.iter().map(|it| it["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), count);
    assert!(answers.iter().all(|it| it["jsonrpc"] == "2.0" && it.get("result").is_some()));
}

#[test]
fn requests_that_wait_do_not_hold_up_others() {
    let daemon = Weftd::start(&[]);
    let waiting = request("slow", "bdev_get_bdevs", json!({"name": "late", "timeout": 60_000}));
    let text = format!(
        "{waiting}{}{}",
        request("quick", "spdk_get_version", json!({})),
        request(
            "maker",
            "bdev_null_create",
            json!({"name": "late", "block_size": 512, "num_blocks": 8})
        ),
    );
    let answers = exchange(daemon.connect(), &text);
    let order: Vec<&str> = answers.iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(order, ["quick", "maker", "slow"]);
    assert_eq!(answers[2]["result"][0]["name"], "late");
}

#[test]
fn batches_are_answered_together_in_order() {
    let daemon = Weftd::start(&[]);
    let notification = json!({"jsonrpc": "2.0", "method": "bdev_null_create",
        "params": {"name": "n", "block_size": 512, "num_blocks": 8}});
    let batch = json!([
        {"jsonrpc": "2.0", "id": 1, "method": "thread_get_stats"},
        notification,
        5,
        {"jsonrpc": "2.0", "id": 2, "method": "nope"},
        {"jsonrpc": "2.0", "id": 3, "method": "bdev_get_bdevs", "params": {"name": "n"}},
    ]);
    let only_notifications = json!([{"method": "spdk_get_version"}]);
    let answers = exchange(daemon.connect(), &format!("{batch}{only_notifications}[]"));
    // The batch waits for its slowest request, the empty one for nothing.
    let [empty, Value::Array(batch)] = answers.as_slice() else { panic!("{answers:?}") };
    let ids: Vec<&Value> = batch.iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!(null), &json!(2), &json!(3)]);
    assert_eq!(
        codes(batch),
        [0, RpcError::INVALID_REQUEST.into(), RpcError::METHOD_NOT_FOUND.into(), 0]
    );
    assert_eq!(empty["error"]["code"], RpcError::INVALID_REQUEST);
}

#[test]
fn notifications_get_no_answer_not_even_for_errors() {
    let daemon = Weftd::start(&[]);
    let text = r#"{"method":"nope"}{"method":"bdev_get_bdevs","params":{"name":5}}{"method":"spdk_get_version","id":null}"#;
    let answers = exchange(daemon.connect(), text);
    // Null is an id (JSON-RPC 2.0, section 4), if an odd one.
    assert_eq!(answers.len(), 1);
    assert!(answers[0]["id"].is_null() && answers[0].get("result").is_some());
}

#[test]
fn bad_input_gets_a_clear_error() {
    let daemon = Weftd::start(&[]);
    let null = |name: &str| json!({"name": name, "block_size": 512, "num_blocks": 8});
    daemon.call("bdev_null_create", null("n"));
    for (method, params, code, text) in [
        ("nope", json!({}), RpcError::METHOD_NOT_FOUND, "'nope'"),
        (
            "bdev_null_create",
            json!({"name": "x"}),
            RpcError::INVALID_PARAMS,
            "'block_size' is missing",
        ),
        ("bdev_null_create", json!({"nam": "x"}), RpcError::INVALID_PARAMS, "'name' is missing"),
        (
            "bdev_null_delete",
            json!({"name": "n", "force": true}),
            RpcError::INVALID_PARAMS,
            "'force'",
        ),
        ("bdev_null_delete", json!(["n"]), RpcError::INVALID_PARAMS, "by name"),
        ("spdk_get_version", json!({"x": 1}), RpcError::INVALID_PARAMS, "the method has none"),
        ("bdev_null_create", null("n"), -17, "'n'"),
        ("bdev_get_bdevs", json!({"name": "gone"}), -19, "'gone'"),
        ("bdev_malloc_delete", json!({"name": "n"}), -19, "no Malloc disk"),
        (
            "bdev_set_options",
            json!({}),
            RpcError::INVALID_STATE,
            "call it before framework_start_init",
        ),
        ("bdev_null_create", json!({"name": "b", "block_size": 520, "num_blocks": 8}), -22, "520"),
        (
            "bdev_null_create",
            json!({"name": "b", "block_size": 512, "num_blocks": 0}),
            -22,
            "0 blocks",
        ),
        (
            "bdev_null_create",
            json!({"name": "b", "block_size": 512, "num_blocks": u64::MAX}),
            -22,
            "2^63",
        ),
        ("bdev_null_create", json!({"name": "", "block_size": 512, "num_blocks": 8}), -22, "name"),
        (
            "bdev_malloc_create",
            json!({"block_size": 512, "num_blocks": 8, "md_size": 8}),
            -95,
            "'md_size'",
        ),
        ("bdev_malloc_create", json!({"block_size": 512, "num_blocks": 1_u64 << 50}), -12, ""),
    ] {
        let (got, message) = daemon.refusal(method, params.clone());
        assert!(got == code && message.contains(text), "{method} {params}: {message} ({got})");
    }
    assert_eq!(daemon.call("bdev_get_bdevs", json!({})).as_array().unwrap().len(), 1);
}

#[test]
fn a_broken_stream_is_answered_and_closed() {
    let daemon = Weftd::start(&[]);
    let good = request(1, "spdk_get_version", json!({}));
    let long = format!("{{\"method\": \"{}", "m".repeat(RPC_REQUEST_SIZE_MAX));
    let deep = "[".repeat(100);
    for (broken, code) in [
        ("nonsense", RpcError::PARSE_ERROR),
        ("{\"method\": \"\u{1}\"}", RpcError::PARSE_ERROR),
        (long.as_str(), RpcError::INVALID_REQUEST),
        (deep.as_str(), RpcError::INVALID_REQUEST),
    ] {
        let mut stream = daemon.connect();
        stream.write_all(good.as_bytes()).unwrap();
        // The daemon may have closed before it has read all of it.
        stream.write_all(broken.as_bytes()).ok();
        let mut text = Vec::new();
        if let Err(error) = stream.read_to_end(&mut text) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        let answers: Vec<Value> =
            serde_json::Deserializer::from_slice(&text).into_iter().map(Result::unwrap).collect();
        assert_eq!(codes(&answers), [0, i64::from(code)], "{broken:.20}");
        assert!(answers[1]["id"].is_null());
    }
    // It serves on.
    daemon.call("spdk_get_version", json!({}));
}

#[test]
fn a_client_that_hangs_up_is_done_to_the_end_of_its_requests() {
    let daemon = Weftd::start(&[]);
    let create = |name| {
        request(1, "bdev_null_create", json!({"name": name, "block_size": 512, "num_blocks": 8}))
    };
    let mut stream = daemon.connect();
    stream.write_all(create("a").as_bytes()).unwrap();
    drop(stream);
    // In mid-request.
    let mut stream = daemon.connect();
    stream.write_all(create("b").as_bytes()).unwrap();
    stream.write_all(&create("c").as_bytes()[..20]).unwrap();
    drop(stream);
    // While a request waits.
    let mut stream = daemon.connect();
    stream
        .write_all(request(1, "bdev_get_bdevs", json!({"name": "z", "timeout": 60_000})).as_bytes())
        .unwrap();
    drop(stream);
    for name in ["a", "b"] {
        daemon.call("bdev_get_bdevs", json!({"name": name, "timeout": 60_000}));
    }
    assert_eq!(daemon.call("bdev_get_bdevs", json!({})).as_array().unwrap().len(), 2);
}

#[test]
fn a_slow_reader_gets_it_all_and_holds_up_nobody() {
    let daemon = Weftd::start(&[]);
    for number in 0..200 {
        let params = json!({"name": format!("n{number}"), "block_size": 512, "num_blocks": 8});
        daemon.call("bdev_null_create", params);
    }
    // What one answer takes while it is made stays with the allocator.
    daemon.call("bdev_get_bdevs", json!({}));
    let before = daemon.resident_kib();
    // Far more than sockets buffer, and than the server keeps for one client.
    let count = 200;
    let mut slow = daemon.connect();
    let mut sender = slow.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for id in 0..count {
            sender.write_all(request(id, "bdev_get_bdevs", json!({})).as_bytes()).unwrap();
        }
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    // Nothing of `slow` is read so far, and others are served. It has its turn at least after every
    // other one of theirs, so by then all its answers would be waiting: 30 MiB.
    let mut other = daemon.client();
    for _ in 0..3 * count {
        other.call("spdk_get_version", &json!({})).unwrap();
    }
    assert_eq!(daemon.call("bdev_get_bdevs", json!({})).as_array().unwrap().len(), 200);
    let grown = daemon.resident_kib().saturating_sub(before);
    assert!(grown < 15 << 10, "it keeps {grown} KiB more, beyond what a client may leave unread");
    let mut text = String::new();
    slow.read_to_string(&mut text).unwrap();
    writer.join().unwrap();
    let answers: Vec<Value> =
        serde_json::Deserializer::from_str(&text).into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.len(), count);
    assert!(answers.iter().all(|it| it["result"].as_array().unwrap().len() == 200));
}

#[test]
fn clients_beyond_the_limit_wait_for_their_turn() {
    let daemon = Weftd::start(&[]);
    let mut clients: Vec<_> = (0..RPC_CLIENTS_MAX).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.write_all(request(1, "spdk_get_version", json!({})).as_bytes()).unwrap();
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"{");
    }
    let mut late = daemon.connect();
    late.write_all(request(1, "spdk_get_version", json!({})).as_bytes()).unwrap();
    // All places are taken: no answer while the first clients are asked again.
    late.set_nonblocking(true).unwrap();
    let mut byte = [0];
    assert_eq!(late.read(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
    late.set_nonblocking(false).unwrap();
    clients.pop();
    late.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"{");
}
