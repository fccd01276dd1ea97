//! Who is asking: what the homeserver is asked, what is remembered of it, and what is never said
//! unless the homeserver has just said so.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, sync::Arc};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use strongroom_testing::{Answer, Fault, Homeserver, Process, SECRET, Server, User, until};
use tokio::task::JoinSet;

use crate::client::{
    BINARY, assert_for_browsers, assert_ok, assert_refused, assert_says_when_to_retry, bearer,
    create_backup, new_version, room_key, start, start_with,
};

const CURRENT: &str = "/room_keys/version";
const PATH: &str = "/_matrix/client/v3/room_keys/version";

/// Nothing is remembered of a token.
const NO_MEMORY: [(&str, &str); 2] =
    [("STRONGROOM_AUTH_CACHE_TTL", "0s"), ("STRONGROOM_AUTH_REFUSED_TTL", "0s")];
/// What is remembered of a token, is remembered for as long as a test lasts.
const LONG_MEMORY: [(&str, &str); 2] =
    [("STRONGROOM_AUTH_CACHE_TTL", "1h"), ("STRONGROOM_AUTH_REFUSED_TTL", "1h")];

fn stranger(token: &str) -> User {
    let token = format!("{token}_{SECRET}");
    User { user_id: "@alice:example.org".to_owned(), token, device_id: None }
}

/// One request of each kind: those that read, that add, and that destroy or redirect.
async fn one_of_each(server: &Server, user: &User, version: &str) -> Vec<(&'static str, Answer)> {
    let one = format!("/room_keys/version/{version}");
    let keys = format!("/room_keys/keys?version={version}");
    let key = format!("/room_keys/keys/!r:x/s?version={version}");
    vec![
        ("GET version", server.get(CURRENT, user).await),
        ("GET one version", server.get(&one, user).await),
        ("GET keys", server.get(&keys, user).await),
        ("GET key", server.get(&key, user).await),
        ("PUT keys", server.put(&keys, user, json!({"rooms": {}})).await),
        ("PUT key", server.put(&key, user, room_key(true, 0, 0, "k")).await),
        ("DELETE keys", server.delete(&keys, user).await),
        ("DELETE key", server.delete(&key, user).await),
        ("PUT version", server.put(&one, user, new_version()).await),
        ("POST version", server.post(CURRENT, user, new_version()).await),
        ("DELETE version", server.delete(&one, user).await),
    ]
}

