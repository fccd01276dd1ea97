//! How often something may happen.
//!
//! A bucket holds up to `burst`; each time takes one out, and `per_second` flow back. All that is
//! kept of a bucket is when it will be full again, and of one that is full nothing at all.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;

/// Buckets that are not full. Beyond so many, the one that was not used for the longest is taken
/// for full, as it mostly is.
const BUCKETS_MAX: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// So many a second, and so many at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// With 0 there is no limit.
    pub per_second: u32,
    /// One at least, whatever this is.
    pub burst: u32,
}

impl Rate {
    fn interval(self) -> Option<Duration> {
        Duration::from_secs(1).checked_div(self.per_second)
    }

    /// Whether there is one at `now` in a bucket that is full at `full_at`.
    ///
    /// # Errors
    ///
    /// How long there will be none.
    fn check(self, full_at: Option<Instant>, now: Instant) -> Result<(), Duration> {
        let Some(interval) = self.interval() else { return Ok(()) };
        let missing = full_at.map_or(Duration::ZERO, |full_at| full_at.duration_since(now));
        let most = interval.saturating_mul(self.burst.max(1));
        match (missing + interval).checked_sub(most) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// When it is full if one is taken out at `now`, whether it was there or not.
    fn charge(self, full_at: Option<Instant>, now: Instant) -> Instant {
        let interval = self.interval().unwrap_or_default();
        full_at.map_or(now, |full_at| full_at.max(now)) + interval
    }
}

/// One bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    full_at: Mutex<Option<Instant>>,
}

impl Bucket {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, full_at: Mutex::default() }
    }

    /// Whether there is one in it.
    ///
    /// # Errors
    ///
    /// How long there will be none.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Duration> {
        let full_at = *self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.rate.check(full_at, now)
    }

    /// Takes one out, or owes it.
    pub(crate) fn charge(&self, now: Instant) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = Some(self.rate.charge(*full_at, now));
    }
}

/// A bucket for each of many.
#[derive(Debug)]
pub(crate) struct Buckets {
    rate: Rate,
    /// Nobody can make two whose hashes under its random key are alike.
    hasher: RandomState,
    full_at: Mutex<LruCache<u64, Instant>>,
}

impl Buckets {
    pub(crate) fn new(rate: Rate) -> Self {
        Self::bounded(rate, BUCKETS_MAX)
    }

    fn bounded(rate: Rate, buckets_max: NonZeroUsize) -> Self {
        let full_at = Mutex::new(LruCache::new(buckets_max));
        Self { rate, hasher: RandomState::new(), full_at }
    }

    /// Whether there is one in the bucket of `whose`.
    ///
    /// # Errors
    ///
    /// How long there will be none.
    pub(crate) fn check(&self, whose: &impl Hash, now: Instant) -> Result<(), Duration> {
        let whose = self.hasher.hash_one(whose);
        let buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.rate.check(buckets.peek(&whose).copied(), now)
    }

    /// Takes one out of the bucket of `whose`, or owes it.
    pub(crate) fn charge(&self, whose: &impl Hash, now: Instant) {
        // What nobody checks is not kept.
        if self.rate.per_second > 0 {
            let whose = self.hasher.hash_one(whose);
            let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
            let full_at = self.rate.charge(buckets.get(&whose).copied(), now);
            buckets.put(whose, full_at);
        }
    }

    /// Takes one out of the bucket of `whose` if there is one.
    ///
    /// # Errors
    ///
    /// How long there will be none.
    pub(crate) fn take(&self, whose: &impl Hash, now: Instant) -> Result<(), Duration> {
        if self.rate.per_second > 0 {
            let whose = self.hasher.hash_one(whose);
            let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
            let full_at = buckets.get(&whose).copied();
            self.rate.check(full_at, now)?;
            buckets.put(whose, self.rate.charge(full_at, now));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What flows in drop by drop, a drop a nanosecond; to take one empties it by an interval.
    struct Model {
        drops: i128,
        interval: i128,
        most: i128,
    }

    proptest! {
        #[test]
        fn a_bucket_agrees_with_one_that_drops_fall_into(
            per_second in 1..1000_u32,
            burst in 1..5_u32,
            steps in vec((prop_oneof![0..10_u64, 0..2_000_000_u64], any::<bool>()), 0..200),
        ) {
            let rate = Rate { per_second, burst };
            let (bucket, buckets) = (Bucket::new(rate), Buckets::new(rate));
            let interval = i128::from(1_000_000_000 / per_second);
            let most = interval * i128::from(burst);
            let mut model = Model { drops: most, interval, most };
            let mut now = Instant::now();
            for (wait_us, is_owed) in steps {
                now += Duration::from_micros(wait_us);
                model.drops = (model.drops + i128::from(wait_us) * 1000).min(model.most);
                let checked = bucket.check(now);
                prop_assert_eq!(checked.is_ok(), model.drops >= model.interval);
                if let Err(wait) = checked {
                    prop_assert_eq!(wait.as_nanos() as i128, model.interval - model.drops);
                }
                prop_assert_eq!(buckets.check(&"a", now), checked);
                if is_owed {
                    buckets.charge(&"a", now);
                } else {
                    prop_assert_eq!(buckets.take(&"a", now), checked);
                }
                if is_owed || checked.is_ok() {
                    bucket.charge(now);
                    model.drops -= model.interval;
                }
            }
        }
    }

    #[test]
    fn each_has_a_bucket_of_its_own() {
        let now = Instant::now();
        let buckets = Buckets::new(Rate { per_second: 1, burst: 2 });
        for whose in ["a", "b"] {
            assert_eq!(buckets.take(&whose, now), Ok(()));
            assert_eq!(buckets.take(&whose, now), Ok(()));
            assert_eq!(buckets.take(&whose, now), Err(Duration::from_secs(1)));
        }
    }

    #[test]
    fn without_a_rate_there_is_no_limit_and_nothing_is_kept() {
        let (now, rate) = (Instant::now(), Rate { per_second: 0, burst: 1 });
        let (bucket, buckets) = (Bucket::new(rate), Buckets::new(rate));
        for whose in 0..1000 {
            bucket.charge(now);
            buckets.charge(&whose, now);
            assert_eq!((bucket.check(now), buckets.check(&whose, now)), (Ok(()), Ok(())));
            assert_eq!(buckets.take(&whose, now), Ok(()));
        }
        assert!(buckets.full_at.lock().unwrap().is_empty());
    }

    #[test]
    fn a_flood_of_others_is_bounded_and_empties_nobodys_bucket() {
        let now = Instant::now();
        let rate = Rate { per_second: 1, burst: 1 };
        let buckets = Buckets::bounded(rate, NonZeroUsize::new(10).unwrap());
        for other in 0..1000 {
            assert_eq!(buckets.take(&other, now), Ok(()));
            // Who goes on asking is not forgotten among them.
            assert_eq!(buckets.take(&"busy", now).is_ok(), other == 0);
        }
        assert_eq!(buckets.full_at.lock().unwrap().len(), 10);
        assert_eq!(buckets.take(&"new", now), Ok(()));
    }
}
