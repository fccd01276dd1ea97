//! Requests that no honest client makes. Each has its answer, nothing of it is kept that would spoil
//! a restore, and others are served meanwhile.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests fail loudly"
)]

pub(crate) mod wire;

use std::iter;

use self::wire::{Alice, ROOT, Reply, SLOWLY, Wire, chunk, room_key};
use serde_json::{Value, json};
use strongroom_testing::until;
use tokio::{sync::oneshot, task::JoinHandle};

/// How deep the nested bodies are.
const DEPTH: usize = 100_000;

fn nested(open: &str, close: &str) -> String {
    open.repeat(DEPTH) + &close.repeat(DEPTH)
}

/// A body of two rooms and three keys, of which the last lies in `!last:x`.
fn body_with_last(session: &str, key: &str) -> String {
    let good = room_key(1);
    format!(
        r#"{{"rooms":{{"!first:x":{{"sessions":{{"1":{good},"2":{good}}}}},
            "!last:x":{{"sessions":{{{session}:{key}}}}}}}}}"#
    )
}

fn body_with_session_data(session_data: &str) -> String {
    let key = room_key(1).to_string();
    let (before, _) = key.split_once(r#"{"ciphertext""#).expect("as room_key writes it");
    body_with_last("\"bad\"", &format!("{before}{session_data}}}"))
}

#[tokio::test]
async fn a_bad_body_has_its_answer_and_nothing_of_it_is_stored() {
    let alice = Alice::new(&[]).await;
    let good = room_key(1).to_string();
    let good_room = format!(r#"{{"sessions":{{"1":{good}}}}}"#);
    let (brackets, braces) = (nested("[", "]"), nested(r#"{"a":"#, "}").replace(":}", ":1}"));
    let (open, open_braces) = ("[".repeat(DEPTH), r#"{"a":"#.repeat(DEPTH));
    let not_json = [
        "",
        " ",
        "hello",
        "{",
        "{}}",
        r#"{"rooms":{}"#,
        r#"{"rooms":{}} x"#,
        r#"{"rooms":{},}"#,
        "{'rooms':{}}",
        "\u{feff}{\"rooms\":{}}",
        "{\"rooms\":{\"!a\0:x\":{\"sessions\":{}}}}",
        r#"{"rooms":{"!\x":{"sessions":{}}}}"#,
        "%7B%7D",
        "<rooms/>",
        &open,
        &open_braces,
        &format!(r#"{{"rooms":{open}"#),
        &format!(r#"{{"rooms":{{"!a:x":{open}"#),
        &format!(r#"{{"rooms":{{}},"other":{open}"#),
        &format!(r#"{{"rooms":{{"!a:x":{{"sessions":{{"1":{open}"#),
        &format!(r#"{{"rooms":{{"!a:x":{{"sessions":{{"1":{{"session_data":{{"a":{open}"#),
        &body_with_session_data(r#"{"a":01}"#),
        &body_with_session_data(r#"{"a":NaN}"#),
        &body_with_session_data(r#"{"a":+1}"#),
        &body_with_session_data("{\"a\":\"\u{1}\"}"),
    ];
    for body in not_json {
        refused(&alice, body.as_bytes(), (400, "M_NOT_JSON")).await;
    }
    // No UTF-8: a byte that never occurs, an overlong "/", half a character, a surrogate.
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80"] {
        for body in
            ["HERE", r#"{"rooms":{},"x":"HERE"}"#, &body_with_session_data(r#"{"a":"HERE"}"#)]
        {
            let (before, after) = body.split_once("HERE").expect("it stands there");
            let body = [before.as_bytes(), bytes, after.as_bytes()].concat();
            refused(&alice, &body, (400, "M_NOT_JSON")).await;
        }
    }

    let bad_json = [
        "null",
        "[]",
        "1",
        "\"rooms\"",
        "{}",
        r#"{"rooms":null}"#,
        r#"{"rooms":[]}"#,
        r#"{"rooms":{"!a:x":null}}"#,
        r#"{"rooms":{"!a:x":{}}}"#,
        r#"{"rooms":{"!a:x":{"sessions":[]}}}"#,
        &brackets,
        &braces,
        &format!(r#"{{"rooms":{brackets}}}"#),
        &format!(r#"{{"rooms":{braces}}}"#),
        &format!(r#"{{"rooms":{{"!a:x":{brackets}}}}}"#),
        &format!(r#"{{"rooms":{{"!a:x":{{"sessions":{brackets}}}}}}}"#),
        &body_with_last("\"bad\"", &brackets),
        &body_with_last("\"bad\"", &braces),
        &body_with_session_data(&brackets),
        &body_with_session_data(&format!(r#"{{"a":{}}}"#, "[".repeat(99) + &"]".repeat(99))),
        &body_with_session_data(r#"{"a":1e400}"#),
        &body_with_session_data(r#"{"a":[-1e400]}"#),
        &body_with_session_data(r#"{"a":"\ud800"}"#),
        &body_with_session_data(r#"{"a":"\udc00\ud800"}"#),
        &body_with_session_data(r#"{"\udfff":1}"#),
        &body_with_session_data(r#"{"a":1,"b":2,"a":1}"#),
        &body_with_session_data(r#"{"a":{"b":1,"\u0062":1}}"#),
        &body_with_last(r#""a\ud800""#, &good),
        &body_with_last(r#""a\u0000""#, &good),
        &body_with_last(&format!("\"1\":{good},\"1\""), &good),
        &body_with_last("\"bad\"", &good.replacen('{', r#"{"is_verified":true,"#, 1)),
        &body_with_last(
            "\"bad\"",
            &good.replace("\"first_message_index\":1", "\"first_message_index\":1e400"),
        ),
        &body_with_last(
            "\"bad\"",
            &good.replace("\"forwarded_count\":0", "\"forwarded_count\":-0"),
        ),
        &format!(r#"{{"rooms":{{"!a:x":{good_room},"!a:x":{good_room}}}}}"#),
        &format!(r#"{{"rooms":{{"!a:x":{good_room},"\u0021a:x":{good_room}}}}}"#),
        &format!(r#"{{"rooms":{{"!a:x":{good_room}}},"rooms":{{"!a:x":{good_room}}}}}"#),
        &format!(r#"{{"rooms":{{"!a\ud800:x":{good_room}}}}}"#),
        &format!(r#"{{"rooms":{{"!a\u0000:x":{good_room}}}}}"#),
    ];
    for body in bad_json {
        refused(&alice, body.as_bytes(), (400, "M_BAD_JSON")).await;
    }

    // Too large by itself, before anybody looks into it.
    for body in
        [body_with_session_data(&format!(r#"{{"a":{brackets}}}"#)), body_with_session_data(&braces)]
    {
        refused(&alice, body.as_bytes(), (413, "M_TOO_LARGE")).await;
    }
    assert_eq!(alice.restored().await, json!({}), "something was stored");
    alice.is_served().await;
}

/// Puts a body, which must be refused.
async fn refused(alice: &Alice, body: &[u8], expected: (u16, &str)) {
    let authorization = format!("Bearer {}", alice.user.token);
    let headers = [("authorization", authorization.as_str())];
    let got = alice.server.raw("PUT", &alice.keys(""), &headers, body.to_vec()).await;
    let shown = String::from_utf8_lossy(body).chars().take(300).collect::<String>();
    let errcode = got.json["errcode"].as_str().unwrap_or_default();
    assert_eq!((got.status, errcode), expected, "PUT {shown}\n{got:?}");
    assert!(got.json["error"].is_string(), "PUT {shown}\n{got:?}");
}

#[tokio::test]
async fn auth_data_that_a_strict_reader_refuses_makes_no_version() {
    let alice = Alice::new(&[]).await;
    let long = "[".repeat(50) + &"]".repeat(50);
    let braces = nested(r#"{"a":"#, "}").replace(":}", ":1}");
    for (auth_data, expected) in [
        (nested("[", "]"), (400, "M_BAD_JSON")),
        ("[".repeat(DEPTH), (400, "M_NOT_JSON")),
        (format!(r#"{{"public_key":"k","a":{long}}}"#), (400, "M_BAD_JSON")),
        (format!(r#"{{"public_key":"k","a":{}}}"#, nested("[", "]")), (413, "M_TOO_LARGE")),
        (braces, (413, "M_TOO_LARGE")),
        (r#"{"public_key":"k","a":1e400}"#.to_owned(), (400, "M_BAD_JSON")),
        (r#"{"public_key":"\ud800"}"#.to_owned(), (400, "M_BAD_JSON")),
        (r#"{"public_key":"k","public_key":"k"}"#.to_owned(), (400, "M_BAD_JSON")),
    ] {
        let body = format!(
            r#"{{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{auth_data}}}"#
        );
        for (method, target) in [
            ("POST", format!("{ROOT}/version")),
            ("PUT", format!("{ROOT}/version/{}", alice.version)),
        ] {
            let got = alice.wire().await.ask(alice.request(method, &target, &body)).await;
            let shown: String = auth_data.chars().take(60).collect();
            assert_eq!(got.refusal(), expected, "{method} {shown}: {got:?}");
        }
    }
    let current = alice.server.get("/room_keys/version", &alice.user).await;
    assert_eq!(current.json["version"], alice.version, "{current:?}");
    assert_eq!(current.json["auth_data"].as_object().map(serde_json::Map::len), Some(1));
}

#[tokio::test]
async fn what_is_merely_odd_is_kept_and_the_restore_can_be_read() {
    let alice = Alice::new(&[]).await;
    let odd = [
        r#"{}"#,
        r#"{"":null,"__proto__":{"constructor":[]},"toString":1}"#,
        r#"{"n":123456789012345678901234567890123456789,"f":-0.0,"e":1E+2,"t":1e-400}"#,
        r#"{"nul":"\u0000","emoji":"😀\ud83d\ude00","slash":"\/","line":"\u2028\u2029"}"#,
        "{ \"spaces\" :\t[ 1 ,\r\n2 ] }",
        r#"{"deep":[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]}"#,
        "{\"del\":\"\u{7f}\",\"private\":\"\u{e000}\",\"last\":\"\u{10ffff}\"}",
        r#"{"\"":"\\","<script>":"]]>"}"#,
    ];
    for (session, session_data) in odd.iter().enumerate() {
        let body = body_with_session_data(session_data)
            .replace("\"bad\"", &format!("\"{session}\\u0022\\\\😀\""));
        let put = alice.wire().await.ask(alice.request("PUT", &alice.keys(""), &body)).await;
        assert_eq!(put.status, 200, "{session_data}: {put:?}");
    }
    // Members that nobody asked for are not kept, so they may be anything that is JSON.
    let key = room_key(7).to_string().replacen('{', &format!("{{\"x\":{},", nested("[", "]")), 1);
    let body =
        format!(r#"{{"x":1e400,"rooms":{{"!x":{{"x":"\ud800","sessions":{{"x":{key}}}}}}}}}"#);
    let put = alice.wire().await.ask(alice.request("PUT", &alice.keys(""), &body)).await;
    assert_eq!(put.status, 200, "{put:?}");

    let rooms = alice.restored().await;
    for (session, session_data) in odd.iter().enumerate() {
        let sent: Value = serde_json::from_str(session_data).expect("JSON");
        let got = &rooms["!last:x"]["sessions"][format!("{session}\"\\😀")]["session_data"];
        assert_eq!(*got, sent);
    }
    assert_eq!(rooms["!x"]["sessions"]["x"], room_key(7));
}

const LIMIT_BYTES: usize = 8192;

/// A body of one key that has this many bytes.
fn padded(length: usize) -> String {
    let body = json!({ "rooms": { "!pad:x": { "sessions": { "s": room_key(3) } } } }).to_string();
    " ".repeat(length - body.len()) + &body
}

#[tokio::test]
async fn a_body_of_the_limit_is_taken_and_one_byte_more_is_not() {
    let limit = LIMIT_BYTES.to_string();
    let alice = Alice::new(&[("STRONGROOM_LIMITS_BODY_BYTES_MAX", &limit)]).await;
    for (length, expected) in [
        (LIMIT_BYTES - 1, (200, "")),
        (LIMIT_BYTES, (200, "")),
        (LIMIT_BYTES + 1, (413, "M_TOO_LARGE")),
        (LIMIT_BYTES * 2, (413, "M_TOO_LARGE")),
        (LIMIT_BYTES * 50, (413, "M_TOO_LARGE")),
    ] {
        let body = padded(length);
        let with_length = alice.request("PUT", &alice.keys(""), &body).into_bytes();
        let mut in_chunks = alice.head("PUT", &alice.keys("")).into_bytes();
        in_chunks.extend(b"transfer-encoding: chunked\r\n\r\n");
        body.as_bytes().chunks(1000).for_each(|piece| in_chunks.extend(chunk(piece)));
        in_chunks.extend(chunk(b""));
        for request in [with_length, in_chunks] {
            let got = write_and_read(&alice, request).await;
            assert_eq!(got.refusal(), expected, "{length} bytes: {got:?}");
        }
        alice.is_served().await;
    }
}

/// Writes a request as far as the server lets it, and only then reads.
async fn write_and_read(alice: &Alice, request: Vec<u8>) -> Reply {
    let mut wire = alice.wire().await;
    // The server may hang up before it has read everything; its answer is there nevertheless.
    let written = wire.try_send(&request).await;
    let reply = wire.try_reply().await;
    reply.unwrap_or_else(|error| panic!("written: {written:?}; no answer: {error}"))
}

#[tokio::test]
async fn an_endless_body_is_refused_and_who_writes_on_gets_to_read_it() {
    let alice = Alice::new(&[("STRONGROOM_LIMITS_BODY_BYTES_MAX", "1000000")]).await;
    let piece = chunk(&[b' '; 10_000]);
    let mut wire = alice.wire().await;
    wire.send(alice.head("PUT", &alice.keys("")) + "transfer-encoding: chunked\r\n\r\n").await;
    let mut written = 0;
    while wire.try_send(&piece).await.is_ok() {
        written += piece.len();
        assert!(written < 200_000_000, "the server reads for ever");
    }
    let got = wire.reply().await;
    assert_eq!(got.refusal(), (413, "M_TOO_LARGE"), "{got:?}");
    alice.is_served().await;
}

#[tokio::test]
async fn a_body_announced_as_too_large_is_refused_before_it_is_sent() {
    let alice = Alice::new(&[("STRONGROOM_LIMITS_BODY_BYTES_MAX", "1000")]).await;
    let head = alice.head("PUT", &alice.keys(""));
    let request = head + "content-length: 1001\r\nexpect: 100-continue\r\n\r\n";
    let got = alice.wire().await.ask(request).await;
    assert_eq!(got.refusal(), (413, "M_TOO_LARGE"), "{got:?}");

    let body = json!({ "rooms": {} }).to_string();
    let mut wire = alice.wire().await;
    let head = alice.head("PUT", &alice.keys(""));
    let asked =
        wire.ask(format!("{head}content-length: {}\r\nexpect: 100-continue\r\n\r\n", body.len()));
    assert_eq!(asked.await.status, 100);
    assert_eq!(wire.ask(body).await.status, 200);
}

#[tokio::test]
async fn who_is_refused_before_the_body_was_read_gets_to_read_why() {
    let alice = Alice::new(&[("STRONGROOM_LIMITS_BODY_IDLE_TIMEOUT", "5s")]).await;
    let body = padded(20_000_000);
    let head = |method, target: &str| alice.head(method, target);
    let stranger = head("PUT", &alice.keys("")).replace("Bearer ", "Bearer un");
    for (head, expected) in [
        (stranger, (401, "M_UNKNOWN_TOKEN")),
        (head("PUT", &format!("{ROOT}/keys")), (400, "M_MISSING_PARAM")),
        (head("PUT", &format!("{ROOT}/keys?version=1x")), (404, "M_NOT_FOUND")),
        (head("PUT", &alice.keys("/%00")), (400, "M_INVALID_PARAM")),
        (head("PUT", &alice.keys("")) + "content-encoding: gzip\r\n", (415, "M_UNKNOWN")),
        (head("PUT", &format!("{ROOT}/elsewhere")), (404, "M_UNRECOGNIZED")),
        (head("PATCH", &alice.keys("")), (405, "M_UNRECOGNIZED")),
    ] {
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let got = write_and_read(&alice, request.into_bytes()).await;
        assert_eq!(got.refusal(), expected, "{got:?}");
    }
    alice.is_served().await;
}

#[tokio::test]
async fn a_length_that_lies_is_answered_and_ends_the_connection() {
    let alice = Alice::new(&[]).await;
    let body = json!({ "rooms": { "!lie:x": { "sessions": { "s": room_key(1) } } } }).to_string();
    let head = alice.head("PUT", &alice.keys(""));

    // Shorter: what is left over is no request.
    let mut wire = alice.wire().await;
    let got = wire.ask(format!("{head}content-length: {}\r\n\r\n{body}", body.len() - 5)).await;
    assert_eq!(got.refusal(), (400, "M_NOT_JSON"), "{got:?}");
    let left_over = wire.reply().await;
    assert_eq!(left_over.status, 400, "{left_over:?}");
    assert_eq!(wire.closed().await.ok(), Some(0));

    // Longer, and in chunks without the last one: the body ends early.
    for framing in [
        format!("content-length: {}\r\n\r\n", body.len() + 5),
        "transfer-encoding: chunked\r\n\r\n".into(),
    ] {
        let is_chunked = framing.contains("chunked");
        let body = if is_chunked { chunk(body.as_bytes()) } else { body.clone().into_bytes() };
        let mut wire = alice.wire().await;
        wire.send([format!("{head}{framing}").as_bytes(), &body].concat()).await;
        wire.finish_writing().await;
        let got = wire.try_reply().await;
        let got = got.unwrap_or_else(|error| panic!("{framing}: no answer: {error}"));
        assert_eq!(got.refusal(), (400, "M_NOT_JSON"), "{framing}: {got:?}");
        assert!(wire.closed().await.is_ok());
    }
    assert_eq!(alice.restored().await, json!({}), "something was stored");
    alice.is_served().await;
}

#[tokio::test]
async fn a_compressed_body_is_not_understood() {
    let alice = Alice::new(&[]).await;
    let authorization = format!("Bearer {}", alice.user.token);
    for (encoding, status) in
        [("gzip", 415), ("deflate", 415), ("br", 415), ("gzip, identity", 415), ("identity", 200)]
    {
        let headers = [("authorization", authorization.as_str()), ("content-encoding", encoding)];
        let got = alice.server.raw("PUT", &alice.keys(""), &headers, r#"{"rooms":{}}"#).await;
        assert_eq!(got.status, status, "{encoding}: {got:?}");
        assert!(status == 200 || got.json["errcode"].is_string(), "{encoding}: {got:?}");
    }
}

#[tokio::test]
async fn a_path_that_is_no_utf8_in_percent_encoding_is_refused() {
    let alice = Alice::new(&[]).await;
    let (just, over) = ("!".to_owned() + &"r".repeat(254), "!".to_owned() + &"r".repeat(255));
    for (path, status) in [
        ("/!r%ff".to_owned(), 400),
        ("/!r:x/%c0%af".to_owned(), 400),
        ("/!r:x/%e2%82".to_owned(), 400),
        ("/!r:x/%00".to_owned(), 400),
        ("/!r%00:x".to_owned(), 400),
        (format!("/{over}"), 400),
        (format!("/!r:x/{}", "s".repeat(256)), 400),
        (format!("/!r:x/{}", "%41".repeat(256)), 400),
        (format!("/!r:x/{}", "s".repeat(60_000)), 400),
        (format!("/{just}"), 200),
        (format!("/{just}/{}", "%41".repeat(255)), 404),
        ("/!r:x/%25zz%2F%2B+%3f".to_owned(), 404),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let (method, target) = (method, alice.keys(&path));
            let body = if method == "PUT" { "{}" } else { "" };
            let got = alice.wire().await.ask(alice.request(method, &target, body)).await;
            let shown: String = path.chars().take(40).collect();
            match (method, status) {
                (_, 400) => {
                    assert_eq!(
                        got.refusal(),
                        (400, "M_INVALID_PARAM"),
                        "{method} {shown}: {got:?}"
                    );
                }
                ("GET", _) => assert_eq!(got.status, status, "{method} {shown}: {got:?}"),
                ("PUT", _) => {
                    assert_eq!(got.refusal(), (400, "M_BAD_JSON"), "{method} {shown}: {got:?}");
                }
                (_, _) => assert_eq!(got.status, 200, "{method} {shown}: {got:?}"),
            }
        }
    }
    for version in ["%ff", "%00", "1%0d%0aX:y", &"1".repeat(50_000)] {
        let target = format!("{ROOT}/version/{version}");
        let got = alice.wire().await.ask(alice.request("GET", &target, "")).await;
        assert!(matches!(got.status, 400 | 404), "{got:?}");
        assert!(got.json["errcode"].is_string(), "{got:?}");
    }
    // Bytes as such are no part of a request line at all.
    let mut raw = alice.head("GET", &alice.keys("/!r:x/HERE")).into_bytes();
    let at = raw.windows(4).position(|four| four == b"HERE").expect("put there");
    raw.splice(at..at + 4, *b"a\xff\xfeb");
    let got = alice.wire().await.ask([&raw[..], b"\r\n"].concat()).await;
    assert_eq!(got.status, 400, "{got:?}");
    alice.is_served().await;
}

#[tokio::test]
async fn a_percent_sign_that_escapes_nothing_is_refused() {
    let alice = Alice::new(&[]).await;
    for path in ["/!r:x/%zz", "/!r:x/%", "/!r:x/%2", "/!r%:x/a", "/%2", "/!r%g0:x", "/!r:x/%%32"] {
        for method in ["GET", "PUT", "DELETE"] {
            let body = if method == "PUT" { room_key(1).to_string() } else { String::new() };
            let request = alice.request(method, &alice.keys(path), &body);
            let got = alice.wire().await.ask(request).await;
            assert_eq!(got.refusal(), (400, "M_INVALID_PARAM"), "{method} {path}: {got:?}");
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_an_error_that_browsers_may_read_and_the_log_tells() {
    let alice = Alice::new(&[]).await;
    let paths = [
        "/",
        "/favicon.ico",
        "/_matrix/client/versions",
        "/_matrix/client/v3/room_keys",
        "/_matrix/client/v3/room_keys/",
        "/_matrix/client/v3/room_keys/keys/",
        "/_matrix/client/v3/room_keys/version/1/2",
        "/_matrix/client/v4/room_keys/version",
        "/_matrix/client/v3/%72oom_keys/version",
        "//_matrix/client/v3/room_keys/version",
        "/_matrix/client/v3/../v3/room_keys/version",
    ];
    let answered = |alice: &Alice| alice.server.output().matches("answered").count();
    let before = answered(&alice);
    for path in paths {
        let got = alice.wire().await.ask(alice.request("GET", path, "")).await;
        assert_eq!(got.refusal(), (404, "M_UNRECOGNIZED"), "{path}: {got:?}");
        assert_eq!(got.header("access-control-allow-origin"), Some("*"), "{path}: {got:?}");
    }
    until("a line for each request", async || {
        (answered(&alice) >= before + paths.len()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn line_breaks_in_parameters_do_not_reach_the_head_of_an_answer() {
    let alice = Alice::new(&[]).await;
    let evil = "a%0d%0aX-Injected:%20yes%0d%0a%0d%0aHTTP/1.1%20200%20OK";
    for target in [
        format!("{ROOT}/version/{evil}"),
        format!("{ROOT}/keys?version={evil}"),
        format!("{ROOT}/keys/!{evil}/{evil}?version={}", alice.version),
        format!("{ROOT}/{evil}"),
        format!("{}&user_id={evil}&device_id={evil}", alice.keys("")),
        format!("{}&{evil}={evil}", alice.keys("")),
        format!("/{evil}"),
    ] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            let mut wire = alice.wire().await;
            let head = alice.head(method, &target) + "connection: close\r\n";
            let got = wire.ask(head + "content-length: 0\r\n\r\n").await;
            assert_eq!(got.header("x-injected"), None, "{method} {target}: {got:?}");
            assert!(!got.head.contains("200 OK\r\n\r\nHTTP"), "{method} {target}: {got:?}");
            assert_eq!(
                wire.closed().await.ok(),
                Some(0),
                "{method} {target}: more than one answer"
            );
        }
    }
}

#[tokio::test]
async fn a_header_without_measure_is_refused_and_who_writes_on_gets_to_read_it() {
    let alice = Alice::new(&[]).await;
    let head = alice.head("GET", &alice.keys(""));
    let large = format!("{head}x-large: {}\r\n\r\n", "x".repeat(60_000));
    assert_eq!(alice.wire().await.ask(large).await.status, 200);

    let many = format!("{head}{}\r\n", "x: y\r\n".repeat(20_000));
    let huge = format!("{head}x: {}\r\n\r\n", "x".repeat(5_000_000));
    let target = alice.head("GET", &alice.keys(&format!("/{}", "x".repeat(5_000_000)))) + "\r\n";
    for (what, request) in [("many headers", many), ("a huge one", huge), ("a long target", target)]
    {
        let got = write_and_read(&alice, request.into_bytes()).await;
        assert!(matches!(got.status, 400 | 414 | 431), "{what}: {got:?}");
    }

    let mut wire = alice.wire().await;
    wire.send(head).await;
    let (piece, mut written) = ("x: ".to_owned() + &"y".repeat(1000) + "\r\n", 0);
    while wire.try_send(&piece).await.is_ok() {
        written += piece.len();
        assert!(written < 100_000_000, "the server reads for ever");
    }
    let got = wire.reply().await;
    assert_eq!(got.status, 431, "{got:?}");
    alice.is_served().await;
}

#[tokio::test]
async fn a_request_whose_end_is_disputable_is_refused() {
    let alice = Alice::new(&[]).await;
    let body = r#"{"rooms":{}}"#;
    let length = body.len();
    for framing in [
        format!("content-length: {length}\r\ncontent-length: 5\r\n"),
        format!("content-length: 5\r\ncontent-length: {length}\r\n"),
        format!("content-length: 5, {length}\r\n"),
        format!("content-length: +{length}\r\n"),
        format!("content-length: {length}x\r\n"),
        "content-length: -1\r\n".to_owned(),
        "content-length: 0x10\r\n".to_owned(),
        "content-length: 99999999999999999999999999\r\n".to_owned(),
        "content-length: \r\n".to_owned(),
        format!("content-length : {length}\r\n"),
        format!("content-length: {length}\r\n folded: yes\r\n"),
        "transfer-encoding: gzip\r\n".to_owned(),
        "transfer-encoding: chunked, gzip\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
    ] {
        let mut wire = alice.wire().await;
        wire.send(alice.head("PUT", &alice.keys("")) + &framing + "\r\n" + body).await;
        let got = wire.try_reply().await;
        let got = got.unwrap_or_else(|error| panic!("{framing:?}: no answer: {error}"));
        assert_eq!(got.status, 400, "{framing:?}: {got:?}");
        // The rest of the bytes is nobody's request.
        assert_eq!(wire.closed().await.unwrap_or(0), 0, "{framing:?}: a second answer");
    }
    for bad_chunk in
        ["zz\r\n", "-1\r\n", "fffffffffffffffff\r\n", "c\r\n{\"rooms\":{}}x\r\n0\r\n\r\n"]
    {
        let mut wire = alice.wire().await;
        let head = alice.head("PUT", &alice.keys(""));
        wire.send(head + "transfer-encoding: chunked\r\n\r\n" + bad_chunk).await;
        let got = wire.try_reply().await;
        let got = got.unwrap_or_else(|error| panic!("{bad_chunk:?}: no answer: {error}"));
        assert_eq!(got.status, 400, "{bad_chunk:?}: {got:?}");
        assert_eq!(wire.closed().await.unwrap_or(0), 0, "{bad_chunk:?}: a second answer");
    }
    alice.is_served().await;
}

#[tokio::test]
async fn of_a_length_and_chunks_the_chunks_count() {
    let alice = Alice::new(&[]).await;
    let body = json!({ "rooms": { "!chunks:x": { "sessions": { "s": room_key(1) } } } });
    let body = [chunk(body.to_string().as_bytes()), chunk(b"")].concat();
    // By its length the body would end here, and the rest of it would be another request.
    let lengths = ["content-length: 3\r\n", "transfer-encoding: chunked\r\n"];
    for (first, second) in [(lengths[0], lengths[1]), (lengths[1], lengths[0])] {
        let mut wire = alice.wire().await;
        let head = alice.head("PUT", &alice.keys("")) + "connection: close\r\n";
        let head = head + first + second + "\r\n";
        let got = wire.ask([head.as_bytes(), &body].concat()).await;
        assert_eq!((got.status, &got.json["count"]), (200, &json!(1)), "{got:?}");
        assert_eq!(wire.closed().await.ok(), Some(0), "a second answer");
    }
}

#[tokio::test]
async fn requests_in_one_segment_are_answered_in_their_order() {
    let alice = Alice::new(&[]).await;
    let paths: Vec<_> = (0..20).map(|n| alice.keys(&format!("/!pipe:x/{n}"))).collect();
    let requests: String = (0..20)
        .zip(&paths)
        .map(|(n, path)| {
            alice.request("PUT", path, &room_key(n).to_string())
                + &alice.request("GET", path, "")
                + &alice.request("GET", &format!("{ROOT}/nowhere/{n}"), "")
        })
        .collect();
    let mut wire = alice.wire().await;
    wire.send(requests).await;
    for n in 0..20 {
        let put = wire.reply().await;
        assert_eq!((put.status, &put.json["count"]), (200, &json!(n + 1)), "{n}: {put:?}");
        let got = wire.reply().await;
        assert_eq!((got.status, &got.json), (200, &room_key(n)), "{n}: {got:?}");
        let nowhere = wire.reply().await;
        assert_eq!(nowhere.refusal(), (404, "M_UNRECOGNIZED"), "{n}: {nowhere:?}");
    }
    alice.is_served().await;
}

#[tokio::test]
async fn old_and_odd_forms_of_a_request_are_answered() {
    let alice = Alice::new(&[]).await;
    let token = &alice.user.token;
    let version = format!("{ROOT}/version");

    let mut wire = alice.wire().await;
    let got =
        wire.ask(format!("GET {version} HTTP/1.0\r\nauthorization: Bearer {token}\r\n\r\n")).await;
    assert_eq!((got.status, &got.json["version"]), (200, &json!(alice.version)), "{got:?}");
    assert!(got.head.starts_with("HTTP/1.0 ") || got.head.starts_with("HTTP/1.1 "), "{got:?}");
    assert_eq!(wire.closed().await.ok(), Some(0), "HTTP/1.0 ends with its answer");

    for target in [format!("http://elsewhere.example{version}"), format!("{version}?#x")] {
        let got = alice.wire().await.ask(alice.request("GET", &target, "")).await;
        assert_eq!((got.status, &got.json["version"]), (200, &json!(alice.version)), "{got:?}");
    }
    let upper =
        alice.request("GET", &version, "").replace("authorization: Bearer", "AUTHORIZATION:BEARER");
    assert_eq!(alice.wire().await.ask(upper).await.status, 200);

    for (request, statuses) in [
        ("OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", [204, 404]),
        ("CONNECT elsewhere:80 HTTP/1.1\r\nhost: x\r\n\r\n", [404, 405]),
        ("TRACE / HTTP/1.1\r\nhost: x\r\n\r\n", [404, 405]),
        ("GET  / HTTP/1.1\r\nhost: x\r\n\r\n", [400, 400]),
        ("GET / HTTP/1.1\nhost: x\n\n", [400, 404]),
        ("GET / HTTP/9.9\r\nhost: x\r\n\r\n", [400, 505]),
        ("G\u{0}T / HTTP/1.1\r\n\r\n", [400, 400]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400, 505]),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\r\n\r\n", [400, 400]),
    ] {
        let mut wire = alice.wire().await;
        wire.send(request).await;
        match wire.try_reply().await {
            Ok(got) => assert!(statuses.contains(&got.status), "{request:?}: {got:?}"),
            // To hang up is an answer to what is no HTTP.
            Err(error) => assert_eq!(statuses[0], 400, "{request:?}: {error}"),
        }
    }
    alice.is_served().await;
}

#[tokio::test]
async fn who_does_not_finish_a_header_is_hung_up_on() {
    let alice = Alice::new(&[("STRONGROOM_LIMITS_HEADER_TIMEOUT", "1s")]).await;
    let mut idle = alice.wire().await;
    let mut between = alice.wire().await;
    assert_eq!(between.ask(alice.request("GET", &alice.keys(""), "")).await.status, 200);
    let mut half = alice.wire().await;
    half.send("GET / HTTP/1.1\r\nhost: ").await;
    let mut slow: Vec<Wire> = Vec::new();
    for _ in 0..50 {
        slow.push(alice.wire().await);
    }
    for byte in alice.head("GET", &alice.keys("")).bytes().cycle() {
        let mut is_cut = true;
        for wire in &mut slow {
            is_cut &= wire.try_send([byte]).await.is_err();
        }
        if is_cut {
            break;
        }
        alice.is_served().await;
        tokio::time::sleep(SLOWLY / 2).await;
    }
    for (what, wire) in
        [("idle", &mut idle), ("between two requests", &mut between), ("half", &mut half)]
    {
        // With or without a last word.
        let closed = wire.closed().await;
        assert!(closed.as_ref().is_ok_and(|bytes| *bytes < 1000), "{what}: {closed:?}");
    }
    alice.is_served().await;
}

#[tokio::test]
async fn a_body_that_stands_still_or_takes_for_ever_is_given_up() {
    let environment =
        [("STRONGROOM_LIMITS_BODY_IDLE_TIMEOUT", "1s"), ("STRONGROOM_LIMITS_BODY_TIMEOUT", "3s")];
    let alice = Alice::new(&environment).await;
    let head = alice.head("PUT", &alice.keys("")) + "content-length: 1000000\r\n\r\n";
    let mut stalled = alice.wire().await;
    stalled.send(format!("{head} ")).await;
    let mut empty = alice.wire().await;
    empty.send(&head).await;
    let mut slow = alice.wire().await;
    slow.send(&head).await;
    // It never stands still for long, and never comes to an end either.
    while slow.try_send(" ").await.is_ok() {
        alice.is_served().await;
        tokio::time::sleep(SLOWLY).await;
    }
    for (what, mut wire) in [("stalled", stalled), ("empty", empty), ("slow", slow)] {
        let got = wire.try_reply().await;
        let got = got.unwrap_or_else(|error| panic!("{what}: no answer: {error}"));
        assert_eq!(got.refusal(), (408, "M_UNKNOWN"), "{what}: {got:?}");
    }
    alice.is_served().await;
}

/// Room for one large body.
const SMALL_BUDGET: [(&str, &str); 3] = [
    ("STRONGROOM_LIMITS_BODY_BYTES_MAX", "65536"),
    ("STRONGROOM_LIMITS_BODIES_IN_FLIGHT_BYTES_MAX", "65536"),
    ("STRONGROOM_LIMITS_BODY_IDLE_TIMEOUT", "3s"),
];

/// An upload that holds most of the small budget, and trickles on until it is told to end.
struct Hoarder {
    end: oneshot::Sender<()>,
    reply: JoinHandle<Reply>,
}

impl Hoarder {
    async fn new(alice: &Alice) -> Self {
        let mut wire = alice.wire().await;
        let head = alice.head("PUT", &alice.keys("")) + "transfer-encoding: chunked\r\n\r\n";
        wire.send([head.as_bytes(), &chunk(&[b' '; 49 * 1024])].concat()).await;
        let (end, mut is_told) = oneshot::channel();
        let reply = tokio::spawn(async move {
            while is_told.try_recv().is_err() {
                wire.send(chunk(b" ")).await;
                tokio::time::sleep(SLOWLY).await;
            }
            wire.ask([chunk(br#"{"rooms":{}}"#), chunk(b"")].concat()).await
        });
        Self { end, reply }
    }

    async fn finish(self) -> Reply {
        self.end.send(()).expect("it trickles on");
        self.reply.await.expect("it ends with an answer")
    }
}

#[tokio::test]
async fn bodies_beyond_the_budget_are_told_when_to_come_again_and_then_there_is_room() {
    let alice = Alice::new(&SMALL_BUDGET).await;
    let hoarder = Hoarder::new(&alice).await;
    // Its bytes are there before those of the next one.
    alice.is_served().await;
    let large = alice.request("PUT", &alice.keys(""), &padded(40_000));
    let refusal = until("a refusal", async || {
        let reply = alice.wire().await.ask(&large).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!(refusal.refusal(), (503, "M_UNKNOWN"), "{refusal:?}");
    let seconds = refusal.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    let ms = refusal.json["retry_after_ms"].as_u64();
    assert!(seconds.is_some() && ms.is_some_and(|ms| ms > 0), "{refusal:?}");
    assert_eq!(refusal.header("access-control-expose-headers"), Some("Retry-After"));

    let kept = hoarder.finish().await;
    assert_eq!(kept.status, 200, "{kept:?}");
    for _ in 0..3 {
        let again = alice.request("PUT", &alice.keys(""), &padded(60_000));
        let again = alice.wire().await.ask(again).await;
        assert_eq!(again.status, 200, "{again:?}");
    }
}

#[tokio::test]
async fn a_body_that_waits_for_room_does_not_hold_up_small_ones() {
    let alice = Alice::new(&SMALL_BUDGET).await;
    let hoarder = Hoarder::new(&alice).await;
    alice.is_served().await;
    let mut large = alice.wire().await;
    large.send(alice.request("PUT", &alice.keys(""), &padded(40_000))).await;
    let (refusal, mut served) = (large.reply(), 0);
    tokio::pin!(refusal);
    let refusal = loop {
        tokio::select! {
            refusal = &mut refusal => break refusal,
            () = alice.is_served() => served += 1,
        }
    };
    // In three seconds there is time for hundreds.
    assert_eq!(refusal.status, 503, "{refusal:?}");
    assert!(served >= 20, "while a large body waited, {served} small ones were served");
    hoarder.finish().await;
}

#[tokio::test]
async fn the_budget_that_broken_uploads_held_is_free_again() {
    let alice = Alice::new(&[
        ("STRONGROOM_LIMITS_BODY_BYTES_MAX", "65536"),
        ("STRONGROOM_LIMITS_BODIES_IN_FLIGHT_BYTES_MAX", "65536"),
        ("STRONGROOM_LIMITS_BODY_IDLE_TIMEOUT", "1s"),
    ])
    .await;
    for _ in 0..10 {
        let mut wire = alice.wire().await;
        let head = alice.head("PUT", &alice.keys("")) + "content-length: 60000\r\n\r\n";
        wire.send([head.as_bytes(), &[b' '; 50_000]].concat()).await;
    }
    until("room for an upload", async || {
        let put = alice.request("PUT", &alice.keys(""), &padded(60_000));
        let put = alice.wire().await.ask(put).await;
        assert!(matches!(put.status, 200 | 503), "{put:?}");
        (put.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn uploads_that_together_exceed_the_budget_take_turns() {
    let alice = Alice::new(&SMALL_BUDGET).await;
    let request = alice.request("PUT", &alice.keys(""), &padded(60_000));
    let (first, rest) = request.split_at(request.len() - 50_000);
    let mut wires = Vec::new();
    for _ in 0..8 {
        let mut wire = alice.wire().await;
        wire.send(first).await;
        wires.push(wire);
    }
    for wire in &mut wires {
        wire.send(rest).await;
    }
    for mut wire in wires {
        let put = wire.reply().await;
        assert_eq!(put.status, 200, "{put:?}");
    }
}

#[tokio::test]
async fn hundreds_of_idle_connections_disturb_nobody() {
    let alice = Alice::new(&[]).await;
    let before = alice.server.memory_bytes();
    let mut idle = Vec::new();
    for _ in 0..400 {
        let mut wire = alice.wire().await;
        wire.send("GET / HTTP/1.1\r\n").await;
        idle.push(wire);
    }
    alice.is_served().await;
    let grown = alice.server.memory_bytes().saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "400 idle connections take {grown} bytes");
    for wire in &mut idle {
        wire.send("host: x\r\n\r\n").await;
    }
    for wire in &mut idle {
        assert_eq!(wire.reply().await.refusal(), (404, "M_UNRECOGNIZED"));
    }
}

#[tokio::test]
async fn after_all_of_it_at_once_the_backup_is_whole() {
    let alice = Alice::new(&[
        ("STRONGROOM_LIMITS_BODY_BYTES_MAX", "100000"),
        ("STRONGROOM_LIMITS_HEADER_TIMEOUT", "2s"),
        ("STRONGROOM_LIMITS_BODY_IDLE_TIMEOUT", "1s"),
    ])
    .await;
    let head = alice.head("PUT", &alice.keys(""));
    let attacks = [
        "GET / HTTP/1.1\r\nx: ".to_owned(),
        format!("{head}content-length: 50000\r\n\r\n{{\"rooms\":{{"),
        format!("{head}content-length: 90000\r\n\r\n{}", "[".repeat(90_000)),
        format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n"),
        format!("{head}content-length: 999999999\r\n\r\n{}", " ".repeat(50_000)),
        alice.head("GET", &alice.keys("")) + "\r\n",
    ];
    let mut attackers: Vec<Wire> = Vec::new();
    for attack in attacks.iter().cycle().take(60) {
        let mut wire = Wire::open_narrow(alice.server.address()).await;
        wire.send(attack).await;
        attackers.push(wire);
    }
    let sent = put_honestly(&alice, 0..50).await;
    drop(attackers);
    let all: Value = iter::chain(sent, put_honestly(&alice, 50..100).await).collect();
    assert_eq!(alice.restored().await, json!({ "!honest:x": { "sessions": all } }));
}

/// Puts keys one by one and returns them.
async fn put_honestly(alice: &Alice, sessions: std::ops::Range<u32>) -> Vec<(String, Value)> {
    let mut sent = Vec::new();
    for n in sessions {
        let path = format!("/room_keys/keys/!honest:x/{n}?version={}", alice.version);
        let put = alice.server.put(&path, &alice.user, room_key(n)).await;
        assert_eq!(put.status, 200, "{put:?}");
        sent.push((n.to_string(), room_key(n)));
    }
    sent
}
