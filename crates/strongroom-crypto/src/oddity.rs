//! What is unusual about a session in a backup or a key file, and does no harm.
//!
//! Real backups are as old as ten years and were written by a dozen clients. These forms are read,
//! and named, and what we write ourselves does not have them.

use std::fmt;

/// A form that the specification does not have, and some client wrote.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Oddity {
    /// Base64 with padding.
    PaddedBase64 {
        /// Where.
        field: &'static str,
    },
    /// `mac` covers the ciphertext, as MSC1219 has it, where every known client writes the MAC of
    /// nothing.
    MacOfCiphertext,
    /// `session_key` is in session-sharing format, signed, as MSC1219 has it, where the
    /// specification asks for session-export format.
    SharingFormat,
    /// No `forwarding_curve25519_key_chain`; taken as an empty one.
    NoForwardingChain,
    /// No `sender_claimed_keys`; taken as none.
    NoClaimedKeys,
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PaddedBase64 { field } => write!(f, "{field} has padding"),
            Self::MacOfCiphertext => f.write_str("mac covers the ciphertext"),
            Self::SharingFormat => f.write_str("session_key is in session-sharing format"),
            Self::NoForwardingChain => f.write_str("forwarding_curve25519_key_chain is missing"),
            Self::NoClaimedKeys => f.write_str("sender_claimed_keys is missing"),
        }
    }
}

/// The oddities of one session, each once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Oddities(Vec<Oddity>);

impl Oddities {
    /// All of them, in the order in which they were met.
    pub fn iter(&self) -> impl Iterator<Item = &Oddity> {
        self.0.iter()
    }

    pub(crate) fn add(&mut self, oddity: Oddity) {
        if !self.0.contains(&oddity) {
            self.0.push(oddity);
        }
    }
}
