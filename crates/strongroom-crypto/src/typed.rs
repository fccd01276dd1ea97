//! What a person has typed when asked for a key: a key, or a passphrase.
//!
//! Backup decryption keys and secret storage keys have one form, and many people call both of them
//! "recovery key" or "security key". So which of the two a text is, only trying it tells; that it is
//! neither, but a passphrase, its form tells.

use std::fmt;

use zeroize::Zeroizing;

use crate::{
    decryption_key::DecryptionKey,
    representation::{self, FIRST_LETTERS, LETTERS, RepresentationError},
    secret_storage::SecretStorageKey,
};

/// How many letters too few or too many still look like a key with a slip of the pen.
const LETTERS_OFF_MAX: usize = 8;

/// What a text that a person has typed is by its form.
pub enum Typed {
    /// A key, of one kind or the other.
    Key(TypedKey),
    /// Meant as a key, and mistyped. Most likely: a passphrase may look so too.
    Mistyped(RepresentationError),
    /// Anything else.
    Passphrase,
}

/// 32 bytes that are the key of a backup, or of secret storage.
pub struct TypedKey(Box<Zeroizing<[u8; 32]>>);

impl Typed {
    /// Looks at the form of a text.
    ///
    /// ```
    /// use strongroom_crypto::{RepresentationError, Typed};
    ///
    /// let typed = "EsTc LW2K PGiF wKEA 3As5 g5c4 BXwk qeeJ ZJV8 Q9fu gUMN UE4d";
    /// assert!(matches!(Typed::recognise(typed), Typed::Key(_)));
    /// let mistyped = typed.replace("PGiF", "PGlF");
    /// let letter = RepresentationError::Letter { group: 3 };
    /// assert!(matches!(Typed::recognise(&mistyped), Typed::Mistyped(error) if error == letter));
    /// assert!(matches!(Typed::recognise("correct horse battery staple"), Typed::Passphrase));
    /// ```
    pub fn recognise(text: &str) -> Self {
        match representation::parse(text) {
            Ok(key) => Self::Key(TypedKey(key)),
            Err(error) if looks_like_a_key(text) => Self::Mistyped(error),
            Err(_) => Self::Passphrase,
        }
    }
}

impl TypedKey {
    /// The bytes, taken for the key of a backup.
    pub fn as_decryption_key(&self) -> DecryptionKey {
        DecryptionKey::from_bytes(&self.0)
    }

    /// The bytes, taken for the key of secret storage.
    pub fn as_secret_storage_key(&self) -> SecretStorageKey {
        SecretStorageKey::from_bytes(self.0.as_slice())
    }
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(_) => f.write_str("Key(..)"),
            Self::Mistyped(error) => write!(f, "Mistyped({error:?})"),
            Self::Passphrase => f.write_str("Passphrase"),
        }
    }
}

impl fmt::Debug for TypedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedKey(..)")
    }
}

/// Begins as every key begins, or is as long as one, and in groups of four letters; and has letters
/// and digits only.
fn looks_like_a_key(text: &str) -> bool {
    let letters = || text.chars().filter(|letter| !letter.is_whitespace());
    let is_near = letters().count().abs_diff(LETTERS) <= LETTERS_OFF_MAX;
    let begins_so = letters().take(FIRST_LETTERS.len()).eq(FIRST_LETTERS.chars());
    let mut groups = text.split_whitespace();
    let last = groups.next_back();
    let is_grouped =
        last.is_some_and(|group| group.len() <= 4) && groups.all(|group| group.len() == 4);
    is_near && letters().all(|letter| letter.is_ascii_alphanumeric()) && (begins_so || is_grouped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "EsTc LW2K PGiF wKEA 3As5 g5c4 BXwk qeeJ ZJV8 Q9fu gUMN UE4d";

    fn form(text: &str) -> String {
        format!("{:?}", Typed::recognise(text))
    }

    #[test]
    fn a_key_with_a_slip_of_the_pen_is_no_passphrase() {
        assert_eq!(form(KEY), "Key(..)");
        for (text, expected) in [
            (KEY.replace("UE4d", "UE4e"), "Mistyped(Parity)"),
            (KEY.replace("UE4d", "UE4"), "Mistyped(TooShort { letters: 47 })"),
            (KEY.replace("EsTc", "FsTc"), "Mistyped(Prefix)"),
            (KEY.replace(" ", "").replace("EsT", "Es0"), "Mistyped(Letter { group: 1 })"),
            (KEY[..50].to_owned(), "Mistyped(TooShort { letters: 40 })"),
        ] {
            assert_eq!(form(&text), expected);
        }
    }

    #[test]
    fn anything_else_is_a_passphrase() {
        for text in [
            "",
            "hunter2",
            "correct horse battery staple",
            "Es ist ein Ros entsprungen aus einer Wurzel zart, wie uns",
            &KEY[..30],
            &KEY.replace(' ', "-"),
            &"a".repeat(1000),
            "fsTcLW2KPGiFwKEA3As5g5c4BXwkqeeJZJV8Q9fugUMNUE4d",
        ] {
            assert_eq!(form(text), "Passphrase", "{text}");
        }
    }

    #[test]
    fn either_kind_of_key_is_made_of_the_same_text() {
        let Typed::Key(key) = Typed::recognise(KEY) else { panic!("it is one") };
        assert_eq!(*key.as_decryption_key().to_recovery_key(), KEY);
        assert_eq!(*key.as_secret_storage_key().to_recovery_key().unwrap(), KEY);
        assert_eq!(format!("{key:?}"), "TypedKey(..)");
    }
}
