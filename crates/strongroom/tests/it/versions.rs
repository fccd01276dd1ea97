//! Backups: created, looked at, altered, deleted, and what their ids promise.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::json;
use strongroom_testing::{Answer, Server, User};

use crate::client::{
    ALGORITHM, assert_ok, assert_refused, create_backup, new_version, room_key, send, start,
    text_at,
};

const CURRENT: &str = "/room_keys/version";

/// No backup ever had one of these. Some are what a lenient parser makes an `int` of.
const NEVER_EXISTED: [&str; 8] =
    ["1", "0", "-1", "+1", "abc", "1.0", "9223372036854775808", "99999999999999999999999"];

fn one(version: &str) -> String {
    format!("/room_keys/version/{version}")
}

fn number(version: &str) -> u64 {
    assert!(version.bytes().all(|byte| byte.is_ascii_digit()), "{version}");
    version.parse().unwrap()
}

async fn current(server: &Server, user: &User) -> Option<String> {
    let answer = server.get(CURRENT, user).await;
    if answer.status == 404 {
        assert_refused(&answer, 404, "M_NOT_FOUND");
        return None;
    }
    assert_is_version(&answer);
    Some(answer.json["version"].as_str().unwrap().to_owned())
}

/// What `GET` of a version answers: typed clients refuse other types.
#[track_caller]
fn assert_is_version(answer: &Answer) {
    assert_ok(answer);
    let members: BTreeSet<_> =
        answer.json.as_object().unwrap().keys().map(String::as_str).collect();
    let members: Vec<_> = members.into_iter().collect();
    assert_eq!(members, ["algorithm", "auth_data", "count", "etag", "version"], "{answer:?}");
    let json = &answer.json;
    assert!(json["algorithm"].is_string() && json["auth_data"].is_object(), "{answer:?}");
    assert!(json["count"].is_u64() && json["etag"].is_string(), "{answer:?}");
    assert!(json["version"].is_string(), "{answer:?}");
}

#[tokio::test]
async fn a_new_backup_is_current_and_its_id_is_digits_greater_than_those_before() {
    let (homeserver, server, alice) = start().await;
    let bob = homeserver.login("@bob:example.org");
    assert_eq!(current(&server, &alice).await, None);
    let mut before = 0;
    for _ in 0..5 {
        let answer = server.post(CURRENT, &alice, new_version()).await;
        assert_ok(&answer);
        let version = answer.json["version"].as_str().unwrap();
        assert_eq!(answer.json, json!({"version": version}), "{answer:?}");
        assert!(number(version) > before, "{version} after {before}");
        before = number(version);

        let (by_id, now) =
            (server.get(&one(version), &alice).await, server.get(CURRENT, &alice).await);
        assert_is_version(&by_id);
        assert_eq!(by_id.json, now.json);
        let expected = json!({"algorithm": ALGORITHM, "auth_data": {"public_key": "abc"},
            "count": 0, "version": version, "etag": by_id.json["etag"]});
        assert_eq!(by_id.json, expected);
    }
    assert_eq!(current(&server, &bob).await, None, "another user's backups are nobody else's");
}

#[tokio::test]
async fn any_algorithm_is_kept_with_its_auth_data() {
    let (_homeserver, server, alice) = start().await;
    for (algorithm, auth_data) in [
        ("org.matrix.msc3270.v1.aes-hmac-sha2", json!({"iv": "i", "mac": "m"})),
        ("no such \"algorithm\" é😀", json!({})),
        (ALGORITHM, json!({"public_key": "k", "private_key_iterations": 500_000})),
    ] {
        let body = json!({"algorithm": algorithm, "auth_data": auth_data, "other": [1]});
        assert_ok(&server.post(CURRENT, &alice, &body).await);
        let answer = server.get(CURRENT, &alice).await;
        assert_is_version(&answer);
        let kept = json!({"algorithm": algorithm, "auth_data": auth_data, "count": 0,
            "etag": answer.json["etag"], "version": answer.json["version"]});
        assert_eq!(answer.json, kept);
    }
}

