//! The thief's day: whatever is done with a stolen token, one command brings back the minute before.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

use std::{
    collections::BTreeMap,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use strongroom_testing::{Server, User};

use crate::client::{BINARY, assert_ok, new_version, room_key, start};

/// A request that changes something, or tries to. The version is one of those that ever were.
#[derive(Clone, Debug)]
enum Request {
    CreateVersion,
    /// Sign the `auth_data` anew.
    UpdateVersion(usize, u8),
    /// Let all further keys be encrypted for somebody else.
    Redirect(usize),
    DeleteVersion(usize),
    Put(usize, u8, u8, (bool, u32, u32)),
    PutMany(usize, Vec<(u8, u8)>, (bool, u32, u32)),
    DeleteKeys(usize),
    DeleteRoom(usize, u8),
    DeleteSession(usize, u8, u8),
}

fn requests(most: usize) -> impl Strategy<Value = Vec<Request>> {
    let which = || 0..4usize;
    let fields = || (any::<bool>(), 0..3u32, 0..3u32);
    let (room, session) = (|| 0..3u8, || 0..4u8);
    vec(
        prop_oneof![
            2 => Just(Request::CreateVersion),
            2 => (which(), 0..4u8).prop_map(|(w, s)| Request::UpdateVersion(w, s)),
            1 => which().prop_map(Request::Redirect),
            2 => which().prop_map(Request::DeleteVersion),
            6 => (which(), room(), session(), fields())
                .prop_map(|(w, r, s, f)| Request::Put(w, r, s, f)),
            6 => (which(), vec((room(), session()), 1..8), fields())
                .prop_map(|(w, k, f)| Request::PutMany(w, k, f)),
            1 => which().prop_map(Request::DeleteKeys),
            1 => (which(), room()).prop_map(|(w, r)| Request::DeleteRoom(w, r)),
            2 => (which(), room(), session()).prop_map(|(w, r, s)| Request::DeleteSession(w, r, s)),
        ],
        0..most,
    )
}

/// An account whose requests anybody with one of its tokens may make.
struct Account<'a> {
    server: &'a Server,
    versions: Vec<String>,
    /// Marks each copy of a key.
    requests: usize,
}

impl Account<'_> {
    /// Sends it; what comes of it is the server's business.
    async fn send(&mut self, user: &User, request: &Request) {
        self.requests += 1;
        let mark = self.requests.to_string();
        let key = |fields: &(bool, u32, u32)| room_key(fields.0, fields.1, fields.2, &mark);
        // Counted from the newest.
        let version = |which: &usize| {
            let count = self.versions.len();
            let found = count.checked_sub(1 + which % count.max(1));
            found.map_or_else(|| "1".to_owned(), |at| self.versions[at].clone())
        };
        let server = self.server;
        match request {
            Request::CreateVersion => {
                let answer = server.post("/room_keys/version", user, new_version()).await;
                assert_ok(&answer);
                self.versions.push(answer.json["version"].as_str().unwrap().to_owned());
            }
            Request::UpdateVersion(which, signature) => {
                let mut body = new_version();
                body["auth_data"]["signatures"] = json!({"by": signature});
                server.put(&format!("/room_keys/version/{}", version(which)), user, body).await;
            }
            Request::Redirect(which) => {
                let mut body = new_version();
                body["auth_data"]["public_key"] = json!("the thief's");
                server.put(&format!("/room_keys/version/{}", version(which)), user, body).await;
            }
            Request::DeleteVersion(which) => {
                server.delete(&format!("/room_keys/version/{}", version(which)), user).await;
            }
            Request::Put(which, room, session, fields) => {
                let path =
                    format!("/room_keys/keys/!{room}:x/{session}?version={}", version(which));
                server.put(&path, user, key(fields)).await;
            }
            Request::PutMany(which, places, fields) => {
                let mut rooms = json!({});
                for (room, session) in places {
                    rooms[format!("!{room}:x")]["sessions"][session.to_string()] = key(fields);
                }
                let path = format!("/room_keys/keys?version={}", version(which));
                server.put(&path, user, json!({ "rooms": rooms })).await;
            }
            Request::DeleteKeys(which) => {
                server.delete(&format!("/room_keys/keys?version={}", version(which)), user).await;
            }
            Request::DeleteRoom(which, room) => {
                let path = format!("/room_keys/keys/!{room}:x?version={}", version(which));
                server.delete(&path, user).await;
            }
            Request::DeleteSession(which, room, session) => {
                let path =
                    format!("/room_keys/keys/!{room}:x/{session}?version={}", version(which));
                server.delete(&path, user).await;
            }
        }
    }

    /// All that a client can read: bodies by path, and etags apart.
    async fn everything(
        &self,
        user: &User,
    ) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Value>) {
        let (mut bodies, mut etags) = (BTreeMap::new(), BTreeMap::new());
        let current = self.server.get("/room_keys/version", user).await;
        let current = (current.status, &current.json["version"]);
        bodies.insert("current".to_owned(), json!(current).to_string().into_bytes());
        for version in &self.versions {
            let path = format!("/room_keys/version/{version}");
            let mut answer = self.server.get(&path, user).await;
            if let Some(etag) = answer.json.as_object_mut().and_then(|json| json.remove("etag")) {
                etags.insert(version.clone(), etag);
            }
            bodies.insert(path, answer.json.to_string().into_bytes());
            let path = format!("/room_keys/keys?version={version}");
            let answer = self.server.get(&path, user).await;
            bodies.insert(path, answer.body);
        }
        (bodies, etags)
    }
}

