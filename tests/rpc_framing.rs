//! The decoder of the RPC stream: however the bytes are cut, the same comes out; what it passes on is
//! what a JSON parser sees; and nothing makes it panic.

use proptest::prelude::*;
use serde_json::{Value, json};
use weft::rpc::{Decoder, Message, RpcError};

/// All messages of a stream that comes in pieces of these sizes (over and over).
fn decode(stream: &[u8], pieces: &[usize]) -> Vec<Message> {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    let mut rest = stream;
    for size in pieces.iter().copied().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, more) = rest.split_at(size.clamp(1, rest.len()));
        decoder.feed(piece);
        messages.extend(std::iter::from_fn(|| decoder.next_message()));
        rest = more;
    }
    messages
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Eighths, which any parser reads exactly.
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn request() -> impl Strategy<Value = Value> {
    let params = prop_oneof![
        prop::collection::btree_map("[a-z]{1,8}", value(), 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        prop::collection::vec(value(), 0..4).prop_map(Value::from),
    ];
    let id = prop_oneof![any::<i64>().prop_map(Value::from), any::<String>().prop_map(Value::from)];
    ("[a-z_]{1,20}", params, prop::option::of(id)).prop_map(|(method, params, id)| {
        let mut request = json!({"jsonrpc": "2.0", "method": method, "params": params});
        if let Some(id) = id {
            request["id"] = id;
        }
        request
    })
}

/// The text of a request: compact, or spread over lines as SPDK's client writes it.
fn text(request: &Value, pretty: bool) -> String {
    if pretty { serde_json::to_string_pretty(request).unwrap() } else { request.to_string() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_come_out_as_they_went_in(
        requests in prop::collection::vec((request(), any::<bool>(), "[ \n\r\t]{0,3}"), 0..8),
        pieces in prop::collection::vec(1_usize..64, 1..8),
    ) {
        let stream: String = requests
            .iter()
            .map(|(request, pretty, blank)| format!("{}{blank}", text(request, *pretty)))
            .collect();
        let messages = decode(stream.as_bytes(), &pieces);
        prop_assert_eq!(messages.len(), requests.len());
        for (message, (request, _, _)) in messages.into_iter().zip(requests) {
            let Message::Single(Ok(call)) = message else { panic!("{message:?}") };
            prop_assert_eq!(&call.method, request["method"].as_str().unwrap());
            let id = call.id.map(|id| serde_json::from_str::<Value>(id.text()).unwrap());
            prop_assert_eq!(id.as_ref(), request.get("id"));
            let params: Value = serde_json::from_str(call.params.unwrap().get()).unwrap();
            prop_assert_eq!(&params, &request["params"]);
        }
    }

    #[test]
    fn batches_keep_their_order(
        requests in prop::collection::vec(request(), 1..8),
        pieces in prop::collection::vec(1_usize..64, 1..8),
    ) {
        let stream = Value::from(requests.clone()).to_string();
        let messages = decode(stream.as_bytes(), &pieces);
        let [Message::Batch(batch)] = messages.as_slice() else { panic!("{messages:?}") };
        let methods: Vec<&str> = batch.iter().map(|it| it.as_ref().unwrap().method.as_str()).collect();
        let asked: Vec<&str> = requests.iter().map(|it| it["method"].as_str().unwrap()).collect();
        prop_assert_eq!(methods, asked);
    }

    #[test]
    fn any_cut_gives_the_same(
        // Bytes that are often almost JSON.
        stream in prop::collection::vec(
            prop_oneof![
                Just(b"{".to_vec()), Just(b"}".to_vec()), Just(b"[".to_vec()), Just(b"]".to_vec()),
                Just(b"\"method\":\"m\"".to_vec()), Just(b"\"id\":1".to_vec()), Just(b",".to_vec()),
                Just(b"\"params\":".to_vec()), Just(b"{\"method\":\"x\",\"id\":\"\\u00e9\"}".to_vec()),
                Just(b" \n".to_vec()), Just(b"-0.5e3".to_vec()), Just(b"null".to_vec()),
                Just("\"ü\\\"\"".as_bytes().to_vec()), prop::collection::vec(any::<u8>(), 0..4),
            ],
            0..24,
        ),
        pieces in prop::collection::vec(1_usize..16, 1..8),
    ) {
        let stream = stream.concat();
        prop_assert_eq!(decode(&stream, &[usize::MAX]), decode(&stream, &pieces));
        prop_assert_eq!(decode(&stream, &[usize::MAX]), decode(&stream, &[1]));
    }

    #[test]
    fn what_the_scanner_takes_is_what_a_parser_takes(
        value in value().prop_map(|value| json!({ "value": value })),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut stream = value.to_string().into_bytes();
        if let Some((at, byte)) = damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        // A parser reads the first value of the stream; whatever follows is the next one's.
        let mut parser = serde_json::Deserializer::from_slice(&stream).into_iter::<Value>();
        let parsed = parser.next();
        let first = decode(&stream, &[usize::MAX]).into_iter().next();
        match (parsed, first) {
            // No request, but JSON: an object without a method, or an array of one.
            (Some(Ok(Value::Object(_) | Value::Array(_))), Some(Message::Single(_) | Message::Batch(_))) => {}
            (Some(Ok(other)), Some(Message::Broken(_))) => prop_assert!(!other.is_object() && !other.is_array()),
            // The parser also looks into strings, for surrogates that stand alone.
            (Some(Err(_)), Some(Message::Single(Err(_)) | Message::Broken(_)) | None) | (None, None) => {}
            (parsed, first) => panic!("{parsed:?} but {first:?} in {}", String::from_utf8_lossy(&stream)),
        }
    }
}

#[test]
fn many_small_requests_in_one_piece_take_linear_time() {
    // With a move of the rest of the buffer after each request this would take minutes.
    let stream = r#"{"method":"m","id":1}"#.repeat(200_000);
    let mut decoder = Decoder::new();
    decoder.feed(stream.as_bytes());
    assert_eq!(std::iter::from_fn(|| decoder.next_message()).count(), 200_000);
}

#[test]
fn a_syntax_error_is_answered_before_the_request_ends() {
    let messages = decode(br#"{"method": bdev_get_bdevs"#, &[3]);
    let [Message::Broken(error)] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(error.code, RpcError::PARSE_ERROR);
    assert!(error.message.contains("byte 12"), "{}", error.message);
}
