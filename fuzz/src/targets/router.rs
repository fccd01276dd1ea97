//! Whatever is asked: every answer is a success of the specification's form or a Matrix error, for
//! browsers too; what is acknowledged can be read; and a restore is always whole, strict JSON that
//! typed clients read as well.
//!
//! An input is one request after the other, with a line `====` between them: a method, a target and
//! perhaps `HTTP/1.0`; headers; an empty line; the body. `$V` in a target is the current version.
//! Without an `authorization` of its own a request is Alice's, who has a backup with one key.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header},
};
use ruma::api::{IncomingResponse as _, client::backup::get_backup_keys};
use serde_json::Value;
use strongroom_protocol::{Limits, NewVersion, RoomId, RoomKeys, SessionId, UserId};
use strongroom_server::{FixedTokens, Options, Peer, service};
use strongroom_store::{Author, Memory, Store, Timestamp};
use tower::ServiceExt as _;

use super::room_keys::{is_key, is_room, is_rooms};
use crate::json;

const REQUESTS_MAX: usize = 8;
const ROOT: &str = "/_matrix/client/v3/room_keys";
const VERSION_BODY: &[u8] =
    br#"{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"public_key":"k"}}"#;
const KEY_BODY: &[u8] = br#"{"first_message_index":1,"forwarded_count":1,"is_verified":false,
    "session_data":{"ephemeral":"e","ciphertext":"c","mac":"m"}}"#;

pub(crate) fn run(data: &[u8]) {
    super::run_to_the_end(play(data));
}

async fn play(data: &[u8]) {
    let store = Arc::new(Memory::default());
    let alice = UserId::parse("@alice:x").unwrap();
    let author = Author { user_id: alice.clone(), device_id: None, at: Timestamp::now() };
    let new = NewVersion::parse(VERSION_BODY).unwrap();
    let version = store.create_version(&author, new).await.unwrap();
    let (room_id, session_id) = (RoomId::parse("!a:x").unwrap(), SessionId::parse("s").unwrap());
    let limits = Limits { body_bytes_max: 2048, session_data_bytes_max: 256 };
    let keys = RoomKeys::parse_session(room_id, session_id, KEY_BODY, &limits).unwrap();
    store.put_keys(&author, version, keys).await.unwrap();

    let tokens = FixedTokens::parse("alice @alice:x\nbob @bob:x").unwrap();
    let options = Options { limits, ..Options::default() };
    let router = service(Arc::clone(&store) as Arc<dyn Store>, Arc::new(tokens), options);
    for text in split(data, b"\n====\n").into_iter().take(REQUESTS_MAX) {
        let current = store.version(&alice, None).await.map(|backup| backup.version.to_string());
        let Some(request) = parse(text, &current.unwrap_or_else(|_| "1".to_owned())) else {
            continue;
        };
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let headers = request.headers().clone();
        let answer = ask(&router, request).await;
        answer.is_for(&method, uri.path());
        if answer.status == 200 && method == Method::PUT && segments(uri.path()).len() == 3 {
            let mut same = Request::get(uri).body(Body::empty()).unwrap();
            *same.headers_mut() = headers;
            let put = ask(&router, same).await;
            assert_eq!(put.status, 200, "what was put can't be read: {put:?}");
        }
        restore_is_whole(&router).await;
    }
}

async fn restore_is_whole(router: &Router) {
    let get = |target: &str| {
        let uri = format!("{ROOT}{target}");
        Request::get(uri).header("authorization", "Bearer alice").body(Body::empty()).unwrap()
    };
    let (version, all) = (ask(router, get("/version")).await, ask(router, get("/keys")).await);
    assert_eq!(version.status, all.status, "{version:?} {all:?}");
    if all.status == 200 {
        all.is_for(&Method::GET, &format!("{ROOT}/keys"));
        let rooms = all.json["rooms"].as_object().unwrap();
        let sizes = rooms.values().map(|room| room["sessions"].as_object().unwrap().len());
        assert_eq!(version.json["count"], sizes.sum::<usize>(), "{version:?} {all:?}");
        let typed = get_backup_keys::v3::Response::try_from_http_response(Response::new(all.body));
        assert_eq!(typed.expect("typed clients read it").rooms.len(), rooms.len());
    }
}

