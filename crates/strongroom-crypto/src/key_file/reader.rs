//! Reading a key file: once to check it, once more to use it.

use std::{
    fmt,
    io::{Read, Seek, SeekFrom},
    str,
};

use aes::Aes256;
use ctr::{Ctr128BE, cipher::StreamCipher as _};
use hmac::Mac as _;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    HEADER_BYTES, Header, KeyFileError, KeyFileLimits, MAC_BYTES, PIECE_BYTES, armour,
    elements::{Element, Splitter},
};
use crate::{
    hash::{HmacSha256, part},
    limits::SESSION_BYTES_MAX,
    session::{SessionError, UnauthenticatedSession},
};

/// Bytes of what is remembered of each piece. Nobody sees it, so nobody can aim at it.
const TAG_BYTES: usize = 16;

/// A key file whose header was read.
pub struct LockedKeyFile<R> {
    armour: armour::Reader<R>,
    start: u64,
    header: Header,
    limits: KeyFileLimits,
}

impl<R: Read + Seek> LockedKeyFile<R> {
    /// Reads the header, from where `file` stands.
    ///
    /// # Errors
    ///
    /// It is no key file, or the header asks for more than `limits` allow.
    pub fn open(mut file: R, limits: KeyFileLimits) -> Result<Self, KeyFileError> {
        let start = file.stream_position().map_err(KeyFileError::Io)?;
        let mut armour = armour::Reader::new(file, limits.bytes_max)?;
        let header = read_header(&mut armour)?;
        crate::passphrase::check(header.rounds, &limits.rounds)?;
        Ok(Self { armour, start, header, limits })
    }

    /// Rounds of PBKDF2 that unlocking will take, about a microsecond each.
    pub const fn rounds(&self) -> u32 {
        self.header.rounds
    }

    /// Reads the whole file and checks it with the passphrase.
    ///
    /// # Errors
    ///
    /// - [`KeyFileError::Mac`]: the passphrase is wrong, or the file is damaged.
    /// - The others: the file is cut off, too large, or cannot be read.
    pub fn unlock(mut self, passphrase: &str) -> Result<KeyFile<R>, KeyFileError> {
        let (cipher, mac) = self.header.keys(passphrase);
        let tags = check(&mut self.armour, mac.clone())?;

        let mut file = self.armour.into_inner();
        file.seek(SeekFrom::Start(self.start)).map_err(KeyFileError::Io)?;
        let mut armour = armour::Reader::new(file, self.limits.bytes_max)?;
        if read_header(&mut armour)?.to_bytes() != self.header.to_bytes() {
            return Err(KeyFileError::Changed);
        }
        Ok(KeyFile {
            armour,
            cipher,
            mac,
            tags: tags.into_iter(),
            piece: Zeroizing::new(Vec::with_capacity(PIECE_BYTES)),
            piece_at: 0,
            splitter: Splitter::new(),
        })
    }
}

impl<R> fmt::Debug for LockedKeyFile<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedKeyFile(..)")
    }
}

fn read_header(armour: &mut armour::Reader<impl Read>) -> Result<Header, KeyFileError> {
    let mut bytes = [0; HEADER_BYTES];
    match armour.fill(&mut bytes)? {
        HEADER_BYTES => Header::parse(&bytes),
        _ => Err(KeyFileError::CutOff),
    }
}

/// A piece of the sessions, as it was when the MAC was right.
struct Tag {
    bytes: usize,
    /// The beginning of the MAC of all up to the end of this piece.
    tag: [u8; TAG_BYTES],
}

impl Tag {
    fn new(bytes: usize, mac: &HmacSha256) -> Self {
        let mac = mac.clone().finalize().into_bytes().into();
        Self { bytes, tag: *part::<0, TAG_BYTES, MAC_BYTES>(&mac) }
    }
}

