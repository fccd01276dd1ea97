//! The key of a megolm session, and how it is advanced (olm's `docs/megolm.md`).
//!
//! A key reads every message from its index on, and none before it. So of two keys of one session the
//! earlier is the better one, and, advanced to the index of the later, must be equal to it.

use std::{cmp::Ordering, fmt};

use ed25519_dalek::{Signature, VerifyingKey};
use hmac::Mac as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    base64::{self, Base64Error},
    hash,
};

/// Version, index, ratchet and public key.
const EXPORT_BYTES: usize = 1 + 4 + RATCHET_BYTES + 32;
const SIGNATURE_BYTES: usize = 64;
const PART_BYTES: usize = 32;
const PARTS: usize = 4;
const RATCHET_BYTES: usize = PARTS * PART_BYTES;

/// The first byte in session-export format, which backups and key files have.
const EXPORT: u8 = 1;
/// The first byte in session-sharing format, which is signed.
const SHARING: u8 = 2;

/// Opens every message of one session from [`first_known_index`](Self::first_known_index) on.
///
/// Wiped when it is dropped, printed as `SessionKey(..)`. Equal keys have one index and one ratchet;
/// [`compare`](Self::compare) relates those of different indices.
#[derive(Clone)]
pub struct SessionKey {
    index: u32,
    ratchet: Box<Zeroizing<[u8; RATCHET_BYTES]>>,
    ed25519: [u8; 32],
}

/// Which of the two formats a session key was in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionKeyFormat {
    /// Session-export format: 165 bytes, without a signature.
    Export,
    /// Session-sharing format: 229 bytes, signed with the session's own key.
    Sharing,
}

/// Why a text is not a session key. Never quotes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SessionKeyError {
    /// Not base64.
    #[error("session_key is not base64")]
    NotBase64,
    /// The first byte names neither format.
    #[error("session_key has the unknown version {version}")]
    Version {
        /// The first byte.
        version: u8,
    },
    /// Cut off, or too long, or empty.
    #[error("session_key has {bytes} bytes, which its version does not")]
    Length {
        /// Bytes of it.
        bytes: usize,
    },
    /// Its Ed25519 key is no point on the curve, so no message was ever signed with it.
    #[error("session_key has an impossible public key")]
    PublicKey,
    /// In session-sharing format, and not signed by its own key: damaged, or forged.
    #[error("session_key has a wrong signature")]
    Signature,
}

/// Why two keys do not belong together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Disagreement {
    /// Their Ed25519 keys differ: two sessions.
    #[error("the keys are of different sessions")]
    OtherSession,
    /// One session, and the earlier ratchet does not lead to the later: one of them is damaged or
    /// forged, and nothing here tells which.
    #[error("the keys of one session contradict each other")]
    OtherRatchet,
}

impl SessionKey {
    /// Reads base64 of either format. The signature is checked where the format has one.
    ///
    /// # Errors
    ///
    /// See [`SessionKeyError`].
    pub fn from_base64(text: &str) -> Result<(Self, SessionKeyFormat), SessionKeyError> {
        let bytes = base64::decode(text).map(Zeroizing::new);
        let bytes = bytes.map_err(|error| match error {
            Base64Error::NotBase64 | Base64Error::Length { .. } => SessionKeyError::NotBase64,
        })?;
        let wrong_length = SessionKeyError::Length { bytes: bytes.len() };
        let (format, signature_bytes) = match bytes.first() {
            Some(&EXPORT) => (SessionKeyFormat::Export, 0),
            Some(&SHARING) => (SessionKeyFormat::Sharing, SIGNATURE_BYTES),
            Some(&version) => return Err(SessionKeyError::Version { version }),
            None => return Err(wrong_length),
        };
        if bytes.len() != EXPORT_BYTES + signature_bytes {
            return Err(wrong_length);
        }
        let (signed, signature) = bytes.split_at(EXPORT_BYTES);
        let mut fields = Fields(signed.get(1..).unwrap_or_default());
        let index = u32::from_be_bytes(fields.next().ok_or(wrong_length)?);
        let ratchet = Box::new(Zeroizing::new(fields.next().ok_or(wrong_length)?));
        let ed25519 = fields.next().ok_or(wrong_length)?;

        let key = VerifyingKey::from_bytes(&ed25519).map_err(|_| SessionKeyError::PublicKey)?;
        match format {
            SessionKeyFormat::Export => {}
            SessionKeyFormat::Sharing => Signature::from_slice(signature)
                .and_then(|signature| key.verify_strict(signed, &signature))
                .map_err(|_| SessionKeyError::Signature)?,
        }
        Ok((Self { index, ratchet, ed25519 }, format))
    }

