//! Request bodies, parsed whole before anything is stored.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    ids::{BadId, RoomId, SessionId},
    json::{self, BadObject, Object},
    limits::{AUTH_DATA_BYTES_MAX, ID_BYTES_MAX, Limits},
    rank::Rank,
};

/// The one backup algorithm of the specification, whose `auth_data` must have a `public_key`.
pub const ALGORITHM_V1: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

/// Why a body is refused. The texts are for the requester and may quote what they sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyError {
    /// `M_NOT_JSON`: no JSON document in UTF-8.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// `M_BAD_JSON`: JSON, but not what the specification asks for.
    #[error("{place}{problem}")]
    BadJson {
        /// The room and the session, where the problem lies in one.
        place: Place,
        /// The field and what is wrong with it.
        problem: String,
    },
    /// `M_TOO_LARGE`: a part of the body is larger than this server keeps.
    #[error("{place}{field} is larger than {bytes_max} bytes")]
    TooLarge {
        /// The room and the session.
        place: Place,
        /// `session_data` or `auth_data`.
        field: &'static str,
        /// What is allowed.
        bytes_max: usize,
    },
}

/// Where in a body of room keys something is wrong.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Place {
    room: Option<String>,
    session: Option<String>,
}

/// The same while parsing, when most keys are well and no text need be copied.
#[derive(Clone, Copy, Default)]
struct At<'a> {
    room: Option<&'a str>,
    session: Option<&'a str>,
}

impl<'a> At<'a> {
    const fn room(room: &'a str) -> Self {
        Self { room: Some(room), session: None }
    }

    const fn session(self, session: &'a str) -> Self {
        Self { room: self.room, session: Some(session) }
    }

    fn place(self) -> Place {
        Place { room: self.room.map(shortened), session: self.session.map(shortened) }
    }

    fn bad(self, problem: impl fmt::Display) -> BodyError {
        BodyError::BadJson { place: self.place(), problem: problem.to_string() }
    }

    fn bad_object(self, field: &'static str, error: &BadObject) -> BodyError {
        match *error {
            BadObject::TooLarge { bytes_max } => {
                BodyError::TooLarge { place: self.place(), field, bytes_max }
            }
            BadObject::NotAnObject | BadObject::NotStrict(_) => {
                self.bad(format_args!("{field} {error}"))
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.room, &self.session) {
            (Some(room), Some(session)) => write!(f, "room {room:?}, session {session:?}: "),
            (Some(room), None) => write!(f, "room {room:?}: "),
            (None, _) => Ok(()),
        }
    }
}

/// An answer need not repeat a megabyte that was sent as an id.
fn shortened(id: &str) -> String {
    id.chars().take(ID_BYTES_MAX).collect()
}

/// One stored `KeyBackupData`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RoomKey {
    /// What the better-key rule looks at.
    pub rank: Rank,
    /// The encrypted part, as it came.
    pub session_data: Object,
}

/// The keys of one `PUT`, by room and session, in the order of their bytes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RoomKeys(BTreeMap<RoomId, BTreeMap<SessionId, RoomKey>>);

impl RoomKeys {
    /// The body of `PUT /room_keys/keys`: all of it, or the first thing that is wrong with it.
    pub fn parse(body: &[u8], limits: &Limits) -> Result<Self, BodyError> {
        let nowhere = At::default();
        let members = document(body, nowhere)?;
        let mut rooms = BTreeMap::new();
        for (room_id, room) in object(required(&members, "rooms", nowhere)?, "rooms", nowhere)? {
            let at = At::room(&room_id);
            let room_id = uploaded_room_id(&room_id).map_err(|error| at.bad(error))?;
            rooms.insert(room_id, parse_room(&object(room, "the room", at)?, at, limits)?);
        }
        Ok(Self(rooms))
    }

    /// The body of `PUT /room_keys/keys/{roomId}`.
    pub fn parse_room(room_id: RoomId, body: &[u8], limits: &Limits) -> Result<Self, BodyError> {
        let at = At::room(room_id.as_str());
        let sessions = parse_room(&document(body, at)?, at, limits)?;
        Ok(Self(BTreeMap::from([(room_id, sessions)])))
    }

