//! Beside vodozemac, which most clients use today.

use std::{cmp::Ordering, sync::LazyLock};

use proptest::prelude::*;
use strongroom_crypto::{
    DecryptError, DecryptionKey, Disagreement, Encryptor, PublicKey, SessionData, SessionKey,
    SessionKeyFormat,
};
use vodozemac::{
    Curve25519SecretKey,
    megolm::{
        ExportedSessionKey, GroupSession, InboundGroupSession, SessionConfig, SessionOrdering,
    },
    pk_encryption::{Error, Message, PkDecryption, PkEncryption},
};

use crate::{CASES, rng, texts};

fn keys() -> (DecryptionKey, PkDecryption) {
    let secret = Curve25519SecretKey::new();
    (DecryptionKey::from_bytes(&secret.to_bytes()), PkDecryption::from_key(secret))
}

/// The three parts of a `session_data`, in base64, in this order: ciphertext, mac, ephemeral.
fn parts(json: &str) -> [String; 3] {
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    ["ciphertext", "mac", "ephemeral"].map(|name| json[name].as_str().unwrap().to_owned())
}

fn json([ciphertext, mac, ephemeral]: [&str; 3]) -> String {
    format!(r#"{{"ciphertext":"{ciphertext}","ephemeral":"{ephemeral}","mac":"{mac}"}}"#)
}

fn message([ciphertext, mac, ephemeral]: [&str; 3]) -> Option<Message> {
    Message::from_base64(ciphertext, mac, ephemeral).ok()
}

/// The verdicts of both, in one vocabulary.
fn verdicts(
    ours: &DecryptionKey,
    theirs: &PkDecryption,
    parts: [&str; 3],
) -> [Result<Vec<u8>, Option<DecryptError>>; 2] {
    let our_verdict = match SessionData::parse(&json(parts)) {
        Err(_) => Err(None),
        Ok(data) => match ours.decrypt(&data) {
            Ok(plaintext) => Ok(plaintext.as_bytes().to_vec()),
            Err(error) => Err(Some(ours.explain(error))),
        },
    };
    let their_verdict = match message(parts) {
        None => Err(None),
        Some(message) => theirs.decrypt(&message).map_err(|error| {
            Some(match error {
                Error::NonContributoryKey => DecryptError::Ephemeral,
                Error::Mac(_) => DecryptError::Mac,
                Error::InvalidPadding(_) => DecryptError::Padding,
            })
        }),
    };
    [our_verdict, their_verdict]
}

#[test]
fn what_we_encrypt_they_decrypt_and_the_other_way_round() {
    let (ours, theirs) = keys();
    assert_eq!(ours.public_key().as_bytes(), &theirs.public_key().to_bytes());
    let encryptor = Encryptor::new(&ours.public_key()).unwrap();
    let encryption = PkEncryption::from_key(theirs.public_key());
    for text in texts(CASES) {
        let by_us = parts(&encryptor.encrypt(text.as_bytes(), &mut rng()).to_json());
        let by_us = message(by_us.each_ref().map(String::as_str)).unwrap();
        assert_eq!(theirs.decrypt(&by_us).unwrap(), text.as_bytes());

        let by_them = encryption.encrypt(text.as_bytes()).unwrap();
        let parts = [&by_them.ciphertext[..], &by_them.mac].map(vodozemac::base64_encode);
        let ephemeral = by_them.ephemeral_key.to_base64();
        let data = SessionData::parse(&json([&parts[0], &parts[1], &ephemeral])).unwrap();
        assert_eq!(ours.decrypt(&data).unwrap().as_bytes(), text.as_bytes());
        assert_eq!(data.to_json(), json([&parts[0], &parts[1], &ephemeral]));
    }
}

#[test]
fn every_changed_byte_has_the_same_verdict() {
    let (ours, theirs) = keys();
    let encryptor = Encryptor::new(&ours.public_key()).unwrap();
    let good = parts(&encryptor.encrypt(&[b'a'; 77], &mut rng()).to_json());
    for part in 0..3 {
        let bytes = vodozemac::base64_decode(&good[part]).unwrap();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[position] ^= 1 << bit;
                let mut changed = good.clone();
                changed[part] = vodozemac::base64_encode(bytes);
                let [our, their] = verdicts(&ours, &theirs, changed.each_ref().map(String::as_str));
                assert_eq!(our, their, "part {part}, byte {position}, bit {bit}");
            }
        }
    }
}

