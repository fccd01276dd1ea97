//! Signatures of `auth_data`, and the two kinds of keys that can make them (appendices, "Signing
//! JSON"; client-server API, "Server-side key backups" and "Cross-signing").
//!
//! A user's master key signs under its own public half, `ed25519:<base64>`; a device signs under its
//! id, `ed25519:<device id>`. A homeserver hands out both, and could call a device by the text of a
//! master key (CVE-2022-39250). So the two are different types, and each looks only for its own.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use serde_json::{Map, Value, map::Entry};
use strongroom_protocol::{DeviceId, Object, UserId};
use zeroize::Zeroizing;

use crate::{
    base64::{self, Base64Error},
    canonical_json::{self, NotCanonical},
};

/// The name under which clients keep the master key's private half in secret storage.
pub const MASTER_KEY_SECRET: &str = "m.cross_signing.master";

/// Why an object does not count as signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignatureError {
    /// This key has not signed it; others may have.
    #[error("there is no signature by this key")]
    Missing,
    /// What stands where the signature should is not 64 bytes in base64.
    #[error("the signature is malformed")]
    Malformed,
    /// The object was changed after it was signed, or was never signed by this key.
    #[error("the signature is wrong")]
    Wrong,
    /// The object has no canonical form, so nobody can have signed it.
    #[error(transparent)]
    NotCanonical(#[from] NotCanonical),
}