    /// The key in session-export format, in unpadded base64, as backups and key files have it.
    pub fn to_base64(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(EXPORT_BYTES));
        bytes.push(EXPORT);
        bytes.extend_from_slice(&self.index.to_be_bytes());
        bytes.extend_from_slice(self.ratchet.as_slice());
        bytes.extend_from_slice(&self.ed25519);
        base64::encode_secret(&bytes)
    }

    /// The index of the first message that this key opens.
    pub const fn first_known_index(&self) -> u32 {
        self.index
    }

    /// The id of the session: its Ed25519 key in unpadded base64.
    pub fn session_id(&self) -> String {
        base64::encode(&self.ed25519)
    }

    pub(crate) const fn ed25519(&self) -> &[u8; 32] {
        &self.ed25519
    }

    /// The key from a later message on; `None` before its own index, where it cannot reach. Takes at
    /// most some thousand hashes, whatever the distance.
    pub fn at(&self, index: u32) -> Option<Self> {
        (index >= self.index).then(|| {
            let mut key = self.clone();
            advance(&mut key.ratchet, self.index, index);
            key.index = index;
            key
        })
    }

    /// Whether `self` reaches further back ([`Ordering::Less`]) than `other`, or as far, or less far.
    ///
    /// # Errors
    ///
    /// They do not belong together; see [`Disagreement`].
    pub fn compare(&self, other: &Self) -> Result<Ordering, Disagreement> {
        if self.ed25519 != other.ed25519 {
            return Err(Disagreement::OtherSession);
        }
        let order = self.index.cmp(&other.index);
        let (earlier, later) = if order.is_le() { (self, other) } else { (other, self) };
        let mut ratchet = earlier.ratchet.clone();
        advance(&mut ratchet, earlier.index, later.index);
        if bool::from(ratchet.ct_eq(later.ratchet.as_slice())) {
            Ok(order)
        } else {
            Err(Disagreement::OtherRatchet)
        }
    }
}

/// Takes arrays off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

/// Moves a ratchet from one index to one that is not before it ("Advancing the ratchet").
///
/// Part `j` changes every 2^(24 - 8j) messages, and then sets all parts behind it anew. So from the
/// first part on, each is hashed only as often as its own byte of the index has changed.
fn advance(ratchet: &mut [u8; RATCHET_BYTES], mut from: u32, to: u32) {
    let (parts, _) = ratchet.as_chunks_mut::<PART_BYTES>();
    for part in 0..PARTS {
        let shift = 8 * (PARTS - 1 - part);
        let steps = (to >> shift) - (from >> shift);
        for step in 1..=steps {
            // Only the last step is seen by the parts behind this one.
            let last_target = if step == steps { PARTS - 1 } else { part };
            let source = Zeroizing::new(parts.get(part).copied().unwrap_or_default());
            for (target, seed) in parts.iter_mut().zip(0u8..).take(last_target + 1).skip(part) {
                let next = hash::hmac(&source).chain_update([seed]).finalize();
                target.copy_from_slice(&next.into_bytes());
            }
        }
        if steps > 0 {
            from = to >> shift << shift;
        }
    }
}

impl PartialEq for SessionKey {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
            && self.ed25519 == other.ed25519
            && bool::from(self.ratchet.ct_eq(other.ratchet.as_slice()))
    }
}

