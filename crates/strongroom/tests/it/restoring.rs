//! Reading back a big backup: whole or visibly broken, in constant memory, beside writers.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::time::Duration;

use serde_json::{Map, Value, json};
use strongroom_testing::{Server, until};

use crate::hostile::wire::{Alice, ROOT, Wire, room_key};

/// By how much the server may grow while it hands out a backup of any size.
const GROWTH_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// So much a reader reads before it stops.
const TASTE_BYTES: usize = 2000;

/// The keys of some rooms, `!000:x` and so on, of about 900 bytes each.
fn rooms(rooms: std::ops::Range<usize>, sessions: usize) -> Value {
    let ciphertext = "abcdefghij".repeat(72);
    let rooms = rooms.map(|room| {
        let sessions = (0..sessions).map(|session| {
            let mut key = room_key(u32::try_from(room + session).expect("small"));
            // Different from each other, so that one in the place of another is noticed.
            key["session_data"]["ciphertext"] = format!("{room}/{session}/{ciphertext}").into();
            (format!("{session:05}"), key)
        });
        (format!("!{room:03}:x"), json!({ "sessions": sessions.collect::<Map<_, _>>() }))
    });
    Value::Object(rooms.collect())
}

async fn put(alice: &Alice, rooms: &Value) {
    let path = format!("/room_keys/keys?version={}", alice.version);
    let put = alice.server.put(&path, &alice.user, json!({ "rooms": rooms })).await;
    assert_eq!(put.status, 200, "{put:?}");
}

/// More than the sockets between a server and a reader hold.
pub(crate) async fn with_ten_megabytes(environment: &[(&str, &str)]) -> (Alice, Value) {
    let (alice, rooms) = (Alice::new(environment).await, rooms(0..5, 2400));
    put(&alice, &rooms).await;
    (alice, rooms)
}

/// A reader who has asked for everything and takes no more of the answer than its head.
pub(crate) async fn stalled(alice: &Alice, http: &str) -> (Wire, String) {
    let mut wire = Wire::open_narrow(alice.server.address()).await;
    let request = alice.request("GET", &alice.keys(""), "");
    wire.send(request.replacen("HTTP/1.1", http, 1)).await;
    let head = wire.reply_head().await.expect("an answer");
    assert!(head.contains(" 200 "), "{head}");
    (wire, head)
}

#[tokio::test]
async fn a_restore_takes_no_memory_to_speak_of_however_slow_its_readers() {
    let mut alice = Alice::new(&[]).await;
    for part in 0..20 {
        put(&alice, &rooms(part..part + 1, 3000)).await;
    }
    // The memory of the upload is gone with its process.
    alice.server.kill_and_restart().await;
    alice.is_served().await;
    let before = alice.server.memory_bytes();
    let report = |readers: &str, server: &Server| {
        let grown = server.memory_peak_bytes().saturating_sub(before);
        assert!(grown <= GROWTH_BYTES_MAX, "{readers}: {grown} bytes more than {before}");
    };

    let fast = read_all(&alice, usize::MAX).await;
    assert!(fast > 60_000 * 850, "{fast} bytes");
    report("one fast reader", &alice.server);
    assert_eq!(read_all(&alice, 256 * 1024).await, fast);
    report("one slow reader", &alice.server);

    let mut readers = Vec::new();
    for _ in 0..20 {
        let (mut wire, _) = stalled(&alice, "HTTP/1.1").await;
        wire.have(TASTE_BYTES).await.expect("the beginning of the document");
        readers.push(wire);
    }
    // They stall, and a writer and another reader do not.
    alice.is_served().await;
    assert_eq!(read_all(&alice, usize::MAX).await, fast);
    steady_memory(&alice.server).await;
    report("twenty that stopped reading", &alice.server);
}

