//! How a key of 32 bytes is shown to a person (appendices, "Cryptographic key representation").
//!
//! `8B 01`, the key, and a byte that makes the exclusive or of all 35 zero, in base58, with a space
//! after every fourth letter. Backup decryption keys and secret storage keys look the same, so the
//! text alone does not tell which it is.

use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use zeroize::Zeroizing;

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const PREFIX: [u8; 2] = [0x8b, 0x01];

/// Letters of every key: 35 bytes that begin with `8B` never make more or fewer.
pub(crate) const LETTERS: usize = 48;

/// The letters that every key begins with, whatever follows the prefix.
pub(crate) const FIRST_LETTERS: &str = "Es";

const GROUP_LETTERS: usize = 4;

/// Prefix, key and parity.
const BYTES: usize = 35;

/// Why a text is not a key. Never contains a part of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RepresentationError {
    /// Most often 0, O, I or l, which base58 leaves out because people mistake them.
    #[error("group {group} of four has a letter that no key contains")]
    Letter {
        /// Counted from 1, as a person would.
        group: usize,
    },
    /// Fewer than 48 letters.
    #[error("{letters} letters are too few for a key, which has 48")]
    TooShort {
        /// Letters without white space.
        letters: usize,
    },
    /// More than 48 letters.
    #[error("{letters} letters are too many for a key, which has 48")]
    TooLong {
        /// Letters without white space.
        letters: usize,
    },
    /// Another kind of key, or the first group is mistyped.
    #[error("the first letters are not those of a key")]
    Prefix,
    /// Most often one mistyped letter. The parity misses one such mistake in 256: whether a key opens
    /// a backup, its public half tells.
    #[error("the letters do not match each other")]
    Parity,
}

/// Reads a key, wherever it has white space. Takes the same time for all keys of 48 letters.
pub(crate) fn parse(text: &str) -> Result<Box<Zeroizing<[u8; 32]>>, RepresentationError> {
    // One byte more than a key has, for what 48 letters can say beyond it.
    let mut number = Zeroizing::new([0u8; BYTES + 1]);
    let mut letters = 0;
    for letter in text.chars().filter(|letter| !letter.is_whitespace()) {
        let digit = u8::try_from(letter).ok().and_then(digit);
        let group = letters / GROUP_LETTERS + 1;
        let digit = digit.ok_or(RepresentationError::Letter { group })?;
        letters += 1;
        let mut carry = u32::from(digit);
        for byte in number.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = carry.to_le_bytes()[0];
            carry >>= 8;
        }
    }
    if letters < LETTERS {
        return Err(RepresentationError::TooShort { letters });
    } else if letters > LETTERS {
        return Err(RepresentationError::TooLong { letters });
    }
    let [0, first, second, key @ .., _parity] = &*number else {
        return Err(RepresentationError::Prefix);
    };
    if [*first, *second] != PREFIX {
        return Err(RepresentationError::Prefix);
    }
    if number.iter().fold(0, |parity, byte| parity ^ byte) != 0 {
        return Err(RepresentationError::Parity);
    }
    Ok(Box::new(Zeroizing::new(*key)))
}

/// Writes a key in groups of four letters. Takes the same time for all keys.
pub(crate) fn print(key: &[u8; 32]) -> Zeroizing<String> {
    let mut number = Zeroizing::new([0u8; BYTES]);
    let [first, second, middle @ .., parity] = &mut *number;
    [*first, *second] = PREFIX;
    *middle = *key;
    *parity = key.iter().chain(&PREFIX).fold(0, |parity, byte| parity ^ byte);

    let mut letters = Zeroizing::new([0u8; LETTERS]);
    for letter in letters.iter_mut().rev() {
        let mut rest = 0u32;
        for byte in number.iter_mut() {
            rest = rest << 8 | u32::from(*byte);
            *byte = (rest / 58).to_le_bytes()[0];
            rest %= 58;
        }
        *letter = self::letter(rest.to_le_bytes()[0]);
    }
    let mut text = String::with_capacity(LETTERS + LETTERS / GROUP_LETTERS - 1);
    for group in letters.chunks(GROUP_LETTERS) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.extend(group.iter().copied().map(char::from));
    }
    Zeroizing::new(text)
}

