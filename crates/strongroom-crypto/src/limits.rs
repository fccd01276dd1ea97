//! How much is too much. An honest client meets none of these.

use std::ops::RangeInclusive;

/// Bytes of one `session_data`, and of the session inside it. A megolm session makes about 800; our
/// server takes as much as this.
pub const SESSION_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a key file, its armour included: some three million sessions.
pub const KEY_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Bytes of one secret in secret storage, its base64 included. The secrets we know have 43.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Rounds of PBKDF2 that are worked off for somebody else, unless a person says otherwise: the most
/// take some ten seconds, and whoever wrote the number need not be a friend.
pub const ROUNDS_READ: RangeInclusive<u32> = 1..=10_000_000;

/// Rounds of PBKDF2 with which something new is protected, unless a person says otherwise. With fewer
/// a passphrase is guessed too soon; with more we would not read it ourselves.
pub const ROUNDS_WRITE: RangeInclusive<u32> = 10_000..=10_000_000;

/// Rounds of PBKDF2 for what is new, as Element's clients have it.
pub const ROUNDS_NEW: u32 = 500_000;