fn parse(text: &[u8], version: &str) -> Option<Request<Body>> {
    let head = split(text, b"\n\n")[0];
    let body = text.get(head.len() + 2..).unwrap_or_default();
    let head = String::from_utf8_lossy(head).replace("$V", version);
    let (line, headers) = head.split_once('\n').unwrap_or((&head, ""));
    let mut words = line.split(' ');
    let method = Method::from_bytes(words.next()?.as_bytes()).ok()?;
    let uri: Uri = words.next()?.parse().ok()?;
    let mut request = Request::new(Body::from(body.to_vec()));
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    if words.next() == Some("HTTP/1.0") {
        *request.version_mut() = Version::HTTP_10;
    }
    for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            request.headers_mut().append(name, value);
        }
    }
    let alices = HeaderValue::from_static("Bearer alice");
    request.headers_mut().entry(header::AUTHORIZATION).or_insert(alices);
    // From a proxy that is trusted to say for whom.
    request.extensions_mut().insert(Peer::Local);
    Some(request)
}

fn split<'a>(data: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let (mut parts, mut rest) = (Vec::new(), data);
    while let Some(at) = rest.windows(separator.len()).position(|it| it == separator) {
        parts.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    parts.push(rest);
    parts
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    json: Value,
}

async fn ask(router: &Router, request: Request<Body>) -> Answer {
    let Ok(response) = router.clone().oneshot(request).await;
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a whole body").to_vec();
    let json = if body.is_empty() { Value::Null } else { json::read_by_all(&body) };
    Answer { status: parts.status.as_u16(), headers: parts.headers, body, json }
}

impl Answer {
    /// Fails unless it is one to such a request.
    fn is_for(&self, method: &Method, path: &str) {
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_METHODS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            assert!(self.headers.contains_key(&name), "no {name}: {self:?}");
        }
        assert_eq!(self.status == 204, *method == Method::OPTIONS, "{self:?}");
        if self.status == 204 {
            assert!(self.body.is_empty(), "{self:?}");
            return;
        }
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json", "{self:?}");
        if *method == Method::HEAD {
            assert!(self.body.is_empty() && matches!(self.status, 200 | 400..=499), "{self:?}");
        } else if self.status == 200 {
            assert!(self.is_success(method, path), "to {method} {path}: {self:?}");
        } else {
            assert!(matches!(self.status, 400..=499), "{self:?}");
            let (errcode, error) = (self.json["errcode"].as_str(), self.json["error"].as_str());
            assert!(errcode.is_some_and(|errcode| errcode.starts_with("M_")), "{self:?}");
            assert!(error.is_some_and(|error| !error.is_empty()), "{self:?}");
            let is_wrong_version = errcode == Some("M_WRONG_ROOM_KEYS_VERSION");
            assert_eq!(is_wrong_version, self.json["current_version"].is_string(), "{self:?}");
        }
    }

    /// The forms that the specification gives the answers of the fourteen operations.
    fn is_success(&self, method: &Method, path: &str) -> bool {
        let json = &self.json;
        let is_number = |text: &Value| text.as_str().is_some_and(|it| it.parse::<i64>().is_ok());
        let is_state = || is_number(&json["etag"]) && json["count"].is_u64();
        match (method.as_str(), segments(path).as_slice()) {
            ("POST", ["version"]) => is_number(&json["version"]),
            ("GET", ["version"] | ["version", _]) => {
                let has_data = json["algorithm"].is_string() && json["auth_data"].is_object();
                has_data && is_state() && is_number(&json["version"])
            }
            ("PUT" | "DELETE", ["version", _]) => self.body == b"{}",
            ("PUT" | "DELETE", ["keys"] | ["keys", _] | ["keys", _, _]) => is_state(),
            ("GET", ["keys"]) => is_rooms(&json["rooms"]),
            ("GET", ["keys", _]) => is_room(json),
            ("GET", ["keys", _, _]) => is_key(json),
            (_, _) => false,
        }
    }
}

/// The segments of a path below `room_keys`.
fn segments(path: &str) -> Vec<&str> {
    let below = ["v3", "r0", "unstable"].iter().find_map(|prefix| {
        path.strip_prefix("/_matrix/client/")?.strip_prefix(prefix)?.strip_prefix("/room_keys/")
    });
    below.map(|below| below.split('/').collect()).unwrap_or_default()
}