    /// The body of `PUT /room_keys/keys/{roomId}/{sessionId}`.
    pub fn parse_session(
        room_id: RoomId,
        session_id: SessionId,
        body: &[u8],
        limits: &Limits,
    ) -> Result<Self, BodyError> {
        let at = At::room(room_id.as_str()).session(session_id.as_str());
        let key = parse_key(&document(body, at)?, at, limits)?;
        Ok(Self(BTreeMap::from([(room_id, BTreeMap::from([(session_id, key)]))])))
    }

    /// Every key, ordered by room and session.
    pub fn iter(&self) -> impl Iterator<Item = (&RoomId, &SessionId, &RoomKey)> {
        self.0.iter().flat_map(|(room_id, sessions)| {
            sessions.iter().map(move |(session_id, key)| (room_id, session_id, key))
        })
    }
}

impl FromIterator<(RoomId, SessionId, RoomKey)> for RoomKeys {
    /// Of two keys with the same ids the later one stays.
    fn from_iter<I: IntoIterator<Item = (RoomId, SessionId, RoomKey)>>(keys: I) -> Self {
        let mut rooms: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (room_id, session_id, key) in keys {
            rooms.entry(room_id).or_default().insert(session_id, key);
        }
        Self(rooms)
    }
}

impl RoomId {
    /// A room that keys may be *put* in. Typed clients (ruma) refuse a whole restore for one room id
    /// that does not begin with `!`, as the specification's schema has it.
    pub fn is_uploadable(&self) -> bool {
        self.as_str().starts_with('!')
    }
}

fn uploaded_room_id(text: &str) -> Result<RoomId, String> {
    let room_id = RoomId::parse(text).map_err(|error: BadId| format!("the room id {error}"))?;
    if room_id.is_uploadable() {
        Ok(room_id)
    } else {
        Err("the room id does not begin with '!'".to_owned())
    }
}

/// The body of `POST /room_keys/version`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewVersion {
    /// Kept whatever it is: older clients know other algorithms.
    pub algorithm: String,
    /// Kept as it came: signatures are made over it.
    pub auth_data: Object,
}

impl NewVersion {
    /// Parses the body. A backup of the specification's algorithm without a public key could be
    /// neither read by typed clients nor written to, so it is refused.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        Self::from_members(&document(body, At::default())?)
    }

    fn from_members(members: &Members<'_>) -> Result<Self, BodyError> {
        let nowhere = At::default();
        let algorithm = text(required(members, "algorithm", nowhere)?, "algorithm")?;
        if algorithm.len() > ID_BYTES_MAX {
            return Err(nowhere.bad("algorithm is longer than 255 bytes"));
        }
        let auth_data = required(members, "auth_data", nowhere)?;
        let auth_data = Object::parse(auth_data.get(), AUTH_DATA_BYTES_MAX)
            .map_err(|error| nowhere.bad_object("auth_data", &error))?;
        if algorithm == ALGORITHM_V1 && public_key(&auth_data).is_none() {
            return Err(nowhere.bad("auth_data has no public_key that is a string"));
        }
        Ok(Self { algorithm, auth_data })
    }
}

/// The body of `PUT /room_keys/version/{version}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VersionUpdate {
    /// The algorithm, which must be the stored one, and the `auth_data` that replaces the stored.
    pub replacement: NewVersion,
    /// If present, must be the version of the path. Opaque, so compared as text.
    pub version: Option<String>,
}

impl VersionUpdate {
    /// Parses the body; other members, such as `count` and `etag` from some clients, are ignored.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let members = document(body, At::default())?;
        let version = members.get("version").map(|raw| text(raw, "version")).transpose()?;
        Ok(Self { replacement: NewVersion::from_members(&members)?, version })
    }
}

impl NewVersion {
    /// Whether this may replace what a version was created with: the algorithm is the same, and so,
    /// with [`ALGORITHM_V1`], is the public key. With another key all further uploads would be
    /// readable by its owner only, which is what a thief of a token would want.
    pub fn may_replace(&self, stored: &Self) -> Result<(), &'static str> {
        if self.algorithm != stored.algorithm {
            Err("the algorithm of a backup can't be changed")
        } else if self.algorithm == ALGORITHM_V1
            && public_key(&self.auth_data) != public_key(&stored.auth_data)
        {
            Err("the public_key of a backup can't be changed")
        } else {
            Ok(())
        }
    }
}

