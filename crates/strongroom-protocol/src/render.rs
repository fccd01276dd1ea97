//! Answers, written straight into the bytes that go out.

use std::io::Write as _;

use crate::{
    ids::{Etag, Version},
    json::Object,
    rank::Rank,
};

/// One stored key, borrowed from wherever the store holds it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyRef<'a> {
    /// The room of the session.
    pub room_id: &'a str,
    /// The session.
    pub session_id: &'a str,
    /// What the better-key rule looks at.
    pub rank: Rank,
    /// The text of an [`Object`].
    pub session_data: &'a str,
}

/// Writes one `KeyBackupData` object.
pub fn write_key(out: &mut Vec<u8>, rank: Rank, session_data: &str) {
    let (index, forwards) = (rank.first_message_index(), rank.forwarded_count());
    let is_verified = rank.is_verified();
    append(
        out,
        format_args!(
            r#"{{"first_message_index":{index},"forwarded_count":{forwards},"is_verified":{is_verified},"session_data":{session_data}}}"#
        ),
    );
}

/// Whether an answer holds all rooms, `{"rooms": {…}}`, or one, `{"sessions": {…}}`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeysShape {
    /// `GET /room_keys/keys`.
    Rooms,
    /// `GET /room_keys/keys/{roomId}`.
    Sessions,
}

/// Writes the answer to a `GET` of many keys piece by piece, as the keys arrive in their order.
///
/// The member that holds the keys is always there, since clients iterate over it unguarded.
#[derive(Clone, Debug)]
pub struct KeysWriter {
    shape: KeysShape,
    room_id: Option<String>,
    is_begun: bool,
}

impl KeysWriter {
    /// Nothing is written yet.
    pub const fn new(shape: KeysShape) -> Self {
        Self { shape, room_id: None, is_begun: false }
    }

    /// Appends a key, which must come after the ones before it in the order of rooms.
    pub fn key(&mut self, out: &mut Vec<u8>, key: KeyRef<'_>) {
        self.begin(out);
        if self.room_id.as_deref() == Some(key.room_id) {
            out.push(b',');
        } else {
            match (self.shape, self.room_id.is_some()) {
                (KeysShape::Rooms, is_later) => {
                    out.extend_from_slice(if is_later { b"}}," } else { b"" });
                    append_string(out, key.room_id);
                    out.extend_from_slice(br#":{"sessions":{"#);
                }
                (KeysShape::Sessions, _) => {}
            }
            self.room_id = Some(key.room_id.to_owned());
        }
        append_string(out, key.session_id);
        out.push(b':');
        write_key(out, key.rank, key.session_data);
    }

    /// Ends the document.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.begin(out);
        out.extend_from_slice(match (self.shape, self.room_id.is_some()) {
            (KeysShape::Rooms, true) => b"}}}}",
            (KeysShape::Rooms, false) | (KeysShape::Sessions, _) => b"}}",
        });
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.is_begun {
            self.is_begun = true;
            out.extend_from_slice(match self.shape {
                KeysShape::Rooms => br#"{"rooms":{"#,
                KeysShape::Sessions => br#"{"sessions":{"#,
            });
        }
    }
}

/// The answer to a `GET` of a version.
#[derive(Clone, Copy, Debug)]
pub struct VersionAnswer<'a> {
    /// The algorithm that the backup was created with.
    pub algorithm: &'a str,
    /// As it came.
    pub auth_data: &'a Object,
    /// How many keys are stored.
    pub count: u64,
    /// A string on the wire: typed clients refuse a number.
    pub etag: Etag,
    /// A string on the wire.
    pub version: Version,
}

impl VersionAnswer<'_> {
    /// The JSON object.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = br#"{"algorithm":"#.to_vec();
        append_string(&mut out, self.algorithm);
        let Self { auth_data, count, etag, version, .. } = self;
        let auth_data = auth_data.as_str();
        append(
            &mut out,
            format_args!(
                r#","auth_data":{auth_data},"count":{count},"etag":"{etag}","version":"{version}"}}"#
            ),
        );
        out
    }
}

/// The answer to a `PUT` or `DELETE` of keys ("RoomKeysUpdateResponse").
#[derive(Clone, Copy, Debug)]
pub struct StoredAnswer {
    /// How many keys the backup now holds.
    pub count: u64,
    /// The etag of that state.
    pub etag: Etag,
}

impl StoredAnswer {
    /// The JSON object.
    pub fn to_json(&self) -> Vec<u8> {
        format!(r#"{{"count":{},"etag":"{}"}}"#, self.count, self.etag).into_bytes()
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A `Vec` takes all bytes.
    let _ = out.write_fmt(text);
}

fn append_string(out: &mut Vec<u8>, text: &str) {
    // A string has a JSON form, and a `Vec` takes all bytes.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn render(shape: KeysShape, keys: &BTreeMap<(String, String), u32>) -> Value {
        let (mut out, mut writer) = (Vec::new(), KeysWriter::new(shape));
        for ((room_id, session_id), &index) in keys {
            let rank = Rank::new(true, index, 7);
            writer.key(&mut out, KeyRef { room_id, session_id, rank, session_data: r#"{"a":1}"# });
        }
        writer.finish(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    fn key(index: u32) -> Value {
        json!({"first_message_index": index, "forwarded_count": 7, "is_verified": true,
            "session_data": {"a": 1}})
    }

    proptest! {
        #[test]
        fn every_key_stands_in_its_room(
            keys in prop::collection::btree_map((".{0,2}", ".{0,2}"), any::<u32>(), 0..20)
        ) {
            let mut expected = json!({"rooms": {}});
            for ((room, session), &index) in &keys {
                expected["rooms"][room]["sessions"][session] = key(index);
            }
            prop_assert_eq!(render(KeysShape::Rooms, &keys), expected);
        }

        #[test]
        fn one_room_holds_its_sessions(
            sessions in prop::collection::btree_map(".{0,2}", any::<u32>(), 0..20)
        ) {
            let mut expected = json!({"sessions": {}});
            for (session, &index) in &sessions {
                expected["sessions"][session] = key(index);
            }
            let keys = sessions.into_iter().map(|(s, i)| (("!r".to_owned(), s), i)).collect();
            prop_assert_eq!(render(KeysShape::Sessions, &keys), expected);
        }
    }

    #[test]
    fn a_version_has_a_string_etag_and_an_integer_count() {
        let auth_data = Object::parse(r#"{"public_key":"k" }"#, 100).unwrap();
        let (etag, version) = (Etag::new(7).unwrap(), Version::new(42).unwrap());
        let answer =
            VersionAnswer { algorithm: "a\"b", auth_data: &auth_data, count: 3, etag, version };
        let expected = r#"{"algorithm":"a\"b","auth_data":{"public_key":"k" },"count":3,"etag":"7","version":"42"}"#;
        assert_eq!(String::from_utf8(answer.to_json()).unwrap(), expected);
    }
}