/// Why an answer about keys does not hold the key that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PublishedKeyError {
    /// It is about another user, or another device.
    #[error("the key is somebody else's")]
    OtherOwner,
    /// A cross-signing key that is not the master key.
    #[error("the key is for another use")]
    OtherUse,
    /// Members are missing, or the id of the key does not fit its text.
    #[error("the key is malformed")]
    Malformed,
    /// Not 32 bytes in base64.
    #[error("the key {0}")]
    Base64(#[from] Base64Error),
    /// No point on the curve, or one of low order.
    #[error("the key is impossible")]
    Impossible,
    /// A device's keys must be signed by the device itself.
    #[error("the device has not signed its own keys: {0}")]
    SelfSignature(#[from] SignatureError),
}

/// The public half of a user's master key. Whose it really is, only verification tells; see
/// [`MasterSigningKey::public`] for a way that needs no trust.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MasterKey(Verifier);

/// The public signing key of one device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceKey(Verifier);

impl MasterKey {
    /// Reads a member of `master_keys` in the answer to `POST /keys/query`.
    ///
    /// # Errors
    ///
    /// It is not this user's master key.
    pub fn parse(user_id: &UserId, published: &Object) -> Result<Self, PublishedKeyError> {
        let members = canonical_json::members(published);
        expect_text(&members, "user_id", user_id.as_str())?;
        let usage = members.get("usage").and_then(Value::as_array);
        let usage = usage.ok_or(PublishedKeyError::Malformed)?;
        if !usage.iter().any(|usage| usage == "master") {
            return Err(PublishedKeyError::OtherUse);
        }
        let keys = members.get("keys").and_then(Value::as_object);
        let mut keys = keys.ok_or(PublishedKeyError::Malformed)?.iter();
        let (Some((id, Value::String(key))), None) = (keys.next(), keys.next()) else {
            return Err(PublishedKeyError::Malformed);
        };
        let key = Self::from_base64(user_id, key)?;
        if *id == key.0.key_id { Ok(key) } else { Err(PublishedKeyError::Malformed) }
    }

    /// Takes a public key that is known to be this user's master key.
    ///
    /// # Errors
    ///
    /// It is not 32 bytes in base64, or no key at all.
    pub fn from_base64(user_id: &UserId, key: &str) -> Result<Self, PublishedKeyError> {
        let key = verifying_key(key)?;
        let key_id = format!("ed25519:{}", base64::encode(key.as_bytes()));
        Ok(Self(Verifier { user_id: user_id.clone(), key_id, key }))
    }

    /// Whether this master key has signed the object.
    ///
    /// # Errors
    ///
    /// It has not; see [`SignatureError`].
    pub fn verify(&self, object: &Object) -> Result<(), SignatureError> {
        self.0.verify(object)
    }

    /// The public key in unpadded base64.
    pub fn to_base64(&self) -> String {
        base64::encode(self.0.key.as_bytes())
    }
}

impl DeviceKey {
    /// Reads a member of `device_keys` in the answer to `POST /keys/query`. That the device belongs to
    /// its user, only verification or cross-signing tells.
    ///
    /// # Errors
    ///
    /// They are not this device's keys, or the device has not signed them.
    pub fn parse(
        user_id: &UserId,
        device_id: &DeviceId,
        published: &Object,
    ) -> Result<Self, PublishedKeyError> {
        let members = canonical_json::members(published);
        expect_text(&members, "user_id", user_id.as_str())?;
        expect_text(&members, "device_id", device_id.as_str())?;
        let key_id = format!("ed25519:{}", device_id.as_str());
        let keys = members.get("keys").and_then(Value::as_object);
        let key = keys.and_then(|keys| keys.get(&key_id)).and_then(Value::as_str);
        let device =
            Self::from_base64(user_id, device_id, key.ok_or(PublishedKeyError::Malformed)?)?;
        device.verify(published)?;
        Ok(device)
    }

    /// Takes a public key that is known to be this device's.
    ///
    /// # Errors
    ///
    /// It is not 32 bytes in base64, or no key at all.
    pub fn from_base64(
        user_id: &UserId,
        device_id: &DeviceId,
        key: &str,
    ) -> Result<Self, PublishedKeyError> {
        let key_id = format!("ed25519:{}", device_id.as_str());
        Ok(Self(Verifier { user_id: user_id.clone(), key_id, key: verifying_key(key)? }))
    }

    /// Whether this device has signed the object.
    ///
    /// # Errors
    ///
    /// It has not; see [`SignatureError`].
    pub fn verify(&self, object: &Object) -> Result<(), SignatureError> {
        self.0.verify(object)
    }
}

/// The private half of a user's master key: whoever has it speaks for the user.
pub struct MasterSigningKey(SigningKey);

impl MasterSigningKey {
    /// Reads the secret [`m.cross_signing.master`](MASTER_KEY_SECRET): base64, with or without
    /// padding.
    ///
    /// # Errors
    ///
    /// It is not 32 bytes in base64.
    pub fn from_base64(secret: &str) -> Result<Self, Base64Error> {
        let seed = Zeroizing::new(base64::decode_array(secret)?);
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// The public half, which is this user's master key by the strength of the secret. If the
    /// homeserver names another, one of the two is out of date, or the homeserver lies.
    pub fn public(&self, user_id: &UserId) -> MasterKey {
        let key = self.0.verifying_key();
        let key_id = format!("ed25519:{}", base64::encode(key.as_bytes()));
        MasterKey(Verifier { user_id: user_id.clone(), key_id, key })
    }

    /// The object with this key's signature added, or replaced. It comes back in canonical form.
    ///
    /// # Errors
    ///
    /// The object has no canonical form, or has `signatures` that are no objects.
    pub fn sign(&self, user_id: &UserId, object: &Object) -> Result<Object, SignError> {
        sign(&self.0, user_id, &self.public(user_id).0.key_id, object)
    }
}

/// The private signing key of one device.
pub struct DeviceSigningKey {
    device_id: DeviceId,
    key: SigningKey,
}

impl DeviceSigningKey {
    /// A new key. `rng` is best seeded by the operating system.
    pub fn generate<R: CryptoRng + ?Sized>(device_id: DeviceId, rng: &mut R) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self { device_id, key: SigningKey::from_bytes(&seed) }
    }

    /// Reads a seed in base64, with or without padding.
    ///
    /// # Errors
    ///
    /// It is not 32 bytes in base64.
    pub fn from_base64(device_id: DeviceId, seed: &str) -> Result<Self, Base64Error> {
        let seed = Zeroizing::new(base64::decode_array(seed)?);
        Ok(Self { device_id, key: SigningKey::from_bytes(&seed) })
    }

    /// The seed, in unpadded base64.
    pub fn to_base64(&self) -> Zeroizing<String> {
        base64::encode_secret(self.key.as_bytes())
    }

    /// The public half.
    pub fn public(&self, user_id: &UserId) -> DeviceKey {
        let key = self.key.verifying_key();
        DeviceKey(Verifier { user_id: user_id.clone(), key_id: self.key_id(), key })
    }

    /// The object with this key's signature added, or replaced. It comes back in canonical form.
    ///
    /// # Errors
    ///
    /// The object has no canonical form, or has `signatures` that are no objects.
    pub fn sign(&self, user_id: &UserId, object: &Object) -> Result<Object, SignError> {
        sign(&self.key, user_id, &self.key_id(), object)
    }

    fn key_id(&self) -> String {
        format!("ed25519:{}", self.device_id.as_str())
    }
}

impl fmt::Debug for MasterSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterSigningKey(..)")
    }
}

