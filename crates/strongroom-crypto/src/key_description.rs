//! The description of a secret storage key (client-server API, "Key storage" and "Deriving keys from
//! passphrases"): whether a key is the right one, and how to make it from a passphrase.
//!
//! It is account data, so the homeserver can put anything there; bounds keep it from putting us to
//! work for years.

use std::ops::RangeInclusive;

use rand_core::CryptoRng;
use serde_json::{Map, Value, json};
use strongroom_protocol::Object;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    base64::{self, Base64Error},
    canonical_json,
    passphrase::{self, RoundsError},
    secret_storage::{Keys, SECRET_STORAGE_V1, SecretStorageKey, random_iv},
};

/// The one way to make a key from a passphrase.
const PBKDF2: &str = "m.pbkdf2";

/// Bits of a key unless its description says otherwise.
const KEY_BITS: u64 = 256;

/// Bits of keys that a description may ask for. Fewer protect nothing, more add nothing.
const KEY_BITS_ALLOWED: RangeInclusive<u64> = 128..=512;

/// The account data `m.secret_storage.key.[key id]`: how to recognise the key, and how to make it
/// from a passphrase.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyDescription {
    name: Option<String>,
    passphrase: Option<PassphraseInfo>,
    check: Option<Check>,
}

/// How a key is made from a passphrase ("Deriving keys from passphrases").
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PassphraseInfo {
    salt: String,
    rounds: u32,
    key_bytes: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Check {
    iv: [u8; 16],
    mac: [u8; 32],
}

/// Why an object describes no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyDescriptionError {
    /// Another algorithm, the asymmetric one of early drafts perhaps.
    #[error("the secret storage key is for another algorithm")]
    Algorithm,
    /// A member is of a wrong type.
    #[error("{field} is malformed")]
    Field {
        /// Its name.
        field: &'static str,
    },
    /// `iv` is not 16 bytes in base64, or `mac` not 32.
    #[error("{field} {problem}")]
    Base64 {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        problem: Base64Error,
    },
    /// A way to make keys from passphrases that is not `m.pbkdf2`.
    #[error("the passphrase is for another algorithm")]
    PassphraseAlgorithm,
    /// `bits` is no whole number of bytes, or not between 128 and 512.
    #[error("a key of {bits} bits can't be made")]
    Bits {
        /// What was asked for.
        bits: u64,
    },
}

/// The key is not the one that is described.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this is not the key of secret storage")]
pub struct WrongKey;

/// What checking a key has shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checked {
    /// It is the key.
    Right,
    /// The description has no `iv` and `mac`; "clients must assume that the key is valid".
    Unknown,
}

impl KeyDescription {
    /// Describes a new key, with a check.
    pub fn new<R: CryptoRng + ?Sized>(key: &SecretStorageKey, rng: &mut R) -> Self {
        let iv = random_iv(rng);
        let mac = check_mac(key, iv);
        Self { name: None, passphrase: None, check: Some(Check { iv, mac }) }
    }

    /// Makes a new key from a passphrase, and describes it.
    ///
    /// # Errors
    ///
    /// The rounds (say [`ROUNDS_NEW`](crate::ROUNDS_NEW)) are not in `allowed` (say
    /// [`ROUNDS_WRITE`](crate::ROUNDS_WRITE)).
    pub fn from_passphrase<R: CryptoRng + ?Sized>(
        passphrase: &str,
        rounds: u32,
        allowed: &RangeInclusive<u32>,
        rng: &mut R,
    ) -> Result<(SecretStorageKey, Self), RoundsError> {
        let mut salt = [0; 24];
        rng.fill_bytes(&mut salt);
        let info = PassphraseInfo { salt: base64::encode(&salt), rounds, key_bytes: 32 };
        let key = info.derive(passphrase, allowed)?;
        let description = Self { passphrase: Some(info), ..Self::new(&key, rng) };
        Ok((key, description))
    }

