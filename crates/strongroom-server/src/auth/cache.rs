//! What is remembered of tokens: keyed hashes, for a short time, and not more than so many.

use std::{
    fmt,
    hash::Hash,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use lru::LruCache;
use sha2::Sha256;

/// Turns tokens into keys of a table. The key of the hash is made at start and kept in memory only,
/// so a hash that leaks tells nothing about a token.
pub(crate) struct TokenHasher(Hmac<Sha256>);

impl TokenHasher {
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 64];
        getrandom::fill(&mut key)?;
        Ok(Self(Hmac::new(&key.into())))
    }

    /// The hash of a list of texts; lists that differ in their borders have different hashes.
    pub(crate) fn hash<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> [u8; 32] {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for TokenHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHasher(..)")
    }
}

/// Answers that are good for a fixed time. When it is full, the one that was not asked for the
/// longest makes room.
#[derive(Debug)]
pub(super) struct Remembered<K: Hash + Eq, T> {
    good_for: Duration,
    answers: Mutex<LruCache<K, (Instant, T)>>,
}

impl<K: Hash + Eq, T: Clone> Remembered<K, T> {
    pub(super) fn new(good_for: Duration, entries_max: NonZeroUsize) -> Self {
        Self { good_for, answers: Mutex::new(LruCache::new(entries_max)) }
    }

    pub(super) fn get(&self, key: &K) -> Option<T> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, answer) = answers.get(key)?;
        (since.elapsed() < self.good_for).then(|| answer.clone())
    }

    /// Whether there was an answer not longer than so long ago, good or not.
    pub(super) fn has_known(&self, key: &K, within: Duration) -> bool {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.peek(key).is_some_and(|(since, _)| since.elapsed() < within)
    }

    /// Remembers what was true at `since`.
    pub(super) fn insert(&self, key: K, since: Instant, answer: T) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.put(key, (since, answer));
    }

    pub(super) fn forget(&self, key: &K) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_between_texts_count() {
        let hasher = TokenHasher::new().unwrap();
        assert_ne!(hasher.hash(["ab", "c"]), hasher.hash(["a", "bc"]));
        assert_ne!(hasher.hash(["ab"]), hasher.hash(["ab", ""]));
        assert_ne!(hasher.hash(["ab"]), TokenHasher::new().unwrap().hash(["ab"]));
    }

    #[test]
    fn what_is_too_much_drives_out_what_was_not_asked_for() {
        let cache = Remembered::new(Duration::from_secs(60), NonZeroUsize::new(2).unwrap());
        for n in 0..100 {
            cache.insert([0; 32], Instant::now(), 0);
            cache.insert([n + 1; 32], Instant::now(), n);
        }
        assert_eq!((cache.get(&[0; 32]), cache.get(&[50; 32])), (Some(0), None));
        cache.forget(&[0; 32]);
        assert_eq!(cache.get(&[0; 32]), None);
    }

    #[test]
    fn with_no_time_nothing_is_good_and_yet_it_is_known() {
        let cache = Remembered::new(Duration::ZERO, NonZeroUsize::MIN);
        cache.insert([0; 32], Instant::now(), ());
        assert_eq!(cache.get(&[0; 32]), None);
        assert!(cache.has_known(&[0; 32], Duration::from_secs(60)));
        assert!(!cache.has_known(&[0; 32], Duration::ZERO));
        assert!(!cache.has_known(&[1; 32], Duration::from_secs(60)));
        cache.forget(&[0; 32]);
        assert!(!cache.has_known(&[0; 32], Duration::from_secs(60)));
    }
}