impl fmt::Debug for DeviceSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceSigningKey(..)")
    }
}

/// Why an object cannot be signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignError {
    /// It has no canonical form.
    #[error(transparent)]
    NotCanonical(#[from] NotCanonical),
    /// Its `signatures` are not objects in an object.
    #[error("the object has malformed signatures")]
    Signatures,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Verifier {
    user_id: UserId,
    key_id: String,
    key: VerifyingKey,
}

impl Verifier {
    /// "Checking for a Signature", with the one key that is asked for.
    fn verify(&self, object: &Object) -> Result<(), SignatureError> {
        let members = canonical_json::members(object);
        let signature = members
            .get("signatures")
            .and_then(|signatures| signatures.get(self.user_id.as_str()))
            .and_then(|by_user| by_user.get(&self.key_id))
            .ok_or(SignatureError::Missing)?;
        let signature = signature.as_str().ok_or(SignatureError::Malformed)?;
        let signature = base64::decode_array(signature).map_err(|_| SignatureError::Malformed)?;
        let text = canonical_json::signed_text(object)?;
        self.key
            .verify_strict(text.as_bytes(), &Signature::from_bytes(&signature))
            .map_err(|_| SignatureError::Wrong)
    }
}

fn verifying_key(text: &str) -> Result<VerifyingKey, PublishedKeyError> {
    let key = VerifyingKey::from_bytes(&base64::decode_array(text)?);
    let key = key.ok().filter(|key| !key.is_weak());
    key.ok_or(PublishedKeyError::Impossible)
}

fn expect_text(
    members: &Map<String, Value>,
    name: &str,
    expected: &str,
) -> Result<(), PublishedKeyError> {
    let text = members.get(name).and_then(Value::as_str).ok_or(PublishedKeyError::Malformed)?;
    if text == expected { Ok(()) } else { Err(PublishedKeyError::OtherOwner) }
}

fn sign(
    key: &SigningKey,
    user_id: &UserId,
    key_id: &str,
    object: &Object,
) -> Result<Object, SignError> {
    let signature = key.sign(canonical_json::signed_text(object)?.as_bytes());
    let signature = Value::String(base64::encode(&signature.to_bytes()));

    let mut members = canonical_json::members(object);
    let by_user = member_object(&mut members, "signatures")?;
    member_object(by_user, user_id.as_str())?.insert(key_id.to_owned(), signature);
    let text = canonical_json::canonical(&members)?;
    // It was an object before, and is no deeper; only its size could be refused, and is not bounded.
    Object::parse(&text, usize::MAX).map_err(|_| SignError::Signatures)
}

/// A member that is an object, made if it is absent.
fn member_object<'a>(
    members: &'a mut Map<String, Value>,
    name: &str,
) -> Result<&'a mut Map<String, Value>, SignError> {
    let value = match members.entry(name) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(Value::Object(Map::new())),
    };
    value.as_object_mut().ok_or(SignError::Signatures)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Appendices, "Cryptographic Test Vectors"; there the last letter is a 1, with a stray bit.
    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";
    const USER: &str = "@alice:example.org";

    fn user() -> UserId {
        UserId::parse(USER).unwrap()
    }

    fn device(name: &str) -> DeviceSigningKey {
        DeviceSigningKey::from_base64(DeviceId::parse(name).unwrap(), SEED).unwrap()
    }

    fn master() -> MasterSigningKey {
        MasterSigningKey::from_base64("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA").unwrap()
    }

    fn object(value: &Value) -> Object {
        Object::parse(&value.to_string(), usize::MAX).unwrap()
    }

    fn value(object: &Object) -> Value {
        serde_json::from_str(object.as_str()).unwrap()
    }

    #[test]
    fn the_vectors_of_the_appendix_hold() {
        let key = SigningKey::from_bytes(&base64::decode_array(SEED).unwrap());
        for (json, signature) in [
            (
                json!({}),
                "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
            ),
            (
                json!({"one": 1, "two": "Two"}),
                "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
            ),
        ] {
            // The vectors are a server's, whose name is no user id.
            let signed = sign(&key, &user(), "ed25519:1", &object(&json)).unwrap();
            assert_eq!(value(&signed)["signatures"][USER]["ed25519:1"], signature);
        }
    }

    #[test]
    fn what_is_signed_is_verified_and_nothing_else_is() {
        let auth_data = object(&json!({
            "public_key": "abc", "unsigned": {"age": 1},
            "signatures": {"@bob:x": {"ed25519:B": "kept"}},
        }));
        let signed = master().sign(&user(), &auth_data).unwrap();
        let signed = device("DEVICE").sign(&user(), &signed).unwrap();
        assert_eq!(master().public(&user()).verify(&signed), Ok(()));
        assert_eq!(device("DEVICE").public(&user()).verify(&signed), Ok(()));
        assert_eq!(value(&signed)["signatures"]["@bob:x"]["ed25519:B"], "kept");

        let missing = Err(SignatureError::Missing);
        assert_eq!(device("OTHER").public(&user()).verify(&signed), missing);
        let bob = UserId::parse("@bob:x").unwrap();
        assert_eq!(master().public(&bob).verify(&signed), missing);
        assert_eq!(master().public(&user()).verify(&auth_data), missing);

        let mut changed = value(&signed);
        changed["unsigned"] = json!(2);
        assert_eq!(master().public(&user()).verify(&object(&changed)), Ok(()));
        changed["public_key"] = json!("abd");
        let wrong = Err(SignatureError::Wrong);
        assert_eq!(master().public(&user()).verify(&object(&changed)), wrong);
        let key_id = master().public(&user()).0.key_id;
        for malformed in [json!(1), json!("AA"), json!("?")] {
            let mut changed = value(&signed);
            changed["signatures"][USER][&key_id] = malformed;
            let error = master().public(&user()).verify(&object(&changed));
            assert_eq!(error, Err(SignatureError::Malformed));
        }
    }

    /// CVE-2022-39250: a device whose id is the text of the master key.
    #[test]
    fn an_id_that_is_both_a_device_and_a_master_key_is_not_confused() {
        let id = master().public(&user()).to_base64();
        let rogue = device(&id);
        let auth_data = object(&json!({"public_key": "abc"}));
        assert_eq!(rogue.key_id(), master().public(&user()).0.key_id);

        let by_rogue = rogue.sign(&user(), &auth_data).unwrap();
        assert_eq!(master().public(&user()).verify(&by_rogue), Err(SignatureError::Wrong));
        let by_master = master().sign(&user(), &auth_data).unwrap();
        assert_eq!(rogue.public(&user()).verify(&by_master), Err(SignatureError::Wrong));
    }

    #[test]
    fn a_signature_by_a_key_of_low_order_counts_for_nothing() {
        // With the neutral point as key, R = 0, s = 0 fits every message but for strictness.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let text = base64::encode(&neutral);
        let error = MasterKey::from_base64(&user(), &text).unwrap_err();
        assert_eq!(error, PublishedKeyError::Impossible);
    }

    fn published_master() -> Value {
        let key = master().public(&user());
        let keys = json!({&key.0.key_id: key.to_base64()});
        json!({"user_id": USER, "usage": ["master"], "keys": keys})
    }

    #[test]
    fn only_the_users_own_master_key_is_taken_for_it() {
        let parse = |value: &Value| MasterKey::parse(&user(), &object(value));
        let published = published_master();
        assert_eq!(parse(&published), Ok(master().public(&user())));
        let with = |name: &str, value: Value| {
            let mut changed = published.clone();
            changed[name] = value;
            parse(&changed).unwrap_err()
        };
        assert_eq!(with("user_id", json!("@bob:x")), PublishedKeyError::OtherOwner);
        assert_eq!(with("user_id", json!(1)), PublishedKeyError::Malformed);
        assert_eq!(with("usage", json!(["self_signing"])), PublishedKeyError::OtherUse);
        assert_eq!(with("usage", json!("master")), PublishedKeyError::Malformed);
        assert_eq!(with("keys", json!({})), PublishedKeyError::Malformed);
        let key = master().public(&user()).to_base64();
        assert_eq!(with("keys", json!({"ed25519:A": key})), PublishedKeyError::Malformed);
        let two = json!({"ed25519:A": key, "ed25519:B": key});
        assert_eq!(with("keys", two), PublishedKeyError::Malformed);
        let error = PublishedKeyError::Base64(Base64Error::NotBase64);
        assert_eq!(with("keys", json!({"ed25519:A": "?"})), error);
    }

    #[test]
    fn only_keys_that_a_device_has_signed_are_taken_for_its_own() {
        let id = DeviceId::parse("DEVICE").unwrap();
        let key = base64::encode(device("DEVICE").key.verifying_key().as_bytes());
        let unsigned = json!({
            "user_id": USER, "device_id": "DEVICE", "algorithms": [],
            "keys": {"ed25519:DEVICE": key, "curve25519:DEVICE": key},
        });
        let published = device("DEVICE").sign(&user(), &object(&unsigned)).unwrap();
        let parse = |value: &Value| DeviceKey::parse(&user(), &id, &object(value));
        assert_eq!(parse(&value(&published)), Ok(device("DEVICE").public(&user())));
        assert_eq!(
            parse(&unsigned),
            Err(PublishedKeyError::SelfSignature(SignatureError::Missing))
        );
        let mut other = value(&published);
        other["device_id"] = json!("OTHER");
        assert_eq!(parse(&other), Err(PublishedKeyError::OtherOwner));
        let mut changed = value(&published);
        changed["keys"]["curve25519:DEVICE"] = json!("other");
        assert_eq!(parse(&changed), Err(PublishedKeyError::SelfSignature(SignatureError::Wrong)));
        changed["keys"] = json!({});
        assert_eq!(parse(&changed), Err(PublishedKeyError::Malformed));
    }

    #[test]
    fn what_cannot_be_signed_is_refused() {
        for (json, expected) in [
            (json!({"a": 1.5}), SignError::NotCanonical(NotCanonical)),
            (json!({"signatures": 1}), SignError::Signatures),
            (json!({"signatures": {USER: []}}), SignError::Signatures),
        ] {
            assert_eq!(master().sign(&user(), &object(&json)), Err(expected));
        }
    }

    #[test]
    fn debug_shows_nothing_of_a_private_key() {
        assert_eq!(format!("{:?}", master()), "MasterSigningKey(..)");
        assert_eq!(format!("{:?}", device("D")), "DeviceSigningKey(..)");
    }
}
