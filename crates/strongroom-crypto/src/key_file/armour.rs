//! The armour: base64 between two lines, with line breaks anywhere.

use std::io::{self, Read, Write};

use base64ct::{Base64Unpadded, Encoding as _};

use super::KeyFileError;

const FIRST_LINE: &[u8] = b"-----BEGIN MEGOLM SESSION DATA-----";
const LAST_LINE: &[u8] = b"-----END MEGOLM SESSION DATA-----";

/// White space before the first line, and no more: what is no key file should be known soon.
const BLANK_BYTES_MAX: usize = 1024;

/// Letters that are decoded at a time; a multiple of four.
const LETTERS: usize = 4096;

/// Letters in a line that we write: 96 bytes, as Element has it.
const LINE_LETTERS: usize = 128;

/// Takes the armour off what it reads.
pub(super) struct Reader<R> {
    inner: R,
    bytes_max: u64,
    bytes_read: u64,
    raw: Box<[u8; 8192]>,
    raw_at: usize,
    raw_end: usize,
    decoded: Vec<u8>,
    decoded_at: usize,
    is_at_end: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the first line.
    pub(super) fn new(inner: R, bytes_max: u64) -> Result<Self, KeyFileError> {
        let mut reader = Self {
            inner,
            bytes_max,
            bytes_read: 0,
            raw: Box::new([0; 8192]),
            raw_at: 0,
            raw_end: 0,
            decoded: Vec::with_capacity(LETTERS / 4 * 3),
            decoded_at: 0,
            is_at_end: false,
        };
        let mut blank = 0;
        let first = loop {
            match reader.byte()? {
                Some(byte) if byte.is_ascii_whitespace() && blank < BLANK_BYTES_MAX => blank += 1,
                Some(byte) => break byte,
                None => return Err(KeyFileError::NotAKeyFile),
            }
        };
        if Some(&first) != FIRST_LINE.first() || !reader.goes_on_with(FIRST_LINE)? {
            return Err(KeyFileError::NotAKeyFile);
        }
        Ok(reader)
    }

    /// Gives back what it reads from.
    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// Fills the buffer from what is inside the armour, as far as that goes.
    pub(super) fn fill(&mut self, mut buffer: &mut [u8]) -> Result<usize, KeyFileError> {
        let wanted = buffer.len();
        while !buffer.is_empty() {
            let ready = self.decoded.get(self.decoded_at..).unwrap_or_default();
            if ready.is_empty() {
                if self.is_at_end {
                    break;
                }
                self.decode()?;
                continue;
            }
            let count = ready.len().min(buffer.len());
            let (target, rest) = std::mem::take(&mut buffer).split_at_mut(count);
            target.copy_from_slice(ready.get(..count).unwrap_or_default());
            buffer = rest;
            self.decoded_at += count;
        }
        Ok(wanted - buffer.len())
    }

    /// Decodes the next letters.
    fn decode(&mut self) -> Result<(), KeyFileError> {
        let mut letters = [0; LETTERS];
        let mut count = 0;
        let mut padding = 0;
        for place in &mut letters {
            let letter = loop {
                match self.byte()? {
                    None => return Err(KeyFileError::CutOff),
                    Some(b'-') => {
                        self.is_at_end = true;
                        break None;
                    }
                    Some(b'=') if padding < 2 => padding += 1,
                    Some(byte) if byte.is_ascii_whitespace() => {}
                    Some(_) if padding > 0 => return Err(KeyFileError::NotBase64),
                    Some(letter) => break Some(letter),
                }
            };
            let Some(letter) = letter else { break };
            *place = letter;
            count += 1;
        }
        if self.is_at_end && !self.goes_on_with(LAST_LINE)? {
            return Err(KeyFileError::NotBase64);
        }
        let letters = letters.get(..count).unwrap_or_default();
        self.decoded.resize(count / 4 * 3 + (count % 4).saturating_sub(1), 0);
        self.decoded_at = 0;
        let decoded = Base64Unpadded::decode(letters, &mut self.decoded);
        decoded.map(drop).map_err(|_| KeyFileError::NotBase64)
    }

