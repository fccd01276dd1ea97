//! The bodies of a `PUT` of keys: what is taken is what a plain reader sees in them, no more and no
//! less, and goes out as JSON that every reader reads; what is refused has something wrong with it.

use serde_json::{Map, Value, json};
use strongroom_protocol::{
    ID_BYTES_MAX, KeyRef, KeysShape, KeysWriter, Limits, MatrixError, OBJECT_DEPTH_MAX, RoomKeys,
    write_key,
};

use crate::json;

const SESSION_DATA_BYTES_MAX: usize = 1024;

pub(crate) fn run(data: &[u8]) {
    let limits = Limits { session_data_bytes_max: SESSION_DATA_BYTES_MAX, ..Limits::default() };
    let sent = json::read(data);
    match RoomKeys::parse(data, &limits) {
        Ok(keys) => {
            let rendered = render(&keys);
            let got = json::read_by_all(&rendered);
            assert!(as_the_specification_has_it(&got), "{got}");
            // Where nobody looks, a body may have what a strict reader refuses.
            if let Some(sent) = sent {
                assert_eq!(got, json!({ "rooms": known_members(&sent) }));
            }
            assert_eq!(RoomKeys::parse(&rendered, &limits).map(|keys| render(&keys)), Ok(rendered));
            room_by_room(&keys, &limits);
        }
        Err(error) => {
            let is_good = sent.as_ref().is_some_and(as_the_specification_has_it);
            assert!(!is_good || data.len() > SESSION_DATA_BYTES_MAX, "{error}");
            answered(&MatrixError::Body(error));
        }
    }
}

/// An error is an answer that every client can read, and not longer than it need be.
pub(crate) fn answered(error: &MatrixError) {
    let body = error.body();
    let json = json::read_by_all(body.as_bytes());
    assert!(matches!(error.status(), 400..=499), "{body}");
    assert!(json["errcode"].as_str().is_some_and(|errcode| errcode.starts_with("M_")), "{body}");
    assert!(json["error"].as_str().is_some_and(|error| !error.is_empty()), "{body}");
    assert!(body.len() < 16 * 1024, "an answer of {} bytes", body.len());
}

fn render(keys: &RoomKeys) -> Vec<u8> {
    let (mut out, mut writer) = (Vec::new(), KeysWriter::new(KeysShape::Rooms));
    for (room_id, session_id, key) in keys.iter() {
        let (room_id, session_id) = (room_id.as_str(), session_id.as_str());
        let session_data = key.session_data.as_str();
        writer.key(&mut out, KeyRef { room_id, session_id, rank: key.rank, session_data });
    }
    writer.finish(&mut out);
    out
}

/// The same keys, put one by one, are the same.
fn room_by_room(keys: &RoomKeys, limits: &Limits) {
    for (room_id, session_id, key) in keys.iter() {
        let mut body = Vec::new();
        write_key(&mut body, key.rank, key.session_data.as_str());
        let room = [br#"{"sessions":{"#, &*json!(session_id.as_str()).to_string().into_bytes()];
        let room = [&room.concat(), &b":"[..], &body, b"}}"].concat();
        let alone: RoomKeys =
            [(room_id.clone(), session_id.clone(), key.clone())].into_iter().collect();
        let as_session =
            RoomKeys::parse_session(room_id.clone(), session_id.clone(), &body, limits);
        assert_eq!(as_session.as_ref(), Ok(&alone));
        assert_eq!(RoomKeys::parse_room(room_id.clone(), &room, limits), Ok(alone));
    }
}

/// The form of a body of `PUT /room_keys/keys`, within the limits but for `session_data`'s bytes.
fn as_the_specification_has_it(body: &Value) -> bool {
    is_rooms(&body["rooms"])
}

pub(super) fn is_rooms(rooms: &Value) -> bool {
    let is_room_id = |id: &str| is_id(id) && id.starts_with('!');
    let rooms = rooms.as_object();
    rooms.is_some_and(|it| it.iter().all(|(id, room)| is_room_id(id) && is_room(room)))
}

pub(super) fn is_room(room: &Value) -> bool {
    let sessions = room["sessions"].as_object();
    sessions.is_some_and(|it| it.iter().all(|(id, key)| is_id(id) && is_key(key)))
}

pub(super) fn is_key(key: &Value) -> bool {
    let is_number = |field: &str| key[field].as_u64().is_some_and(|number| number < 1 << 32);
    is_number("first_message_index")
        && is_number("forwarded_count")
        && key["is_verified"].is_boolean()
        && key["session_data"].is_object()
        && json::depth(&key["session_data"]) <= OBJECT_DEPTH_MAX
}

fn is_id(id: &str) -> bool {
    id.len() <= ID_BYTES_MAX && !id.contains('\0')
}

/// The rooms that have sessions, with the members that the specification names.
fn known_members(body: &Value) -> Value {
    let known = |key: &Value| {
        let fields = ["first_message_index", "forwarded_count", "is_verified", "session_data"];
        fields.map(|field| (field.to_owned(), key[field].clone())).into_iter().collect::<Value>()
    };
    let mut rooms = Map::new();
    for (room_id, room) in body["rooms"].as_object().unwrap() {
        let sessions = room["sessions"].as_object().unwrap();
        if !sessions.is_empty() {
            let sessions: Value =
                sessions.iter().map(|(id, key)| (id.clone(), known(key))).collect();
            rooms.insert(room_id.clone(), json!({ "sessions": sessions }));
        }
    }
    rooms.into()
}