/// Reads everything, with a rest after each so many bytes, and says how much it was.
async fn read_all(alice: &Alice, burst_bytes: usize) -> usize {
    let mut wire = alice.wire().await;
    wire.send(alice.head("GET", &alice.keys("")) + "connection: close\r\n\r\n").await;
    wire.reply_head().await.expect("an answer");
    let (mut total, mut burst) = (0, 0);
    loop {
        match wire.some().await.expect("the document goes on") {
            0 => return total,
            length => (total, burst) = (total + length, burst + length),
        }
        if burst >= burst_bytes {
            burst = 0;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until the memory does not change any more.
async fn steady_memory(server: &Server) {
    let mut seen = Vec::new();
    until("the memory to be steady", async || {
        seen.push(server.memory_bytes());
        let last = seen.iter().rev().take(10);
        (last.len() == 10 && last.min() == seen.iter().rev().take(10).max()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_big_backup_comes_in_chunks_and_is_what_was_put() {
    let (alice, rooms) = with_ten_megabytes(&[]).await;
    let got = alice.wire().await.ask(alice.request("GET", &alice.keys(""), "")).await;
    assert_eq!((got.status, got.header("content-length")), (200, None), "{got:?}");
    assert_eq!(got.header("transfer-encoding"), Some("chunked"), "{got:?}");
    assert!(got.json == json!({ "rooms": rooms }), "it is not what was put: {got:?}");

    let got = alice.wire().await.ask(alice.request("GET", &alice.keys("/!003:x"), "")).await;
    assert!(got.json == rooms["!003:x"], "the room is not what was put: {got:?}");
    // Without a version it is the current one.
    let got =
        alice.wire().await.ask(alice.request("GET", &format!("{ROOT}/keys/!003:x"), "")).await;
    assert!(got.json == rooms["!003:x"], "the room is not what was put: {got:?}");
}

#[tokio::test]
async fn a_small_backup_has_a_length() {
    let alice = Alice::new(&[]).await;
    let empty = alice.wire().await.ask(alice.request("GET", &alice.keys(""), "")).await;
    assert_eq!(
        (empty.header("content-length"), &empty.json),
        (Some("12"), &json!({ "rooms": {} }))
    );
    let rooms = rooms(0..3, 10);
    put(&alice, &rooms).await;
    let got = alice.wire().await.ask(alice.request("GET", &alice.keys(""), "")).await;
    assert_eq!(got.header("content-length"), Some(got.body.len().to_string().as_str()), "{got:?}");
    assert_eq!(got.header("transfer-encoding"), None, "{got:?}");
    assert_eq!(got.json, json!({ "rooms": rooms }));
}

#[tokio::test]
async fn over_http_1_0_a_restore_has_a_length_and_is_whole() {
    let (alice, rooms) = with_ten_megabytes(&[]).await;
    let request = alice.request("GET", &alice.keys(""), "").replacen("HTTP/1.1", "HTTP/1.0", 1);
    let got = alice.wire().await.ask(request).await;
    assert_eq!(got.header("transfer-encoding"), None, "{got:?}");
    assert!(got.header("content-length").is_some(), "{got:?}");
    assert!(got.json == json!({ "rooms": rooms }), "it is not what was put: {got:?}");
}

/// A reader over HTTP/1.0, which is what a proxy speaks unless told otherwise, has nothing but the
/// length to tell a whole document from a part of one.
#[tokio::test]
async fn over_http_1_0_a_restore_during_which_keys_change_is_whole_or_cut() {
    let (alice, _) = with_ten_megabytes(&[]).await;
    for (method, path) in [("DELETE", "/!004:x"), ("PUT", "/!999:x/later"), ("DELETE", "")] {
        let (mut wire, head) = stalled(&alice, "HTTP/1.0").await;
        let length = length(&head).expect("a length");
        let body = if method == "PUT" { room_key(1).to_string() } else { String::new() };
        let change = alice.wire().await.ask(alice.request(method, &alice.keys(path), &body)).await;
        assert_eq!(change.status, 200, "{change:?}");

        let Ok(document) = wire.take(length).await else { continue };
        let document = serde_json::from_slice::<Value>(&document)
            .map(|document| document["rooms"].is_object());
        assert!(
            matches!(document, Ok(true)),
            "{method} {path}: as long as announced, and {document:?}"
        );
    }
}

/// The length that the head of an answer announces.
fn length(head: &str) -> Option<usize> {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.map(|length| length.parse().expect("digits"))
}

#[tokio::test]
async fn a_restore_finishes_whole_when_what_it_reads_is_deleted() {
    for path in ["keys", "version"] {
        let (alice, rooms) = with_ten_megabytes(&[]).await;
        let (mut wire, _) = stalled(&alice, "HTTP/1.1").await;
        let target = match path {
            "keys" => alice.keys(""),
            _ => format!("{ROOT}/version/{}", alice.version),
        };
        let deleted = alice.wire().await.ask(alice.request("DELETE", &target, "")).await;
        assert_eq!(deleted.status, 200, "{deleted:?}");
        let after = alice.wire().await.ask(alice.request("GET", &alice.keys(""), "")).await;
        match path {
            "keys" => assert_eq!(after.json, json!({ "rooms": {} }), "{after:?}"),
            _ => assert_eq!(after.refusal(), (404, "M_NOT_FOUND"), "{after:?}"),
        }

        let document = wire.chunks().await.expect("a whole document");
        let document: Value = serde_json::from_slice(&document).expect("strict JSON");
        assert!(document == json!({ "rooms": rooms }), "{path}: it is not what was put");
    }
}

#[tokio::test]
async fn keys_put_during_a_restore_do_not_break_it() {
    let (alice, rooms) = with_ten_megabytes(&[]).await;
    let (mut wire, _) = stalled(&alice, "HTTP/1.1").await;
    let before_all = json!({ "!": { "sessions": { "s": room_key(1) } } });
    put(&alice, &before_all).await;
    put(&alice, &json!({ "!002:x": { "sessions": { "0": room_key(1), "9": room_key(1) } } })).await;
    let better = json!({ "!004:x": { "sessions": { "02399": room_key(0) } } });
    put(&alice, &better).await;

    let document = wire.chunks().await.expect("a whole document");
    let document: Value = serde_json::from_slice(&document).expect("strict JSON");
    for (room_id, room) in rooms.as_object().expect("rooms") {
        for (session_id, key) in room["sessions"].as_object().expect("sessions") {
            let got = &document["rooms"][room_id]["sessions"][session_id];
            let is_better = *got == better[room_id]["sessions"][session_id];
            assert!(got == key || (is_better && !got.is_null()), "{room_id} {session_id}: {got}");
        }
    }
}

#[tokio::test]
async fn slow_readers_do_not_hold_up_a_writer() {
    let (alice, _) = with_ten_megabytes(&[]).await;
    let mut readers = Vec::new();
    for _ in 0..20 {
        readers.push(stalled(&alice, "HTTP/1.1").await);
    }
    for n in 0..20 {
        let path = alice.keys(&format!("/!beside:x/{n}"));
        let put = alice.request("PUT", &path, &room_key(n).to_string());
        let put = alice.wire().await.ask(put).await;
        assert_eq!(put.status, 200, "{put:?}");
    }
    let deleted = alice.wire().await.ask(alice.request("DELETE", &alice.keys(""), "")).await;
    assert_eq!((deleted.status, &deleted.json["count"]), (200, &json!(0)), "{deleted:?}");
    for (mut wire, _) in readers {
        wire.chunks().await.expect("a whole document");
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_dropped_and_sees_that_something_is_missing() {
    // With one place for connections, the next one is served when this one is gone.
    let environment =
        [("STRONGROOM_LIMITS_WRITE_TIMEOUT", "1s"), ("STRONGROOM_LIMITS_CONNECTIONS_MAX", "1")];
    let (alice, _) = with_ten_megabytes(&environment).await;
    let (mut wire, _) = stalled(&alice, "HTTP/1.1").await;
    let after = alice.wire().await.ask(alice.request("GET", &format!("{ROOT}/version"), "")).await;
    assert_eq!(after.status, 200, "{after:?}");
    let document = wire.chunks().await;
    assert!(document.is_err(), "{:?} bytes look whole", document.map(|document| document.len()));
}

#[tokio::test]
async fn when_the_server_is_killed_a_restore_is_an_error_and_not_a_shorter_document() {
    let (mut alice, _) = with_ten_megabytes(&[]).await;
    for http in ["HTTP/1.1", "HTTP/1.0"] {
        let (mut wire, head) = stalled(&alice, http).await;
        wire.have(TASTE_BYTES).await.expect("the first bytes come before the last");
        alice.server.kill();
        let document = match length(&head) {
            Some(length) => wire.take(length).await,
            None => wire.chunks().await,
        };
        assert!(document.is_err(), "{http}: it looks whole");
        alice.server.start().await;
        alice.is_served().await;
    }

    // The same, as an HTTP client sees it.
    let url = alice.server.url() + &alice.keys("");
    let response = reqwest::Client::builder().no_proxy().build().expect("a client");
    let response = response.get(url).bearer_auth(&alice.user.token).send().await.expect("a head");
    assert_eq!(response.status(), 200);
    alice.server.kill();
    let body = response.bytes().await;
    assert!(body.is_err(), "{:?} bytes look whole", body.map(|body| body.len()));
}
