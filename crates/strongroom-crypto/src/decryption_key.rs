//! The backup decryption key and its public half (client-server API, "Decryption key").

use std::{fmt, ops::RangeInclusive};

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    base64::{self, Base64Error},
    passphrase::{self, RoundsError},
    representation::{self, RepresentationError},
    x25519,
};

/// The name under which clients keep the key in secret storage, and ask each other for it.
pub const DECRYPTION_KEY_SECRET: &str = "m.megolm_backup.v1";

/// The secret that opens every room key of a backup.
///
/// It is wiped when it is dropped, is printed as `DecryptionKey(..)`, compares in constant time, and
/// becomes text only by [`to_recovery_key`](Self::to_recovery_key) and
/// [`to_base64`](Self::to_base64).
///
/// ```
/// use strongroom_crypto::DecryptionKey;
///
/// let typed = "EsTc LW2K PGiF wKEA 3As5 g5c4 BXwk qeeJ ZJV8 Q9fu gUMN UE4d";
/// let key = DecryptionKey::parse(typed)?;
/// assert_eq!(*key.to_recovery_key(), typed);
/// assert_eq!(key.public_key().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo");
/// # Ok::<_, strongroom_crypto::RepresentationError>(())
/// ```
#[derive(Clone)]
pub struct DecryptionKey(Box<Zeroizing<[u8; 32]>>);

impl DecryptionKey {
    /// A new key. `rng` is best seeded by the operating system.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        rng.fill_bytes(key.as_mut_slice());
        Self(key)
    }

    /// Takes the 32 bytes themselves.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Box::new(Zeroizing::new(*bytes)))
    }

    /// Reads what was given to a person (appendices, "Cryptographic key representation"), wherever it
    /// has white space. Secret storage keys look the same.
    ///
    /// # Errors
    ///
    /// What is wrong with the text; never a part of it.
    pub fn parse(text: &str) -> Result<Self, RepresentationError> {
        representation::parse(text).map(Self)
    }

    /// Reads the secret [`m.megolm_backup.v1`](DECRYPTION_KEY_SECRET): base64, with or without
    /// padding.
    ///
    /// # Errors
    ///
    /// - [`SecretError::CommaSeparated`]: as some releases of matrix-js-sdk stored it by mistake;
    ///   [`from_comma_separated`](Self::from_comma_separated) reads that.
    /// - [`SecretError::Base64`]: anything else that is not 32 bytes in base64.
    pub fn from_base64(secret: &str) -> Result<Self, SecretError> {
        if secret.contains(',') {
            return Err(SecretError::CommaSeparated);
        }
        let bytes = Zeroizing::new(base64::decode_array(secret)?);
        Ok(Self::from_bytes(&bytes))
    }

    /// Reads the secret as 32 decimal numbers with commas between them. Not in constant time.
    ///
    /// COMPAT: matrix-js-sdk once stored `String(new Uint8Array(…))`, and repairs such secrets since
    /// (`fixBackupKey`).
    ///
    /// # Errors
    ///
    /// [`SecretError::CommaSeparated`] if they are not 32, or not bytes.
    pub fn from_comma_separated(secret: &str) -> Result<Self, SecretError> {
        let mut bytes = Box::new(Zeroizing::new([0; 32]));
        let mut numbers = secret.split(',');
        for byte in bytes.iter_mut() {
            let number = numbers.next().and_then(|number| number.trim().parse().ok());
            *byte = number.ok_or(SecretError::CommaSeparated)?;
        }
        match numbers.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(SecretError::CommaSeparated),
        }
    }

    /// Derives the key of a backup whose `auth_data` has `private_key_salt` and
    /// `private_key_iterations`, as older clients made them: PBKDF2-HMAC-SHA-512, the salt as text.
    ///
    /// Takes about a microsecond a round. Whether the passphrase was right, only
    /// [`AuthData::is_opened_by`](crate::AuthData::is_opened_by) tells.
    ///
    /// # Errors
    ///
    /// The rounds are not in `allowed`, say [`ROUNDS_READ`](crate::ROUNDS_READ).
    pub fn from_passphrase(
        passphrase: &str,
        salt: &str,
        rounds: u32,
        allowed: &RangeInclusive<u32>,
    ) -> Result<Self, RoundsError> {
        passphrase::check(rounds, allowed)?;
        let mut key = Box::new(Zeroizing::new([0; 32]));
        passphrase::derive(passphrase, salt.as_bytes(), rounds, key.as_mut_slice());
        Ok(Self(key))
    }

    /// The text for a person to keep: 48 letters in groups of four.
    pub fn to_recovery_key(&self) -> Zeroizing<String> {
        representation::print(&self.0)
    }

    /// The text for secret storage: unpadded base64.
    pub fn to_base64(&self) -> Zeroizing<String> {
        base64::encode_secret(self.0.as_slice())
    }

    /// What others encrypt to. Costs one scalar multiplication.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519::public_half(&self.0))
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ConstantTimeEq for DecryptionKey {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.0.as_slice().ct_eq(other.0.as_slice())
    }
}

