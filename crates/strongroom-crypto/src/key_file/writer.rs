//! Writing a key file, session by session.

use std::{
    fmt,
    io::{self, Write},
    ops::RangeInclusive,
};

use aes::Aes256;
use ctr::{Ctr128BE, cipher::StreamCipher as _};
use hmac::Mac as _;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{Header, armour};
use crate::{
    hash::HmacSha256,
    passphrase::{self, RoundsError},
    secret_storage::random_iv,
    session::UnauthenticatedSession,
};

/// Why a key file was not begun.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Too few rounds to protect it, or too many to read it again.
    #[error(transparent)]
    Rounds(#[from] RoundsError),
    /// The file itself can't be written.
    #[error("cannot write the key file")]
    Io(#[source] io::Error),
}

/// A key file that is being written. It is none before [`finish`](Self::finish).
pub struct KeyFileWriter<W> {
    armour: armour::Writer<W>,
    cipher: Ctr128BE<Aes256>,
    mac: HmacSha256,
    is_empty: bool,
}

impl<W: Write> KeyFileWriter<W> {
    /// Begins a file that opens with `passphrase`. Writes in small pieces, so `file` should be
    /// buffered.
    ///
    /// # Errors
    ///
    /// The rounds (say [`ROUNDS_NEW`](crate::ROUNDS_NEW)) are not in `allowed` (say
    /// [`ROUNDS_WRITE`](crate::ROUNDS_WRITE)), or the file cannot be written.
    pub fn create<R: CryptoRng + ?Sized>(
        file: W,
        passphrase: &str,
        rounds: u32,
        allowed: &RangeInclusive<u32>,
        rng: &mut R,
    ) -> Result<Self, CreateError> {
        passphrase::check(rounds, allowed)?;
        let mut salt = [0; 16];
        rng.fill_bytes(&mut salt);
        let header = Header { salt, iv: random_iv(rng), rounds };
        let (cipher, mac) = header.keys(passphrase);

        let mut armour = armour::Writer::new(file).map_err(CreateError::Io)?;
        armour.write(&header.to_bytes()).map_err(CreateError::Io)?;
        Ok(Self { armour, cipher, mac, is_empty: true })
    }

    /// Adds a session.
    ///
    /// # Errors
    ///
    /// The file cannot be written, and what there is of it is no key file.
    pub fn write(&mut self, session: &UnauthenticatedSession) -> io::Result<()> {
        self.write_json(&session.to_export_json())
    }

    /// Adds the text of a session as it is. Whoever reads the file judges it.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn write_json(&mut self, json: &str) -> io::Result<()> {
        self.encrypt(if self.is_empty { b"[" } else { b"," })?;
        self.is_empty = false;
        self.encrypt(json.as_bytes())
    }

    /// Ends the file, flushes it, and gives it back.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn finish(mut self) -> io::Result<W> {
        self.encrypt(if self.is_empty { b"[]" } else { b"]" })?;
        let mac = self.mac.finalize().into_bytes();
        self.armour.write(&mac)?;
        self.armour.finish()
    }

    fn encrypt(&mut self, text: &[u8]) -> io::Result<()> {
        let mut bytes = Zeroizing::new(text.to_vec());
        self.cipher.apply_keystream(&mut bytes);
        self.mac.update(&bytes);
        self.armour.write(&bytes)
    }
}

impl<W> fmt::Debug for KeyFileWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFileWriter(..)")
    }
}