#[test]
fn parts_of_every_length_have_the_same_verdict_but_for_these() {
    let (ours, theirs) = keys();
    let encryptor = Encryptor::new(&ours.public_key()).unwrap();
    let good = parts(&encryptor.encrypt(&[b'a'; 77], &mut rng()).to_json());
    for part in 0..3 {
        let bytes = vodozemac::base64_decode(&good[part]).unwrap();
        for length in 0..=bytes.len() + 17 {
            let mut resized = bytes.clone();
            resized.resize(length, 0);
            let mut changed = good.clone();
            changed[part] = vodozemac::base64_encode(resized);
            let [our, their] = verdicts(&ours, &theirs, changed.each_ref().map(String::as_str));
            match (part, length) {
                // A ciphertext that is cut inside a block: no encryption makes it, and we say so
                // before we try; they call it bad padding.
                (0, length) if length % 16 != 0 || length == 0 => {
                    assert_eq!((our, their), (Err(None), Err(Some(DecryptError::Padding))));
                }
                // They take any beginning of the MAC for the MAC, of one byte or of 32. The algorithm
                // stores eight.
                (1, length) if length != 8 => {
                    assert_eq!(our, Err(None));
                    assert!(their.is_ok() || length == 0 || length > 8, "{length} bytes");
                }
                _ => assert_eq!(our, their, "part {part}, {length} bytes"),
            }
        }
    }
}

