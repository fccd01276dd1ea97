//! Operations as requests, and answers as outcomes.

use serde_json::{Value, json};
use strongroom_testing::User;

use super::history::{Key, Keys, Operation, Outcome, Place, Scope};
use crate::{
    client::{self, ALGORITHM},
    hostile::wire::{ROOT, Reply, head},
};

/// The bytes that ask for `operation`.
pub(crate) fn request(operation: &Operation, user: &User) -> String {
    let (method, target, body) = match operation {
        Operation::CreateVersion { auth_data } => {
            ("POST", "/version".to_owned(), Some(backup(*auth_data)))
        }
        Operation::Version { version: None } => ("GET", "/version".to_owned(), None),
        Operation::Version { version: Some(version) } => {
            ("GET", format!("/version/{version}"), None)
        }
        Operation::UpdateVersion { version, auth_data } => {
            ("PUT", format!("/version/{version}"), Some(backup(*auth_data)))
        }
        Operation::DeleteVersion { version } => ("DELETE", format!("/version/{version}"), None),
        Operation::PutKeys { version, scope, keys } => {
            ("PUT", target(*scope, Some(*version)), Some(uploaded(*scope, keys)))
        }
        Operation::Keys { version, scope } => ("GET", target(*scope, *version), None),
        Operation::DeleteKeys { version, scope } => {
            ("DELETE", target(*scope, Some(*version)), None)
        }
    };
    let head = head(user, method, &format!("{ROOT}{target}"));
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    format!("{head}content-length: {}\r\n\r\n{body}", body.len())
}

/// What the answer to `operation` says; anything but what a client expects is a failure.
pub(crate) fn outcome(operation: &Operation, reply: &Reply) -> Outcome {
    match reply.refusal() {
        (200, _) => {}
        (404, "M_NOT_FOUND") => return Outcome::NotFound,
        (403, "M_WRONG_ROOM_KEYS_VERSION") => {
            return Outcome::WrongVersion { current: number(&reply.json["current_version"]) };
        }
        _ => panic!("{operation:?} was answered with {reply:?}"),
    }
    let json = &reply.json;
    match operation {
        Operation::CreateVersion { .. } => Outcome::Created { version: number(&json["version"]) },
        Operation::Version { .. } => {
            let auth_data = read_auth_data(json).unwrap_or_else(|| panic!("{reply:?}"));
            let (version, etag) = (number(&json["version"]), number(&json["etag"]));
            Outcome::Backup { version, auth_data, count: count(json), etag }
        }
        Operation::UpdateVersion { .. } | Operation::DeleteVersion { .. } => {
            assert_eq!(*json, json!({}), "{operation:?}");
            Outcome::Done
        }
        Operation::PutKeys { .. } | Operation::DeleteKeys { .. } => {
            Outcome::Stored { count: count(json), etag: number(&json["etag"]) }
        }
        Operation::Keys { scope, .. } => {
            let keys = downloaded(*scope, json);
            Outcome::Keys(keys.unwrap_or_else(|| panic!("{operation:?} got {reply:?}")))
        }
    }
}

fn backup(auth_data: u32) -> Value {
    json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": "abc", "mark": auth_data } })
}

fn read_auth_data(answer: &Value) -> Option<u32> {
    let mark = u32::try_from(answer["auth_data"]["mark"].as_u64()?).ok()?;
    let expected = backup(mark);
    let is_whole = ["algorithm", "auth_data"].iter().all(|name| answer[name] == expected[name]);
    is_whole.then_some(mark)
}

fn target(scope: Scope, version: Option<u64>) -> String {
    let path = match scope {
        Scope::All => String::new(),
        Scope::Room(room) => format!("/{}", room_id(room)),
        Scope::Session(Place { room, session }) => format!("/{}/{session}", room_id(room)),
    };
    let query = version.map(|version| format!("?version={version}")).unwrap_or_default();
    format!("/keys{path}{query}")
}

fn room_id(room: u8) -> String {
    format!("!{room}:x")
}

fn uploaded(scope: Scope, keys: &Keys) -> Value {
    let mut rooms = json!({});
    for (place, key) in keys {
        rooms[room_id(place.room)]["sessions"][place.session.to_string()] = written(*key);
    }
    match scope {
        Scope::All => json!({ "rooms": rooms }),
        Scope::Room(_) if keys.is_empty() => json!({ "sessions": {} }),
        Scope::Room(room) => rooms[room_id(room)].take(),
        Scope::Session(place) => written(keys[&place]),
    }
}

fn downloaded(scope: Scope, json: &Value) -> Option<Keys> {
    let mut keys = Keys::new();
    match scope {
        Scope::All => {
            for (room_id, content) in json["rooms"].as_object()? {
                let room = room_id.strip_prefix('!')?.strip_suffix(":x")?.parse().ok()?;
                read_room(room, content, &mut keys)?;
            }
        }
        Scope::Room(room) => read_room(room, json, &mut keys)?,
        Scope::Session(place) => {
            keys.insert(place, read(json)?);
        }
    }
    Some(keys)
}

fn read_room(room: u8, content: &Value, keys: &mut Keys) -> Option<()> {
    for (session, key) in content["sessions"].as_object()? {
        keys.insert(Place { room, session: session.parse().ok()? }, read(key)?);
    }
    Some(())
}

/// Of different lengths, so that a mixture of two is none.
fn written(Key { is_verified, index, forwards, mark }: Key) -> Value {
    let width = 10 + usize::from(mark as u8) * 4;
    client::room_key(is_verified, index, forwards, &format!("{mark:0width$}"))
}

fn read(json: &Value) -> Option<Key> {
    let field = |name: &str| json[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let key = Key {
        is_verified: json["is_verified"].as_bool()?,
        index: field("first_message_index")?,
        forwards: field("forwarded_count")?,
        mark: json["session_data"]["ciphertext"].as_str()?.parse().ok()?,
    };
    (written(key) == *json).then_some(key)
}

fn count(json: &Value) -> usize {
    let count = json["count"].as_u64().and_then(|count| usize::try_from(count).ok());
    count.unwrap_or_else(|| panic!("no count in {json}"))
}

/// Ids and etags are opaque to clients. These are decimal numbers, of which the tests know that
/// they rise.
fn number(json: &Value) -> u64 {
    let number = json.as_str().and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("{json} is no number in a string"))
}
