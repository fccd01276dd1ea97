//! Judging what came out of a backup or a key file, before anything believes it.
//!
//! Whoever knows a backup's public key can add sessions to it, and its MAC protects nothing. So the
//! text is treated as hostile (client-server API, "Server-side key backups", `BackedUpSessionData`,
//! and "Key exports", `ExportedSessionData`), and what passes is still called *unauthenticated*: it
//! opens messages, and proves nothing about who sent them.

use std::{collections::BTreeMap, fmt, str};

use serde_json::value::RawValue;
use strongroom_protocol::{BadId, BadObject, RoomId, SessionId};
use zeroize::Zeroizing;

use crate::{
    backup::Plaintext,
    base64::{self, Base64Error},
    json::{self, FieldError, Members},
    limits::SESSION_BYTES_MAX,
    megolm::{SessionKey, SessionKeyError, SessionKeyFormat},
    oddity::{Oddities, Oddity},
};

/// The one algorithm whose sessions are backed up.
pub const MEGOLM_V1: &str = "m.megolm.v1.aes-sha2";

/// One session, well-formed, and filed under its own id. **Of unknown origin**: nothing in it is proof
/// of who made it, not `sender_key` and not `sender_claimed_keys`. There is no type for a session that
/// is authenticated, because neither a backup nor a key file can make one.
#[derive(Clone)]
pub struct UnauthenticatedSession {
    room_id: RoomId,
    session_id: SessionId,
    session_key: SessionKey,
    sender_key: [u8; 32],
    sender_claimed_keys: BTreeMap<String, String>,
    forwarding_curve25519_key_chain: Vec<[u8; 32]>,
    other: BTreeMap<String, Box<RawValue>>,
    oddities: Oddities,
}

