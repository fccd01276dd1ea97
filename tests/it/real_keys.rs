//! Keys that matrix-sdk-crypto made, in the requests that it makes of them.

use matrix_sdk_crypto::{
    DecryptionSettings, EncryptionSettings, OlmMachine, TrustRequirement, olm::ExportedRoomKey,
    store::types::BackupDecryptionKey,
};
use ruma::{
    DeviceId, OwnedRoomId,
    api::client::backup::{
        KeyBackupData, add_backup_keys, create_backup_version, get_backup_keys,
        get_latest_backup_info,
    },
    device_id,
    events::room::message::RoomMessageEventContent,
    serde::Raw,
    user_id,
};
use serde_json::{Value, json};
use strongroom_testing::{Homeserver, Server, User, strongroom_binary};

use crate::typed::send;

/// More than matrix-sdk-crypto puts into one request, which is a hundred keys.
const ROOMS: usize = 120;

#[tokio::test]
async fn what_one_client_backs_up_another_restores_and_decrypts_with() {
    let homeserver = Homeserver::start().await;
    let server = Server::spawn(strongroom_binary(), &homeserver).await;
    let alice = homeserver.login("@alice:example.org");

    let phone = machine(device_id!("PHONE")).await;
    let messages = send_messages(&phone).await;
    let decryption_key = BackupDecryptionKey::new();
    enable_backup(&server, &alice, &phone, &decryption_key).await;
    assert_eq!(back_up(&server, &alice, &phone).await, ROOMS);

    let laptop = machine(device_id!("LAPTOP")).await;
    assert_eq!(decrypt(&laptop, &messages[0]).await, None, "what is to be shown needs no key");
    assert_eq!(restore(&server, &alice, &laptop, &decryption_key).await, ROOMS);
    for message in &messages {
        let decrypted = decrypt(&laptop, message).await;
        assert_eq!(decrypted.as_ref(), Some(&message.body), "in {}", message.room_id);
    }
}

/// A message as a homeserver hands it out, and what it says.
struct Message {
    room_id: OwnedRoomId,
    event: Value,
    body: String,
}

async fn machine(device_id: &DeviceId) -> OlmMachine {
    OlmMachine::new(user_id!("@alice:example.org"), device_id).await
}

/// A message in each room, and so a session of each.
async fn send_messages(machine: &OlmMachine) -> Vec<Message> {
    let mut messages = Vec::new();
    for number in 0..ROOMS {
        let room_id = OwnedRoomId::try_from(format!("!room{number}:example.org")).unwrap();
        let recipients = [machine.user_id()].into_iter();
        let shared =
            machine.share_room_key(&room_id, recipients, EncryptionSettings::default()).await;
        assert!(shared.unwrap().is_empty(), "there is no other device yet");

        let body = format!("message {number}");
        let content = RoomMessageEventContent::text_plain(body.clone());
        let encrypted = machine.encrypt_room_event(&room_id, content).await.unwrap();
        let event = json!({
            "type": "m.room.encrypted",
            "event_id": format!("$event{number}"),
            "room_id": room_id,
            "sender": machine.user_id(),
            "origin_server_ts": 1,
            "content": encrypted.content,
        });
        messages.push(Message { room_id, event, body });
    }
    messages
}

/// Creates a backup signed by this device.
async fn enable_backup(
    server: &Server,
    user: &User,
    machine: &OlmMachine,
    decryption_key: &BackupDecryptionKey,
) {
    let mut info = decryption_key.to_backup_info();
    machine.backup_machine().sign_backup(&mut info).await.unwrap();
    let request = create_backup_version::v3::Request::new(Raw::new(&info).unwrap().cast());
    let created = send(server, user, request).await.unwrap();

    let backup_key = decryption_key.megolm_v1_public_key();
    backup_key.set_version(created.version);
    machine.backup_machine().enable_backup_v1(backup_key).await.unwrap();
}

/// Sends what there is to back up, and returns how many keys the backup then holds.
async fn back_up(server: &Server, user: &User, machine: &OlmMachine) -> usize {
    let mut requests = 0;
    let mut count = 0;
    while let Some((id, request)) = machine.backup_machine().backup().await.unwrap() {
        let request = add_backup_keys::v3::Request::new(request.version, request.rooms);
        let stored = send(server, user, request).await.unwrap();
        machine.mark_request_as_sent(&id, &stored).await.unwrap();
        count = usize::try_from(u64::from(stored.count)).unwrap();
        requests += 1;
    }
    assert!(requests > 1, "one request held all keys");
    count
}

/// Finds the backup, trusts it for its key, and returns how many keys were imported out of it.
async fn restore(
    server: &Server,
    user: &User,
    machine: &OlmMachine,
    decryption_key: &BackupDecryptionKey,
) -> usize {
    let backup = send(server, user, get_latest_backup_info::v3::Request::new()).await.unwrap();
    let info = backup.algorithm.deserialize_as().unwrap();
    assert!(decryption_key.backup_key_matches(&info), "{info:?}");
    let request = get_backup_keys::v3::Request::new(backup.version.clone());
    let rooms = send(server, user, request).await.unwrap().rooms;

    let mut keys = Vec::new();
    for (room_id, room) in rooms {
        for (session_id, key) in room.sessions {
            let KeyBackupData { session_data, .. } = key.deserialize().unwrap();
            let key = decryption_key.decrypt_session_data(session_data).unwrap();
            keys.push(ExportedRoomKey::from_backed_up_room_key(room_id.clone(), session_id, key));
        }
    }
    let imported = machine.store().import_room_keys(keys, Some(&backup.version), |_, _| ()).await;
    imported.unwrap().imported_count
}

/// What a message says, if this machine can read it.
async fn decrypt(machine: &OlmMachine, message: &Message) -> Option<String> {
    let event = Raw::new(&message.event).unwrap().cast_unchecked();
    let settings =
        DecryptionSettings { sender_device_trust_requirement: TrustRequirement::Untrusted };
    let decrypted = machine.decrypt_room_event(&event, &message.room_id, &settings).await.ok()?;
    let event: Value = decrypted.event.deserialize_as_unchecked().unwrap();
    Some(event["content"]["body"].as_str().expect("a text").to_owned())
}