/// Goes through all sessions up to the MAC, and compares that.
fn check(
    armour: &mut armour::Reader<impl Read>,
    mut mac: HmacSha256,
) -> Result<Vec<Tag>, KeyFileError> {
    let mut tags = Vec::new();
    let mut buffer = vec![0; PIECE_BYTES + MAC_BYTES];
    // The last bytes that were read may be the MAC, so they wait at the front for what follows.
    let mut waiting = 0;
    loop {
        let count = armour.fill(buffer.get_mut(waiting..).unwrap_or_default())?;
        let is_last = waiting + count < buffer.len();
        let bytes = (waiting + count).checked_sub(MAC_BYTES).ok_or(KeyFileError::CutOff)?;
        let piece = buffer.get(..bytes).unwrap_or_default();
        mac.update(piece);
        if bytes > 0 {
            tags.push(Tag::new(bytes, &mac));
        }
        buffer.copy_within(bytes..bytes + MAC_BYTES, 0);
        waiting = MAC_BYTES;
        if is_last {
            let expected = buffer.get(..MAC_BYTES).unwrap_or_default();
            return mac.verify_slice(expected).map(|()| tags).map_err(|_| KeyFileError::Mac);
        }
    }
}

/// An unlocked key file, whose sessions are read one after the other.
///
/// That the passphrase fits proves that whoever wrote the file knew it, and nothing about the
/// sessions: they are as [unauthenticated](UnauthenticatedSession) as those of a backup.
pub struct KeyFile<R> {
    armour: armour::Reader<R>,
    cipher: Ctr128BE<Aes256>,
    mac: HmacSha256,
    tags: std::vec::IntoIter<Tag>,
    /// Decrypted, and checked.
    piece: Zeroizing<Vec<u8>>,
    piece_at: usize,
    splitter: Splitter,
}

impl<R: Read> KeyFile<R> {
    /// The next session, judged; `None` behind the last. A session that is no good does not hide
    /// those behind it.
    ///
    /// # Errors
    ///
    /// Those of the file, after which nothing more can be read from it:
    /// [`KeyFileError::Changed`], [`KeyFileError::NotAList`], [`KeyFileError::Io`].
    pub fn next_session(
        &mut self,
    ) -> Result<Option<Result<UnauthenticatedSession, SessionError>>, KeyFileError> {
        let json = self.next_json()?;
        Ok(json.map(|json| json.and_then(UnauthenticatedSession::from_export)))
    }

    /// The text of the next session, as it stands in the file, unless it is larger than any session
    /// is; `None` behind the last. It has not been judged.
    ///
    /// # Errors
    ///
    /// As for [`next_session`](Self::next_session).
    pub fn next_json(&mut self) -> Result<Option<Result<&str, SessionError>>, KeyFileError> {
        loop {
            let mut rest = self.piece.get(self.piece_at..).unwrap_or_default();
            let element = self.splitter.next(&mut rest).map_err(|_| KeyFileError::NotAList)?;
            self.piece_at = self.piece.len() - rest.len();
            match element {
                Some(Element::Text) => {
                    let text = str::from_utf8(self.splitter.text());
                    return Ok(Some(text.map_err(|_| SessionError::NotUtf8)));
                }
                Some(Element::TooLarge) => {
                    let bytes_max = SESSION_BYTES_MAX;
                    let error = strongroom_protocol::BadObject::TooLarge { bytes_max };
                    return Ok(Some(Err(error.into())));
                }
                None if self.next_piece()? => {}
                None => {
                    self.splitter.finish().map_err(|_| KeyFileError::NotAList)?;
                    return Ok(None);
                }
            }
        }
    }

    /// Reads, checks and decrypts the next piece; false behind the last.
    fn next_piece(&mut self) -> Result<bool, KeyFileError> {
        let Some(Tag { bytes, tag }) = self.tags.next() else { return Ok(false) };
        self.piece.zeroize();
        self.piece.resize(bytes, 0);
        self.piece_at = 0;
        let count = self.armour.fill(&mut self.piece)?;
        self.mac.update(&self.piece);
        if count != bytes || !bool::from(Tag::new(bytes, &self.mac).tag.ct_eq(&tag)) {
            self.piece.zeroize();
            return Err(KeyFileError::Changed);
        }
        self.cipher.apply_keystream(&mut self.piece);
        Ok(true)
    }
}

impl<R> fmt::Debug for KeyFile<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFile(..)")
    }
}