fn public_key(auth_data: &Object) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct AuthData {
        public_key: String,
    }
    serde_json::from_str(auth_data.as_str()).ok().map(|AuthData { public_key }| public_key)
}

fn parse_room(
    room: &Members<'_>,
    at: At<'_>,
    limits: &Limits,
) -> Result<BTreeMap<SessionId, RoomKey>, BodyError> {
    let mut sessions = BTreeMap::new();
    for (id, key) in object(required(room, "sessions", at)?, "sessions", at)? {
        let at = at.session(&id);
        let session_id = SessionId::parse(&id)
            .map_err(|error| at.bad(format_args!("the session id {error}")))?;
        let key = parse_key(&object(key, "the key", at)?, at, limits)?;
        sessions.insert(session_id, key);
    }
    Ok(sessions)
}

fn parse_key(key: &Members<'_>, at: At<'_>, limits: &Limits) -> Result<RoomKey, BodyError> {
    let integer = |field| {
        // A JSON number that is a run of digits: no sign, no fraction, no exponent.
        required(key, field, at)?
            .get()
            .parse::<u32>()
            .map_err(|_| at.bad(format_args!("{field} is not an integer from 0 to {}", u32::MAX)))
    };
    let first_message_index = integer("first_message_index")?;
    let forwarded_count = integer("forwarded_count")?;
    let is_verified = match required(key, "is_verified", at)?.get() {
        "true" => true,
        "false" => false,
        _ => return Err(at.bad("is_verified is not true or false")),
    };
    let session_data = required(key, "session_data", at)?;
    let session_data = Object::parse(session_data.get(), limits.session_data_bytes_max)
        .map_err(|error| at.bad_object("session_data", &error))?;
    let rank = Rank::new(is_verified, first_message_index, forwarded_count);
    Ok(RoomKey { rank, session_data })
}

/// The members of a JSON object, none of them twice: half of a body in which a room stands twice
/// would be lost without a word.
type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

fn document<'a>(body: &'a [u8], at: At<'_>) -> Result<Members<'a>, BodyError> {
    let body = std::str::from_utf8(body).map_err(|error| BodyError::NotJson(error.to_string()))?;
    members(body).map_err(|error| {
        if json::is_json(body) {
            at.bad(format_args!("the body is not acceptable: {error}"))
        } else {
            BodyError::NotJson(error.to_string())
        }
    })
}

fn object<'a>(raw: &'a RawValue, what: &str, at: At<'_>) -> Result<Members<'a>, BodyError> {
    members(raw.get()).map_err(|error| at.bad(format_args!("{what} is not acceptable: {error}")))
}

fn members(text: &str) -> Result<Members<'_>, serde_json::Error> {
    struct Unique;

    impl<'de> Visitor<'de> for Unique {
        type Value = Members<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
            let mut members = Members::new();
            while let Some(key) = map.next_key_seed(json::Text)? {
                match members.entry(key) {
                    Entry::Vacant(place) => place.insert(map.next_value()?),
                    Entry::Occupied(twin) => {
                        let name = shortened(twin.key());
                        return Err(A::Error::custom(format_args!("{name:?} stands twice")));
                    }
                };
            }
            Ok(members)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = deserializer.deserialize_map(Unique)?;
    deserializer.end()?;
    Ok(members)
}

fn required<'a>(members: &Members<'a>, field: &str, at: At<'_>) -> Result<&'a RawValue, BodyError> {
    let found = members.get(field).copied();
    found.ok_or_else(|| at.bad(format_args!("{field} is missing")))
}