/// The value of a letter, found without a look-up in memory that depends on it.
fn digit(letter: u8) -> Option<u8> {
    let mut digit = u8::MAX;
    for (value, candidate) in (0..).zip(ALPHABET) {
        digit.conditional_assign(&value, candidate.ct_eq(&letter));
    }
    (digit != u8::MAX).then_some(digit)
}

/// The letter of a value below 58, found in the same manner.
fn letter(digit: u8) -> u8 {
    let mut letter = 0;
    for (value, candidate) in (0u8..).zip(ALPHABET) {
        letter.conditional_assign(candidate, value.ct_eq(&digit));
    }
    letter
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// matrix-sdk-crypto, `backups/keys/decryption.rs`; matrix-js-sdk has the same.
    const TEXT: &str = "EsTc LW2K PGiF wKEA 3As5 g5c4 BXwk qeeJ ZJV8 Q9fu gUMN UE4d";
    const KEY: [u8; 32] = [
        0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66,
        0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9,
        0x2c, 0x2a,
    ];

    fn error(text: &str) -> RepresentationError {
        parse(text).unwrap_err()
    }

    #[test]
    fn a_key_of_another_implementation_is_read_and_written() {
        assert_eq!(**parse(TEXT).unwrap(), KEY);
        assert_eq!(*print(&KEY), TEXT);
    }

    #[test]
    fn white_space_of_any_kind_and_anywhere_is_ignored() {
        let bare = TEXT.replace(' ', "");
        let odd = TEXT.replace(' ', "\u{a0}\t\r\n\u{2003}");
        for text in [bare.as_str(), &odd, &format!("\n {bare} \n"), &format!("E {}", &bare[1..])] {
            assert_eq!(**parse(text).unwrap(), KEY, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        use RepresentationError::*;
        assert_eq!(error(&TEXT.replace("UE4d", "UE4e")), Parity);
        assert_eq!(error(&TEXT.replace("UE4d", "UE4")), TooShort { letters: 47 });
        assert_eq!(error(&TEXT.replace("UE4d", "UE4dd")), TooLong { letters: 49 });
        assert_eq!(error(""), TooShort { letters: 0 });
        assert_eq!(error(&TEXT.replace("EsTc", "FsTc")), Prefix);
        assert_eq!(error(&"1".repeat(LETTERS)), Prefix);
        assert_eq!(error(&"z".repeat(LETTERS)), Prefix); // one byte more than a key has
        for letter in ['0', 'O', 'I', 'l', '-', '\u{e9}', '\u{200b}', '\u{1d7d8}'] {
            let text = TEXT.replace("BXwk", &format!("B{letter}wk"));
            assert_eq!(error(&text), Letter { group: 7 }, "{letter:?}");
        }
        assert_eq!(error("l"), Letter { group: 1 }); // a wrong letter is nearer than the length
    }

    #[test]
    fn an_error_never_contains_a_letter_of_the_key() {
        let error = format!("{0} {0:?}", error(&TEXT.replace("BXwk", "BXwl")));
        assert!(!error.contains("BXw"), "{error}");
    }

    #[test]
    fn every_key_begins_with_the_same_letters() {
        for key in [[0; 32], [0xff; 32]] {
            assert!(print(&key).starts_with(FIRST_LETTERS));
        }
    }

    /// The parity has eight bits, so it misses about one mistyped letter in 256.
    #[test]
    fn nearly_every_single_wrong_letter_is_refused() {
        let (mut tried, mut missed) = (0, 0);
        for position in (0..TEXT.len()).filter(|position| position % 5 != 4) {
            for letter in ALPHABET {
                let mut text = TEXT.to_owned().into_bytes();
                if text[position] != *letter {
                    text[position] = *letter;
                    tried += 1;
                    missed += usize::from(parse(&String::from_utf8(text).unwrap()).is_ok());
                }
            }
        }
        assert!(missed * 100 < tried, "{missed} of {tried}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(key in any::<[u8; 32]>()) {
            let text = print(&key);
            prop_assert_eq!(text.len(), 59);
            prop_assert_eq!(**parse(&text).unwrap(), key);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}|[1-9A-HJ-NP-Za-km-z ]{40,60}") {
            if let Ok(key) = parse(&text) {
                let bare: String = text.split_whitespace().collect();
                prop_assert_eq!(print(&key).replace(' ', ""), bare);
            }
        }
    }
}
