//! `m.megolm_backup.v1.curve25519-aes-sha2`, both ways (client-server API, "Backup algorithm").
//!
//! X25519 with a fresh key for each session, HKDF-SHA-256 to 80 bytes, AES-256-CBC, and the first
//! eight bytes of an HMAC-SHA-256 over *nothing*.

use std::fmt;

use aes::Aes256;
use cbc::{
    Decryptor, Encryptor as CbcEncryptor,
    cipher::{
        BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit,
        block_padding::{NoPadding, Pkcs7},
        consts::{U16, U32},
    },
};
use hmac::Mac as _;
use rand_core::CryptoRng;
use subtle::{Choice, ConstantTimeEq as _, ConstantTimeGreater as _};
use zeroize::Zeroizing;

use crate::{
    decryption_key::{DecryptionKey, PublicKey},
    hash::{self, part},
    oddity::{Oddities, Oddity},
    session_data::{BLOCK, MAC, SessionData},
    x25519::{self, Recipient},
};

/// Encrypts sessions to one backup's public key, quickly: it holds multiples of that key (30 KiB).
pub struct Encryptor(Recipient);

/// The public key is of low order: anyone could read what is encrypted to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the public key of the backup protects nothing")]
pub struct WeakPublicKey;

impl Encryptor {
    /// Prepares the encryption of many sessions. Costs about as much as encrypting forty.
    ///
    /// # Errors
    ///
    /// The key is of low order, which no honest client makes.
    pub fn new(public_key: &PublicKey) -> Result<Self, WeakPublicKey> {
        Recipient::new(*public_key.as_bytes()).map(Self).ok_or(WeakPublicKey)
    }

    /// Encrypts one plaintext, with a key of its own from `rng`. Costs two multiplications by tables.
    ///
    /// COMPAT: `mac` is the HMAC of nothing, as libolm wrote it and the specification records; the
    /// vector of matrix-sdk-crypto proves it.
    pub fn encrypt<R: CryptoRng + ?Sized>(&self, plaintext: &[u8], rng: &mut R) -> SessionData {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        let ephemeral = x25519::public_half(&secret);
        let keys = Keys::derive(&self.0.agree(&secret));

        let cipher = keys.cipher::<CbcEncryptor<Aes256>>();
        let ciphertext = cipher.encrypt_padded_vec::<Pkcs7>(plaintext);
        SessionData { ephemeral, ciphertext, mac: keys.mac(&[]), oddities: Oddities::default() }
    }
}

impl fmt::Debug for Encryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encryptor(..)")
    }
}

/// What a `session_data` said. **Anyone can have written it, and anyone can have changed it**: the
/// public key is no secret, and the MAC does not cover the ciphertext. Nothing in it means anything
/// before [`judge`](Self::judge) has looked at it.
pub struct Plaintext {
    bytes: Zeroizing<Vec<u8>>,
    pub(crate) oddities: Oddities,
}

impl Plaintext {
    #[cfg(test)]
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Zeroizing::new(bytes), oddities: Oddities::default() }
    }

    /// The bytes as they are, damaged or not, for whoever has to look into that.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext(..)")
    }
}

/// This key does not open this `session_data`.
///
/// Says no more than that, also in `Debug`: whoever can send changed ciphertexts to the owner and is
/// told which of them fail in which way can decrypt others with that (a padding oracle). The owner
/// asks [`DecryptionKey::explain`].
#[derive(Clone, Copy, Eq, PartialEq, thiserror::Error)]
#[error("the session does not open with this key")]
pub struct Undecryptable(DecryptError);

impl fmt::Debug for Undecryptable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Undecryptable(..)")
    }
}

/// Why a `session_data` does not open: for the eyes of the key's owner only.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecryptError {
    /// `ephemeral` is of low order, so anyone could have made this.
    #[error("the ephemeral key protects nothing")]
    Ephemeral,
    /// Made for another backup, or `ephemeral` or `mac` is damaged.
    #[error("it was made for another backup, or is damaged")]
    Mac,
    /// Made for this backup, and `ciphertext` is damaged.
    #[error("it was made for this backup, and is damaged")]
    Padding,
}