fn text(raw: &RawValue, field: &str) -> Result<String, BodyError> {
    serde_json::from_str(raw.get())
        .map_err(|_| At::default().bad(format_args!("{field} is not a string")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn key() -> Value {
        json!({
            "first_message_index": 1, "forwarded_count": 2, "is_verified": true,
            "session_data": {"ciphertext": "c", "ephemeral": "e", "mac": "m"},
        })
    }

    fn parse(body: &str) -> Result<RoomKeys, BodyError> {
        RoomKeys::parse(body.as_bytes(), &Limits::default())
    }

    /// A body of two rooms whose last key is `key`.
    fn with_last_key(key: &str) -> String {
        let good = self::key();
        format!(
            r#"{{"rooms":{{"!a:x":{{"sessions":{{"1":{good},"2":{good}}}}},
                "!b:x":{{"sessions":{{"3":{good},"4":{key}}}}}}}}}"#
        )
    }

    fn with_field(field: &str, value: &str) -> String {
        let mut key = key();
        key.as_object_mut().unwrap().insert(field.to_owned(), json!("HERE"));
        with_last_key(&key.to_string().replace("\"HERE\"", value))
    }

    #[test]
    fn a_bad_field_is_named_with_its_room_and_session() {
        let values = [
            (
                "first_message_index",
                ["-1", "1.0", "1e2", "-0", "4294967296", "\"1\"", "null", "[]"],
            ),
            ("forwarded_count", ["-1", "0.5", "1E0", "-0", "1e400", "true", "null", "{}"]),
            ("is_verified", ["0", "1", "\"true\"", "null", "[]", "{}", "\"\"", "-1"]),
            (
                "session_data",
                [
                    "null",
                    "[]",
                    "\"\"",
                    "1",
                    "true",
                    r#"{"a":1e999}"#,
                    r#"{"a":"\udfff"}"#,
                    "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}",
                ],
            ),
        ];
        for (field, values) in values {
            for value in values {
                let error = parse(&with_field(field, value)).unwrap_err();
                assert!(matches!(error, BodyError::BadJson { .. }), "{field} {value}: {error:?}");
                let text = error.to_string();
                let start = format!(r#"room "!b:x", session "4": {field} "#);
                assert!(text.starts_with(&start), "{field} {value}: {text}");
            }
            let mut without = key();
            without.as_object_mut().unwrap().remove(field);
            let error = parse(&with_last_key(&without.to_string())).unwrap_err().to_string();
            assert_eq!(error, format!(r#"room "!b:x", session "4": {field} is missing"#));
        }
    }

    #[test]
    fn the_extremes_and_unknown_members_are_taken() {
        for (field, value) in [
            ("first_message_index", "4294967295"),
            ("forwarded_count", "4294967295"),
            ("org.matrix.msc3061.shared_history", "true"),
            ("session_data", "{}"),
        ] {
            parse(&with_field(field, value)).unwrap();
        }
        assert_eq!(parse(r#"{"rooms":{}}"#).unwrap(), RoomKeys::default());
        assert_eq!(
            parse(r#"{"rooms":{"!a":{"sessions":{}}},"x":[[]]}"#).unwrap().iter().count(),
            0
        );
    }

    #[test]
    fn json_of_the_wrong_shape_is_bad_json() {
        let deep = format!("{{\"rooms\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for body in [
            "null",
            "[]",
            "1e400",
            "\"\\ud800\"",
            "{}",
            r#"{"rooms":null}"#,
            r#"{"rooms":[]}"#,
            r#"{"rooms":{"!a":null}}"#,
            r#"{"rooms":{"!a":{}}}"#,
            r#"{"rooms":{"!a":{"sessions":[]}}}"#,
            r#"{"rooms":{"!a":{"sessions":{"s":null}}}}"#,
            r#"{"rooms":{"!a":{"sessions":{"s":[]}}}}"#,
            r#"{"rooms":{},"rooms":{}}"#,
            r#"{"rooms":{"!a":{"sessions":{}},"\u0021a":{"sessions":{}}}}"#,
            r#"{"rooms":{"!a":{"sessions":{},"sessions":{}}}}"#,
            r#"{"rooms":{"!\ud800":{"sessions":{}}}}"#,
            r#"{"rooms":{"!\u0000":{"sessions":{}}}}"#,
            r##"{"rooms":{"#a:x":{"sessions":{}}}}"##,
            r#"{"rooms":{"":{"sessions":{}}}}"#,
            &with_last_key(&format!("{},\"4\":{}", key(), key())),
            &deep,
            &deep.replace("rooms", "other"),
        ] {
            let shown: String = body.chars().take(80).collect();
            let error = parse(body).unwrap_err();
            assert!(matches!(error, BodyError::BadJson { .. }), "{shown}: {error:?}");
        }
    }

    #[test]
    fn what_is_no_json_is_not_json() {
        let good = with_last_key(&key().to_string());
        for length in 0..good.len() {
            let cut = &good.as_bytes()[..length];
            let error = RoomKeys::parse(cut, &Limits::default()).unwrap_err();
            assert!(matches!(error, BodyError::NotJson(_)), "cut at {length}: {error:?}");
        }
        let endless = format!("{{\"rooms\":{}", "[".repeat(100_000));
        let invalid: [&[u8]; 5] = [
            b"{\"rooms\":{\"!\xff\":1}}",
            b"\xef\xbb\xbf{}",
            b"{} {}",
            b"{\"a\":\"\0\"}",
            endless.as_bytes(),
        ];
        for body in invalid {
            let error = RoomKeys::parse(body, &Limits::default()).unwrap_err();
            assert!(matches!(error, BodyError::NotJson(_)), "{error:?}");
        }
    }

    #[test]
    fn a_large_session_data_is_too_large_and_named() {
        let limits = Limits { session_data_bytes_max: 50, ..Limits::default() };
        let body = with_field("session_data", &json!({"a": "x".repeat(60)}).to_string());
        let error = RoomKeys::parse(body.as_bytes(), &limits).unwrap_err();
        assert!(matches!(error, BodyError::TooLarge { .. }), "{error:?}");
        let expected = r#"room "!b:x", session "4": session_data is larger than 50 bytes"#;
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_version_needs_an_algorithm_and_an_object() {
        for (body, problem) in [
            (r#"{"auth_data":{}}"#, "algorithm is missing"),
            (r#"{"algorithm":"x"}"#, "auth_data is missing"),
            (r#"{"algorithm":1,"auth_data":{}}"#, "algorithm is not a string"),
            (r#"{"algorithm":"x","auth_data":[]}"#, "auth_data is not an object"),
            (
                r#"{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{}}"#,
                "auth_data has no public_key that is a string",
            ),
        ] {
            assert_eq!(NewVersion::parse(body.as_bytes()).unwrap_err().to_string(), problem);
        }
        let other =
            NewVersion::parse(br#"{"algorithm":"org.other","auth_data":{ "a" : 1}}"#).unwrap();
        assert_eq!(other.auth_data.as_str(), r#"{ "a" : 1}"#);
    }

    #[test]
    fn an_update_keeps_the_algorithm_and_the_public_key() {
        let version = |algorithm: &str, auth_data: &str| {
            let body = format!(r#"{{"algorithm":"{algorithm}","auth_data":{auth_data}}}"#);
            NewVersion::parse(body.as_bytes()).unwrap()
        };
        let stored = version(ALGORITHM_V1, r#"{"public_key":"abc","signatures":{"@a:x":{}}}"#);
        let signed = version(ALGORITHM_V1, r#"{"public_key":"\u0061bc"}"#);
        assert_eq!(signed.may_replace(&stored), Ok(()));
        assert!(version(ALGORITHM_V1, r#"{"public_key":"abd"}"#).may_replace(&stored).is_err());
        assert!(version("other", r#"{"public_key":"abc"}"#).may_replace(&stored).is_err());
        let opaque = version("other", r#"{"public_key":"abc"}"#);
        assert_eq!(version("other", "{}").may_replace(&opaque), Ok(()));
    }

    proptest! {
        /// No bytes make the parser panic, and whatever it takes is what a plain reader sees.
        #[test]
        fn whatever_is_taken_is_what_was_sent(
            rooms in prop::collection::btree_map("![a-z\"\\\\é/+%]{0,3}", prop::collection::btree_map("[a-z\"/+%]{0,3}", (any::<bool>(), any::<u32>(), any::<u32>()), 0..4), 0..4)
        ) {
            let mut expected = Vec::new();
            let mut body = json!({"rooms": {}});
            for (room, sessions) in &rooms {
                body["rooms"][room] = json!({"sessions": {}});
                for (session, &(is_verified, index, count)) in sessions {
                    body["rooms"][room]["sessions"][session] = json!({
                        "is_verified": is_verified, "first_message_index": index,
                        "forwarded_count": count, "session_data": {"x": session},
                    });
                    expected.push((room.as_str(), session.as_str(), Rank::new(is_verified, index, count)));
                }
            }
            let keys = parse(&body.to_string()).unwrap();
            let got: Vec<_> = keys.iter().map(|(r, s, k)| (r.as_str(), s.as_str(), k.rank)).collect();
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = RoomKeys::parse(&body, &Limits::default());
            let _ = NewVersion::parse(&body);
            let _ = VersionUpdate::parse(&body);
        }
    }
}
