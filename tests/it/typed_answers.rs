//! Every answer is one that ruma, and with it every client built on it, can read.

use std::{collections::BTreeMap, fmt::Debug};

use ruma::{
    OwnedRoomId,
    api::{
        client::backup::{
            RoomKeyBackup, add_backup_keys, add_backup_keys_for_room, add_backup_keys_for_session,
            create_backup_version, delete_backup_keys, delete_backup_keys_for_room,
            delete_backup_keys_for_session, delete_backup_version, get_backup_info,
            get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
            get_latest_backup_info, update_backup_version,
        },
        error::{ErrorKind, FromHttpResponseError},
    },
    owned_room_id,
    serde::Raw,
    uint,
};
use serde_json::{Value, json};
use strongroom_testing::{Homeserver, Server, User, strongroom_binary};

use crate::typed::{Typed, send};

const SESSION: &str = "a/session+id";

#[tokio::test]
async fn the_answers_about_versions_parse() {
    let (_homeserver, server, alice) = server_with_alice().await;
    let version = create(&server, &alice, "first").await;

    let current = send(&server, &alice, get_latest_backup_info::v3::Request::new()).await.unwrap();
    assert_eq!(current.version, version);
    assert_eq!(current.count, uint!(0));
    assert_eq!(as_value(&current.algorithm), algorithm("first"));

    let update = update_backup_version::v3::Request::new(version.clone(), raw(algorithm("second")));
    send(&server, &alice, update).await.unwrap();
    let info = get_backup_info::v3::Request::new(version.clone());
    let info = send(&server, &alice, info).await.unwrap();
    assert_eq!((&info.version, as_value(&info.algorithm)), (&version, algorithm("second")));

    let delete = delete_backup_version::v3::Request::new(version.clone());
    send(&server, &alice, delete).await.unwrap();
}

#[tokio::test]
async fn the_answers_about_keys_parse() {
    let (_homeserver, server, alice) = server_with_alice().await;
    let version = create(&server, &alice, "first").await;
    let (room, other) = (room_id(), owned_room_id!("!other:example.org"));
    let sessions = BTreeMap::from([(SESSION.to_owned(), raw(key()))]);

    let one = add_backup_keys_for_session::v3::Request::new(
        version.clone(),
        room.clone(),
        "another".into(),
        raw(key()),
    );
    let first = send(&server, &alice, one).await.unwrap();
    let in_room =
        add_backup_keys_for_room::v3::Request::new(version.clone(), room.clone(), sessions.clone());
    let second = send(&server, &alice, in_room).await.unwrap();
    let rooms = BTreeMap::from([(other.clone(), RoomKeyBackup::new(sessions))]);
    let all = add_backup_keys::v3::Request::new(version.clone(), rooms);
    let third = send(&server, &alice, all).await.unwrap();
    assert_eq!([first.count, second.count, third.count], [uint!(1), uint!(2), uint!(3)]);
    assert!(first.etag != second.etag && second.etag != third.etag, "{second:?}");

    let all = get_backup_keys::v3::Request::new(version.clone());
    let rooms = send(&server, &alice, all).await.unwrap().rooms;
    assert_eq!(rooms.keys().collect::<Vec<_>>(), [&other, &room]);
    assert_eq!(as_value(&rooms[&other].sessions[SESSION]), key());
    let in_room = get_backup_keys_for_room::v3::Request::new(version.clone(), room.clone());
    let sessions = send(&server, &alice, in_room).await.unwrap().sessions;
    assert_eq!(sessions.keys().collect::<Vec<_>>(), [SESSION, "another"]);
    let one = get_backup_keys_for_session::v3::Request::new(
        version.clone(),
        room.clone(),
        SESSION.into(),
    );
    let one = send(&server, &alice, one).await.unwrap();
    assert_eq!(as_value(&one.key_data), key());

    let one = delete_backup_keys_for_session::v3::Request::new(
        version.clone(),
        room.clone(),
        SESSION.into(),
    );
    assert_eq!(send(&server, &alice, one).await.unwrap().count, uint!(2));
    let in_room = delete_backup_keys_for_room::v3::Request::new(version.clone(), room);
    assert_eq!(send(&server, &alice, in_room).await.unwrap().count, uint!(1));
    let all = delete_backup_keys::v3::Request::new(version);
    assert_eq!(send(&server, &alice, all).await.unwrap().count, uint!(0));
}

