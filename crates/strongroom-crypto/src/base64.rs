//! Unpadded base64 (appendices, "Unpadded Base64"), in constant time, since most of it is keys.
//!
//! Read with or without padding, as the appendix asks. Bits that fall off the end must be zero, as
//! encoders write them and vodozemac demands; the one text we know that has others is the seed in the
//! appendix's own test vectors.

use base64ct::{Base64Unpadded, Encoding as _};
use zeroize::Zeroizing;

/// Why a text is not the base64 that was asked for. Never quotes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Base64Error {
    /// A letter that base64 lacks, an impossible length, or padding in the wrong place.
    #[error("is not base64")]
    NotBase64,
    /// Base64 of another number of bytes.
    #[error("has {found} bytes instead of {expected}")]
    Length {
        /// Bytes that it should have.
        expected: usize,
        /// Bytes that it has.
        found: usize,
    },
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    Base64Unpadded::encode_string(bytes)
}

pub(crate) fn encode_secret(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(encode(bytes))
}

pub(crate) fn decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    Base64Unpadded::decode_vec(unpadded(text)?).map_err(|_| Base64Error::NotBase64)
}

pub(crate) fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], Base64Error> {
    let text = unpadded(text)?;
    // Three bytes of every four letters, rounded down; so the buffer below is never overrun.
    let found = text.len() / 4 * 3 + (text.len() % 4).saturating_sub(1);
    let mut bytes = [0; N];
    if found == N {
        Base64Unpadded::decode(text, &mut bytes).map_err(|_| Base64Error::NotBase64)?;
        Ok(bytes)
    } else {
        // A wrong length is only worth telling of what is base64 at all.
        let _ = Zeroizing::new(decode(text)?);
        Err(Base64Error::Length { expected: N, found })
    }
}

/// Whether the text carries the padding that nothing in the specification writes.
pub(crate) fn is_padded(text: &str) -> bool {
    text.ends_with('=')
}

fn unpadded(text: &str) -> Result<&str, Base64Error> {
    let bare = text.trim_end_matches('=');
    match text.len() - bare.len() {
        0 => Ok(bare),
        1 | 2 if text.len().is_multiple_of(4) => Ok(bare),
        _ => Err(Base64Error::NotBase64),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Appendices, "Unpadded Base64".
    #[test]
    fn the_examples_of_the_appendix_hold() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
    }

    #[test]
    fn padding_is_accepted_where_it_belongs_and_nowhere_else() {
        for good in ["Zg==", "Zm8=", "Zm9v"] {
            assert!(decode(good).is_ok(), "{good}");
        }
        for bad in ["Zg=", "Zg===", "Zm8==", "Zm9v=", "Zm9v====", "=", "==", "Zg==Zg==", "Z=g="] {
            assert_eq!(decode(bad), Err(Base64Error::NotBase64), "{bad}");
        }
    }

    #[test]
    fn other_letters_white_space_and_stray_bits_are_refused() {
        for bad in ["Zm9v\n", "Zm 9v", "Zm-_", "Z", "Zm9vY", "Zh", "Zm9", "Zm9vYmF\u{e9}"] {
            assert_eq!(decode(bad), Err(Base64Error::NotBase64), "{bad}");
        }
    }

    #[test]
    fn a_key_of_another_length_says_how_long_it_is() {
        for length in (0..=64).filter(|length| *length != 32) {
            let text = encode(&vec![7; length]);
            let error = Base64Error::Length { expected: 32, found: length };
            assert_eq!(decode_array::<32>(&text), Err(error));
        }
        assert_eq!(decode_array::<32>("!"), Err(Base64Error::NotBase64));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in any::<[u8; 32]>()) {
            let text = encode(&bytes);
            prop_assert_eq!(decode_array(&text), Ok(bytes));
            prop_assert_eq!(decode_array(&(text + "=")), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9+/=]{0,50}|.{0,50}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text.trim_end_matches('='));
            }
        }
    }
}
