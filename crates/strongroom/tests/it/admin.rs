//! `strongroom admin`, beside a server that runs, and without one.

#![expect(clippy::expect_used, reason = "a test fails loudly")]

use std::{path::Path, process::Command};

use rusqlite::Connection;
use serde_json::{Value, json};
use strongroom_testing::{Homeserver, Server};
use tokio::task::JoinSet;

use crate::client::{BINARY, assert_ok, create_backup, room_key, start};

/// What a command said, and how it ended.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn admin(data: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(BINARY);
    command.arg("admin").args(arguments).arg("--data").arg(data).env_remove("STRONGROOM_CONFIG");
    let output = command.output().expect("it starts");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// The JSON of a command that ended well.
fn json_of(data: &Path, arguments: &[&str]) -> Value {
    let outcome = admin(data, &[arguments, &["--json"]].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// A key for each of these sessions, all in one room.
fn rooms(sessions: std::ops::Range<u32>, mark: &str) -> Value {
    let key = |session: u32| (session.to_string(), room_key(false, 0, 0, mark));
    let sessions: serde_json::Map<_, _> = sessions.map(key).collect();
    json!({"rooms": {"!r:x": {"sessions": sessions}}})
}

#[tokio::test]
async fn what_is_there_and_who_changed_it_is_told_while_the_server_runs() {
    let (_homeserver, server, alice) = start().await;
    let (data, user) = (server.data(), alice.user_id.as_str());
    let version = create_backup(&server, &alice).await;
    let path = format!("/room_keys/keys?version={version}");
    assert_ok(&server.put(&path, &alice, rooms(0..5, "a")).await);
    assert_ok(&server.delete(&path, &alice).await);
    assert_ok(&server.put(&path, &alice, rooms(0..2, "b")).await);

    let status = json_of(&data, &["status"]);
    let numbers = ["users", "versions", "keys", "kept_keys"].map(|name| status[name].as_u64());
    assert_eq!(numbers, [Some(1), Some(1), Some(2), Some(5)], "{status}");
    assert_eq!((&status["is_served"], &status["format"]), (&json!(true), &json!(2)), "{status}");

    let shown = json_of(&data, &["show", user]);
    let detached = &shown["versions"][0]["detached"][0];
    assert_eq!(
        (&detached["keys"], &detached["until"]["action"]),
        (&json!(5), &json!("delete_keys"))
    );
    assert_eq!(detached["until"]["device_id"].as_str(), alice.device_id.as_deref(), "{shown}");

    let log = json_of(&data, &["log", user]);
    let actions = log["lines"].as_array().expect("lines").iter().map(|line| &line["action"]);
    assert!(actions.eq(["create_version", "delete_keys"]), "{log}");
    for sort in ["keys", "bytes", "recent", "name"] {
        let users = admin(&data, &["users", "--sort", sort]);
        assert_eq!(users.code, Some(0), "{users:?}");
        assert!(users.stdout.contains(user) && users.stdout.contains("KEPT"), "{users:?}");
    }
}

#[tokio::test]
async fn a_deleted_version_comes_back_and_the_server_serves_it_at_once() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let keys = format!("/room_keys/keys?version={version}");
    assert_ok(&server.put(&keys, &alice, rooms(0..3, "a")).await);
    let before = server.get(&keys, &alice).await;
    assert_ok(&server.delete(&format!("/room_keys/version/{version}"), &alice).await);

    let undelete = ["undelete", alice.user_id.as_str(), "--version", version.as_str()];
    let plan = json_of(&server.data(), &[&undelete[..], &["--dry-run"]].concat());
    assert_eq!(plan["versions"][0]["fate"], "comes_back", "{plan}");
    assert_eq!(server.get(&keys, &alice).await.status, 404);
    let done = json_of(&server.data(), &undelete);
    assert_eq!((&done["current"], &done["versions"]), (&json!(version), &plan["versions"]));
    assert_eq!(server.get(&keys, &alice).await.body, before.body);
    let again = json_of(&server.data(), &undelete);
    assert_eq!(again["versions"], json!([]), "{again}");
}

#[tokio::test]
async fn a_snapshot_under_load_is_one_state_that_another_server_serves() {
    let (homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let directory = tempfile::TempDir::new().expect("a directory");
    let snapshot = directory.path().join("snapshot.db");
    let name = snapshot.to_str().expect("UTF-8");
    let path = format!("/room_keys/keys?version={version}");
    // Each request puts ten keys, so a state has a count of tens.
    let mut puts = JoinSet::new();
    let puts_at_once = async {
        for put in 0..40 {
            assert_ok(&server.put(&path, &alice, rooms(put * 10..put * 10 + 10, "a")).await);
        }
    };
    let (data, file) = (server.data(), name.to_owned());
    puts.spawn_blocking(move || admin(&data, &["snapshot", &file]));
    puts_at_once.await;
    let written = puts.join_all().await.remove(0);
    assert_eq!(written.code, Some(0), "{written:?}");
    let again = admin(&server.data(), &["snapshot", name]);
    assert_eq!(again.code, Some(2), "it writes over nothing: {again:?}");

    let restored = Server::spawn(BINARY, &homeserver).await;
    let mut restored = restored;
    restored.kill();
    let data = restored.data();
    std::fs::remove_dir_all(&data).expect("it is ours");
    std::fs::create_dir(&data).expect("it is ours");
    std::fs::copy(&snapshot, data.join("strongroom.db")).expect("a file");
    let checked = json_of(&data, &["check"]);
    assert_eq!(checked["is_well"], true, "{checked}");
    restored.start().await;
    let backup = restored.get("/room_keys/version", &alice).await;
    assert_eq!(backup.json["version"], json!(version), "{backup:?}");
    let keys = restored.get(&path, &alice).await;
    let found = keys.json["rooms"]["!r:x"]["sessions"].as_object().map_or(0, |keys| keys.len());
    assert_eq!(backup.json["count"], json!(found), "{backup:?}");
    assert_eq!(found % 10, 0, "half a request is in it");
}

#[tokio::test]
async fn damage_is_found_and_repaired() {
    let (_homeserver, mut server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let path = format!("/room_keys/keys?version={version}");
    assert_ok(&server.put(&path, &alice, rooms(0..3, "a")).await);
    server.terminate();
    server.wait().await;
    let data = server.data();
    let database = Connection::open(data.join("strongroom.db")).expect("a database");
    let sql = "UPDATE keys SET session_data = '{\"rot\": 1}' WHERE session_id = '1'";
    assert_eq!(database.execute(sql, []).expect("a key"), 1);
    drop(database);

    let checked = admin(&data, &["check"]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.contains(&alice.user_id), "{checked:?}");
    server.start().await;
    let keys = server.get(&path, &alice).await;
    let sessions = keys.json["rooms"]["!r:x"]["sessions"].as_object().expect("keys").clone();
    assert_eq!(sessions.keys().collect::<Vec<_>>(), ["0", "2"], "the others are there");
    let repaired = admin(&data, &["check", "--repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    let checked = admin(&data, &["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    // A client uploads it again.
    assert_ok(&server.put(&path, &alice, rooms(0..3, "a")).await);
    assert_eq!(server.get("/room_keys/version", &alice).await.json["count"], 3);
}

#[tokio::test]
async fn a_user_is_forgotten_only_when_it_is_meant() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let path = format!("/room_keys/keys?version={version}");
    assert_ok(&server.put(&path, &alice, rooms(0..3, "a")).await);
    let (data, user) = (server.data(), alice.user_id.as_str());
    let unsure = admin(&data, &["purge", user]);
    assert_eq!(unsure.code, Some(2), "{unsure:?}");
    assert!(unsure.stderr.contains("--yes"), "{unsure:?}");
    let planned = json_of(&data, &["purge", user, "--dry-run"]);
    assert_eq!(planned["keys"], 3, "{planned}");
    assert_ok(&server.get(&path, &alice).await);
    let removed = json_of(&data, &["purge", user, "--yes"]);
    assert_eq!((&removed["keys"], &removed["left"]), (&json!(3), &json!(0)), "{removed}");
    assert_eq!(server.get("/room_keys/version", &alice).await.status, 404);
    let gone = admin(&data, &["show", user]);
    assert_eq!(gone.code, Some(2), "{gone:?}");
    let newer = create_backup(&server, &alice).await;
    assert!(newer.parse::<u64>().expect("digits") > version.parse().expect("digits"));
}

#[tokio::test]
async fn what_can_not_be_done_is_told_with_what_to_do() {
    let (_homeserver, server, alice) = start().await;
    create_backup(&server, &alice).await;
    let (data, user) = (server.data(), alice.user_id.as_str());
    for (arguments, told) in [
        (&["show", "@nobody:x"][..], "admin users"),
        (&["undelete", user, "--version", "7"], "admin show"),
        (&["undelete", user, "--as-of", "2999-01-01T00:00:00Z"], "UTC"),
        (&["undelete", user, "--as-of", "yesterday"], "10 minutes ago"),
        (&["show", "alice"], "@user:server"),
    ] {
        let outcome = admin(&data, arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert!(outcome.stderr.contains(told) && outcome.stdout.is_empty(), "{outcome:?}");
    }
    let missing = admin(Path::new("/nowhere"), &["status"]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.stderr.contains("help: "), "{missing:?}");
}

/// The homeserver of these tests goes on while the server does not.
#[tokio::test]
async fn without_a_server_it_works_as_well_and_leaves_the_data_as_a_server_would() {
    let homeserver = Homeserver::start().await;
    let alice = homeserver.login("@alice:example.org");
    let mut server = Server::spawn(BINARY, &homeserver).await;
    let version = create_backup(&server, &alice).await;
    assert_ok(&server.delete(&format!("/room_keys/version/{version}"), &alice).await);
    server.kill();
    let data = server.data();
    assert_eq!(json_of(&data, &["status"])["is_served"], false);
    json_of(&data, &["undelete", &alice.user_id, "--version", &version]);
    assert!(!data.join("strongroom.db-wal").exists(), "the log was left behind");
    server.start().await;
    let backup = server.get("/room_keys/version", &alice).await;
    assert_eq!(backup.json["version"], json!(version), "{backup:?}");
}
