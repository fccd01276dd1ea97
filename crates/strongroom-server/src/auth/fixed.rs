//! Tokens from a file: for trying out, and for use without a homeserver.

use std::{collections::HashMap, fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use async_trait::async_trait;
use strongroom_protocol::{MatrixError, UserId};
use zeroize::Zeroizing;

use super::{Authenticator, Credentials, Requester, cache::TokenHasher};

/// A fixed list of tokens and their users.
#[derive(Debug)]
pub struct FixedTokens {
    hasher: TokenHasher,
    requesters: HashMap<[u8; 32], Requester>,
}

/// Why a list of tokens can't be used. Says the line, never the token.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The file can't be read.
    #[error("can't read the tokens")]
    Io(#[from] io::Error),
    /// Others than the owner may read the file.
    #[error("the tokens may be read by others: its mode is {mode:03o}, and 600 is needed")]
    Mode {
        /// The permission bits.
        mode: u32,
    },
    /// Not of the form `TOKEN @user:server`.
    #[error("line {line} of the tokens is not of the form TOKEN @user:server")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// The same token stands on an earlier line.
    #[error("line {line} of the tokens repeats a token")]
    Repeated {
        /// Counted from 1.
        line: usize,
    },
    /// The system gave no randomness.
    #[error("the system has no random numbers")]
    Randomness(#[from] getrandom::Error),
}

impl FixedTokens {
    /// Reads a file that only its owner may read.
    ///
    /// # Errors
    ///
    /// [`TokensError`]
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TokensError::Mode { mode });
        }
        Self::parse(&Zeroizing::new(fs::read_to_string(path)?))
    }

    /// Takes lines of `TOKEN @user:server`; empty ones and those that begin with `#` say nothing.
    ///
    /// # Errors
    ///
    /// [`TokensError::Line`], [`TokensError::Repeated`], [`TokensError::Randomness`].
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let mut this = Self { hasher: TokenHasher::new()?, requesters: HashMap::new() };
        for (line, content) in (1..).zip(text.lines().map(str::trim)) {
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let mut words = content.split_whitespace();
            let (Some(token), Some(user_id), None) = (words.next(), words.next(), words.next())
            else {
                return Err(TokensError::Line { line });
            };
            let user_id = UserId::parse(user_id).map_err(|_| TokensError::Line { line })?;
            let requester = Requester { user_id, device_id: None };
            if this.requesters.insert(this.hasher.hash([token]), requester).is_some() {
                return Err(TokensError::Repeated { line });
            }
        }
        Ok(this)
    }
}

#[async_trait]
impl Authenticator for FixedTokens {
    async fn requester(&self, credentials: &Credentials) -> Result<Requester, MatrixError> {
        let hash = self.hasher.hash([credentials.token.expose()]);
        self.requesters.get(&hash).cloned().ok_or(MatrixError::UnknownToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_comments_and_empty_lines() {
        let tokens = FixedTokens::parse("# people\n\na @a:x\n  b\t@b:x:8448  \n").unwrap();
        assert_eq!(tokens.requesters.len(), 2);
    }

    #[test]
    fn a_mistake_is_told_by_its_line_and_without_the_token() {
        for (text, expected) in [
            ("a @a:x\nsecret", "line 2 of the tokens is not of the form TOKEN @user:server"),
            ("secret alice", "line 1 of the tokens is not of the form TOKEN @user:server"),
            ("secret @a:x # me", "line 1 of the tokens is not of the form TOKEN @user:server"),
            ("s @a:x\n\ns @b:x", "line 3 of the tokens repeats a token"),
        ] {
            assert_eq!(FixedTokens::parse(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "a @a:x").unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        let error = FixedTokens::read(file.path()).unwrap_err();
        assert!(matches!(error, TokensError::Mode { mode: 0o640 }), "{error:?}");
    }
}
