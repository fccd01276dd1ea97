//! A client as these tests are one: what it sends, and how it reads what comes back.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

use std::collections::HashMap;

use serde_json::{Value, json, value::RawValue};
use strongroom_testing::{Answer, Homeserver, Server, User};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_strongroom");
/// The one algorithm of the specification.
pub(crate) const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

/// The homeserver, the server beside it, and a user without a backup.
pub(crate) async fn start() -> (Homeserver, Server, User) {
    start_with(&[]).await
}

/// The same, with options of the server in its environment.
pub(crate) async fn start_with(environment: &[(&str, &str)]) -> (Homeserver, Server, User) {
    let homeserver = Homeserver::start().await;
    let alice = homeserver.login("@alice:example.org");
    let server = Server::spawn_with(BINARY, homeserver.arguments(), environment).await;
    (homeserver, server, alice)
}

/// What creates a backup.
pub(crate) fn new_version() -> Value {
    json!({"algorithm": ALGORITHM, "auth_data": {"public_key": "abc"}})
}

/// Creates a backup and returns its version.
pub(crate) async fn create_backup(server: &Server, user: &User) -> String {
    let answer = server.post("/room_keys/version", user, new_version()).await;
    assert_ok(&answer);
    answer.json["version"].as_str().expect("a string").to_owned()
}

/// One `KeyBackupData`. `mark` tells it apart from other copies of the same key.
pub(crate) fn room_key(is_verified: bool, index: u32, forwards: u32, mark: &str) -> Value {
    json!({
        "first_message_index": index,
        "forwarded_count": forwards,
        "is_verified": is_verified,
        "session_data": {"ciphertext": mark, "ephemeral": "e", "mac": "m"},
    })
}

/// Sends a body as it is, where a `Value` would not keep its text.
pub(crate) async fn send(
    server: &Server,
    method: &str,
    path: &str,
    user: &User,
    body: &str,
) -> Answer {
    let authorization = bearer(user);
    let path = format!("/_matrix/client/v3{path}");
    server.raw(method, &path, &[("authorization", &authorization)], body.to_owned()).await
}

/// The header `Authorization`.
pub(crate) fn bearer(user: &User) -> String {
    format!("Bearer {}", user.token)
}

/// One segment of a path, or one value of a query: all but letters and digits is escaped.
pub(crate) fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The text of a member of a JSON object, some levels down, as it stands in the body.
pub(crate) fn text_at<'a>(body: &'a [u8], path: &[&str]) -> &'a str {
    let mut text = str::from_utf8(body).expect("UTF-8");
    for name in path {
        let members: HashMap<String, &RawValue> = serde_json::from_str(text).expect("an object");
        text = members[*name].get();
    }
    text
}

/// 200 with a JSON object.
#[track_caller]
pub(crate) fn assert_ok(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json.is_object(), "{answer:?}");
    assert_for_browsers(answer);
}

/// An error as every client can read it: with `errcode` and `error`.
#[track_caller]
pub(crate) fn assert_refused(answer: &Answer, status: u16, errcode: &str) {
    assert_eq!((answer.status, &answer.json["errcode"]), (status, &json!(errcode)), "{answer:?}");
    let error = answer.json["error"].as_str();
    assert!(error.is_some_and(|error| !error.is_empty()), "{answer:?}");
    assert_for_browsers(answer);
}

/// JSON, with the headers that let a script of another origin read it.
#[track_caller]
pub(crate) fn assert_for_browsers(answer: &Answer) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_cross_origin(answer);
}

/// The headers of the specification's section "Web Browser Clients".
#[track_caller]
pub(crate) fn assert_cross_origin(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{answer:?}");
    for (header, names) in [
        ("access-control-allow-methods", &["GET", "POST", "PUT", "DELETE", "OPTIONS"][..]),
        ("access-control-allow-headers", &["X-Requested-With", "Content-Type", "Authorization"]),
        ("access-control-expose-headers", &["Retry-After"]),
    ] {
        let listed = answer.header(header).unwrap_or_default();
        for name in names {
            let is_listed = listed.split(',').any(|it| it.trim().eq_ignore_ascii_case(name));
            assert!(is_listed, "{header} has no {name}: {answer:?}");
        }
    }
}

/// When to try again: for clients that read only the header, and for those that read only the body.
#[track_caller]
pub(crate) fn assert_says_when_to_retry(answer: &Answer) {
    let ms = answer.json["retry_after_ms"].as_u64();
    let ms = ms.unwrap_or_else(|| panic!("no retry_after_ms: {answer:?}"));
    let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse().ok());
    assert_eq!(seconds, Some(ms.div_ceil(1000)), "{answer:?}");
    assert!(ms > 0, "{answer:?}");
}