#[tokio::test]
async fn a_request_without_a_usable_token_is_refused_and_the_homeserver_is_not_asked() {
    let (homeserver, server, alice) = start().await;
    let good = bearer(&alice);
    let basic = format!("Basic {}", alice.token);
    let in_query = format!("{PATH}?access_token={}", alice.token);
    for (path, headers) in [
        (PATH, &[][..]),
        (PATH, &[("authorization", "")]),
        (PATH, &[("authorization", "Bearer")]),
        (PATH, &[("authorization", "Bearer ")]),
        (PATH, &[("authorization", "Bearer   ")]),
        (PATH, &[("authorization", &basic)]),
        (PATH, &[("authorization", &alice.token)]),
        (PATH, &[("authorization", &good), ("authorization", "Bearer other")]),
        (PATH, &[("cookie", &good)]),
        (&in_query, &[]),
    ] {
        for (method, body) in [("GET", String::new()), ("POST", new_version().to_string())] {
            let answer = server.raw(method, path, headers, body).await;
            assert_refused(&answer, 401, "M_MISSING_TOKEN");
        }
    }
    assert_eq!(homeserver.whoami_count(), 0);

    // The name of the scheme may be written in any way.
    for authorization in [good.replace("Bearer", "bearer"), good.replace("Bearer", "BEARER")] {
        let answer = server.raw("GET", PATH, &[("authorization", &authorization)], "").await;
        assert_refused(&answer, 404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_token_is_asked_about_once_and_each_token_by_itself() {
    let (homeserver, server, alice) = start_with(&LONG_MEMORY).await;
    let other_device = homeserver.login(&alice.user_id);
    let bob = homeserver.login("@bob:example.org");
    let version = create_backup(&server, &alice).await;
    for (n, user) in [&alice, &other_device, &bob].into_iter().enumerate() {
        for _ in 0..20 {
            let status = if user.user_id == bob.user_id { 404 } else { 200 };
            assert_eq!(server.get(CURRENT, user).await.status, status);
            let path = format!("/room_keys/keys/!r:x/s?version={version}");
            let put = server.put(&path, user, room_key(true, 0, 0, "k")).await;
            assert_eq!(put.status, status, "{put:?}");
        }
        assert_eq!(homeserver.whoami_count(), n + 1);
    }
}

#[tokio::test]
async fn fifty_first_requests_with_one_token_ask_once() {
    // Longer than it takes to send fifty requests.
    let (homeserver, server, alice) = start_with(&[("STRONGROOM_AUTH_TIMEOUT", "3s")]).await;
    let server = Arc::new(server);
    let fifty = async |user: &User| {
        let mut requests = JoinSet::new();
        for _ in 0..50 {
            let (server, user) = (Arc::clone(&server), user.clone());
            requests.spawn(async move { server.get(CURRENT, &user).await });
        }
        requests.join_all().await
    };
    for answer in fifty(&alice).await {
        assert_refused(&answer, 404, "M_NOT_FOUND");
    }
    assert_eq!(homeserver.whoami_count(), 1);

    for answer in fifty(&stranger("wrong")).await {
        assert_refused(&answer, 401, "M_UNKNOWN_TOKEN");
    }
    assert_eq!(homeserver.whoami_count(), 2);

    homeserver.misbehave(Fault::Stall);
    for answer in fifty(&homeserver.login("@bob:example.org")).await {
        assert_refused(&answer, 502, "M_UNKNOWN");
    }
    assert_eq!(homeserver.whoami_count(), 3, "all of them waited for one question");
}

#[tokio::test]
async fn a_refused_token_is_remembered_as_such_and_no_other_is_affected() {
    let (homeserver, server, alice) = start_with(&LONG_MEMORY).await;
    let version = create_backup(&server, &alice).await;
    let asked = homeserver.whoami_count();
    let wrong = stranger("wrong");
    for _ in 0..3 {
        for (what, answer) in one_of_each(&server, &wrong, &version).await {
            assert_eq!(answer.status, 401, "{what}: {answer:?}");
            assert_refused(&answer, 401, "M_UNKNOWN_TOKEN");
            assert_eq!(answer.json["soft_logout"], json!(false), "{what}: {answer:?}");
        }
    }
    assert_eq!(homeserver.whoami_count(), asked + 1);
    assert_ok(&server.get(CURRENT, &alice).await);
    assert_ok(&server.get(CURRENT, &homeserver.login(&alice.user_id)).await);
    assert_refused(&server.get(CURRENT, &stranger("wrong2")).await, 401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn what_is_remembered_of_a_token_is_forgotten_after_its_time() {
    let (homeserver, server, alice) = start_with(&[
        ("STRONGROOM_AUTH_CACHE_TTL", "300ms"),
        ("STRONGROOM_AUTH_REFUSED_TTL", "300ms"),
    ])
    .await;
    create_backup(&server, &alice).await;
    // Asking all the time does not keep it alive.
    homeserver.misbehave(Fault::Locked);
    let status = async |status: u16| {
        let answer = server.get(CURRENT, &alice).await;
        (answer.status == status).then_some(answer)
    };
    until("the token to be refused", async || status(401).await).await;
    homeserver.misbehave(Fault::None);
    until("the token to be accepted", async || status(200).await).await;
    homeserver.logout(&alice);
    until("the token to be refused", async || status(401).await).await;
}

#[tokio::test]
async fn after_a_logout_a_token_changes_nothing_even_while_it_is_remembered() {
    let (homeserver, server, alice) = start_with(&LONG_MEMORY).await;
    let version = create_backup(&server, &alice).await;
    let other_device = homeserver.login(&alice.user_id);
    let one = format!("/room_keys/version/{version}");
    let keys =
        ["", "/!r:x", "/!r:x/s"].map(|path| format!("/room_keys/keys{path}?version={version}"));
    assert_ok(&server.put(&keys[2], &alice, room_key(true, 0, 0, "k")).await);
    let before = server.get(CURRENT, &other_device).await;
    let mut destroying = vec![("DELETE", one.as_str()), ("PUT", &one), ("POST", CURRENT)];
    destroying.extend(keys.iter().map(|path| ("DELETE", path.as_str())));
    for (method, path) in destroying {
        let thief = homeserver.login(&alice.user_id);
        assert_ok(&server.get(CURRENT, &thief).await);
        homeserver.logout(&thief);
        assert_ok(&server.get(CURRENT, &thief).await);
        let body = (method != "DELETE").then(new_version);
        let answer = server.request(method, path, &thief, body.as_ref()).await;
        assert_refused(&answer, 401, "M_UNKNOWN_TOKEN");
        // Now that it is known, it holds for everything.
        assert_refused(&server.get(CURRENT, &thief).await, 401, "M_UNKNOWN_TOKEN");
    }
    assert_eq!(server.get(CURRENT, &other_device).await.json, before.json);
}

#[tokio::test]
async fn with_a_memory_of_zero_a_logout_works_at_once() {
    let (homeserver, server, alice) = start_with(&NO_MEMORY).await;
    let version = create_backup(&server, &alice).await;
    for n in 2..5 {
        assert_ok(&server.get(CURRENT, &alice).await);
        assert_eq!(homeserver.whoami_count(), n);
    }
    homeserver.logout(&alice);
    for (what, answer) in one_of_each(&server, &alice, &version).await {
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        assert_refused(&answer, 401, "M_UNKNOWN_TOKEN");
    }
}

#[tokio::test]
async fn the_homeservers_own_refusal_is_passed_on_as_it_is() {
    let (homeserver, server, alice) = start_with(&NO_MEMORY).await;
    let version = create_backup(&server, &alice).await;
    homeserver.soft_logout(&alice);
    let expired = json!({"errcode": "M_UNKNOWN_TOKEN", "error": "Access token has expired",
        "soft_logout": true});
    let locked = json!({"errcode": "M_USER_LOCKED", "error": "User account has been locked",
        "soft_logout": true});
    let limited = json!({"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests",
        "retry_after_ms": 1500});
    let consent = json!({"errcode": "M_CONSENT_NOT_GIVEN", "error": "é", "consent_uri": "https://x/\"",
        "n": [1.5, null]});
    let json_error =
        |status, body: &Value| Fault::Status(status, "application/json", body.to_string());
    for (fault, status, expected) in [
        (Fault::None, 401, &expired),
        (Fault::Locked, 401, &locked),
        (Fault::RateLimited { retry_after_ms: 1500 }, 429, &limited),
        (json_error(403, &consent), 403, &consent),
        (json_error(401, &locked), 401, &locked),
    ] {
        homeserver.misbehave(fault);
        for (what, answer) in one_of_each(&server, &alice, &version).await {
            assert_eq!((answer.status, &answer.json), (status, expected), "{what}: {answer:?}");
            assert_for_browsers(&answer);
            if status == 429 {
                assert_says_when_to_retry(&answer);
                assert_eq!(answer.header("retry-after"), Some("2"), "{answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_rate_limit_says_when_to_try_again_even_if_the_homeserver_does_not() {
    const NUMBER: &str = "1111111111111111112000.0";
    let (homeserver, server, alice) = start_with(&NO_MEMORY).await;
    for body in [
        r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests"}"#,
        r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":null}"#,
        r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","x":1111111111111111112000.0}"#,
    ] {
        homeserver.misbehave(Fault::Status(429, "application/json", body.to_owned()));
        let answer = server.get(CURRENT, &alice).await;
        assert_refused(&answer, 429, "M_LIMIT_EXCEEDED");
        assert_says_when_to_retry(&answer);
        // What else it says comes through to the last digit.
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(text.contains(NUMBER), body.contains(NUMBER), "{answer:?}");
    }
}

#[tokio::test]
async fn a_guest_has_no_backup() {
    let (homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    for (what, answer) in one_of_each(&server, &homeserver.login_guest(), &version).await {
        assert_eq!(answer.status, 403, "{what}: {answer:?}");
        assert_refused(&answer, 403, "M_GUEST_ACCESS_FORBIDDEN");
    }
}

#[tokio::test]
async fn an_application_service_acts_for_each_of_its_users_apart() {
    let (homeserver, server, _) = start_with(&LONG_MEMORY).await;
    let bridge = homeserver.login_application_service("@bridge_");
    let users = ["@bridge_a:example.org", "@bridge_b:example.org", "@bridge_a+b&c=d:example.org"];
    let encoded = users.map(crate::client::encoded);
    let as_user = |path: &str, user: &str| {
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{path}{separator}user_id={user}")
    };
    let mut versions = Vec::new();
    for user in &encoded {
        let answer = server.post(&as_user(CURRENT, user), &bridge, new_version()).await;
        assert_ok(&answer);
        versions.push(answer.json["version"].as_str().unwrap().to_owned());
    }
    for round in 0..3 {
        for (user, version) in encoded.iter().zip(&versions) {
            let got = server.get(&as_user(CURRENT, user), &bridge).await;
            assert_eq!(got.json["version"], json!(version), "{user}: {got:?}");
            let path = format!("/room_keys/keys/!r:x/{round}?version={version}");
            let put = server.put(&as_user(&path, user), &bridge, room_key(true, 0, 0, user)).await;
            assert_eq!(put.json["count"], json!(round + 1), "{user}: {put:?}");
        }
        // By itself it is its own user, which has no backup.
        assert_refused(&server.get(CURRENT, &bridge).await, 404, "M_NOT_FOUND");
    }
    for (n, user) in encoded.iter().enumerate() {
        let keys = server.get(&as_user("/room_keys/keys", user), &bridge).await;
        assert_eq!(keys.json["rooms"]["!r:x"]["sessions"]["0"], room_key(true, 0, 0, user));
        let elses = format!("/room_keys/version/{}", versions[(n + 1) % versions.len()]);
        let got = server.get(&as_user(&elses, user), &bridge).await;
        assert_refused(&got, 404, "M_NOT_FOUND");
    }
    // Not one of its users; and a person's token stands for that person only.
    let got = server.get(&as_user(CURRENT, "@alice:example.org"), &bridge).await;
    assert_refused(&got, 403, "M_FORBIDDEN");
    let bob = homeserver.login("@bob:example.org");
    let got = server.get(&as_user(CURRENT, &encoded[0]), &bob).await;
    assert_refused(&got, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_journal_names_the_device_that_changed_a_backup() {
    let (homeserver, mut server, alice) = start().await;
    let bridge = homeserver.login_application_service("@bridge_");
    let version = create_backup(&server, &alice).await;
    let key = format!("/room_keys/keys/!r:x/s?version={version}");
    let other = homeserver.login(&alice.user_id);
    assert_ok(&server.put(&key, &alice, room_key(false, 0, 0, "k")).await);
    assert_ok(&server.put(&key, &other, room_key(true, 0, 0, "k")).await);
    assert_ok(&server.delete(&key, &alice).await);
    assert_ok(&server.delete(&key, &alice).await);
    assert_ok(&server.delete(&format!("/room_keys/version/{version}"), &other).await);
    let path = format!("{CURRENT}?user_id=%40bridge_a:example.org");
    assert_ok(&server.post(&format!("{path}&device_id=BRIDGED"), &bridge, new_version()).await);
    assert_ok(&server.post(&path, &bridge, new_version()).await);
    server.terminate();
    assert!(server.wait().await.success());

    let (alices, others) = (alice.device_id.as_deref(), other.device_id.as_deref());
    let (alice, bridged) = (alice.user_id.as_str(), "@bridge_a:example.org");
    let expected = [
        (alice, "create_version", alices, 0),
        (alice, "replace_keys", others, 1),
        (alice, "delete_keys", alices, 1),
        (alice, "delete_version", others, 0),
        (bridged, "create_version", Some("BRIDGED"), 0),
        (bridged, "create_version", None, 0),
    ];
    let journal = journal(&server.data());
    let lines: Vec<_> = journal
        .iter()
        .map(|(user, action, device, keys)| {
            (user.as_str(), action.as_str(), device.as_deref(), *keys)
        })
        .collect();
    assert_eq!(lines, expected);
}

/// User, action, device, keys; the oldest first.
fn journal(data: &Path) -> Vec<(String, String, Option<String>, i64)> {
    let file = data.join("strongroom.db");
    let database = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let query = "SELECT user_id, action, device_id, keys FROM journal JOIN users USING (user_pk)
        ORDER BY at, journal.rowid";
    let mut statement = database.prepare(query).unwrap();
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap();
    rows.map(Result::unwrap).collect()
}

#[tokio::test]
async fn when_the_homeserver_can_not_say_who_it_is_the_answer_is_502_until_it_can() {
    let environment = [NO_MEMORY[0], NO_MEMORY[1], ("STRONGROOM_AUTH_TIMEOUT", "1s")];
    let (mut homeserver, server, alice) = start_with(&environment).await;
    let elsewhere = Homeserver::start().await;
    let version = create_backup(&server, &alice).await;
    let html = |status| Fault::Status(status, "text/html", "<html>Sorry</html>".to_owned());
    let json = |status, body: &str| Fault::Status(status, "application/json", body.to_owned());
    let whoami = "/_matrix/client/v3/account/whoami";
    let faults = [
        html(200),
        html(401),
        html(403),
        html(404),
        html(429),
        html(500),
        html(502),
        html(503),
        json(200, ""),
        json(200, "{}"),
        json(200, "null"),
        json(200, "[]"),
        json(200, r#"{"user_id":null}"#),
        json(200, r#"{"user_id":"alice"}"#),
        json(200, r#"{"user_id":"@alice:example.org:1"}"#),
        json(200, r#"{"user_id":"@alice:evil.org"}"#),
        json(200, r#"{"user_id":"@alice:example.org.evil.org"}"#),
        json(200, r#"{"user_id":"@alice:EXAMPLE.ORG"}"#),
        json(200, r#"{"user_id":"@alice:example.org","device_id":1}"#),
        json(200, r#"{"user_id":"@alice:example.org"} {}"#),
        json(200, "{\"user_id\":\"@al\\u0000ice:example.org\"}"),
        json(202, r#"{"user_id":"@alice:example.org"}"#),
        json(204, ""),
        json(400, r#"{"errcode":"M_UNKNOWN_TOKEN","error":"?"}"#),
        json(401, ""),
        json(401, "{}"),
        json(401, "null"),
        json(401, r#"{"error":"Unauthorized"}"#),
        json(401, r#"{"errcode":1}"#),
        json(401, r#"{"errcode":"M_UNKNOWN_TOKEN","error":"#),
        // It says that we sent none, which is not what the client did.
        json(401, r#"{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}"#),
        json(403, "{}"),
        json(404, r#"{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}"#),
        json(404, r#"{"errcode":"M_NOT_FOUND","error":"?"}"#),
        json(500, r#"{"errcode":"M_UNKNOWN","error":"Internal server error"}"#),
        json(503, r#"{"errcode":"M_UNKNOWN_TOKEN","error":"?"}"#),
        Fault::Garbage,
        Fault::Redirect(format!("{}{whoami}", elsewhere.url())),
        Fault::Redirect("https://sso.example.org/login".to_owned()),
        Fault::Huge(1 << 20),
        Fault::CloseMidway,
    ];
    let check = async |fault: &str| {
        for (what, answer) in one_of_each(&server, &alice, &version).await {
            assert_eq!(answer.status, 502, "{what}, {fault}: {answer:?}");
            assert_refused(&answer, 502, "M_UNKNOWN");
            assert_says_when_to_retry(&answer);
        }
    };
    for fault in faults {
        homeserver.misbehave(fault.clone());
        check(&format!("{fault:?}")).await;
        homeserver.misbehave(Fault::None);
        assert_ok(&server.get(CURRENT, &alice).await);
    }
    assert_eq!(elsewhere.whoami_count(), 0, "a redirect was followed, with the token");

    homeserver.misbehave(Fault::Stall);
    for answer in [
        server.get(CURRENT, &alice).await,
        server.delete(&format!("/room_keys/version/{version}"), &alice).await,
    ] {
        assert_refused(&answer, 502, "M_UNKNOWN");
        assert_says_when_to_retry(&answer);
    }
    homeserver.misbehave(Fault::None);
    assert_ok(&server.get(CURRENT, &alice).await);

    homeserver.stop().await;
    check("stopped").await;
    homeserver.restart().await;
    let got = server.get(CURRENT, &alice).await;
    assert_eq!(got.json["version"], json!(version), "nothing was done meanwhile: {got:?}");
    assert_eq!(got.json["count"], json!(0), "nothing was stored meanwhile: {got:?}");
}

#[tokio::test]
async fn a_homeserver_that_is_away_takes_nothing_from_a_token_that_is_remembered() {
    let (mut homeserver, server, alice) = start_with(&LONG_MEMORY).await;
    let version = create_backup(&server, &alice).await;
    let key = format!("/room_keys/keys/!r:x/s?version={version}");
    homeserver.stop().await;
    assert_ok(&server.put(&key, &alice, room_key(true, 0, 0, "k")).await);
    // This has to ask, and gets no answer; which says nothing about the token.
    assert_refused(&server.delete(&key, &alice).await, 502, "M_UNKNOWN");
    assert_ok(&server.get(&key, &alice).await);
    homeserver.restart().await;
    assert_ok(&server.delete(&key, &alice).await);
}

#[tokio::test]
async fn several_homeservers_are_told_apart_by_the_host() {
    let (a, b) = (Homeserver::start_named("a.org").await, Homeserver::start_named("b.org").await);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("strongroom.toml");
    let section = |homeserver: &Homeserver, hosts: &str| {
        let (url, name) = (homeserver.url(), homeserver.server_name());
        format!("[[homeserver]]\nurl = {url:?}\nserver_name = {name:?}\nhosts = {hosts}\n")
    };
    let a_hosts = section(&a, r#"["matrix.a.org", "a.org:8448"]"#);
    fs::write(&file, a_hosts + &section(&b, r#"["matrix.b.org"]"#)).unwrap();
    let server = Server::spawn_with(BINARY, ["--config".into(), file.into_os_string()], &[]).await;
    let (alice_a, alice_b) = (a.login("@alice:a.org"), b.login("@alice:b.org"));
    let ask = async |method: &str, host: &str, user: &User| {
        let authorization = bearer(user);
        let body = if method == "POST" { new_version().to_string() } else { String::new() };
        let headers = [
            ("host", host),
            ("authorization", authorization.as_str()),
            // Only a proxy knows whether this is true, and it sets Host.
            ("x-forwarded-host", "matrix.b.org"),
            ("forwarded", "host=matrix.b.org"),
        ];
        server.raw(method, PATH, &headers, body).await
    };
    let created_a = ask("POST", "matrix.a.org", &alice_a).await;
    let created_b = ask("POST", "matrix.b.org", &alice_b).await;
    assert_ok(&created_a);
    assert_ok(&created_b);
    for (host, user, created) in [
        ("matrix.a.org", &alice_a, &created_a),
        ("a.org:8448", &alice_a, &created_a),
        ("MATRIX.A.org", &alice_a, &created_a),
        // Some proxies hand the port on and some do not.
        ("matrix.a.org:8448", &alice_a, &created_a),
        ("matrix.b.org", &alice_b, &created_b),
    ] {
        let got = ask("GET", host, user).await;
        assert_eq!(got.json["version"], created.json["version"], "{host}: {got:?}");
    }
    assert_refused(&ask("GET", "matrix.b.org", &alice_a).await, 401, "M_UNKNOWN_TOKEN");
    let asked = (a.whoami_count(), b.whoami_count());
    for host in ["a.org", "a.org:443", "matrix.a.org.evil.org", "localhost", "matrix.a.org."] {
        for method in ["GET", "POST"] {
            assert_refused(&ask(method, host, &alice_a).await, 421, "M_UNKNOWN");
        }
    }
    // Nobody is asked for a host that is none of ours.
    assert_eq!((a.whoami_count(), b.whoami_count()), asked);
}

#[tokio::test]
async fn tokens_can_come_from_a_file_of_mode_600() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens");
    let (alice, bob) = (stranger("a"), stranger("b"));
    let text = format!(
        "# people\n\n{} @alice:example.org\n  {}\t@bob:example.org:8448  \n",
        alice.token, bob.token
    );
    fs::write(&file, text).unwrap();
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    for too_open in [0o640, 0o604, 0o644, 0o660, 0o601, 0o666] {
        mode(too_open);
        let data = directory.path().join("data");
        let mut command = Command::new(BINARY);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"STRONGROOM_") {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        let mut process = Process::spawn("strongroom", command.arg("--tokens").arg(&file));
        let status = process.wait().await;
        let output = process.output();
        assert_eq!(status.code(), Some(2), "mode {too_open:o}: {output}");
        assert!(output.starts_with("error: "), "mode {too_open:o}: {output}");
        assert!(output.contains(&format!("{too_open:o}")) && output.contains("600"), "{output}");
        assert!(!output.contains(SECRET), "{output}");
    }
    for strict in [0o600, 0o400] {
        mode(strict);
        let arguments = ["--tokens".into(), file.clone().into_os_string()];
        let server = Server::spawn_with(BINARY, arguments, &[]).await;
        let version = create_backup(&server, &alice).await;
        assert_eq!(server.get(CURRENT, &alice).await.json["version"], json!(version));
        assert_refused(&server.get(CURRENT, &bob).await, 404, "M_NOT_FOUND");
        // These tokens are for one person each.
        let as_alice = format!("{CURRENT}?user_id=%40alice%3Aexample.org");
        assert_refused(&server.get(&as_alice, &bob).await, 404, "M_NOT_FOUND");
        for wrong in [stranger("c"), stranger("A"), stranger("aa")] {
            for (what, answer) in one_of_each(&server, &wrong, &version).await {
                assert_eq!(answer.status, 401, "{what}: {answer:?}");
                assert_refused(&answer, 401, "M_UNKNOWN_TOKEN");
            }
        }
        assert_refused(&server.raw("GET", PATH, &[], "").await, 401, "M_MISSING_TOKEN");
    }
}
