//! Key files: the armoured `MEGOLM SESSION DATA` that every client exports and imports (client-server
//! API, "Key exports").
//!
//! A file of a million sessions has more than a gigabyte, so neither reading nor writing holds more
//! than a piece of it. Its MAC stands at its end, and nothing of it may be used before that was seen
//! to be right. So a file is read twice: [`LockedKeyFile::unlock`] checks it whole, and remembers a
//! tag for each piece; then [`KeyFile`] reads it again, decrypts it, and checks each piece against its
//! tag before anything of that piece is handed out. A file that is changed between the two is noticed.

mod armour;
mod elements;
mod reader;
mod writer;

use std::{io, ops::RangeInclusive};

use aes::Aes256;
use ctr::{Ctr128BE, cipher::KeyIvInit as _};
use zeroize::Zeroizing;

use crate::{
    hash::{self, HmacSha256, part},
    limits::{KEY_FILE_BYTES_MAX, ROUNDS_READ},
    passphrase::{self, RoundsError},
};

pub use reader::{KeyFile, LockedKeyFile};
pub use writer::{CreateError, KeyFileWriter};

/// The one version of the format.
const VERSION: u8 = 1;

/// Version, salt, initialization vector and rounds.
const HEADER_BYTES: usize = 1 + 16 + 16 + 4;

/// Bytes of the MAC behind the sessions.
const MAC_BYTES: usize = 32;

/// Bytes of decrypted text that are held at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// How much work and space a key file may take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyFileLimits {
    /// Rounds of PBKDF2 that the file may ask for.
    pub rounds: RangeInclusive<u32>,
    /// Bytes of the file, its armour included.
    pub bytes_max: u64,
}

impl Default for KeyFileLimits {
    fn default() -> Self {
        Self { rounds: ROUNDS_READ, bytes_max: KEY_FILE_BYTES_MAX }
    }
}

