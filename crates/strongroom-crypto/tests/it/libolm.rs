//! Beside libolm, which wrote most of the backups there are.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};
use strongroom_crypto::{DecryptionKey, Encryptor, PublicKey, SessionData, SessionKey};

use crate::{CASES, rng, texts};

/// libolm, in a Python of its own.
struct Libolm {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Libolm {
    fn start() -> Self {
        let python = env::var_os("STRONGROOM_TEST_OLM_PYTHON")
            .expect("STRONGROOM_TEST_OLM_PYTHON is not set: run the tests with `cargo xtask test`");
        let mut command = Command::new(python);
        command.args(["-c", include_str!("libolm.py")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, stdin, stdout: BufReader::new(stdout) }
    }

    fn ask(&mut self, question: &Value) -> Result<Value, String> {
        writeln!(self.stdin, "{question}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line).expect("an answer by libolm");
        match answer.get("error") {
            Some(error) => Err(error.as_str().unwrap().to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }

    fn decrypt(&mut self, secret: &str, parts: &[String; 3]) -> Result<String, String> {
        let [ciphertext, mac, ephemeral] = parts;
        let text = self.ask(&json!(["decrypt", secret, ciphertext, mac, ephemeral]))?;
        Ok(text.as_str().unwrap().to_owned())
    }
}

impl Drop for Libolm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn key() -> (DecryptionKey, String) {
    let secret: [u8; 32] = std::array::from_fn(|i| i as u8 * 7);
    let hex = secret.map(|byte| format!("{byte:02x}")).concat();
    (DecryptionKey::from_bytes(&secret), hex)
}

fn session_data([ciphertext, mac, ephemeral]: &[String; 3]) -> Option<SessionData> {
    let json = json!({"ciphertext": ciphertext, "mac": mac, "ephemeral": ephemeral});
    SessionData::parse(&json.to_string()).ok()
}

fn parts(data: &SessionData) -> [String; 3] {
    let json: Value = serde_json::from_str(&data.to_json()).unwrap();
    ["ciphertext", "mac", "ephemeral"].map(|name| json[name].as_str().unwrap().to_owned())
}

fn ours(key: &DecryptionKey, parts: &[String; 3]) -> Option<String> {
    let plaintext = key.decrypt(&session_data(parts)?).ok()?;
    Some(String::from_utf8_lossy(plaintext.as_bytes()).into_owned())
}

#[test]
fn what_we_encrypt_they_decrypt_and_the_other_way_round() {
    let (mut libolm, (key, secret)) = (Libolm::start(), key());
    let public = libolm.ask(&json!(["public_key", secret])).unwrap();
    assert_eq!(public, key.public_key().to_string());
    let encryptor = Encryptor::new(&key.public_key()).unwrap();
    for text in texts(CASES) {
        let by_us = parts(&encryptor.encrypt(text.as_bytes(), &mut rng()));
        assert_eq!(libolm.decrypt(&secret, &by_us).as_ref(), Ok(&text));

        let by_them = libolm.ask(&json!(["encrypt", public, text])).unwrap();
        let by_them = serde_json::from_value(by_them).unwrap();
        assert_eq!(ours(&key, &by_them).as_ref(), Some(&text));
    }
}

#[test]
fn every_changed_byte_has_the_same_verdict_but_for_the_padding() {
    let (mut libolm, (key, secret)) = (Libolm::start(), key());
    let encryptor = Encryptor::new(&key.public_key()).unwrap();
    let good = parts(&encryptor.encrypt(&[b'a'; 77], &mut rng()));
    for part in 0..3 {
        let bytes = vodozemac::base64_decode(&good[part]).unwrap();
        for position in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut bytes = bytes.clone();
                bytes[position] ^= 1 << bit;
                let mut changed = good.clone();
                changed[part] = vodozemac::base64_encode(bytes);
                let their = libolm.decrypt(&secret, &changed);
                // 77 bytes end with three bytes of padding, which all from here on change. libolm
                // looks at the last one alone, and takes a length beyond 16 as well.
                let our = ours(&key, &changed);
                if part == 0 && position >= 61 && our.is_none() {
                    continue;
                }
                assert_eq!(our, their.ok(), "{part}, {position}, {bit}");
            }
        }
    }
}

#[test]
fn a_session_key_is_exported_as_theirs() {
    let mut libolm = Libolm::start();
    let shared = libolm.ask(&json!(["share", null])).unwrap();
    let (id, shared) = (shared[0].as_str().unwrap(), shared[1].as_str().unwrap());
    let (key, _) = SessionKey::from_base64(shared).unwrap();
    assert_eq!(key.session_id(), id);
    let export = key.to_base64();
    // What is 2^31 further on, libolm takes for what lies behind; vodozemac and we do not.
    let last = (1u32 << 31) - 1;
    let turns = [0, 1, 255, 256, 257, 65_535, 65_536, (1 << 24) - 1, 1 << 24, last];
    let anywhere = (0..CASES as u32).map(|n| n.wrapping_mul(0x9e37_79b9) & last);
    for index in turns.into_iter().chain(anywhere) {
        let theirs = libolm.ask(&json!(["export", *export, index])).unwrap();
        let ours = key.at(index).unwrap();
        assert_eq!(theirs.as_str(), Some(ours.to_base64().as_str()), "{index}");
        assert_eq!(libolm.ask(&json!(["session_id", *ours.to_base64()])).unwrap(), id);
    }
    assert!(libolm.ask(&json!(["export", *export, last + 1])).is_err());
    assert!(key.at(last + 1).is_some());
}

#[test]
fn a_key_that_protects_nothing_is_refused_although_they_take_it() {
    let mut libolm = Libolm::start();
    let zero = PublicKey::from_bytes([0; 32]);
    assert!(Encryptor::new(&zero).is_err());
    assert!(libolm.ask(&json!(["encrypt", zero.to_string(), "text"])).is_ok());
}
