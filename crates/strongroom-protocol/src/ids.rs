//! The ids in requests and answers, parsed once and bounded.

use std::{fmt, str::FromStr};

use crate::limits::ID_BYTES_MAX;

/// Why a text is not an id of the kind that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadId {
    /// More than 255 bytes.
    #[error("is longer than 255 bytes")]
    TooLong,
    /// NUL can't be kept by every database.
    #[error("contains a NUL character")]
    Nul,
    /// A user id begins with `@` and names its server after the first colon.
    #[error("is not of the form @user:server")]
    NotAUserId,
}

fn bounded(text: &str) -> Result<Box<str>, BadId> {
    if text.len() > ID_BYTES_MAX {
        Err(BadId::TooLong)
    } else if text.contains('\0') {
        Err(BadId::Nul)
    } else {
        Ok(text.into())
    }
}

/// An id that is a text of at most 255 bytes without NUL.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(Box<str>);

        impl $name {
            /// Takes the text as it is, or says why it can't be such an id.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                let check: fn(&str) -> Result<(), BadId> = $check;
                check(text)?;
                bounded(text).map(Self)
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// `@user:server`. Historical ids have odd local parts, so nothing more is asked of them.
    UserId, |text| match text.strip_prefix('@').and_then(|rest| rest.split_once(':')) {
        Some((_, server)) if !server.is_empty() => Ok(()),
        Some(_) | None => Err(BadId::NotAUserId),
    }
}

text_id! {
    /// The room of a session. Opaque here, since ids without a server part exist (room version 12);
    /// that an *uploaded* one begins with `!` is [`RoomKeys::parse`](crate::RoomKeys::parse)'s rule.
    RoomId, |_| Ok(())
}

text_id! {
    /// The id of a megolm session: base64 from every client, and any text by the specification.
    SessionId, |_| Ok(())
}

text_id! {
    /// The device that a token belongs to; kept in the journal.
    DeviceId, |_| Ok(())
}

impl UserId {
    /// The part after the first colon: the homeserver whose user this is.
    pub fn server_name(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, server)| server)
    }
}

/// A number that travels as a decimal string.
macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(i64);

        impl $name {
            /// The number as it is stored; never negative.
            pub const fn get(self) -> i64 {
                self.0
            }

            /// Takes a number back from where it was stored; a negative one was never issued.
            pub const fn new(number: i64) -> Option<Self> {
                if number < 0 { None } else { Some(Self(number)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// The id of one backup of a user: decimal digits, as everywhere in the field, since some
    /// clients put it unescaped into a path. Later backups have greater ones.
    Version
}

number_id! {
    /// Changes whenever the stored keys of a backup change, and only rises.
    Etag
}

/// Not the decimal form of a version, so no backup ever had it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is no backup version")]
pub struct NotAVersion;

impl FromStr for Version {
    type Err = NotAVersion;

    /// Only the form that [`fmt::Display`] writes: `"01"` and `"+1"` are other opaque strings.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let number = text.parse().map_err(|_| NotAVersion)?;
        let version = Self::new(number).ok_or(NotAVersion)?;
        if version.to_string() == text { Ok(version) } else { Err(NotAVersion) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_one_spelling() {
        assert_eq!("42".parse(), Ok(Version(42)));
        for other in ["", "042", "+42", "-1", "4 2", "4.2", "١", "9223372036854775808", "abc"] {
            assert_eq!(other.parse::<Version>(), Err(NotAVersion), "{other:?}");
        }
    }

    #[test]
    fn a_user_id_names_its_server_with_port() {
        let user = UserId::parse("@alice:example.org:8448").unwrap();
        assert_eq!(user.server_name(), "example.org:8448");
        for bad in ["", "@", "alice:example.org", "@alice", "@alice:"] {
            assert_eq!(UserId::parse(bad), Err(BadId::NotAUserId), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_bounded_in_bytes_and_free_of_nul() {
        assert!(RoomId::parse(&"é".repeat(127)).is_ok());
        assert_eq!(RoomId::parse(&"é".repeat(128)), Err(BadId::TooLong));
        assert_eq!(SessionId::parse("a\0b"), Err(BadId::Nul));
    }
}