    /// Reads the content of the account data.
    ///
    /// # Errors
    ///
    /// See [`KeyDescriptionError`].
    pub fn parse(content: &Object) -> Result<Self, KeyDescriptionError> {
        let members = canonical_json::members(content);
        if members.get("algorithm").and_then(Value::as_str) != Some(SECRET_STORAGE_V1) {
            return Err(KeyDescriptionError::Algorithm);
        }
        let text = |field| match members.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(KeyDescriptionError::Field { field }),
        };
        let bad = |field| move |problem| KeyDescriptionError::Base64 { field, problem };
        let check = match (text("iv")?, text("mac")?) {
            (Some(iv), Some(mac)) => Some(Check {
                iv: base64::decode_array(iv).map_err(bad("iv"))?,
                mac: base64::decode_array(mac).map_err(bad("mac"))?,
            }),
            (Some(_), None) | (None, Some(_)) | (None, None) => None,
        };
        let passphrase = match members.get("passphrase") {
            None | Some(Value::Null) => None,
            Some(info) => Some(PassphraseInfo::parse(info)?),
        };
        Ok(Self { name: text("name")?.map(str::to_owned), passphrase, check })
    }

    /// The content of the account data.
    pub fn to_json(&self) -> String {
        let mut content = Map::new();
        content.insert("algorithm".to_owned(), json!(SECRET_STORAGE_V1));
        if let Some(name) = &self.name {
            content.insert("name".to_owned(), json!(name));
        }
        if let Some(PassphraseInfo { salt, rounds, key_bytes }) = &self.passphrase {
            let bits = 8 * key_bytes;
            let info = json!({
                "algorithm": PBKDF2, "salt": salt, "iterations": rounds, "bits": bits,
            });
            content.insert("passphrase".to_owned(), info);
        }
        if let Some(Check { iv, mac }) = &self.check {
            content.insert("iv".to_owned(), json!(base64::encode(iv)));
            content.insert("mac".to_owned(), json!(base64::encode(mac)));
        }
        Value::Object(content).to_string()
    }

    /// What a person called the key.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// How the key is made from a passphrase, if it can be.
    pub const fn passphrase(&self) -> Option<&PassphraseInfo> {
        self.passphrase.as_ref()
    }

    /// Whether this is the described key.
    ///
    /// # Errors
    ///
    /// It is another one.
    pub fn check(&self, key: &SecretStorageKey) -> Result<Checked, WrongKey> {
        let Some(Check { iv, mac }) = self.check else { return Ok(Checked::Unknown) };
        if bool::from(check_mac(key, iv).ct_eq(&mac)) { Ok(Checked::Right) } else { Err(WrongKey) }
    }
}

impl PassphraseInfo {
    fn parse(info: &Value) -> Result<Self, KeyDescriptionError> {
        if info.get("algorithm").and_then(Value::as_str) != Some(PBKDF2) {
            return Err(KeyDescriptionError::PassphraseAlgorithm);
        }
        let malformed = |field| KeyDescriptionError::Field { field };
        let salt = info.get("salt").and_then(Value::as_str).ok_or(malformed("salt"))?;
        let rounds = info.get("iterations").and_then(Value::as_u64);
        let rounds = rounds.ok_or(malformed("iterations"))?;
        let bits = match info.get("bits") {
            None | Some(Value::Null) => KEY_BITS,
            Some(bits) => bits.as_u64().ok_or(malformed("bits"))?,
        };
        if !bits.is_multiple_of(8) || !KEY_BITS_ALLOWED.contains(&bits) {
            return Err(KeyDescriptionError::Bits { bits });
        }
        Ok(Self {
            salt: salt.to_owned(),
            // As many as nobody will wait for are as good as any larger number.
            rounds: u32::try_from(rounds).unwrap_or(u32::MAX),
            key_bytes: usize::try_from(bits / 8).unwrap_or_default(),
        })
    }