#[tokio::test]
async fn a_version_without_a_field_or_with_a_wrong_one_is_refused_and_changes_nothing() {
    let (homeserver, server, alice) = start().await;
    let bob = homeserver.login("@bob:example.org");
    let version = create_backup(&server, &alice).await;
    let before = server.get(CURRENT, &alice).await;

    let with = |algorithm: &str, auth_data: &str| {
        format!(r#"{{"algorithm":{algorithm},"auth_data":{auth_data}}}"#)
    };
    let (curve, good) = (format!("{ALGORITHM:?}"), r#"{"public_key":"abc"}"#);
    let mut bad_json: Vec<String> = ["null", "[]", "1", "true", "\"{}\"", "{}"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!(r#"{{"algorithm":{curve}}}"#), format!(r#"{{"auth_data":{good}}}"#)])
        .collect();
    bad_json.extend(["null", "1", "[]", "{}", "true"].map(|algorithm| with(algorithm, good)));
    bad_json.extend(
        [
            "null",
            "\"{}\"",
            "[]",
            "1",
            "false",
            "{}",
            r#"{"public_key":null}"#,
            r#"{"public_key":1}"#,
            r#"{"public_key":["abc"]}"#,
            r#"{"public_key":"abc","public_key":"abc"}"#,
            r#"{"public_key":"abc","n":1e400}"#,
            r#"{"public_key":"abc","s":"\ud800"}"#,
            r#"{"public_key":"\udc00abc"}"#,
            &format!(r#"{{"public_key":"abc","d":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000)),
        ]
        .map(|auth_data| with(&curve, auth_data)),
    );
    // Twice the same field: which one is meant?
    bad_json.push(format!(r#"{{"algorithm":{curve},"auth_data":{good},"auth_data":{good}}}"#));
    let not_json = ["", "{", "{}}", "algorithm=x", r#"{"algorithm":}"#].map(str::to_owned);

    let cases = bad_json.iter().map(|body| (body, "M_BAD_JSON"));
    for (body, errcode) in cases.chain(not_json.iter().map(|body| (body, "M_NOT_JSON"))) {
        assert_refused(&send(&server, "POST", CURRENT, &bob, body).await, 400, errcode);
        assert_refused(&send(&server, "PUT", &one(&version), &alice, body).await, 400, errcode);
    }
    assert_eq!(current(&server, &bob).await, None);
    assert_eq!(server.get(CURRENT, &alice).await.json, before.json);
}

#[tokio::test]
async fn a_version_that_never_existed_is_not_found_by_any_operation() {
    let (homeserver, server, alice) = start().await;
    let bob = homeserver.login("@bob:example.org");
    let bobs = create_backup(&server, &bob).await;
    let bobs_padded = format!("0{bobs}");
    let other = NEVER_EXISTED.into_iter().chain([bobs.as_str(), &bobs_padded]);
    for has_backup in [false, true] {
        if has_backup {
            create_backup(&server, &alice).await;
        }
        for version in other.clone() {
            let path = one(version);
            for answer in [
                server.get(&path, &alice).await,
                server.put(&path, &alice, new_version()).await,
                server.delete(&path, &alice).await,
            ] {
                assert_refused(&answer, 404, "M_NOT_FOUND");
            }
        }
    }
    assert_eq!(current(&server, &bob).await.as_ref(), Some(&bobs));
}

#[tokio::test]
async fn deleting_the_newest_backup_shows_the_one_before_with_its_keys() {
    let (_homeserver, server, alice) = start().await;
    let mut versions = Vec::new();
    for n in 0..4 {
        let version = create_backup(&server, &alice).await;
        let path = format!("/room_keys/keys/!r:x/s?version={version}");
        assert_ok(&server.put(&path, &alice, room_key(false, n, 0, "k")).await);
        versions.push(version);
    }
    // One that is not current goes unnoticed.
    assert_ok(&server.delete(&one(&versions[2]), &alice).await);
    for (newest, index_before) in [(3, 1), (1, 0)] {
        assert_eq!(current(&server, &alice).await.as_ref(), Some(&versions[newest]));
        let answer = server.delete(&one(&versions[newest]), &alice).await;
        assert_ok(&answer);
        assert_eq!(answer.json, json!({}));
        let before = &versions[index_before as usize];
        assert_eq!(current(&server, &alice).await.as_ref(), Some(before));
        let got = server.get("/room_keys/keys/!r:x/s", &alice).await;
        assert_eq!(got.json, room_key(false, index_before, 0, "k"), "{got:?}");
        // It is written to again.
        let path = format!("/room_keys/keys/!r:x/{newest}?version={before}");
        assert_ok(&server.put(&path, &alice, room_key(false, 0, 0, "k")).await);
    }
}

#[tokio::test]
async fn a_deleted_backup_is_gone_and_deleting_it_again_succeeds() {
    let (_homeserver, server, alice) = start().await;
    let (older, version) =
        (create_backup(&server, &alice).await, create_backup(&server, &alice).await);
    let keys = [
        format!("/room_keys/keys?version={version}"),
        format!("/room_keys/keys/!r:x?version={version}"),
        format!("/room_keys/keys/!r:x/s?version={version}"),
    ];
    assert_ok(&server.put(&keys[2], &alice, room_key(true, 0, 0, "k")).await);
    // Whether another is current meanwhile, or none is.
    for others in [true, false] {
        if !others {
            assert_ok(&server.delete(&one(&older), &alice).await);
        }
        for _ in 0..2 {
            let answer = server.delete(&one(&version), &alice).await;
            assert_ok(&answer);
            assert_eq!(answer.json, json!({}));
        }
        assert_refused(&server.get(&one(&version), &alice).await, 404, "M_NOT_FOUND");
        let put = server.put(&one(&version), &alice, new_version()).await;
        assert_refused(&put, 404, "M_NOT_FOUND");
        for path in &keys {
            assert_refused(&server.get(path, &alice).await, 404, "M_NOT_FOUND");
            assert_refused(&server.delete(path, &alice).await, 404, "M_NOT_FOUND");
        }
        assert_eq!(current(&server, &alice).await, others.then(|| older.clone()));
    }
}

#[tokio::test]
async fn a_reset_that_deletes_until_nothing_is_found_comes_to_an_end() {
    let (_homeserver, server, alice) = start().await;
    let mut versions = Vec::new();
    for _ in 0..7 {
        versions.push(create_backup(&server, &alice).await);
    }
    let mut deleted = Vec::new();
    while let Some(version) = current(&server, &alice).await {
        assert_ok(&server.delete(&one(&version), &alice).await);
        assert!(!deleted.contains(&version), "{version} is shown after it was deleted");
        deleted.push(version);
    }
    deleted.reverse();
    assert_eq!(deleted, versions);
    let new = create_backup(&server, &alice).await;
    assert!(number(&new) > number(&versions[6]));
}

#[tokio::test]
async fn a_version_keeps_its_algorithm_its_id_and_its_public_key() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let other = create_backup(&server, &alice).await;
    let opaque = json!({"algorithm": "org.example.opaque", "auth_data": {"public_key": "abc"}});
    let opaque_version = server.post(CURRENT, &alice, &opaque).await.json["version"].clone();
    let opaque_version = opaque_version.as_str().unwrap();
    let before = server.get(&one(&version), &alice).await;

    let auth_data = json!({"public_key": "abc", "signatures": {}});
    for (field, value) in [
        ("algorithm", json!("org.matrix.msc3270.v1.aes-hmac-sha2")),
        ("algorithm", json!(ALGORITHM.to_uppercase())),
        ("algorithm", json!("")),
        ("version", json!(other)),
        ("version", json!("")),
        ("version", json!(format!("0{version}"))),
        ("version", json!(format!("{version} "))),
        ("auth_data", json!({"public_key": "abd"})),
        ("auth_data", json!({"public_key": ""})),
        ("auth_data", json!({"public_key": "abc=", "signatures": {}})),
    ] {
        let mut body = json!({"algorithm": ALGORITHM, "auth_data": auth_data, "version": version});
        body[field] = value;
        let answer = server.put(&one(&version), &alice, &body).await;
        assert_refused(&answer, 400, "M_INVALID_PARAM");
    }
    for value in [json!(number(&version)), json!(null), json!([version])] {
        let body = json!({"algorithm": ALGORITHM, "auth_data": auth_data, "version": value});
        assert_refused(&server.put(&one(&version), &alice, &body).await, 400, "M_BAD_JSON");
    }
    assert_eq!(server.get(&one(&version), &alice).await.json, before.json);

    // What `public_key` means to another algorithm, nobody here knows.
    let body = json!({"algorithm": "org.example.opaque", "auth_data": {"public_key": [1]}});
    assert_ok(&server.put(&one(opaque_version), &alice, &body).await);
}

#[tokio::test]
async fn auth_data_is_replaced_as_a_whole_and_comes_back_as_the_same_json() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    for (auth_data, others) in [
        (r#"{"public_key":"abc","signatures":{"@alice:example.org":{"ed25519:D":"sig"}}}"#, ""),
        (r#"{"public_key":"abc","private_key_salt":"s","private_key_iterations":500000}"#, ""),
        // As mtxclient sends it.
        (r#"{"public_key":"abc"}"#, r#","count":7,"etag":"x","extra":{"a":[]}"#),
        (r#"{"n":[12345678901234567890123,1E+2,-0.0,1e-400,0.10],"public_key":"abc"}"#, ""),
        (r#"{"public_key":"\u0061bc","\u00e9":"\ud83d\ude00\/\u0000","😀":"é"}"#, ""),
        (r#"{"z":null,"a":true,"public_key":"abc","__proto__":{"constructor":{}},"":0}"#, ""),
    ] {
        for version_member in [String::new(), format!(r#","version":"{version}""#)] {
            let body = format!(
                r#"{{"algorithm":"{ALGORITHM}","auth_data":{auth_data}{version_member}{others}}}"#
            );
            let answer = send(&server, "PUT", &one(&version), &alice, &body).await;
            assert_ok(&answer);
            assert_eq!(answer.json, json!({}));
        }
        let got = server.get(&one(&version), &alice).await;
        assert_is_version(&got);
        assert_eq!(text_at(&got.body, &["auth_data"]), auth_data);

        let new = format!(r#"{{"algorithm":"{ALGORITHM}","auth_data":{auth_data}}}"#);
        assert_ok(&send(&server, "POST", CURRENT, &alice, &new).await);
        let created = server.get(CURRENT, &alice).await;
        assert_eq!(text_at(&created.body, &["auth_data"]), auth_data);
    }
}

#[tokio::test]
async fn replacing_auth_data_changes_neither_keys_nor_etag_nor_which_one_is_current() {
    let (_homeserver, server, alice) = start().await;
    let older = create_backup(&server, &alice).await;
    let put = server
        .put(&format!("/room_keys/keys/!r:x/s?version={older}"), &alice, room_key(false, 3, 0, "k"))
        .await;
    assert_ok(&put);
    let newest = create_backup(&server, &alice).await;

    let signed = json!({"public_key": "abc", "signatures": {"@alice:example.org": {}}});
    let body = json!({"algorithm": ALGORITHM, "auth_data": signed});
    assert_ok(&server.put(&one(&older), &alice, &body).await);
    let got = server.get(&one(&older), &alice).await;
    let expected = json!({"algorithm": ALGORITHM, "auth_data": signed, "version": older,
        "count": 1, "etag": put.json["etag"]});
    assert_eq!(got.json, expected);
    let keys = server.get(&format!("/room_keys/keys?version={older}"), &alice).await;
    assert_eq!(keys.json["rooms"]["!r:x"]["sessions"]["s"], room_key(false, 3, 0, "k"));
    assert_eq!(current(&server, &alice).await, Some(newest));
}

#[tokio::test]
async fn an_id_is_not_given_again_after_everything_was_deleted_and_after_a_restart() {
    let (_homeserver, mut server, alice) = start().await;
    let mut greatest = 0;
    for round in 0..3 {
        let version = create_backup(&server, &alice).await;
        assert!(number(&version) > greatest, "round {round}: {version} after {greatest}");
        greatest = number(&version);
        assert_ok(&server.delete(&one(&version), &alice).await);
        server.kill_and_restart().await;
        // That it existed is not forgotten either.
        assert_ok(&server.delete(&one(&version), &alice).await);
        assert_eq!(current(&server, &alice).await, None);
    }
}

#[tokio::test]
async fn no_id_and_no_etag_is_given_again_after_yesterdays_data_were_put_back() {
    let (homeserver, mut server, alice) = start().await;
    // His backup lives on, and keys are put into it.
    let bob = homeserver.login("@bob:example.org");
    let bobs = create_backup(&server, &bob).await;
    let mut ids = vec![create_backup(&server, &alice).await];
    let mut etags = Vec::new();
    let yesterday = tempfile::tempdir().unwrap();
    for day in ["yesterday", "today", "today again"] {
        for n in 0..5 {
            ids.push(create_backup(&server, &alice).await);
            let path = format!("/room_keys/keys/!r:x/{day}{n}?version={bobs}");
            let put = server.put(&path, &bob, room_key(false, 0, 0, "k")).await;
            assert_ok(&put);
            etags.push(put.json["etag"].as_str().unwrap().to_owned());
        }
        server.terminate();
        assert!(server.wait().await.success());
        match day {
            "yesterday" => replace_files(&server.data(), yesterday.path()),
            _ => replace_files(yesterday.path(), &server.data()),
        }
        server.start().await;
        // Whichever day it was, it is the end of yesterday now.
        assert_eq!(current(&server, &alice).await.as_ref(), Some(&ids[5]));
        let got = server.get(&one(&bobs), &bob).await;
        assert_eq!((&got.json["etag"], &got.json["count"]), (&json!(etags[4]), &json!(5)));
    }
    assert!(ids.is_sorted_by(|a, b| number(a) < number(b)), "{ids:?}");
    assert_eq!(etags.iter().collect::<BTreeSet<_>>().len(), etags.len(), "{etags:?}");
}

/// Makes one directory of plain files the copy of another.
fn replace_files(from: &Path, to: &Path) {
    for file in fs::read_dir(to).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
