//! `session_data`: one encrypted session, as a backup stores it (client-server API, "Backup
//! algorithm: `m.megolm_backup.v1.curve25519-aes-sha2`").

use strongroom_protocol::BadObject;

use crate::{
    base64::{self, Base64Error},
    json::{FieldError, Members},
    limits::SESSION_BYTES_MAX,
    oddity::{Oddities, Oddity},
};

/// Bytes of an AES block.
pub(crate) const BLOCK: usize = 16;

/// Bytes of the MAC that are stored.
pub(crate) const MAC: usize = 8;

/// The three parts of a `session_data` object, decoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionData {
    pub(crate) ephemeral: [u8; 32],
    /// A whole number of blocks, and one at least.
    pub(crate) ciphertext: Vec<u8>,
    pub(crate) mac: [u8; MAC],
    pub(crate) oddities: Oddities,
}

/// Why a JSON text is not a `session_data` of the one algorithm that is specified.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SessionDataError {
    /// Not an object that every reader reads in the same way, or too large.
    #[error("session_data {0}")]
    Object(#[from] BadObject),
    /// A part is missing, or no string.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// A part is not base64, or of a wrong length: 32 bytes for `ephemeral`, 8 for `mac`.
    #[error("{field} {problem}")]
    Base64 {
        /// The part.
        field: &'static str,
        /// What is wrong with it.
        problem: Base64Error,
    },
    /// Not a whole number of blocks of 16 bytes, so it was cut off.
    #[error("ciphertext has {bytes} bytes, which no encryption makes")]
    Ciphertext {
        /// Bytes of it.
        bytes: usize,
    },
}

impl SessionData {
    /// Reads the text of a `session_data` object; unknown members are ignored.
    ///
    /// # Errors
    ///
    /// What is wrong with it: such a key was never readable, or it was damaged since.
    pub fn parse(json: &str) -> Result<Self, SessionDataError> {
        let mut members = Members::parse(json, SESSION_BYTES_MAX)?;
        let mut oddities = Oddities::default();
        let mut text = |field| {
            let text = members.text(field)?;
            if base64::is_padded(&text) {
                oddities.add(Oddity::PaddedBase64 { field });
            }
            Ok::<_, SessionDataError>(text)
        };
        let bad = |field| move |problem| SessionDataError::Base64 { field, problem };

        let ephemeral = base64::decode_array(&text("ephemeral")?).map_err(bad("ephemeral"))?;
        let mac = base64::decode_array(&text("mac")?).map_err(bad("mac"))?;
        let ciphertext = base64::decode(&text("ciphertext")?).map_err(bad("ciphertext"))?;
        if ciphertext.is_empty() || !ciphertext.len().is_multiple_of(BLOCK) {
            return Err(SessionDataError::Ciphertext { bytes: ciphertext.len() });
        }
        Ok(Self { ephemeral, ciphertext, mac, oddities })
    }

    /// The text of the object, without white space.
    pub fn to_json(&self) -> String {
        let [ephemeral, ciphertext, mac] =
            [&self.ephemeral[..], &self.ciphertext, &self.mac].map(base64::encode);
        format!(r#"{{"ciphertext":"{ciphertext}","ephemeral":"{ephemeral}","mac":"{mac}"}}"#)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPHEMERAL: &str = "HlLi76oV6wxHz3PCqE/bxJi6yF1HnYz5Dq3T+d/KpRw";
    const CIPHERTEXT: &str = "AAAAAAAAAAAAAAAAAAAAAA";
    const MAC: &str = "GtMrurhDTwo";

    fn parse(
        ephemeral: &str,
        ciphertext: &str,
        mac: &str,
    ) -> Result<SessionData, SessionDataError> {
        let json = serde_json::json!({
            "ephemeral": ephemeral, "ciphertext": ciphertext, "mac": mac, "other": [1.5],
        });
        SessionData::parse(&json.to_string())
    }

    #[test]
    fn what_is_read_is_written_again() {
        let data = parse(EPHEMERAL, CIPHERTEXT, MAC).unwrap();
        assert_eq!(SessionData::parse(&data.to_json()).unwrap(), data);
        assert!(data.oddities.iter().next().is_none());
    }

    #[test]
    fn padding_is_named_and_read_over() {
        let data = parse(&format!("{EPHEMERAL}="), CIPHERTEXT, MAC).unwrap();
        let oddities: Vec<_> = data.oddities.iter().collect();
        assert_eq!(oddities, [&Oddity::PaddedBase64 { field: "ephemeral" }]);
    }

    #[test]
    fn a_part_of_another_length_is_named() {
        for length in (0..=64).filter(|length| *length != 32) {
            let found = parse(&base64::encode(&vec![9; length]), CIPHERTEXT, MAC);
            let problem = Base64Error::Length { expected: 32, found: length };
            assert_eq!(found, Err(SessionDataError::Base64 { field: "ephemeral", problem }));
        }
        for length in (0..=32).filter(|length| *length != 8) {
            let found = parse(EPHEMERAL, CIPHERTEXT, &base64::encode(&vec![9; length]));
            let problem = Base64Error::Length { expected: 8, found: length };
            assert_eq!(found, Err(SessionDataError::Base64 { field: "mac", problem }));
        }
        for bytes in (0..64).filter(|bytes| bytes % 16 != 0 || *bytes == 0) {
            let found = parse(EPHEMERAL, &base64::encode(&vec![9; bytes]), MAC);
            assert_eq!(found, Err(SessionDataError::Ciphertext { bytes }));
        }
    }

    #[test]
    fn what_is_no_such_object_is_refused() {
        for (json, expected) in [
            ("[]", "session_data is not an object"),
            ("{}", "ephemeral is missing"),
            (r#"{"ephemeral":null}"#, "ephemeral is missing"),
            (r#"{"ephemeral":1}"#, "ephemeral is not a string"),
            (r#"{"ephemeral":"?"}"#, "ephemeral is not base64"),
        ] {
            assert_eq!(SessionData::parse(json).unwrap_err().to_string(), expected);
        }
        let large = format!(r#"{{"a":"{}"}}"#, "a".repeat(SESSION_BYTES_MAX));
        assert!(matches!(
            SessionData::parse(&large),
            Err(SessionDataError::Object(BadObject::TooLarge { .. }))
        ));
    }
}
