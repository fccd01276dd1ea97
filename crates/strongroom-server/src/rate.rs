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

    /// Takes one at `now` from a bucket that is full at `full_at`: when it then is full, or how long
    /// there is none in it.
    fn take(self, full_at: Option<Instant>, now: Instant) -> Result<Instant, Duration> {
        let Some(interval) = self.interval() else { return Ok(now) };
        let full_at = full_at.map_or(now, |full_at| full_at.max(now)) + interval;
        let missing = full_at.duration_since(now);
        match missing.checked_sub(interval.saturating_mul(self.burst.max(1))) {
            None | Some(Duration::ZERO) => Ok(full_at),
            Some(wait) => Err(wait),
        }
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

    /// Takes one out of the bucket of `whose`.
    ///
    /// # Errors
    ///
    /// How long there will be none.
    pub(crate) fn take(&self, whose: &impl Hash, now: Instant) -> Result<(), Duration> {
        if self.rate.per_second == 0 {
            return Ok(());
        }
        let whose = self.hasher.hash_one(whose);
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = self.rate.take(buckets.get(&whose).copied(), now)?;
        buckets.put(whose, full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What flows in drop by drop, a drop a nanosecond; to take one empties it by an interval.
    struct Model {
        drops: u128,
        interval: u128,
        most: u128,
    }

    impl Model {
        fn wait(&mut self, time: Duration) {
            self.drops = (self.drops + time.as_nanos()).min(self.most);
        }

        fn take(&mut self) -> bool {
            let is_there = self.drops >= self.interval;
            if is_there {
                self.drops -= self.interval;
            }
            is_there
        }
    }

    proptest! {
        #[test]
        fn a_bucket_agrees_with_one_that_drops_fall_into(
            per_second in 1..1000_u32,
            burst in 1..5_u32,
            waits_us in vec(prop_oneof![0..10_u64, 0..2_000_000_u64], 0..200),
        ) {
            let buckets = Buckets::new(Rate { per_second, burst });
            let interval = u128::from(1_000_000_000 / per_second);
            let most = interval * u128::from(burst);
            let mut model = Model { drops: most, interval, most };
            let mut now = Instant::now();
            for wait_us in waits_us {
                let wait = Duration::from_micros(wait_us);
                now += wait;
                model.wait(wait);
                let taken = buckets.take(&"a", now);
                prop_assert_eq!(taken.is_ok(), model.take());
                if let Err(wait) = taken {
                    let early = wait - Duration::from_nanos(1);
                    prop_assert_eq!(buckets.take(&"a", now + early), Err(Duration::from_nanos(1)));
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
    fn without_a_rate_there_is_no_limit() {
        let now = Instant::now();
        let buckets = Buckets::new(Rate { per_second: 0, burst: 1 });
        for _ in 0..1000 {
            assert_eq!(buckets.take(&"a", now), Ok(()));
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