/// What an operator types.
fn undelete(server: &Server, user: &User, as_of: u128, more: &[&str]) -> Value {
    let mut command = Command::new(BINARY);
    command.args(["admin", "--data"]).arg(server.data());
    command.args(["undelete", &user.user_id, "--as-of", &as_of.to_string(), "--json"]).args(more);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{said}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The time on the clock by which the server stamps its changes.
fn micros_now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros()
}

#[test]
fn one_command_brings_back_the_minute_before_the_thief_came() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (homeserver, server, _) = runtime.block_on(start());
    let users = AtomicUsize::new(0);
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let days = (requests(16), requests(24));
    let outcome = TestRunner::new(config).run(&days, |(before, theft)| {
        let user_id = format!("@user{}:example.org", users.fetch_add(1, Ordering::Relaxed));
        let (owner, thief) = (homeserver.login(&user_id), homeserver.login(&user_id));
        runtime.block_on(async {
            let mut account = Account { server: &server, versions: Vec::new(), requests: 0 };
            account.send(&owner, &Request::CreateVersion).await;
            for request in &before {
                account.send(&owner, request).await;
            }
            let good = account.everything(&owner).await;
            let good_versions = account.versions.clone();
            let minute_before = micros_now();
            for request in &theft {
                account.send(&thief, request).await;
            }
            let bad = account.everything(&owner).await;

            let plan = undelete(&server, &owner, minute_before, &["--dry-run"]);
            prop_assert_eq!(&account.everything(&owner).await, &bad, "{}", plan);
            undelete(&server, &owner, minute_before, &[]);
            let (bodies, etags) = account.everything(&owner).await;
            for (path, body) in &good.0 {
                let got = &bodies[path];
                prop_assert!(got == body, "{path}: {}", String::from_utf8_lossy(got));
            }
            for version in &account.versions {
                let is_known = good_versions.contains(version);
                prop_assert!(is_known || !etags.contains_key(version), "{version} is still there");
                let keys = format!("/room_keys/keys?version={version}");
                if let (Some(old), Some(new)) = (bad.1.get(version), etags.get(version)) {
                    prop_assert_eq!(
                        bad.0[&keys] == bodies[&keys],
                        old == new,
                        "etag of {}",
                        version
                    );
                }
            }
            // The account is as alive as ever.
            if bodies["current"] != b"[404,null]" {
                let current = server.get("/room_keys/version", &owner).await;
                let version = current.json["version"].as_str().unwrap();
                let path = format!("/room_keys/keys/!new:x/session?version={version}");
                assert_ok(&server.put(&path, &owner, room_key(true, 0, 0, "new")).await);
            }
            Ok(())
        })
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}\n{}", server.output()));
}
