//! Beside Synapse, behind nginx, with the location block out of our documentation.

use serde_json::{Value, json};
use strongroom_testing::{Answer, Nginx, Server, Synapse, User, strongroom_binary, until};

use crate::behind_nginx::documented_location;

/// The three prefixes under which clients in the field look for their keys.
const PREFIXES: [&str; 3] =
    ["/_matrix/client/v3", "/_matrix/client/r0", "/_matrix/client/unstable"];

/// Ids whose characters mean something in a path, a query, or a percent-encoding.
const ODD_IDS: [(&str, &str); 4] = [
    ("!room:example.org", "KDfJ29Cqin4U7cOOKDKs1OzVv06y6VE/0s2kLoVMaqg"),
    ("!room:example.org", "a+b%2Fc//d"),
    ("!r/o+o%m:example.org:8448", "session:with/everything+in%it"),
    ("!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM", "../../version"),
];

#[tokio::test]
async fn keys_come_back_through_nginx_whatever_their_ids_and_the_prefix() {
    let deployment = Deployment::start().await;
    let alice = deployment.login("alice").await;
    let version = deployment.create_backup(&alice).await;

    for (number, (room, session)) in (1..).zip(ODD_IDS) {
        let path = key_path(room, session, &version);
        let put = deployment.ask("PUT", &path, &alice, Some(&key(session))).await;
        assert_eq!((put.status, &put.json["count"]), (200, &json!(number)), "{session}: {put:?}");
    }
    let all = deployment.ask("GET", &keys_path(&version), &alice, None).await;
    for (room, session) in ODD_IDS {
        assert_eq!(all.json["rooms"][room]["sessions"][session], key(session), "{all:?}");
        for prefix in PREFIXES {
            let path = key_path(room, session, &version);
            let path = format!("{prefix}{path}");
            let got = deployment.nginx.request("GET", &path, &alice, None).await;
            assert_eq!((got.status, &got.json), (200, &key(session)), "{path}: {got:?}");
        }
    }
}

#[tokio::test]
async fn room_keys_are_ours_and_everything_else_is_synapses() {
    let deployment = Deployment::start().await;
    let alice = deployment.login("alice").await;
    let version = deployment.create_backup(&alice).await;

    let through_nginx = deployment.ask("GET", "/room_keys/version", &alice, None).await;
    let from_us = deployment.server.get("/room_keys/version", &alice).await;
    assert_eq!(through_nginx.json["version"], version, "{through_nginx:?}");
    assert_eq!(from_us.json, through_nginx.json, "{from_us:?}");
    let from_synapse = deployment.synapse.request("GET", "/room_keys/version", &alice, None).await;
    assert_eq!(from_synapse.status, 404, "{from_synapse:?}");
    assert_eq!(from_synapse.json["errcode"], "M_NOT_FOUND", "{from_synapse:?}");

    let sync = deployment.ask("GET", "/sync?timeout=0", &alice, None).await;
    assert!(sync.status == 200 && sync.json["next_batch"].is_string(), "{sync:?}");
    let versions = deployment.nginx.request("GET", "/_matrix/client/versions", &alice, None).await;
    assert_eq!(versions.status, 200, "{versions:?}");
    assert!(versions.header("server").is_some(), "{versions:?}");
    // Begins as ours do, and is not below `room_keys`.
    let other = deployment.ask("GET", "/room_keysx", &alice, None).await;
    let direct = deployment.synapse.request("GET", "/room_keysx", &alice, None).await;
    assert_eq!((other.status, &other.json), (direct.status, &direct.json), "{other:?}");
}

