//! `auth_data` of a backup version (client-server API, "Backup algorithm"; MSC1219).

use std::ops::RangeInclusive;

use serde_json::json;
use strongroom_protocol::Object;

use crate::{
    base64::Base64Error,
    canonical_json,
    decryption_key::{DecryptionKey, PublicKey},
    passphrase::RoundsError,
};

/// What a backup version says about itself. Comes from the homeserver, who can say anything: trusted
/// only when signed ([`MasterKey::verify`](crate::MasterKey::verify),
/// [`DeviceKey::verify`](crate::DeviceKey::verify)), or when it
/// [is opened by](Self::is_opened_by) a key from a source that is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthData {
    object: Object,
    public_key: PublicKey,
}

/// How the decryption key was made from a passphrase, in backups older than secret storage.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackupPassphrase {
    /// `private_key_salt`, taken as text.
    pub salt: String,
    /// `private_key_iterations`: rounds of PBKDF2-HMAC-SHA-512.
    pub rounds: u32,
}

/// Why an object is not the `auth_data` of the one algorithm that is specified.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuthDataError {
    /// No `public_key`, or no string.
    #[error("auth_data has no public_key that is a string")]
    NoPublicKey,
    /// Not 32 bytes in base64: a backup with such a key holds nothing that can be opened.
    #[error("public_key {0}")]
    PublicKey(#[from] Base64Error),
    /// One of `private_key_salt` and `private_key_iterations` is missing, or of a wrong type. The
    /// decryption key itself still opens the backup, a passphrase does not.
    #[error("auth_data has a malformed private_key_salt or private_key_iterations")]
    Passphrase,
}

impl AuthData {
    /// The `auth_data` of a new backup, not yet signed.
    pub fn new(public_key: PublicKey) -> Self {
        let text = json!({ "public_key": public_key.to_string() }).to_string();
        #[expect(clippy::expect_used, reason = "an object of one short text")]
        let object = Object::parse(&text, usize::MAX).expect("it is one");
        Self { object, public_key }
    }

    /// Reads what a homeserver sent, and keeps it to the byte, since signatures are made over it.
    ///
    /// # Errors
    ///
    /// See [`AuthDataError`].
    pub fn parse(object: Object) -> Result<Self, AuthDataError> {
        let members = canonical_json::members(&object);
        let public_key = members.get("public_key").and_then(|key| key.as_str());
        let public_key = PublicKey::from_base64(public_key.ok_or(AuthDataError::NoPublicKey)?)?;
        Ok(Self { object, public_key })
    }

    /// The object as it came, to be verified, signed or sent.
    pub const fn object(&self) -> &Object {
        &self.object
    }

    /// What sessions are encrypted to.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// How the key was made from a passphrase, if it was.
    ///
    /// # Errors
    ///
    /// It was, and the passphrase is no use: [`AuthDataError::Passphrase`].
    pub fn passphrase(&self) -> Result<Option<BackupPassphrase>, AuthDataError> {
        let members = canonical_json::members(&self.object);
        let salt = members.get("private_key_salt");
        match (salt, members.get("private_key_iterations")) {
            (None, None) => Ok(None),
            (Some(salt), Some(rounds)) => {
                let salt = salt.as_str().ok_or(AuthDataError::Passphrase)?.to_owned();
                let rounds = rounds.as_u64().and_then(|rounds| u32::try_from(rounds).ok());
                let rounds = rounds.ok_or(AuthDataError::Passphrase)?;
                Ok(Some(BackupPassphrase { salt, rounds }))
            }
            (Some(_), None) | (None, Some(_)) => Err(AuthDataError::Passphrase),
        }
    }

    /// Whether this is the key of this backup. Costs one scalar multiplication.
    pub fn is_opened_by(&self, key: &DecryptionKey) -> bool {
        // The top bit of a point does not count (RFC 7748, section 5), and some implementation may
        // set it.
        let without_top_bit = |key: PublicKey| {
            let mut bytes = *key.as_bytes();
            bytes[31] &= 0x7f;
            bytes
        };
        without_top_bit(key.public_key()) == without_top_bit(self.public_key)
    }
}

impl BackupPassphrase {
    /// Derives the key; [`AuthData::is_opened_by`] tells whether the passphrase was the right one.
    ///
    /// # Errors
    ///
    /// The rounds, which the homeserver can choose, are not in `allowed`.
    pub fn derive(
        &self,
        passphrase: &str,
        allowed: &RangeInclusive<u32>,
    ) -> Result<DecryptionKey, RoundsError> {
        DecryptionKey::from_passphrase(passphrase, &self.salt, self.rounds, allowed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const PUBLIC_KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo";

    fn parse(value: Value) -> Result<AuthData, AuthDataError> {
        AuthData::parse(Object::parse(&value.to_string(), usize::MAX).unwrap())
    }

    #[test]
    fn what_it_says_is_read_and_kept() {
        let key = DecryptionKey::parse("EsTcLW2KPGiFwKEA3As5g5c4BXwkqeeJZJV8Q9fugUMNUE4d").unwrap();
        let auth_data = parse(json!({"public_key": PUBLIC_KEY, "x": [1]})).unwrap();
        assert!(auth_data.is_opened_by(&key));
        assert!(!auth_data.is_opened_by(&DecryptionKey::from_bytes(&[1; 32])));
        assert_eq!(auth_data.passphrase(), Ok(None));
        assert!(auth_data.object().as_str().contains(r#""x":[1]"#));
        assert_eq!(AuthData::new(key.public_key()).public_key(), auth_data.public_key());
    }

    #[test]
    fn a_passphrase_opens_a_backup_that_was_made_from_one() {
        let salt_and_rounds = json!({
            "public_key": DecryptionKey::from_passphrase("horse", "salt", 10, &(1..=10))
                .unwrap().public_key().to_string(),
            "private_key_salt": "salt", "private_key_iterations": 10,
        });
        let auth_data = parse(salt_and_rounds).unwrap();
        let passphrase = auth_data.passphrase().unwrap().unwrap();
        let opens = |text| {
            let key = passphrase.derive(text, &(1..=10)).unwrap();
            auth_data.is_opened_by(&key)
        };
        assert!(opens("horse") && !opens("Horse"));
        let few = passphrase.derive("horse", &(1..=9));
        assert_eq!(few, Err(RoundsError::TooMany { rounds: 10, rounds_max: 9 }));
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        for (value, expected) in [
            (json!({}), "auth_data has no public_key that is a string"),
            (json!({"public_key": 1}), "auth_data has no public_key that is a string"),
            (json!({"public_key": "?"}), "public_key is not base64"),
            // element-web#33718
            (json!({"public_key": "A".repeat(60)}), "public_key has 45 bytes instead of 32"),
        ] {
            assert_eq!(parse(value).unwrap_err().to_string(), expected);
        }
        for (salt, rounds) in [
            (json!("s"), Value::Null),
            (json!(1), json!(1)),
            (json!("s"), json!(-1)),
            (json!("s"), json!(1.5)),
            (json!("s"), json!(1u64 << 32)),
        ] {
            let auth_data = parse(json!({
                "public_key": PUBLIC_KEY,
                "private_key_salt": salt, "private_key_iterations": rounds,
            }));
            assert_eq!(auth_data.unwrap().passphrase(), Err(AuthDataError::Passphrase));
        }
    }
}
