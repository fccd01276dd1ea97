//! Secret storage: `m.secret_storage.v1.aes-hmac-sha2` (client-server API, "Secrets").
//!
//! Clients keep the backup decryption key in the user's account data, encrypted with a key that the
//! person keeps, or that is derived from a phrase. All of it comes from the homeserver; the MAC tells
//! whether it was written by somebody who has the key. It does not cover `iv`, so what comes out is
//! only used once its public half matches.

use std::fmt;

use aes::Aes256;
use ctr::{
    Ctr128BE,
    cipher::{KeyIvInit as _, StreamCipher as _},
};
use hmac::Mac as _;
use rand_core::CryptoRng;
use serde_json::{Value, json};
use strongroom_protocol::Object;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    base64::{self, Base64Error},
    canonical_json,
    hash::{self, part},
    limits::SECRET_BYTES_MAX,
    representation::{self, RepresentationError},
};

/// The one algorithm of secret storage.
pub const SECRET_STORAGE_V1: &str = "m.secret_storage.v1.aes-hmac-sha2";

/// Opens the secrets that clients keep in account data. Many people call it "recovery key" or
/// "security key".
///
/// It is wiped when it is dropped, is printed as `SecretStorageKey(..)`, and compares in constant
/// time.
#[derive(Clone)]
pub struct SecretStorageKey(pub(crate) Zeroizing<Vec<u8>>);

impl SecretStorageKey {
    /// A new key. `rng` is best seeded by the operating system.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut key = Zeroizing::new(vec![0; 32]);
        rng.fill_bytes(&mut key);
        Self(key)
    }

    /// Takes the bytes themselves, of which there are 32 in all but strange cases.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// Reads what was given to a person (appendices, "Cryptographic key representation"), wherever it
    /// has white space. Backup decryption keys look the same.
    ///
    /// # Errors
    ///
    /// What is wrong with the text; never a part of it.
    pub fn parse(text: &str) -> Result<Self, RepresentationError> {
        representation::parse(text).map(|key| Self::from_bytes(key.as_slice()))
    }

    /// The text for a person to keep; `None` for a key of other than 32 bytes, which has none.
    pub fn to_recovery_key(&self) -> Option<Zeroizing<String>> {
        self.0.as_slice().try_into().ok().map(representation::print)
    }
}

impl PartialEq for SecretStorageKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretStorageKey {}

impl fmt::Debug for SecretStorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretStorageKey(..)")
    }
}

/// One secret, as account data has it for one key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoredSecret {
    /// Encrypted with the secret storage key.
    Encrypted(EncryptedSecret),
    /// `{"passthrough": true}`: the secret *is* the key (MSC1219, "Encoding the recovery key for
    /// server-side storage"). MSC2472 took this away again; backups from before may still have it.
    Passthrough,
}

/// `AesHmacSha2EncryptedData`, decoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EncryptedSecret {
    iv: [u8; 16],
    ciphertext: Vec<u8>,
    mac: [u8; 32],
}

/// Why a secret is not there, or does not open.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StoredSecretError {
    /// It is not stored under this key; perhaps under another.
    #[error("the secret is not stored under this key")]
    NotForThisKey,
    /// Members are missing, or of a wrong type.
    #[error("the stored secret is malformed")]
    Malformed,
    /// More than any secret needs.
    #[error("the stored secret is too large")]
    TooLarge,
    /// `iv` is not 16 bytes in base64, `mac` not 32, or `ciphertext` no base64.
    #[error("{field} {problem}")]
    Base64 {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        problem: Base64Error,
    },
    /// Another key, another secret, or damaged.
    #[error("the secret does not open with this key")]
    Mac,
    /// Opened, and no text: `iv` is damaged, which the MAC does not see.
    #[error("the secret is not text")]
    NotText,
    /// `passthrough`, and the key has other than 32 bytes.
    #[error("the secret is the key itself, whose length does not fit")]
    Passthrough,
}

impl StoredSecret {
    /// Finds what is stored under `key_id` in the content of the account data of a secret.
    ///
    /// # Errors
    ///
    /// See [`StoredSecretError`].
    pub fn parse(content: &Object, key_id: &str) -> Result<Self, StoredSecretError> {
        let members = canonical_json::members(content);
        let encrypted = members.get("encrypted").and_then(Value::as_object);
        let stored = encrypted.ok_or(StoredSecretError::Malformed)?.get(key_id);
        let stored = stored.ok_or(StoredSecretError::NotForThisKey)?;
        if stored.get("passthrough") == Some(&Value::Bool(true)) {
            return Ok(Self::Passthrough);
        }
        let text =
            |field| stored.get(field).and_then(Value::as_str).ok_or(StoredSecretError::Malformed);
        let bad = |field| move |problem| StoredSecretError::Base64 { field, problem };
        let ciphertext = text("ciphertext")?;
        if ciphertext.len() > SECRET_BYTES_MAX {
            return Err(StoredSecretError::TooLarge);
        }
        Ok(Self::Encrypted(EncryptedSecret {
            iv: base64::decode_array(text("iv")?).map_err(bad("iv"))?,
            ciphertext: base64::decode(ciphertext).map_err(bad("ciphertext"))?,
            mac: base64::decode_array(text("mac")?).map_err(bad("mac"))?,
        }))
    }