/// Why a key file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It does not begin with `-----BEGIN MEGOLM SESSION DATA-----`.
    #[error("this is no key file")]
    NotAKeyFile,
    /// Something between its first and its last line is not base64.
    #[error("the key file is damaged")]
    NotBase64,
    /// The last line is missing, or there is less in it than the smallest key file has.
    #[error("the key file is cut off")]
    CutOff,
    /// Made by a newer format.
    #[error("the key file has the unknown version {version}")]
    Version {
        /// Its first byte.
        version: u8,
    },
    /// More bytes than allowed.
    #[error("the key file is larger than {bytes_max} bytes")]
    TooLarge {
        /// What is allowed.
        bytes_max: u64,
    },
    /// It asks for more work than allowed.
    #[error("the key file: {0}")]
    Rounds(#[from] RoundsError),
    /// Most often a wrong passphrase; nothing tells that from a file that was changed.
    #[error("the passphrase is wrong, or the key file is damaged")]
    Mac,
    /// It is not the file that was checked: somebody wrote to it since.
    #[error("the key file has changed while it was read")]
    Changed,
    /// Whoever wrote it did not put a list of sessions into it.
    #[error("the key file does not contain a list of sessions")]
    NotAList,
    /// The file itself can't be read.
    #[error("cannot read the key file")]
    Io(#[source] io::Error),
}

/// What stands before the sessions.
#[derive(Clone, Copy)]
struct Header {
    salt: [u8; 16],
    iv: [u8; 16],
    rounds: u32,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&self.salt);
        bytes[17..33].copy_from_slice(&self.iv);
        bytes[33..].copy_from_slice(&self.rounds.to_be_bytes());
        bytes
    }

    fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, KeyFileError> {
        if bytes[0] != VERSION {
            return Err(KeyFileError::Version { version: bytes[0] });
        }
        Ok(Self {
            salt: *part::<1, 16, _>(bytes),
            iv: *part::<17, 16, _>(bytes),
            rounds: u32::from_be_bytes(*part::<33, 4, _>(bytes)),
        })
    }

    /// Step 2: a key for the cipher, and one for the MAC, which the header is put into.
    fn keys(&self, passphrase: &str) -> (Ctr128BE<Aes256>, HmacSha256) {
        use hmac::Mac as _;

        let mut keys = Zeroizing::new([0u8; 64]);
        passphrase::derive(passphrase, &self.salt, self.rounds, &mut *keys);
        let cipher = Ctr128BE::new(part::<0, 32, _>(&keys).into(), (&self.iv).into());
        let mac = hash::hmac(part::<32, 32, _>(&keys));
        (cipher, mac.chain_update(self.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read, Seek, SeekFrom};

    use super::*;
    use crate::{counter::Counter, limits::ROUNDS_WRITE, session::SessionError};

    const PASSPHRASE: &str = "1234";

    /// matrix-sdk-crypto, `file_encryption/key_export.rs`.
    const EXPORT: &str = "-----BEGIN MEGOLM SESSION DATA-----
        Af7mGhlzQ+eGvHu93u0YXd3D/+vYMs3E7gQqOhuCtkvGAAAAASH7pEdWvFyAP1JUisAcpEo
        Xke2Q7Kr9hVl/SCc6jXBNeJCZcrUbUV4D/tRQIl3E9L4fOk928YI1J+3z96qiH0uE7hpsCI
        CkHKwjPU+0XTzFdIk1X8H7sZ+MD/2Sg/q3y8rtUjz7uEj4GUTnb+9SCOTVmJsRfqgUpM1CU
        bDLytHf1JkohY4tWEgpsCc67xdzgodjr12qYrfg/zNm3LGpxlrffJknw4rk5QFTj4kMbqbD
        ZZgDTni+HxRTDGge2J620lMOiznvXX+H09Rwruqx5aJvvaaKd86jWRpiO2oSFqHn4u5ONl9
        41uzm62Sj0eIm6ZbA9NQs87jQw4LxsejhZVL+NdjIg80zVSBTWhTdo0DTnbFSNP4ReOiz0U
        XosOF8A5T8Vdx2nvA0GXltfcHKVKQYh/LJAkNQ7P9UYL4ae/5TtQZkhB1KxCLTRWqADCl53
        uBMGpG53EMgY6G6K2DEIOkcv7sdXQF5WpemiSWZqJRWj+cjfs9BpCTbkp/rszWFl2TniWpR
        RqIbT2jORlN4rTvdtF0F4z1pqP4qWyR3sLNTkXm9CFRzWADNG0RDZKxbCoo6RPvtaCTfaHo
        SwfvzBS6CjfAG+FOugpV48o7+XetaUUPZ6/tZSPhCdeV8eP9q5r0QwWeXFogzoNzWt4HYx9
        MdXxzD+f0mtg5gzehrrEEARwI2bCvPpHxlt/Na9oW/GBpkjwR1LSKgg4CtpRyWngPjdEKpZ
        GYW19pdjg0qdXNk/eqZsQTsNWVo6A
        -----END MEGOLM SESSION DATA-----";

    fn open(file: &str) -> Result<KeyFile<Cursor<&str>>, KeyFileError> {
        LockedKeyFile::open(Cursor::new(file), KeyFileLimits::default())?.unlock(PASSPHRASE)
    }

    fn all(mut file: KeyFile<impl Read>) -> Result<Vec<String>, KeyFileError> {
        let mut all = Vec::new();
        while let Some(json) = file.next_json()? {
            all.push(json.map_or_else(|error| error.to_string(), str::to_owned));
        }
        Ok(all)
    }

    fn error(file: &str) -> String {
        open(file).and_then(all).unwrap_err().to_string()
    }

    fn write(sessions: &[String]) -> String {
        let allowed = 1..=1;
        let mut writer =
            KeyFileWriter::create(Vec::new(), PASSPHRASE, 1, &allowed, &mut Counter::new())
                .unwrap();
        sessions.iter().for_each(|json| writer.write_json(json).unwrap());
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    /// A file with anything in it, the MAC right.
    fn with_text(text: &[u8]) -> String {
        use ctr::cipher::StreamCipher as _;
        use hmac::Mac as _;

        let header = Header { salt: [1; 16], iv: [2; 16], rounds: 1 };
        let (mut cipher, mac) = header.keys(PASSPHRASE);
        let mut text = text.to_vec();
        cipher.apply_keystream(&mut text);
        let mac = mac.chain_update(&text).finalize().into_bytes();
        let mut armour = armour::Writer::new(Vec::new()).unwrap();
        armour.write(&[&header.to_bytes()[..], &text, &mac].concat()).unwrap();
        String::from_utf8(armour.finish().unwrap()).unwrap()
    }

    #[test]
    fn the_file_of_another_implementation_is_read() {
        let mut file = open(EXPORT).unwrap();
        let session = file.next_session().unwrap().unwrap().unwrap();
        assert!(session.room_id().as_str().starts_with('!'));
        assert!(file.next_session().unwrap().is_none());
        assert!(file.next_session().unwrap().is_none(), "and it stays at its end");

        let written = write(&[session.to_export_json().to_string()]);
        let again = open(&written).unwrap().next_session().unwrap().unwrap().unwrap();
        assert_eq!(again.to_export_json(), session.to_export_json());
    }

    #[test]
    fn files_of_every_length_around_a_piece_come_back() {
        let session = |length: usize| format!(r#"{{"a":"{}"}}"#, "a".repeat(length));
        for lengths in [vec![], vec![0], vec![3; 10], vec![60_000; 5]] {
            let sessions: Vec<_> = lengths.into_iter().map(session).collect();
            assert_eq!(all(open(&write(&sessions)).unwrap()).unwrap(), sessions);
        }
        for text_bytes in PIECE_BYTES - 2..=PIECE_BYTES + 2 {
            let sessions =
                [session(1000), session(text_bytes - 1000 - "[{'a':''},{'a':''}]".len())];
            assert_eq!(all(open(&write(&sessions)).unwrap()).unwrap(), sessions);
        }
    }

    #[test]
    fn a_changed_byte_anywhere_is_an_error_before_anything_comes_out() {
        let file = write(&[r#"{"a":1}"#.to_owned()]);
        for position in 0..file.len() {
            let mut changed = file.clone().into_bytes();
            changed[position] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            let is_white_space = file.as_bytes()[position] == b'\n';
            match open(&changed) {
                Err(_) => {}
                // A line break that became a vertical tab, say, or one behind the last line.
                Ok(file) => {
                    assert!(is_white_space, "{position}");
                    assert_eq!(all(file).unwrap(), [r#"{"a":1}"#]);
                }
            }
        }
        for length in 0..file.trim_end().len() {
            assert!(open(&file[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        assert_eq!(error(""), "this is no key file");
        let file = LockedKeyFile::open(Cursor::new(EXPORT), KeyFileLimits::default()).unwrap();
        let wrong = file.unlock("12345").unwrap_err();
        assert!(matches!(wrong, KeyFileError::Mac), "{wrong:?}");

        let version = EXPORT.replacen("Af7m", "Av7m", 1);
        assert_eq!(error(&version), "the key file has the unknown version 2");
        let short = "-----BEGIN MEGOLM SESSION DATA-----\nAf7m\n-----END MEGOLM SESSION DATA-----";
        assert_eq!(error(short), "the key file is cut off");
        let no_mac = EXPORT.split_once("Xke2").unwrap().0.to_owned();
        let no_mac = no_mac + "-----END MEGOLM SESSION DATA-----";
        assert_eq!(error(&no_mac), "the key file is cut off");
    }

    #[test]
    fn the_work_that_a_file_asks_for_is_bounded() {
        let with_rounds = |rounds| {
            let header = Header { salt: [1; 16], iv: [2; 16], rounds };
            let mut armour = armour::Writer::new(Vec::new()).unwrap();
            armour.write(&header.to_bytes()).unwrap();
            armour.write(&[0; 40]).unwrap();
            let file = Cursor::new(armour.finish().unwrap());
            LockedKeyFile::open(file, KeyFileLimits::default())
        };
        for rounds in [0, 10_000_001, u32::MAX] {
            assert!(matches!(with_rounds(rounds), Err(KeyFileError::Rounds(_))), "{rounds}");
        }
        assert_eq!(with_rounds(10_000_000).unwrap().rounds(), 10_000_000);
        assert_eq!(with_rounds(1).unwrap().rounds(), 1);

        let limits = KeyFileLimits { bytes_max: 100, ..KeyFileLimits::default() };
        let error = LockedKeyFile::open(Cursor::new(EXPORT), limits).unwrap_err();
        assert!(matches!(error, KeyFileError::TooLarge { bytes_max: 100 }), "{error:?}");

        let create = |rounds| {
            KeyFileWriter::create(Vec::new(), "p", rounds, &ROUNDS_WRITE, &mut Counter::new())
        };
        assert!(matches!(create(9_999), Err(CreateError::Rounds(_))));
    }

    #[test]
    fn what_was_not_written_as_a_list_of_sessions_is_named() {
        for text in ["", "{}", "[", "[{}", "[1]", "null"] {
            let error = error(&with_text(text.as_bytes()));
            assert_eq!(error, "the key file does not contain a list of sessions", "{text}");
        }
        let mut file = open(EXPORT).unwrap();
        let good = file.next_json().unwrap().unwrap().unwrap().to_owned();
        let text = [b"[{\"a\":\"\xff\"},{},".as_slice(), good.as_bytes(), b"]"].concat();
        let file = with_text(&text);
        let mut file = open(&file).unwrap();
        assert_eq!(file.next_session().unwrap().unwrap().unwrap_err(), SessionError::NotUtf8);
        let missing = file.next_session().unwrap().unwrap().unwrap_err();
        assert_eq!(missing.to_string(), "room_id is missing");
        assert!(file.next_session().unwrap().unwrap().is_ok(), "one bad session hides no other");
    }

    /// Becomes another file when it is read for the second time.
    struct Swapped {
        files: [Cursor<Vec<u8>>; 2],
        second: bool,
    }

    impl Read for Swapped {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.files[usize::from(self.second)].read(buffer)
        }
    }

    impl Seek for Swapped {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.second |= matches!(to, SeekFrom::Start(_));
            self.files[usize::from(self.second)].seek(to)
        }
    }

    #[test]
    fn nothing_comes_out_of_a_file_that_changed_after_it_was_checked() {
        let sessions = vec![format!(r#"{{"a":"{}"}}"#, "a".repeat(50_000)); 4];
        let first = write(&sessions);
        for position in (0..first.len()).step_by(4999) {
            let mut second = first.clone().into_bytes();
            second[position] = if second[position] == b'A' { b'B' } else { b'A' };
            let files = [first.clone().into_bytes(), second].map(Cursor::new);
            let file = Swapped { files, second: false };
            let file = LockedKeyFile::open(file, KeyFileLimits::default()).unwrap();
            let mut read = 0;
            let outcome = file.unlock(PASSPHRASE).and_then(|mut file| {
                while let Some(json) = file.next_json()? {
                    assert_eq!(json.unwrap(), sessions[read]);
                    read += 1;
                }
                Ok(())
            });
            // The MAC itself is not read again, and the last line neither.
            let is_behind = position > first.len() - 100;
            assert!(outcome.is_err() || is_behind, "{position}");
        }
    }
}