/// Encrypts to the decryption key of 32 sevens.
static ENCRYPTOR: LazyLock<Encryptor> =
    LazyLock::new(|| Encryptor::new(&DecryptionKey::from_bytes(&[7; 32]).public_key()).unwrap());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Damaged base64, padding and white space included.
    #[test]
    fn damaged_text_has_the_same_verdict(
        part in 0..3usize, position in any::<prop::sample::Index>(),
        damage in "[A-Za-z0-9+/=\\-_ \u{e9}]{0,3}", removed in 0..3usize, at_end: bool,
    ) {
        let ours = DecryptionKey::from_bytes(&[7; 32]);
        let theirs = PkDecryption::from_key(Curve25519SecretKey::from_slice(&[7; 32]));
        let mut changed = parts(&ENCRYPTOR.encrypt(&[b'a'; 20], &mut rng()).to_json());
        let length = changed[part].len();
        let start = if at_end { length - removed } else { position.index(length - 2) };
        changed[part].replace_range(start..start + removed, &damage);
        let changed = changed.each_ref().map(String::as_str);
        let [our, their] = verdicts(&ours, &theirs, changed);
        // The differences of lengths are named in the test above.
        if our != Err(None) {
            prop_assert_eq!(our, their, "{:?}", changed);
        } else if let Ok(text) = their {
            let is_other_mac = vodozemac::base64_decode(changed[1]).unwrap().len() != 8;
            prop_assert!(is_other_mac, "{:?} was {:?}", changed, text);
        }
    }

    /// Any public key at all, of low order and on the twist as well.
    #[test]
    fn any_ephemeral_key_has_the_same_verdict(ephemeral in any::<[u8; 32]>(), small: bool) {
        let (ours, theirs) = keys();
        let ephemeral: [u8; 32] =
            if small { std::array::from_fn(|i| if i == 0 { ephemeral[0] & 1 } else { 0 }) } else { ephemeral };
        let block = vodozemac::base64_encode([7; 16]);
        let ephemeral = vodozemac::base64_encode(ephemeral);
        let [our, their] = verdicts(&ours, &theirs, [&block, "AAAAAAAAAAA", &ephemeral]);
        prop_assert_eq!(our, their);
    }

    #[test]
    fn a_public_key_that_protects_nothing_is_refused_by_both(public in any::<[u8; 32]>(), small: bool) {
        let public: [u8; 32] =
            if small { std::array::from_fn(|i| if i == 0 { public[0] & 1 } else { 0 }) } else { public };
        let ours = Encryptor::new(&PublicKey::from_bytes(public));
        let theirs = PkEncryption::from_key(vodozemac::Curve25519PublicKey::from_bytes(public));
        prop_assert_eq!(ours.is_err(), theirs.encrypt(b"text").is_err());
    }

    /// They export at any later index, and so do we.
    #[test]
    fn a_ratchet_advances_as_theirs(first in 0..70_000u32, index in any::<u32>(), near: bool) {
        let index = if near { first.saturating_add(index % 1000) } else { index };
        let outbound = GroupSession::new(SessionConfig::version_1());
        let mut inbound = InboundGroupSession::from(&outbound);
        let theirs = inbound.export_at(first).unwrap();
        let (ours, format) = SessionKey::from_base64(&theirs.to_base64()).unwrap();
        prop_assert_eq!(format, SessionKeyFormat::Export);
        prop_assert_eq!(ours.session_id(), outbound.session_id());
        prop_assert_eq!(ours.first_known_index(), first);
        let mut theirs = InboundGroupSession::import(&theirs, SessionConfig::version_1());
        let their_key = theirs.export_at(index).map(|key| key.to_base64());
        prop_assert_eq!(ours.at(index).map(|key| key.to_base64().to_string()), their_key);
    }

    #[test]
    fn two_keys_compare_as_theirs_do(first in 0..600u32, second in 0..600u32, same: bool) {
        let outbound = GroupSession::new(SessionConfig::version_1());
        let export = |index| InboundGroupSession::from(&outbound).export_at(index).unwrap();
        let a = export(first);
        let mut b = export(second).to_bytes();
        if !same {
            b[20] ^= 1; // in the first part of the ratchet
        }
        let b = ExportedSessionKey::from_bytes(&b).unwrap();
        let ours = |key: &ExportedSessionKey| SessionKey::from_base64(&key.to_base64()).unwrap().0;
        let theirs = |key| InboundGroupSession::import(key, SessionConfig::version_1());
        let expected = match theirs(&a).compare(&mut theirs(&b)) {
            SessionOrdering::Equal => Ok(Ordering::Equal),
            // "Better" is earlier.
            SessionOrdering::Better => Ok(Ordering::Less),
            SessionOrdering::Worse => Ok(Ordering::Greater),
            SessionOrdering::Unconnected => Err(Disagreement::OtherRatchet),
        };
        prop_assert_eq!(ours(&a).compare(&ours(&b)), expected);
    }

    /// Any bytes behind a right first one.
    #[test]
    fn a_damaged_session_key_has_the_same_verdict(
        position in 0..165usize, value: u8, length in 150..170usize,
    ) {
        let mut inbound = InboundGroupSession::from(&GroupSession::new(SessionConfig::version_1()));
        let mut bytes = inbound.export_at(0).unwrap().to_bytes();
        bytes[position] = value;
        bytes.resize(length, 0);
        // In session-sharing format they read other functions, below.
        if bytes[0] != 2 {
            let ours = SessionKey::from_base64(&vodozemac::base64_encode(&bytes));
            let theirs = ExportedSessionKey::from_bytes(&bytes);
            // What stands behind a key they ignore. No client writes that, so it is damage.
            prop_assert_eq!(ours.is_ok(), theirs.is_ok() && length <= 165);
        }
    }
}

#[test]
fn both_formats_of_a_session_key_are_read_and_open_messages() {
    let mut outbound = GroupSession::new(SessionConfig::version_1());
    for text in texts(50) {
        let (key, format) = SessionKey::from_base64(&outbound.session_key().to_base64()).unwrap();
        assert_eq!(format, SessionKeyFormat::Sharing);
        let message = outbound.encrypt(&text);
        let export = ExportedSessionKey::from_base64(&key.to_base64()).unwrap();
        let mut inbound = InboundGroupSession::import(&export, SessionConfig::version_1());
        let decrypted = inbound.decrypt(&message).unwrap();
        assert_eq!(decrypted.plaintext, text.as_bytes());
        assert_eq!(decrypted.message_index, key.first_known_index());
    }
}