    /// The text of the secret called `name`. Its bytes are not to be trusted before what they make,
    /// a public key for one, is what it should be: the MAC does not cover `iv`.
    ///
    /// # Errors
    ///
    /// See [`StoredSecretError`].
    pub fn open(
        &self,
        name: &str,
        key: &SecretStorageKey,
    ) -> Result<Zeroizing<String>, StoredSecretError> {
        match self {
            Self::Encrypted(secret) => secret.open(name, key),
            Self::Passthrough if key.0.len() == 32 => Ok(base64::encode_secret(&key.0)),
            Self::Passthrough => Err(StoredSecretError::Passthrough),
        }
    }
}

impl EncryptedSecret {
    /// Encrypts the text of the secret called `name`.
    pub fn new<R: CryptoRng + ?Sized>(
        name: &str,
        text: &str,
        key: &SecretStorageKey,
        rng: &mut R,
    ) -> Self {
        let iv = random_iv(rng);
        let mut ciphertext = text.as_bytes().to_vec();
        let mac = Keys::derive(key, name).encrypt(iv, &mut ciphertext);
        Self { iv, ciphertext, mac }
    }

    fn open(
        &self,
        name: &str,
        key: &SecretStorageKey,
    ) -> Result<Zeroizing<String>, StoredSecretError> {
        let keys = Keys::derive(key, name);
        if !bool::from(keys.mac(&self.ciphertext).ct_eq(&self.mac)) {
            return Err(StoredSecretError::Mac);
        }
        let mut text = self.ciphertext.clone();
        keys.apply(self.iv, &mut text);
        String::from_utf8(text).map(Zeroizing::new).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            StoredSecretError::NotText
        })
    }

    /// What stands under the key's id in `encrypted`.
    pub fn to_json(&self) -> String {
        json!({
            "iv": base64::encode(&self.iv),
            "ciphertext": base64::encode(&self.ciphertext),
            "mac": base64::encode(&self.mac),
        })
        .to_string()
    }
}

/// What step 1 makes of a key for one secret.
pub(crate) struct Keys(Zeroizing<[u8; 64]>);

impl Keys {
    pub(crate) fn derive(key: &SecretStorageKey, name: &str) -> Self {
        Self(hash::hkdf(&key.0, name.as_bytes()))
    }

    /// Encrypts in place, and gives the MAC.
    pub(crate) fn encrypt(&self, iv: [u8; 16], text: &mut [u8]) -> [u8; 32] {
        self.apply(iv, text);
        self.mac(text)
    }

    fn apply(&self, iv: [u8; 16], text: &mut [u8]) {
        let aes = part::<0, 32, _>(&self.0);
        Ctr128BE::<Aes256>::new(aes.into(), (&iv).into()).apply_keystream(text);
    }

    fn mac(&self, ciphertext: &[u8]) -> [u8; 32] {
        let mac = hash::hmac(part::<32, 32, _>(&self.0)).chain_update(ciphertext);
        mac.finalize().into_bytes().into()
    }
}