impl Eq for SessionKey {}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;

    use super::*;

    fn key(index: u32, ratchet: u8) -> SessionKey {
        let ed25519 = SigningKey::from_bytes(&[5; 32]).verifying_key().to_bytes();
        SessionKey { index, ratchet: Box::new(Zeroizing::new([ratchet; 128])), ed25519 }
    }

    fn bytes(key: &SessionKey, version: u8) -> Vec<u8> {
        let mut bytes = base64::decode(&key.to_base64()).unwrap();
        bytes[0] = version;
        bytes
    }

    fn signed(key: &SessionKey) -> Vec<u8> {
        let mut bytes = bytes(key, SHARING);
        bytes.extend(SigningKey::from_bytes(&[5; 32]).sign(&bytes).to_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<(SessionKey, SessionKeyFormat), SessionKeyError> {
        SessionKey::from_base64(&base64::encode(bytes))
    }

    /// One message further, as `docs/megolm.md` says it, and no faster.
    fn advance_by_one(ratchet: &mut [u8; 128], index: u32) {
        let index = index + 1;
        let first = (0..4).find(|part| index.is_multiple_of(1 << (8 * (3 - part)))).unwrap();
        let source: [u8; 32] = ratchet[32 * first..][..32].try_into().unwrap();
        for part in first..4 {
            let next = hash::hmac(&source).chain_update([part as u8]).finalize().into_bytes();
            ratchet[32 * part..][..32].copy_from_slice(&next);
        }
    }

    /// Indices on either side of where a part of the ratchet turns.
    fn index() -> impl Strategy<Value = u32> {
        let turn = prop_oneof![Just(1u32 << 8), Just(1 << 16), Just(1 << 24), Just(3 << 16)];
        (turn, -300i64..300).prop_map(|(turn, offset)| (i64::from(turn) + offset).max(0) as u32)
    }

    proptest! {
        #[test]
        fn advancing_at_once_is_advancing_one_by_one(from in index(), steps in 0u32..700) {
            let start = key(from, 3);
            let mut ratchet = **start.ratchet;
            (from..from + steps).for_each(|index| advance_by_one(&mut ratchet, index));
            prop_assert_eq!(&**start.at(from + steps).unwrap().ratchet, &ratchet);
        }

        #[test]
        fn a_stop_on_the_way_changes_nothing(mut stops in any::<[u32; 3]>()) {
            stops.sort_unstable();
            let [from, between, to] = stops;
            let start = key(from, 3);
            let direct = start.at(to).unwrap();
            prop_assert_eq!(start.at(between).unwrap().at(to).unwrap(), direct.clone());
            prop_assert_eq!(start.compare(&direct), Ok(from.cmp(&to)));
            prop_assert_eq!(direct.compare(&start), Ok(to.cmp(&from)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..240)) {
            let _ = parse(&bytes);
            if let Some(version) = bytes.first_mut() {
                *version = 1 + *version % 2;
                let _ = parse(&bytes);
            }
        }
    }

    #[test]
    fn no_key_reaches_back() {
        assert_eq!(key(5, 3).at(4), None);
        assert_eq!(key(5, 3).at(5), Some(key(5, 3)));
        assert!(key(0, 3).at(u32::MAX).is_some());
    }

    #[test]
    fn keys_that_do_not_belong_together_are_told_apart() {
        let mut other = key(7, 3);
        other.ed25519 = SigningKey::from_bytes(&[6; 32]).verifying_key().to_bytes();
        assert_eq!(key(7, 3).compare(&other), Err(Disagreement::OtherSession));
        for later in [7, 8, 1 << 20] {
            assert_eq!(key(7, 3).compare(&key(later, 4)), Err(Disagreement::OtherRatchet));
            assert_eq!(key(later, 4).compare(&key(7, 3)), Err(Disagreement::OtherRatchet));
        }
        assert_eq!(key(7, 3).compare(&key(7, 3)), Ok(Ordering::Equal));
    }

    #[test]
    fn both_formats_are_read_and_the_export_is_written() {
        let key = key(0x0102_0304, 3);
        assert_eq!(parse(&bytes(&key, EXPORT)), Ok((key.clone(), SessionKeyFormat::Export)));
        assert_eq!(parse(&signed(&key)), Ok((key.clone(), SessionKeyFormat::Sharing)));
        assert_eq!(bytes(&key, EXPORT)[..6], [1, 1, 2, 3, 4, 3]);
    }

    #[test]
    fn each_thing_that_is_wrong_with_a_session_key_is_named() {
        let (export, sharing) = (bytes(&key(0, 3), EXPORT), signed(&key(0, 3)));
        for version in [0, 3, 0xff] {
            assert_eq!(
                parse(&bytes(&key(0, 3), version)),
                Err(SessionKeyError::Version { version })
            );
        }
        for length in 0..EXPORT_BYTES {
            let error = SessionKeyError::Length { bytes: length };
            assert_eq!(parse(&export[..length]), Err(error));
        }
        for length in (1..sharing.len()).chain([sharing.len() + 1]) {
            let mut bytes = sharing.clone();
            bytes.resize(length, 0);
            assert_eq!(parse(&bytes), Err(SessionKeyError::Length { bytes: length }));
        }
        // Every byte of the signed format counts, and none of the export's ratchet can be checked.
        for position in 1..sharing.len() {
            let mut bytes = sharing.clone();
            bytes[position] ^= 1;
            let error = parse(&bytes).unwrap_err();
            let expected = [SessionKeyError::Signature, SessionKeyError::PublicKey];
            assert!(expected.contains(&error), "{position}: {error:?}");
        }
        let mut no_point = export.clone();
        no_point[EXPORT_BYTES - 32..].fill(2);
        assert_eq!(parse(&no_point), Err(SessionKeyError::PublicKey));
        assert_eq!(SessionKey::from_base64("?"), Err(SessionKeyError::NotBase64));
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", key(0, 3)), "SessionKey(..)");
    }
}