    /// Whether, after its first byte, the rest of a line follows.
    fn goes_on_with(&mut self, line: &[u8]) -> Result<bool, KeyFileError> {
        for expected in line.iter().skip(1) {
            if self.byte()?.ok_or(KeyFileError::CutOff)? != *expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn byte(&mut self) -> Result<Option<u8>, KeyFileError> {
        if self.raw_at == self.raw_end {
            self.raw_end = loop {
                match self.inner.read(self.raw.as_mut_slice()) {
                    Ok(count) => break count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(KeyFileError::Io(error)),
                }
            };
            self.raw_at = 0;
            self.bytes_read = self.bytes_read.saturating_add(self.raw_end as u64);
            if self.bytes_read > self.bytes_max {
                return Err(KeyFileError::TooLarge { bytes_max: self.bytes_max });
            }
        }
        let byte = self.raw.get(..self.raw_end).and_then(|raw| raw.get(self.raw_at)).copied();
        self.raw_at += usize::from(byte.is_some());
        Ok(byte)
    }
}

/// Puts armour around what is written.
pub(super) struct Writer<W> {
    inner: W,
    /// Bytes that do not fill a line yet.
    line: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(mut inner: W) -> io::Result<Self> {
        inner.write_all(FIRST_LINE)?;
        inner.write_all(b"\n")?;
        Ok(Self { inner, line: Vec::new() })
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        const LINE_BYTES: usize = LINE_LETTERS / 4 * 3;
        while self.line.len() + bytes.len() >= LINE_BYTES {
            let (head, rest) = bytes.split_at(LINE_BYTES - self.line.len());
            self.line.extend_from_slice(head);
            bytes = rest;
            self.write_line()?;
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes the last line, and gives back what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.line.is_empty() {
            self.write_line()?;
        }
        self.inner.write_all(LAST_LINE)?;
        self.inner.write_all(b"\n")?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn write_line(&mut self) -> io::Result<()> {
        let text = Base64Unpadded::encode_string(&self.line);
        self.line.clear();
        self.inner.write_all(text.as_bytes())?;
        self.inner.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn armoured(bytes: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        bytes.chunks(7).for_each(|piece| writer.write(piece).unwrap());
        writer.finish().unwrap()
    }

    fn read(file: &[u8], bytes_max: u64) -> Result<Vec<u8>, String> {
        let read = |file| {
            let mut reader = Reader::new(file, bytes_max)?;
            let mut bytes = vec![0; 20_000];
            let count = reader.fill(&mut bytes)?;
            bytes.truncate(count);
            Ok(bytes)
        };
        read(file).map_err(|error: KeyFileError| error.to_string())
    }

    fn with(inside: &str) -> String {
        let line = |bytes| std::str::from_utf8(bytes).unwrap();
        format!("{}\n{inside}\n{}\n", line(FIRST_LINE), line(LAST_LINE))
    }

    #[test]
    fn white_space_and_padding_are_read_over() {
        for inside in ["Zm9vYg", "Zm9vYg==", "Zm\r\n9v\r\nYg\r\n==", "Z\nm\n9\nv\n Y\tg =\n="] {
            assert_eq!(read(with(inside).as_bytes(), 999).unwrap(), b"foob", "{inside:?}");
        }
        let before = format!("\r\n \n{}after it, anything", with("Zm9v"));
        assert_eq!(read(before.as_bytes(), 999).unwrap(), b"foo");
        let unbroken = with("Zm9v").replace('\n', "");
        assert_eq!(read(unbroken.as_bytes(), 999).unwrap(), b"foo");
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let (not_one, cut, damaged) =
            ("this is no key file", "the key file is cut off", "the key file is damaged");
        for (file, expected) in [
            (String::new(), not_one),
            ("{}".to_owned(), not_one),
            (with("").replace("BEGIN", "BEGUN"), not_one),
            (" ".repeat(BLANK_BYTES_MAX + 1) + &with(""), not_one),
            (with("Zm9v").replace("-----END", ""), damaged),
            (with("Zm9v").replace("END", "FIN"), damaged),
            (with("Zm9v").replace("v\n", "v-\n"), damaged),
            (with("Zm9v").trim_end_matches("-\n").to_owned(), cut),
            (with("")[..20].to_owned(), cut),
            (with("Zm9v")[..45].to_owned(), cut),
            (with("Zm9vY"), damaged),
            (with("Zm9v=Zm9v"), damaged),
            (with("Zg==="), damaged),
            (with("Zm9?"), damaged),
            (with("Zm9\u{e9}"), damaged),
        ] {
            assert_eq!(read(file.as_bytes(), 2000).unwrap_err(), expected, "{file}");
        }
    }

    #[test]
    fn no_more_is_read_than_allowed() {
        let file = armoured(&[7; 10_000]);
        assert!(read(&file, file.len() as u64).is_ok());
        let bytes_max = file.len() as u64 - 1;
        let expected = format!("the key file is larger than {bytes_max} bytes");
        assert_eq!(read(&file, bytes_max).unwrap_err(), expected);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let file = armoured(&bytes);
            prop_assert!(file.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE_LETTERS));
            prop_assert_eq!(read(&file, u64::MAX).unwrap(), bytes);
        }
    }
}