/// Step 2: bit 63 is zero, where implementations of AES-CTR differ.
pub(crate) fn random_iv<R: CryptoRng + ?Sized>(rng: &mut R) -> [u8; 16] {
    let mut iv = [0; 16];
    rng.fill_bytes(&mut iv);
    iv[8] &= 0x7f;
    iv
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{counter::Counter, decryption_key::DECRYPTION_KEY_SECRET};

    fn key() -> SecretStorageKey {
        SecretStorageKey::parse("EsTj 3yST y93F SLpB jJsz eAXc 2XzA ygD3 w69H fGaN TKBj jXEd")
            .unwrap()
    }

    fn content(stored: &str) -> Object {
        Object::parse(&format!(r#"{{"encrypted":{{"id":{stored}}}}}"#), usize::MAX).unwrap()
    }

    fn stored(text: &str) -> EncryptedSecret {
        EncryptedSecret::new(DECRYPTION_KEY_SECRET, text, &key(), &mut Counter::new())
    }

    fn open(stored: &EncryptedSecret) -> Result<Zeroizing<String>, StoredSecretError> {
        StoredSecret::Encrypted(stored.clone()).open(DECRYPTION_KEY_SECRET, &key())
    }

    #[test]
    fn a_secret_opens_with_its_key_under_its_name_and_no_other() {
        let secret = StoredSecret::parse(&content(&stored("text").to_json()), "id").unwrap();
        assert_eq!(*secret.open(DECRYPTION_KEY_SECRET, &key()).unwrap(), "text");
        let mac = Err(StoredSecretError::Mac);
        assert_eq!(secret.open("m.cross_signing.master", &key()), mac);
        assert_eq!(
            secret.open(DECRYPTION_KEY_SECRET, &SecretStorageKey::from_bytes(&[0; 32])),
            mac
        );
    }

    #[test]
    fn every_changed_byte_is_noticed_but_those_of_the_iv() {
        let good = stored("text");
        for position in 0..good.ciphertext.len() {
            let mut changed = good.clone();
            changed.ciphertext[position] ^= 1;
            assert_eq!(open(&changed), Err(StoredSecretError::Mac));
        }
        for position in 0..32 {
            let mut changed = good.clone();
            changed.mac[position] ^= 1;
            assert_eq!(open(&changed), Err(StoredSecretError::Mac));
        }
        for position in 0..16 {
            let mut changed = good.clone();
            changed.iv[position] ^= 1;
            match open(&changed) {
                Ok(text) => assert_ne!(*text, "text"),
                Err(error) => assert_eq!(error, StoredSecretError::NotText),
            }
        }
    }

    #[test]
    fn a_secret_that_is_the_key_itself_is_that_key() {
        let passthrough = StoredSecret::parse(&content(r#"{"passthrough":true}"#), "id").unwrap();
        assert_eq!(passthrough, StoredSecret::Passthrough);
        let text = passthrough.open(DECRYPTION_KEY_SECRET, &key()).unwrap();
        assert_eq!(base64::decode(&text).unwrap(), *key().0);
        let long = SecretStorageKey::from_bytes(&[1; 64]);
        let error = passthrough.open(DECRYPTION_KEY_SECRET, &long);
        assert_eq!(error, Err(StoredSecretError::Passthrough));
    }

    #[test]
    fn what_is_no_stored_secret_is_refused() {
        let parse = |json: &str| {
            StoredSecret::parse(&Object::parse(json, usize::MAX).unwrap(), "id")
                .unwrap_err()
                .to_string()
        };
        let good = stored("text").to_json();
        assert_eq!(parse("{}"), "the stored secret is malformed");
        assert_eq!(parse(r#"{"encrypted":{}}"#), "the secret is not stored under this key");
        assert_eq!(parse(r#"{"encrypted":{"id":[]}}"#), "the stored secret is malformed");
        let passthrough = r#"{"encrypted":{"id":{"passthrough":false}}}"#;
        assert_eq!(parse(passthrough), "the stored secret is malformed");
        for (from, to, expected) in [
            (r#""iv":""#, r#""iv":"AAAA"#, "iv has 19 bytes instead of 16"),
            (r#""mac":""#, r#""mac":"AAAA"#, "mac has 35 bytes instead of 32"),
            (r#""ciphertext":""#, r#""ciphertext":"?"#, "ciphertext is not base64"),
            (r#""mac""#, r#""cam""#, "the stored secret is malformed"),
        ] {
            let changed = content(&good.replace(from, to));
            assert_eq!(parse(changed.as_str()), expected);
        }
        let large = "A".repeat(SECRET_BYTES_MAX + 4);
        let large =
            content(&good.replace(r#""ciphertext":""#, &format!(r#""ciphertext":"{large}"#)));
        assert_eq!(parse(large.as_str()), "the stored secret is too large");
    }

    #[test]
    fn bit_63_of_an_iv_is_never_set() {
        let mut rng = Counter::new();
        assert!((0..100).all(|_| random_iv(&mut rng)[8] & 0x80 == 0));
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", key()), "SecretStorageKey(..)");
    }

    proptest! {
        #[test]
        fn what_is_stored_is_opened(text in ".{0,100}", name in ".{0,20}", key in any::<[u8; 32]>()) {
            let key = SecretStorageKey::from_bytes(&key);
            let secret = EncryptedSecret::new(&name, &text, &key, &mut Counter::new());
            let secret = StoredSecret::parse(&content(&secret.to_json()), "id").unwrap();
            prop_assert_eq!(&*secret.open(&name, &key).unwrap(), &text);
        }
    }
}
