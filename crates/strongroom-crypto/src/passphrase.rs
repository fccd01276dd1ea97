//! Keys from passphrases: PBKDF2-HMAC-SHA-512, with a bound on the work that others may ask for.

use std::ops::RangeInclusive;

use sha2::Sha512;

/// Why a passphrase is not put to work.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RoundsError {
    /// None at all, or so few that a passphrase would be guessed.
    #[error("{rounds} rounds are too few for a passphrase")]
    TooFew {
        /// Rounds that were asked for.
        rounds: u32,
        /// The fewest that are allowed.
        rounds_min: u32,
    },
    /// So many that a person would wait for longer than they agreed to.
    #[error("{rounds} rounds are more than the {rounds_max} that are allowed")]
    TooMany {
        /// Rounds that were asked for.
        rounds: u32,
        /// The most that are allowed.
        rounds_max: u32,
    },
}

/// No rounds at all are never allowed.
pub(crate) fn check(rounds: u32, allowed: &RangeInclusive<u32>) -> Result<(), RoundsError> {
    let (rounds_min, rounds_max) = ((*allowed.start()).max(1), *allowed.end());
    if rounds < rounds_min {
        Err(RoundsError::TooFew { rounds, rounds_min })
    } else if rounds > rounds_max {
        Err(RoundsError::TooMany { rounds, rounds_max })
    } else {
        Ok(())
    }
}

/// Fills `key`. About a microsecond a round for each 64 bytes.
pub(crate) fn derive(passphrase: &str, salt: &[u8], rounds: u32, key: &mut [u8]) {
    pbkdf2::pbkdf2_hmac::<Sha512>(passphrase.as_bytes(), salt, rounds, key);
}