/// Why a text is not a session, or not the one it is filed as. Never quotes it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SessionError {
    /// Damaged, most likely: `mac` does not see a changed ciphertext.
    #[error("the session is not text in UTF-8")]
    NotUtf8,
    /// No JSON object, or too large.
    #[error("the session {0}")]
    Object(#[from] BadObject),
    /// A member is missing, or of a wrong type.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// Not `m.megolm.v1.aes-sha2`.
    #[error("the session is for another algorithm")]
    Algorithm,
    /// The session key is none.
    #[error("{0}")]
    SessionKey(#[from] SessionKeyError),
    /// A key of the sending or of a forwarding device is not 32 bytes in base64. Clients refuse a
    /// whole key file for one such session.
    #[error("{field} {problem}")]
    DeviceKey {
        /// The member that has it.
        field: &'static str,
        /// What is wrong with it.
        problem: Base64Error,
    },
    /// The session key belongs to another session than the one it is filed under: swapped, by mistake
    /// or on purpose.
    #[error("the session is filed under the id of another one")]
    OtherSession,
    /// The session says that it belongs to another room than the one it is filed under.
    #[error("the session is filed under another room than its own")]
    OtherRoom,
    /// `room_id` or `session_id` can't be such an id.
    #[error("{field} {problem}")]
    Id {
        /// The member that has it.
        field: &'static str,
        /// What is wrong with it.
        problem: BadId,
    },
}

impl Plaintext {
    /// Judges the plaintext of a key that a backup has filed under `room_id` and `session_id`.
    ///
    /// # Errors
    ///
    /// See [`SessionError`]. Like [`DecryptError`](crate::DecryptError) it is for the owner of the
    /// key: somebody who can send changed ciphertexts must not learn which of them fail how.
    pub fn judge(
        &self,
        room_id: &RoomId,
        session_id: &SessionId,
    ) -> Result<UnauthenticatedSession, SessionError> {
        let text = str::from_utf8(self.as_bytes()).map_err(|_| SessionError::NotUtf8)?;
        let mut members = Members::parse(text, SESSION_BYTES_MAX)?;
        // Not in the specification; where a client adds them, they must agree.
        if members.optional_text("room_id")?.is_some_and(|inner| inner != room_id.as_str()) {
            return Err(SessionError::OtherRoom);
        }
        if members.optional_text("session_id")?.is_some_and(|inner| inner != session_id.as_str()) {
            return Err(SessionError::OtherSession);
        }
        judge(members, room_id.clone(), session_id.clone(), self.oddities.clone())
    }
}

impl UnauthenticatedSession {
    /// Reads one member of a key file's array, which names its room and its id itself.
    ///
    /// # Errors
    ///
    /// See [`SessionError`].
    pub fn from_export(json: &str) -> Result<Self, SessionError> {
        let mut members = Members::parse(json, SESSION_BYTES_MAX)?;
        let bad = |field| move |problem| SessionError::Id { field, problem };
        let room_id = RoomId::parse(&members.text("room_id")?).map_err(bad("room_id"))?;
        let session_id = SessionId::parse(&members.text("session_id")?);
        judge(members, room_id, session_id.map_err(bad("session_id"))?, Oddities::default())
    }

    /// The `ExportedSessionData` of key files.
    pub fn to_export_json(&self) -> Zeroizing<String> {
        let mut out = self.room_for_json();
        out.push_str(r#"{"room_id":"#);
        json::write_text(&mut out, self.room_id.as_str());
        out.push_str(r#","session_id":"#);
        json::write_text(&mut out, self.session_id.as_str());
        out.push(',');
        self.write_members(&mut out);
        out
    }

    /// The `BackedUpSessionData` that is encrypted into a backup.
    pub fn to_backup_json(&self) -> Zeroizing<String> {
        let mut out = self.room_for_json();
        out.push('{');
        self.write_members(&mut out);
        out
    }

    /// As long as the JSON will be, or longer: a text that grows leaves its old self in memory.
    fn room_for_json(&self) -> Zeroizing<String> {
        let claimed = self.sender_claimed_keys.iter().map(|(name, key)| name.len() + key.len());
        let other = self.other.iter().map(|(name, raw)| name.len() + raw.get().len());
        let texts = claimed.chain(other).map(|bytes| 6 * bytes + 8).sum::<usize>();
        let chain = 48 * self.forwarding_curve25519_key_chain.len();
        let ids = 6 * (self.room_id.as_str().len() + self.session_id.as_str().len());
        Zeroizing::new(String::with_capacity(700 + texts + chain + ids))
    }

    /// Everything but the two ids, and the closing brace.
    fn write_members(&self, out: &mut String) {
        out.push_str(r#""algorithm":"m.megolm.v1.aes-sha2","sender_key":""#);
        out.push_str(&base64::encode(&self.sender_key));
        out.push_str(r#"","session_key":""#);
        out.push_str(&self.session_key.to_base64());
        out.push_str(r#"","sender_claimed_keys":{"#);
        for (at, (name, key)) in self.sender_claimed_keys.iter().enumerate() {
            out.push_str(if at == 0 { "" } else { "," });
            json::write_text(out, name);
            out.push(':');
            json::write_text(out, key);
        }
        out.push_str(r#"},"forwarding_curve25519_key_chain":["#);
        for (at, key) in self.forwarding_curve25519_key_chain.iter().enumerate() {
            out.push_str(if at == 0 { "\"" } else { ",\"" });
            out.push_str(&base64::encode(key));
            out.push('"');
        }
        out.push(']');
        for (name, raw) in &self.other {
            out.push(',');
            json::write_text(out, name);
            out.push(':');
            out.push_str(raw.get());
        }
        out.push('}');
    }

    /// The room under which it was filed. A backup proves nothing about that.
    pub const fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// The session's id, as it was filed; it says the same as the session key.
    pub const fn session_id(&self) -> &SessionId {
        &self.session_id
    }

    /// What opens the messages.
    pub const fn session_key(&self) -> &SessionKey {
        &self.session_key
    }

    /// The Curve25519 key of the device that is said to have sent the session, in unpadded base64.
    pub fn sender_key(&self) -> String {
        base64::encode(&self.sender_key)
    }

    /// The signing keys of the device that is said to have sent the session, by algorithm.
    pub const fn sender_claimed_keys(&self) -> &BTreeMap<String, String> {
        &self.sender_claimed_keys
    }

    /// How many devices are said to have forwarded the session.
    pub const fn forwarding_chain_length(&self) -> usize {
        self.forwarding_curve25519_key_chain.len()
    }

    /// Members that the specification does not require, `shared_history` for one, as they came.
    pub const fn other_members(&self) -> &BTreeMap<String, Box<RawValue>> {
        &self.other
    }

    /// What was unusual about it. What is written from here on does not have it.
    pub const fn oddities(&self) -> &Oddities {
        &self.oddities
    }
}

impl fmt::Debug for UnauthenticatedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnauthenticatedSession(..)")
    }
}

fn judge(
    mut members: Members<'_>,
    room_id: RoomId,
    session_id: SessionId,
    mut oddities: Oddities,
) -> Result<UnauthenticatedSession, SessionError> {
    if members.text("algorithm")? != MEGOLM_V1 {
        return Err(SessionError::Algorithm);
    }
    let text = Zeroizing::new(members.text("session_key")?.into_owned());
    note_padding(&text, "session_key", &mut oddities);
    let (session_key, format) = SessionKey::from_base64(&text)?;
    match format {
        SessionKeyFormat::Export => {}
        SessionKeyFormat::Sharing => oddities.add(Oddity::SharingFormat),
    }
    note_padding(session_id.as_str(), "session_id", &mut oddities);
    if base64::decode_array(session_id.as_str()) != Ok(*session_key.ed25519()) {
        return Err(SessionError::OtherSession);
    }
    let sender_key = device_key(&members.text("sender_key")?, "sender_key", &mut oddities)?;
    Ok(UnauthenticatedSession {
        room_id,
        session_id,
        session_key,
        sender_key,
        sender_claimed_keys: claimed_keys(&mut members, &mut oddities)?,
        forwarding_curve25519_key_chain: forwarding_chain(&mut members, &mut oddities)?,
        other: members.rest(),
        oddities,
    })
}

fn claimed_keys(
    members: &mut Members<'_>,
    oddities: &mut Oddities,
) -> Result<BTreeMap<String, String>, SessionError> {
    let field = "sender_claimed_keys";
    let Some(raw) = members.take(field) else {
        oddities.add(Oddity::NoClaimedKeys);
        return Ok(BTreeMap::new());
    };
    let expected = "an object of strings";
    let keys: BTreeMap<String, String> =
        serde_json::from_str(raw.get()).map_err(|_| FieldError::Type { field, expected })?;
    let normal = |(name, key): (String, String)| {
        if name == "ed25519" {
            let key = device_key(&key, field, oddities)?;
            return Ok((name, base64::encode(&key)));
        }
        Ok((name, key))
    };
    keys.into_iter().map(normal).collect()
}

fn forwarding_chain(
    members: &mut Members<'_>,
    oddities: &mut Oddities,
) -> Result<Vec<[u8; 32]>, SessionError> {
    let field = "forwarding_curve25519_key_chain";
    let Some(raw) = members.take(field) else {
        oddities.add(Oddity::NoForwardingChain);
        return Ok(Vec::new());
    };
    let expected = "an array of strings";
    let keys: Vec<String> =
        serde_json::from_str(raw.get()).map_err(|_| FieldError::Type { field, expected })?;
    keys.iter().map(|key| device_key(key, field, oddities)).collect()
}

fn device_key(
    text: &str,
    field: &'static str,
    oddities: &mut Oddities,
) -> Result<[u8; 32], SessionError> {
    note_padding(text, field, oddities);
    base64::decode_array(text).map_err(|problem| SessionError::DeviceKey { field, problem })
}

fn note_padding(text: &str, field: &'static str, oddities: &mut Oddities) {
    if base64::is_padded(text) {
        oddities.add(Oddity::PaddedBase64 { field });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// matrix-sdk-crypto, `backups/keys/decryption.rs`.
    fn export() -> Value {
        json!({
            "algorithm": "m.megolm.v1.aes-sha2",
            "sender_key": "DeHIg4gwhClxzFYcmNntPNF9YtsdZbmMy8+3kzCMXHA",
            "session_id": "gM8i47Xhu0q52xLfgUXzanCMpLinoyVyH7R58cBuVBU",
            "room_id": "!DovneieKSTkdHKpIXy:morpheus.localhost",
            "session_key": "AQAAAABvWMNZjKFtebYIePKieQguozuoLgzeY6wKcyJjLJcJtQgy1dPqTBD12U+XrYLrRHn\
                            lKmxoozlhFqJl456+9hlHCL+yq+6ScFuBHtJepnY1l2bdLb4T0JMDkNsNErkiLiLnD6yp3J\
                            DSjIhkdHxmup/huygrmroq6/L5TaThEoqvW4DPIuO14btKudsS34FF82pwjKS4p6Mlch+0e\
                            fHAblQV",
            "sender_claimed_keys": {},
            "forwarding_curve25519_key_chain": [],
        })
    }

    fn with(field: &str, value: Value) -> String {
        let mut export = export();
        export[field] = value;
        export.to_string()
    }

    fn without(field: &str) -> String {
        let mut export = export();
        export.as_object_mut().unwrap().remove(field);
        export.to_string()
    }

    fn error(json: &str) -> String {
        UnauthenticatedSession::from_export(json).unwrap_err().to_string()
    }

    fn oddities(json: &str) -> Vec<String> {
        let session = UnauthenticatedSession::from_export(json).unwrap();
        session.oddities().iter().map(ToString::to_string).collect()
    }

    fn plaintext(json: &str) -> Plaintext {
        Plaintext::new(json.as_bytes().to_vec())
    }

    fn filed(
        json: &str,
        room: &str,
        session: &str,
    ) -> Result<UnauthenticatedSession, SessionError> {
        let room_id = RoomId::parse(room).unwrap();
        plaintext(json).judge(&room_id, &SessionId::parse(session).unwrap())
    }

    #[test]
    fn what_is_read_is_written_again() {
        let mut export = export();
        export["shared_history"] = json!(true);
        export["org.example"] = json!({"a": [1, "\u{1}\"\\"]});
        export["sender_claimed_keys"] = json!({"ed25519": export["sender_key"], "\"": "\n"});
        export["forwarding_curve25519_key_chain"] =
            json!([export["sender_key"], export["session_id"]]);
        let session = UnauthenticatedSession::from_export(&export.to_string()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&session.to_export_json()).unwrap(), export);

        for id in ["room_id", "session_id"] {
            export.as_object_mut().unwrap().remove(id);
        }
        let backup = session.to_backup_json();
        assert_eq!(serde_json::from_str::<Value>(&backup).unwrap(), export);
        let ids = (session.room_id().as_str(), session.session_id().as_str());
        let again = filed(&backup, ids.0, ids.1).unwrap();
        assert_eq!(again.to_export_json(), session.to_export_json());
        assert_eq!(again.forwarding_chain_length(), 2);
        assert_eq!(again.other_members().len(), 2);
    }

    #[test]
    fn text_that_is_written_never_grows_in_memory() {
        for json in [export().to_string(), with("x", json!("\u{1}".repeat(5000)))] {
            let session = UnauthenticatedSession::from_export(&json).unwrap();
            let written = session.to_export_json();
            assert!(written.capacity() == session.room_for_json().capacity());
        }
    }

    #[test]
    fn each_failure_has_its_own_name() {
        let key = export()["session_key"].as_str().unwrap().to_owned();
        for (json, expected) in [
            ("[]".to_owned(), "the session is not an object"),
            (without("algorithm"), "algorithm is missing"),
            (
                with("algorithm", json!("m.megolm.v2.aes-sha2")),
                "the session is for another algorithm",
            ),
            (with("algorithm", json!(1)), "algorithm is not a string"),
            (without("session_key"), "session_key is missing"),
            (with("session_key", json!("?")), "session_key is not base64"),
            (
                with("session_key", json!(key[..8])),
                "session_key has 6 bytes, which its version does not",
            ),
            (
                with("session_key", json!("B".to_owned() + &key[1..])),
                "session_key has the unknown version 5",
            ),
            (
                with("session_id", json!("A".repeat(43))),
                "the session is filed under the id of another one",
            ),
            (
                with("session_id", json!("short")),
                "the session is filed under the id of another one",
            ),
            (with("session_id", json!("a".repeat(256))), "session_id is longer than 255 bytes"),
            (without("room_id"), "room_id is missing"),
            (with("room_id", json!("\0")), "room_id contains a NUL character"),
            (without("sender_key"), "sender_key is missing"),
            (with("sender_key", json!("AAAA")), "sender_key has 3 bytes instead of 32"),
            (
                with("sender_claimed_keys", json!([])),
                "sender_claimed_keys is not an object of strings",
            ),
            (
                with("sender_claimed_keys", json!({"ed25519": 1})),
                "sender_claimed_keys is not an object of strings",
            ),
            (
                with("sender_claimed_keys", json!({"ed25519": "A"})),
                "sender_claimed_keys is not base64",
            ),
            (
                with("forwarding_curve25519_key_chain", json!([1])),
                "forwarding_curve25519_key_chain is not an array of strings",
            ),
            (
                with("forwarding_curve25519_key_chain", json!([""])),
                "forwarding_curve25519_key_chain has 0 bytes instead of 32",
            ),
        ] {
            assert_eq!(error(&json), expected);
        }
        let not_utf8 = Plaintext::new(vec![0xff]);
        let ids = (RoomId::parse("!r").unwrap(), SessionId::parse("s").unwrap());
        assert_eq!(not_utf8.judge(&ids.0, &ids.1).unwrap_err(), SessionError::NotUtf8);
    }

    #[test]
    fn odd_forms_are_named_and_written_in_the_usual_form() {
        let padded = |field: &str| json!(format!("{}=", export()[field].as_str().unwrap()));
        for (json, expected) in [
            (without("sender_claimed_keys"), "sender_claimed_keys is missing"),
            (with("sender_claimed_keys", Value::Null), "sender_claimed_keys is missing"),
            (
                without("forwarding_curve25519_key_chain"),
                "forwarding_curve25519_key_chain is missing",
            ),
            (with("sender_key", padded("sender_key")), "sender_key has padding"),
            (
                with("forwarding_curve25519_key_chain", json!([padded("sender_key")])),
                "forwarding_curve25519_key_chain has padding",
            ),
        ] {
            assert_eq!(oddities(&json), [expected]);
            let session = UnauthenticatedSession::from_export(&json).unwrap();
            assert_eq!(oddities(&session.to_export_json()), [""; 0]);
        }
        assert_eq!(oddities(&with("session_id", padded("session_id"))), ["session_id has padding"]);
        assert_eq!(oddities(&export().to_string()), [""; 0]);
    }

    #[test]
    fn a_session_must_be_filed_where_it_belongs() {
        let export = export();
        let (room, id) =
            (export["room_id"].as_str().unwrap(), export["session_id"].as_str().unwrap());
        let other_id = "A".repeat(43);
        assert!(filed(&export.to_string(), room, id).is_ok());
        assert_eq!(filed(&export.to_string(), "!o", id).unwrap_err(), SessionError::OtherRoom);
        for json in [export.to_string(), without("session_id")] {
            let error = filed(&json, room, &other_id).unwrap_err();
            assert_eq!(error, SessionError::OtherSession);
        }
        assert!(filed(&without("room_id"), "!any", id).is_ok());
    }

    #[test]
    fn no_error_and_no_debug_quotes_the_session() {
        let key = export()["session_key"].as_str().unwrap().to_owned();
        let session = UnauthenticatedSession::from_export(&export().to_string()).unwrap();
        assert!(!format!("{session:?}").contains(&key[..8]));
        for field in ["algorithm", "sender_key", "session_id", "sender_claimed_keys", "room_id"] {
            for value in [json!(key), json!([key]), json!({key.as_str(): key})] {
                if let Err(error) = UnauthenticatedSession::from_export(&with(field, value)) {
                    assert!(!format!("{error} {error:?}").contains(&key[..8]), "{error:?}");
                }
            }
        }
    }
}