#[tokio::test]
async fn the_refusal_of_a_wrong_token_is_synapses_own() {
    let deployment = Deployment::start().await;
    let alice = deployment.login("alice").await;
    let stranger = User { token: "syt_not_a_token".into(), ..alice };

    let refused = deployment.ask("GET", "/room_keys/version", &stranger, None).await;
    let whoami = deployment.synapse.request("GET", "/account/whoami", &stranger, None).await;
    assert_eq!((whoami.status, &whoami.json["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
    assert_eq!((refused.status, &refused.json), (401, &whoami.json), "{refused:?}");
}

#[tokio::test]
async fn after_logout_reading_ends_with_the_cache_and_deleting_at_once() {
    let deployment = Deployment::start().await;
    let alice = deployment.login("alice").await;
    let version = deployment.create_backup(&alice).await;
    let read = deployment.ask("GET", "/room_keys/version", &alice, None).await;
    assert_eq!(read.status, 200, "{read:?}");

    deployment.synapse.logout(&alice).await;
    let path = format!("/room_keys/version/{version}");
    let deleted = deployment.ask("DELETE", &path, &alice, None).await;
    assert_eq!(deleted.status, 401, "{deleted:?}");
    assert_eq!(deleted.json["errcode"], "M_UNKNOWN_TOKEN", "{deleted:?}");
    until("reading to be refused", async || {
        let read = deployment.ask("GET", "/room_keys/version", &alice, None).await;
        assert!([200, 401].contains(&read.status), "{read:?}");
        (read.status == 401).then_some(())
    })
    .await;

    let back = deployment.synapse.login("alice", "password").await;
    let read = deployment.ask("GET", "/room_keys/version", &back, None).await;
    assert_eq!((read.status, &read.json["version"]), (200, &json!(version)), "{read:?}");
    let output = deployment.server.output();
    assert!(!output.contains(&alice.token), "an access token is in the output:\n{output}");
}

/// A client that rotates its backup may send all keys that it has in one request.
#[tokio::test]
async fn an_upload_of_20_megabytes_passes_nginx_and_comes_back() {
    let deployment = Deployment::start().await;
    let alice = deployment.login("alice").await;
    let version = deployment.create_backup(&alice).await;
    let ciphertext = "c".repeat(1000);
    let sessions: serde_json::Map<_, _> =
        (0..20_000).map(|number| (format!("session{number}"), key(&ciphertext))).collect();
    let keys = json!({ "rooms": { "!room:example.org": { "sessions": sessions } } });
    let bytes = keys.to_string().len();
    assert!(bytes > 20_000_000, "{bytes} bytes");

    let put = deployment.ask("PUT", &keys_path(&version), &alice, Some(&keys)).await;
    assert_eq!((put.status, &put.json["count"]), (200, &json!(20_000)), "{put:?}");
    let got = deployment.ask("GET", &keys_path(&version), &alice, None).await;
    // Not `assert_eq`, which would print them all.
    assert!(got.status == 200 && got.json == keys, "{got:?}");
}

#[tokio::test]
async fn two_users_do_not_see_each_others_backups() {
    let deployment = Deployment::start().await;
    let (alice, bob) = (deployment.login("alice").await, deployment.login("bob").await);
    let of_alice = deployment.create_backup(&alice).await;
    let path = key_path("!room:example.org", "session", &of_alice);
    let put = deployment.ask("PUT", &path, &alice, Some(&key("hers"))).await;
    assert_eq!(put.status, 200, "{put:?}");

    for path in ["/room_keys/version", &format!("/room_keys/version/{of_alice}"), &path] {
        let got = deployment.ask("GET", path, &bob, None).await;
        assert_eq!((got.status, &got.json["errcode"]), (404, &json!("M_NOT_FOUND")), "{got:?}");
    }
    deployment.create_backup(&bob).await;
    let got = deployment.ask("GET", &path, &alice, None).await;
    assert_eq!((got.status, &got.json), (200, &key("hers")), "{got:?}");
}

/// Everything that runs where Strongroom does.
struct Deployment {
    nginx: Nginx,
    server: Server,
    synapse: Synapse,
}

impl Deployment {
    async fn start() -> Self {
        let synapse = Synapse::start().await;
        // Long enough that a test sees the cache at work, short enough to see it end.
        let environment = &[("STRONGROOM_AUTH_CACHE_TTL", "1s")];
        let server =
            Server::spawn_with(strongroom_binary(), synapse.arguments(), environment).await;
        let nginx = Nginx::start(&documented_location(), &server.url(), &synapse.url()).await;
        Self { nginx, server, synapse }
    }

    /// Registers a user of this name, and logs in.
    async fn login(&self, localpart: &str) -> User {
        self.synapse.register(localpart, "password").await;
        self.synapse.login(localpart, "password").await
    }

    /// Asks through nginx; `path` begins below `/_matrix/client/v3`.
    async fn ask(&self, method: &str, path: &str, user: &User, body: Option<&Value>) -> Answer {
        self.nginx.request(method, &format!("/_matrix/client/v3{path}"), user, body).await
    }

    async fn create_backup(&self, user: &User) -> String {
        let backup = json!({
            "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
            "auth_data": { "public_key": "XjhWTCjW7l59pbfx9tlCBQolfnIQWARoKOzjTOPSlWM" },
        });
        let created = self.ask("POST", "/room_keys/version", user, Some(&backup)).await;
        assert_eq!(created.status, 200, "{created:?}");
        created.json["version"].as_str().expect("a version").to_owned()
    }
}

fn keys_path(version: &str) -> String {
    format!("/room_keys/keys?version={version}")
}

fn key_path(room: &str, session: &str, version: &str) -> String {
    let (room, session) = (percent_encoded(room), percent_encoded(session));
    format!("/room_keys/keys/{room}/{session}?version={version}")
}

/// All but what RFC 3986 calls unreserved.
fn percent_encoded(id: &str) -> String {
    let encode = |byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    id.bytes().map(encode).collect()
}

fn key(ciphertext: &str) -> Value {
    json!({
        "first_message_index": 0,
        "forwarded_count": 0,
        "is_verified": false,
        "session_data": { "ciphertext": ciphertext, "ephemeral": "ephemeral", "mac": "mac" },
    })
}