#[tokio::test]
async fn what_is_not_there_is_an_error_or_an_empty_map_that_parses() {
    let (_homeserver, server, alice) = server_with_alice().await;
    let current = send(&server, &alice, get_latest_backup_info::v3::Request::new()).await;
    assert_eq!(refusal(current), (404, ErrorKind::NotFound));
    let info = send(&server, &alice, get_backup_info::v3::Request::new("1".into())).await;
    assert_eq!(refusal(info), (404, ErrorKind::NotFound));
    let all = send(&server, &alice, get_backup_keys::v3::Request::new("1".into())).await;
    assert_eq!(refusal(all), (404, ErrorKind::NotFound));

    let version = create(&server, &alice, "first").await;
    let all = get_backup_keys::v3::Request::new(version.clone());
    assert!(send(&server, &alice, all).await.unwrap().rooms.is_empty());
    let in_room = get_backup_keys_for_room::v3::Request::new(version.clone(), room_id());
    assert!(send(&server, &alice, in_room).await.unwrap().sessions.is_empty());
    let one = get_backup_keys_for_session::v3::Request::new(version, room_id(), SESSION.into());
    assert_eq!(refusal(send(&server, &alice, one).await), (404, ErrorKind::NotFound));
}

/// ruma refuses to parse this error without `current_version`, and clients then go on uploading
/// in vain.
#[tokio::test]
async fn an_upload_to_an_old_version_names_the_current_one() {
    let (_homeserver, server, alice) = server_with_alice().await;
    let old = create(&server, &alice, "first").await;
    let current = create(&server, &alice, "second").await;

    let upload =
        add_backup_keys_for_session::v3::Request::new(old, room_id(), SESSION.into(), raw(key()));
    match refusal(send(&server, &alice, upload).await) {
        (403, ErrorKind::WrongRoomKeysVersion(error)) => assert_eq!(error.current_version, current),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unknown_token_is_an_error_that_parses() {
    let (homeserver, server, alice) = server_with_alice().await;
    homeserver.soft_logout(&alice);
    let current = send(&server, &alice, get_latest_backup_info::v3::Request::new()).await;
    match refusal(current) {
        (401, ErrorKind::UnknownToken(error)) => assert!(error.soft_logout, "{error:?}"),
        other => panic!("{other:?}"),
    }
}

async fn server_with_alice() -> (Homeserver, Server, User) {
    let homeserver = Homeserver::start().await;
    let server = Server::spawn(strongroom_binary(), &homeserver).await;
    let alice = homeserver.login("@alice:example.org");
    (homeserver, server, alice)
}

async fn create(server: &Server, user: &User, signature: &str) -> String {
    let request = create_backup_version::v3::Request::new(raw(algorithm(signature)));
    send(server, user, request).await.unwrap().version
}

/// The status and the error of an answer that has to be one.
fn refusal<T: Debug>(answer: Typed<T>) -> (u16, ErrorKind) {
    match answer {
        Err(FromHttpResponseError::Server(error)) => {
            let kind = error.error_kind().unwrap_or_else(|| panic!("{error:?}")).clone();
            (error.status_code.as_u16(), kind)
        }
        other => panic!("{other:?}"),
    }
}

fn room_id() -> OwnedRoomId {
    owned_room_id!("!room:example.org")
}

fn algorithm(signature: &str) -> Value {
    json!({
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": {
            "public_key": "XjhWTCjW7l59pbfx9tlCBQolfnIQWARoKOzjTOPSlWM",
            "signatures": { "@alice:example.org": { "ed25519:PHONE": signature } },
        },
    })
}

fn key() -> Value {
    json!({
        "first_message_index": 0,
        "forwarded_count": 0,
        "is_verified": false,
        "session_data": { "ciphertext": "AAAA", "ephemeral": "AAAA", "mac": "AAAA" },
    })
}

fn raw<T>(value: Value) -> Raw<T> {
    Raw::new(&value).unwrap().cast_unchecked()
}

fn as_value<T>(raw: &Raw<T>) -> Value {
    raw.deserialize_as_unchecked().unwrap()
}
