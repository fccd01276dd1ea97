//! Encrypting and decrypting one session, beside vodozemac: `cargo bench -p strongroom-crypto`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rand_core::UnwrapErr;
use strongroom_crypto::{DecryptionKey, Encryptor, SessionData, UnauthenticatedSession};
use strongroom_protocol::{RoomId, SessionId};
use vodozemac::{
    Curve25519SecretKey,
    megolm::{GroupSession, InboundGroupSession, SessionConfig},
    pk_encryption::{Message, PkDecryption, PkEncryption},
};

/// The text of a session as matrix-sdk-crypto writes it, and its id.
fn session() -> (String, String) {
    let outbound = GroupSession::new(SessionConfig::version_1());
    let mut inbound = InboundGroupSession::from(&outbound);
    let session_key = inbound.export_at(0).expect("a new session").to_base64();
    let device_key = vodozemac::Curve25519PublicKey::from_bytes([7; 32]).to_base64();
    let text = format!(
        r#"{{"algorithm":"m.megolm.v1.aes-sha2","sender_key":"{device_key}","session_key":"{session_key}","sender_claimed_keys":{{"ed25519":"{device_key}"}},"forwarding_curve25519_key_chain":[],"m.shared_history":false}}"#
    );
    (text, outbound.session_id())
}

fn crypto(c: &mut Criterion) {
    let mut rng = UnwrapErr(getrandom::SysRng);
    let (text, session_id) = session();
    let secret = [7; 32];
    let key = DecryptionKey::from_bytes(&secret);
    let encryptor = Encryptor::new(&key.public_key()).unwrap();
    let vodozemac_key = PkDecryption::from_key(Curve25519SecretKey::from_slice(&secret));
    let vodozemac_encryption = PkEncryption::from_key(vodozemac_key.public_key());

    let mut group = c.benchmark_group("encrypt");
    group.bench_function("strongroom", |b| {
        b.iter(|| encryptor.encrypt(black_box(text.as_bytes()), &mut rng))
    });
    group.bench_function("vodozemac", |b| {
        b.iter(|| vodozemac_encryption.encrypt(black_box(text.as_bytes())).unwrap())
    });
    group.finish();

    let data = encryptor.encrypt(text.as_bytes(), &mut rng);
    let json = data.to_json();
    let parts: serde_json::Value = serde_json::from_str(&json).unwrap();
    let part = |name: &str| parts.get(name).and_then(serde_json::Value::as_str).unwrap();
    let message =
        || Message::from_base64(part("ciphertext"), part("mac"), part("ephemeral")).unwrap();
    let decoded = message();

    let mut group = c.benchmark_group("decrypt");
    group.bench_function("strongroom", |b| b.iter(|| key.decrypt(black_box(&data)).unwrap()));
    group.bench_function("vodozemac", |b| {
        b.iter(|| vodozemac_key.decrypt(black_box(&decoded)).unwrap())
    });
    group.finish();

    // From the JSON of an answer to a judged session, which vodozemac leaves to others.
    let (room_id, session_id) =
        (RoomId::parse("!r").unwrap(), SessionId::parse(&session_id).unwrap());
    let mut group = c.benchmark_group("restore");
    group.bench_function("strongroom", |b| {
        b.iter(|| {
            let data = SessionData::parse(black_box(&json)).unwrap();
            key.decrypt(&data).unwrap().judge(&room_id, &session_id).unwrap()
        });
    });
    group.bench_function("parse", |b| b.iter(|| SessionData::parse(black_box(&json)).unwrap()));
    let plaintext = key.decrypt(&data).unwrap();
    group.bench_function("judge", |b| b.iter(|| plaintext.judge(&room_id, &session_id).unwrap()));
    group.finish();
    let session = plaintext.judge(&room_id, &session_id).unwrap();
    let json = session.to_export_json();
    c.bench_function("export/read", |b| {
        b.iter(|| UnauthenticatedSession::from_export(black_box(&json)).unwrap())
    });
    c.bench_function("export/write", |b| b.iter(|| session.to_export_json()));
}

criterion_group!(benches, crypto);
criterion_main!(benches);