impl PartialEq for DecryptionKey {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for DecryptionKey {}

impl fmt::Debug for DecryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DecryptionKey(..)")
    }
}

/// Why the secret `m.megolm_backup.v1` is not a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SecretError {
    /// Numbers with commas between them, or something like it.
    #[error("the secret is a list of numbers, not base64")]
    CommaSeparated,
    /// Not 32 bytes in base64.
    #[error("the secret {0}")]
    Base64(#[from] Base64Error),
}

/// The public half of a [`DecryptionKey`], a point on Curve25519: `public_key` in `auth_data`.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes any 32 bytes; what is of low order is refused where it is used.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads base64, with or without padding.
    ///
    /// # Errors
    ///
    /// Not base64, or another length: backups with a key of 45 bytes exist (element-web#33718).
    pub fn from_base64(text: &str) -> Result<Self, Base64Error> {
        base64::decode_array(text).map(Self)
    }

    /// The u-coordinate, little endian.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Unpadded base64, as in `auth_data`.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64::encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DecryptionKey {
        DecryptionKey::from_bytes(&std::array::from_fn(|i| i as u8 ^ 0xa5))
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", key()), "DecryptionKey(..)");
    }

    #[test]
    fn every_form_of_a_key_leads_back_to_it() {
        let key = key();
        assert_eq!(DecryptionKey::parse(&key.to_recovery_key()), Ok(key.clone()));
        assert_eq!(DecryptionKey::from_base64(&key.to_base64()), Ok(key.clone()));
        assert_eq!(DecryptionKey::from_base64(&(key.to_base64().to_string() + "=")), Ok(key));
        assert_ne!(DecryptionKey::from_bytes(&[0; 32]), DecryptionKey::from_bytes(&[1; 32]));
    }

    #[test]
    fn a_secret_that_was_stored_as_numbers_is_named_and_can_be_read() {
        let numbers = key().secret().map(|byte| byte.to_string()).join(",");
        assert_eq!(DecryptionKey::from_base64(&numbers), Err(SecretError::CommaSeparated));
        assert_eq!(DecryptionKey::from_comma_separated(&numbers), Ok(key()));
        for bad in ["", "1,2", &format!("{numbers},1"), &numbers.replacen("165", "256", 1)] {
            let error = DecryptionKey::from_comma_separated(bad).unwrap_err();
            assert_eq!(error, SecretError::CommaSeparated, "{bad}");
        }
    }

    /// matrix-js-sdk, `spec/unit/crypto/backup.spec.ts` and `spec/unit/crypto-utils.ts` derive so:
    /// PBKDF2 with SHA-512; this one was computed by Python's `hashlib.pbkdf2_hmac`.
    #[test]
    fn a_passphrase_leads_to_the_key_that_others_derive() {
        let key =
            DecryptionKey::from_passphrase("correct horse", "MmMsAlty", 1000, &(1..=1000)).unwrap();
        let expected = "279f2ed89e4b65c8428fb2ed9a48fa41aedd1ebabb98428f5c693e5abfa20fc0";
        let hex: String = key.secret().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn rounds_that_others_chose_are_bounded() {
        let derive = |rounds| DecryptionKey::from_passphrase("p", "s", rounds, &(0..=1000));
        assert_eq!(derive(0), Err(RoundsError::TooFew { rounds: 0, rounds_min: 1 }));
        assert_eq!(derive(1001), Err(RoundsError::TooMany { rounds: 1001, rounds_max: 1000 }));
        assert!(derive(1).is_ok() && derive(1000).is_ok());
    }
}