impl DecryptionKey {
    /// Decrypts the `session_data` of one room key. Costs one scalar multiplication.
    ///
    /// **The MAC does not cover the ciphertext** (the warning after step 5), so damage passes unseen
    /// through here. Nothing is restored before [`Plaintext::judge`] has judged it.
    ///
    /// # Errors
    ///
    /// It does not open; [`explain`](Self::explain) says why. Bad padding takes the same time as good.
    pub fn decrypt(&self, data: &SessionData) -> Result<Plaintext, Undecryptable> {
        let shared = x25519::agree(self.secret(), &data.ephemeral);
        let keys = Keys::derive(&*shared.ok_or(Undecryptable(DecryptError::Ephemeral))?);

        let is_of_nothing = bool::from(keys.mac(&[]).ct_eq(&data.mac));
        // Whoever sends changed ciphertexts knows whether `mac` still fits: it does not look at them.
        let is_right = is_of_nothing || bool::from(keys.mac(&data.ciphertext).ct_eq(&data.mac));

        let mut bytes = Zeroizing::new(data.ciphertext.clone());
        let cipher = keys.cipher::<Decryptor<Aes256>>();
        let is_whole = cipher.decrypt_padded::<NoPadding>(&mut bytes).is_ok();
        let (is_padded, padding) = padding(&bytes);

        if !is_right {
            Err(Undecryptable(DecryptError::Mac))
        } else if !is_whole || !bool::from(is_padded) {
            Err(Undecryptable(DecryptError::Padding))
        } else {
            let text_bytes = bytes.len() - usize::from(padding);
            bytes.truncate(text_bytes);
            let mut oddities = data.oddities.clone();
            if !is_of_nothing {
                oddities.add(Oddity::MacOfCiphertext);
            }
            Ok(Plaintext { bytes, oddities })
        }
    }

    /// Why this owner's `session_data` did not open. Not for the network.
    pub const fn explain(&self, error: Undecryptable) -> DecryptError {
        error.0
    }
}

/// Whether the text ends with PKCS#7 padding, and its length; in the same time for all texts.
fn padding(text: &[u8]) -> (Choice, u8) {
    let length = text.last().copied().unwrap_or(0);
    let mut is_padded = !length.ct_eq(&0) & !length.ct_gt(&(BLOCK as u8));
    for (position, byte) in (1u8..=BLOCK as u8).zip(text.iter().rev()) {
        let is_behind_text = !position.ct_gt(&length);
        is_padded &= !is_behind_text | byte.ct_eq(&length);
    }
    (is_padded, length)
}

/// What step 3 of the algorithm makes of the shared secret.
struct Keys(Zeroizing<[u8; 80]>);

impl Keys {
    fn derive(shared: &[u8; 32]) -> Self {
        Self(hash::hkdf(shared, b""))
    }

    fn cipher<C: KeyIvInit<KeySize = U32, IvSize = U16>>(&self) -> C {
        C::new(part::<0, 32, _>(&self.0).into(), part::<64, 16, _>(&self.0).into())
    }