    /// Rounds of PBKDF2, which the homeserver can choose. Each takes about a microsecond.
    pub const fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Makes the key; [`KeyDescription::check`] tells whether the passphrase was the right one.
    ///
    /// # Errors
    ///
    /// The rounds are not in `allowed`, say [`ROUNDS_READ`](crate::ROUNDS_READ).
    pub fn derive(
        &self,
        passphrase: &str,
        allowed: &RangeInclusive<u32>,
    ) -> Result<SecretStorageKey, RoundsError> {
        passphrase::check(self.rounds, allowed)?;
        let mut key = Zeroizing::new(vec![0; self.key_bytes]);
        passphrase::derive(passphrase, self.salt.as_bytes(), self.rounds, &mut key);
        Ok(SecretStorageKey(key))
    }
}

/// The MAC of 32 encrypted zeros, under the key for the empty name.
fn check_mac(key: &SecretStorageKey, iv: [u8; 16]) -> [u8; 32] {
    Keys::derive(key, "").encrypt(iv, &mut [0; 32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        counter::Counter,
        limits::{ROUNDS_READ, ROUNDS_WRITE},
    };

    fn parse(content: &Value) -> Result<KeyDescription, KeyDescriptionError> {
        KeyDescription::parse(&Object::parse(&content.to_string(), usize::MAX).unwrap())
    }

    /// matrix-sdk-crypto, `secret_storage.rs`, `from_account_data_and_base58`: with padding.
    #[test]
    fn the_description_by_another_implementation_fits_its_key_and_no_other() {
        let description = parse(&json!({
            "algorithm": "m.secret_storage.v1.aes-hmac-sha2",
            "iv": "xv5b6/p3ExEw++wTyfSHEg==",
            "mac": "ujBBbXahnTAMkmPUX2/0+VTfUh63pGyVRuBcDMgmJC8=",
        }))
        .unwrap();
        let key = "EsTj 3yST y93F SLpB jJsz eAXc 2XzA ygD3 w69H fGaN TKBj jXEd";
        let key = SecretStorageKey::parse(key).unwrap();
        assert_eq!(description.check(&key), Ok(Checked::Right));
        assert_eq!(description.check(&SecretStorageKey::from_bytes(&[0; 32])), Err(WrongKey));
        assert_eq!(description.passphrase(), None);
    }

    /// matrix-sdk-crypto, `secret_storage.rs`, `from_account_data_and_passphrase`.
    #[test]
    fn a_passphrase_of_another_implementation_makes_the_described_key() {
        let description = parse(&json!({
            "algorithm": "m.secret_storage.v1.aes-hmac-sha2",
            "iv": "gH2iNpiETFhApvW6/FFEJQ",
            "mac": "9Lw12m5SKDipNghdQXKjgpfdj1/K7HFI2brO+UWAGoM",
            "passphrase": {
                "algorithm": "m.pbkdf2", "salt": "IuLnH7S85YtZmkkBJKwNUKxWF42g9O1H", "iterations": 10,
            },
        }))
        .unwrap();
        let info = description.passphrase().unwrap();
        let check = |text| description.check(&info.derive(text, &ROUNDS_READ).unwrap());
        assert_eq!(check("It's a secret to everybody"), Ok(Checked::Right));
        assert_eq!(check("It's a secret to nobody"), Err(WrongKey));
    }

    #[test]
    fn what_is_described_is_read_again() {
        let mut rng = Counter::new();
        let (key, description) =
            KeyDescription::from_passphrase("horse", 10_000, &ROUNDS_WRITE, &mut rng).unwrap();
        let again = parse(&serde_json::from_str(&description.to_json()).unwrap()).unwrap();
        assert_eq!(again, description);
        assert_eq!(again.check(&key), Ok(Checked::Right));
        let derived = again.passphrase().unwrap().derive("horse", &ROUNDS_READ);
        assert_eq!(derived, Ok(key));
        let other = SecretStorageKey::generate(&mut rng);
        assert_eq!(again.check(&other), Err(WrongKey));
        assert_eq!(KeyDescription::new(&other, &mut rng).check(&other), Ok(Checked::Right));
    }

    #[test]
    fn without_a_check_any_key_may_be_right() {
        for content in [json!({}), json!({"iv": null, "mac": null}), json!({"iv": "AA"})] {
            let mut content = content;
            content["algorithm"] = json!(SECRET_STORAGE_V1);
            content["name"] = json!("mine");
            let description = parse(&content).unwrap();
            let key = SecretStorageKey::from_bytes(&[0; 32]);
            assert_eq!(description.check(&key), Ok(Checked::Unknown));
            assert_eq!(description.name(), Some("mine"));
        }
    }

    #[test]
    fn rounds_are_bounded_both_ways() {
        let new = |rounds| {
            KeyDescription::from_passphrase("p", rounds, &ROUNDS_WRITE, &mut Counter::new())
        };
        let few = RoundsError::TooFew { rounds: 9_999, rounds_min: 10_000 };
        assert_eq!(new(9_999).unwrap_err(), few);
        let derive = |iterations: u64| {
            let info = json!({"algorithm": PBKDF2, "salt": "", "iterations": iterations});
            PassphraseInfo::parse(&info).unwrap().derive("p", &ROUNDS_READ)
        };
        let rounds_max = 10_000_000;
        assert_eq!(derive(0).unwrap_err(), RoundsError::TooFew { rounds: 0, rounds_min: 1 });
        for rounds in [rounds_max + 1, 1 << 31, u32::MAX] {
            let error = derive(u64::from(rounds)).unwrap_err();
            assert_eq!(error, RoundsError::TooMany { rounds, rounds_max });
        }
        let error = derive(u64::MAX).unwrap_err();
        assert_eq!(error, RoundsError::TooMany { rounds: u32::MAX, rounds_max });
    }

    #[test]
    fn keys_of_other_lengths_are_made_if_they_make_sense() {
        let info = |bits: Value| {
            PassphraseInfo::parse(
                &json!({"algorithm": PBKDF2, "salt": "", "iterations": 1, "bits": bits}),
            )
        };
        for bits in [128, 256, 512] {
            let key = info(json!(bits)).unwrap().derive("p", &ROUNDS_READ).unwrap();
            assert_eq!(key.0.len(), bits / 8);
        }
        for bits in [0, 8, 120, 130, 520, u64::MAX] {
            assert_eq!(info(json!(bits)), Err(KeyDescriptionError::Bits { bits }));
        }
        assert_eq!(info(json!(-1)), Err(KeyDescriptionError::Field { field: "bits" }));
    }

    #[test]
    fn what_describes_no_key_is_refused() {
        let description = |field: &str, value: Value| {
            let mut content = json!({"algorithm": SECRET_STORAGE_V1, "iv": "A", "mac": "A"});
            content[field] = value;
            parse(&content).unwrap_err().to_string()
        };
        let curve = json!("m.secret_storage.v1.curve25519-aes-sha2");
        let algorithm = "the secret storage key is for another algorithm";
        assert_eq!(description("algorithm", curve), algorithm);
        assert_eq!(description("algorithm", Value::Null), algorithm);
        assert_eq!(description("name", Value::Null), "iv is not base64");
        assert_eq!(description("iv", json!("AAAA")), "iv has 3 bytes instead of 16");
        assert_eq!(description("iv", json!(1)), "iv is malformed");
        assert_eq!(description("mac", json!([])), "mac is malformed");
        let info = |info: Value| PassphraseInfo::parse(&info).unwrap_err().to_string();
        assert_eq!(info(json!({"algorithm": "scrypt"})), "the passphrase is for another algorithm");
        assert_eq!(info(json!({"algorithm": PBKDF2})), "salt is malformed");
        assert_eq!(info(json!({"algorithm": PBKDF2, "salt": ""})), "iterations is malformed");
    }
}