    fn mac(&self, text: &[u8]) -> [u8; MAC] {
        let mac = hash::hmac(part::<32, 32, _>(&self.0)).chain_update(text).finalize();
        *part::<0, MAC, 32>(&mac.into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::counter::Counter;

    fn key() -> DecryptionKey {
        DecryptionKey::from_base64("Ha9cklU/9NqFo9WKdVfGzmqUL/9wlkdxfEitbSIPVXw").unwrap()
    }

    fn encrypt(plaintext: &[u8]) -> SessionData {
        let encryptor = Encryptor::new(&key().public_key()).unwrap();
        encryptor.encrypt(plaintext, &mut Counter::new())
    }

    fn reason(data: &SessionData) -> DecryptError {
        key().explain(key().decrypt(data).unwrap_err())
    }

    /// matrix-sdk-crypto, `backups/keys/decryption.rs`, `test_decrypt_key`.
    #[test]
    fn what_another_implementation_encrypted_is_read() {
        let data = SessionData::parse(
            r#"{
            "ephemeral": "HlLi76oV6wxHz3PCqE/bxJi6yF1HnYz5Dq3T+d/KpRw",
            "ciphertext": "MuM8E3Yc6TSAvhVGb77rQ++jE6p9dRepx63/3YPD2wACKAppkZHeFrnTH6wJ/HSyrmzo7HfwqVl6tKNpfooSTHqUf6x1LHz+h4B/Id5ITO1WYt16AaI40LOnZqTkJZCfSPuE2oxalwEHnCS3biWybutcnrBFPR3LMtaeHvvkb+k3ny9l5ZpsU9G7vCm3XoeYkWfLekWXvDhbqWrylXD0+CNUuaQJ/S527TzLd4XKctqVjjO/cCH7q+9utt9WJAfK8LGaWT/mZ3AeWjf5kiqOpKKf5Cn4n5SSil5p/pvGYmjnURvZSEeQIzHgvunIBEPtzK/MYEPOXe/P5achNGlCx+5N19Ftyp9TFaTFlTWCTi0mpD7ePfCNISrwpozAz9HZc0OhA8+1aSc7rhYFIeAYXFU326NuFIFHI5pvpSxjzPQlOA+mavIKmiRAtjlLw11IVKTxgrdT4N8lXeMr4ndCSmvIkAzFMo1uZA4fzjiAdQJE4/2WeXFNNpvdfoYmX8Zl9CAYjpSO5HvpwkAbk4/iLEH3hDfCVUwDfMh05PdGLnxeRpiEFWSMSsJNp+OWAA+5JsF41BoRGrxoXXT+VKqlUDONd+O296Psu8Q+d8/S618",
            "mac": "GtMrurhDTwo"
        }"#,
        )
        .unwrap();
        let plaintext = key().decrypt(&data).unwrap();
        assert!(plaintext.as_bytes().starts_with(br#"{"algorithm":"m.megolm.v1.aes-sha2","#));
        assert!(plaintext.oddities.iter().next().is_none());
    }

    #[test]
    fn the_mac_is_read_in_either_form_and_no_other() {
        let mut data = encrypt(b"{}");
        let shared = x25519::agree(key().secret(), &data.ephemeral).unwrap();
        data.mac = Keys::derive(&shared).mac(&data.ciphertext);
        let plaintext = key().decrypt(&data).unwrap();
        assert_eq!(plaintext.oddities.iter().collect::<Vec<_>>(), [&Oddity::MacOfCiphertext]);
        for byte in 0..MAC {
            let mut data = data.clone();
            data.mac[byte] ^= 1;
            assert_eq!(reason(&data), DecryptError::Mac);
        }
    }

    #[test]
    fn the_owner_learns_why_and_nobody_else() {
        let mut weak = encrypt(b"{}");
        weak.ephemeral = [0; 32];
        assert_eq!(reason(&weak), DecryptError::Ephemeral);
        let mut other = encrypt(b"{}");
        other.ephemeral = key().public_key().as_bytes().to_owned();
        assert_eq!(reason(&other), DecryptError::Mac);
        let mut damaged = encrypt(&[b'a'; 15]);
        damaged.ciphertext.extend([0; 16]);
        assert_eq!(reason(&damaged), DecryptError::Padding);

        let said = [weak, other, damaged].map(|data| {
            let error = key().decrypt(&data).unwrap_err();
            format!("{error} {error:?}")
        });
        assert!(said.iter().all(|text| *text == said[0]), "{said:?}");
    }

    #[test]
    fn nothing_is_encrypted_to_a_key_of_low_order() {
        for weak in [[0; 32], std::array::from_fn(|i| u8::from(i == 0))] {
            assert!(Encryptor::new(&PublicKey::from_bytes(weak)).is_err());
        }
    }

    /// Security review: "flip every byte of ephemeral, ciphertext, mac in turn".
    #[test]
    fn every_changed_byte_is_an_error_or_another_text() {
        let text = [b'a'; 100];
        let data = encrypt(&text);
        for position in 0..32 {
            for bit in 0..8 {
                let mut data = data.clone();
                data.ephemeral[position] ^= 1 << bit;
                // The top bit of a point does not count (RFC 7748, section 5).
                if (position, bit) == (31, 7) {
                    assert_eq!(key().decrypt(&data).unwrap().as_bytes(), text);
                } else {
                    assert_eq!(reason(&data), DecryptError::Mac);
                }
            }
        }
        for position in 0..data.ciphertext.len() {
            let mut data = data.clone();
            data.ciphertext[position] ^= 1;
            match key().decrypt(&data) {
                Ok(plaintext) => assert_ne!(plaintext.as_bytes(), text),
                Err(error) => assert_eq!(key().explain(error), DecryptError::Padding),
            }
        }
    }

    #[test]
    fn padding_is_exact() {
        let block = |fill: &[u8]| -> [u8; 16] {
            std::array::from_fn(|i| (i + fill.len()).checked_sub(16).map_or(0, |at| fill[at]))
        };
        let is_padded = |text: &[u8]| bool::from(padding(text).0);
        for length in 1..=16 {
            assert!(is_padded(&block(&vec![length; usize::from(length)])));
            if length > 1 {
                let mut short = vec![length; usize::from(length)];
                short[0] ^= 1;
                assert!(!is_padded(&block(&short)), "{length}");
            }
        }
        for last in (17..=255).chain([0]) {
            assert!(!is_padded(&[last; 32]), "{last}");
        }
        assert!(!is_padded(&[]));
    }

    proptest! {
        #[test]
        fn what_is_encrypted_is_decrypted(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let data = encrypt(&text);
            let data = SessionData::parse(&data.to_json()).unwrap();
            let plaintext = key().decrypt(&data).unwrap();
            prop_assert_eq!(plaintext.as_bytes(), &text);
        }

        #[test]
        fn any_session_data_opens_or_does_not(
            ephemeral in any::<[u8; 32]>(), mac in any::<[u8; 8]>(),
            blocks in prop::collection::vec(any::<[u8; 16]>(), 1..4),
        ) {
            let mut data = encrypt(b"");
            (data.ephemeral, data.mac, data.ciphertext) = (ephemeral, mac, blocks.concat());
            prop_assert!(key().decrypt(&data).is_err());
        }
    }
}
