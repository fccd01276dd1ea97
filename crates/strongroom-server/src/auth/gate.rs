//! Which questions reach the homeserver, so that a flood of tokens here is none there.
//!
//! Who brings a token that was accepted within a day is *known*: the homeserver is always asked, and
//! nobody else is waited for. All others are *strangers*. Those who are let in cost nothing, so that
//! after a restart thousands of clients come in as fast as the homeserver answers. Questions that
//! are in vain are counted, and after so many of them strangers are told to come again; never with
//! a 401, which would have to be true.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use strongroom_protocol::MatrixError;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{HomeserverOptions, cache::Remembered};
use crate::{
    address::ClientAddress,
    metrics::{Limit, Metrics},
    rate::{Bucket, Buckets},
};

/// How long a token is known, and an address from which one came. Clients are seldom silent for
/// longer.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Addresses that are known.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// When to come again who was not asked about.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Where all questions pass.
#[derive(Debug)]
pub(super) struct Gate {
    places: Semaphore,
    /// Fewer than all, so that strangers never take the last.
    places_of_strangers: Semaphore,
    queue: Semaphore,
    queue_of_strangers: Semaphore,
    in_vain: Bucket,
    /// The same for strangers from an address that is known: a flood from elsewhere does not keep
    /// out people who have just got a new token, which with OAuth is every few minutes.
    in_vain_from_known: Bucket,
    refused_by_address: Buckets,
    known_addresses: Remembered<ClientAddress, ()>,
    metrics: Metrics,
}

impl Gate {
    pub(super) fn new(options: &HomeserverOptions) -> Self {
        let semaphore = |places: usize| Semaphore::new(places.min(Semaphore::MAX_PERMITS));
        let places = options.questions_max.get();
        let of_strangers = places.saturating_sub(places.div_ceil(4)).max(1);
        let waiting_max = options.questions_waiting_max;
        Self {
            places: semaphore(places),
            places_of_strangers: semaphore(of_strangers),
            queue: semaphore(places.saturating_add(waiting_max)),
            queue_of_strangers: semaphore(of_strangers.saturating_add(waiting_max)),
            in_vain: Bucket::new(options.wrong_tokens),
            in_vain_from_known: Bucket::new(options.wrong_tokens),
            refused_by_address: Buckets::new(options.address_failures),
            known_addresses: Remembered::new(KNOWN_FOR, ADDRESSES_MAX),
            metrics: options.metrics.clone(),
        }
    }

    /// Waits until it can be asked about a token that is known.
    ///
    /// # Errors
    ///
    /// [`MatrixError::Unavailable`], if too many wait already.
    pub(super) async fn known(
        &self,
        address: Option<ClientAddress>,
    ) -> Result<Pass<'_>, MatrixError> {
        let queue = self.queue.try_acquire().map_err(|_| self.busy(Limit::QuestionsWaiting))?;
        let place = self.places.acquire().await.map_err(|_| unavailable())?;
        let places = (queue, place, None);
        Ok(Pass { gate: self, address, in_vain: None, end: End::HungUp, _places: places })
    }

    /// Waits until it can be asked about a stranger's token.
    ///
    /// # Errors
    ///
    /// [`MatrixError::LimitExceeded`] after too many failures from this address;
    /// [`MatrixError::Unavailable`] after too many from everywhere, or if too many wait already.
    pub(super) async fn stranger(
        &self,
        address: Option<ClientAddress>,
    ) -> Result<Pass<'_>, MatrixError> {
        let is_known = |address| self.known_addresses.get(&address).is_some();
        let in_vain = match address.is_some_and(is_known) {
            true => &self.in_vain_from_known,
            false => &self.in_vain,
        };
        let check = || {
            let now = Instant::now();
            if let Some(address) = address {
                let checked = self.refused_by_address.check(&address, now);
                checked.map_err(|retry_after| {
                    self.metrics.limited(Limit::AddressFailures);
                    MatrixError::LimitExceeded { retry_after }
                })?;
            }
            in_vain.check(now).map_err(|_| self.busy(Limit::WrongTokens))
        };
        check()?;
        let queue = self.queue_of_strangers.try_acquire();
        let queue = queue.map_err(|_| self.busy(Limit::QuestionsWaiting))?;
        let of_strangers = self.places_of_strangers.acquire().await.map_err(|_| unavailable())?;
        let place = self.places.acquire().await.map_err(|_| unavailable())?;
        // Meanwhile others may have been in vain.
        check()?;
        let places = (queue, place, Some(of_strangers));
        Ok(Pass { gate: self, address, in_vain: Some(in_vain), end: End::HungUp, _places: places })
    }

    fn busy(&self, limit: Limit) -> MatrixError {
        self.metrics.limited(limit);
        unavailable()
    }
}

fn unavailable() -> MatrixError {
    MatrixError::Unavailable { retry_after: RETRY_AFTER }
}

/// Leave to ask one question. What came of it is counted when this is dropped.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    address: Option<ClientAddress>,
    /// Where it counts if it was in vain, for a stranger.
    in_vain: Option<&'a Bucket>,
    end: End,
    _places: (SemaphorePermit<'a>, SemaphorePermit<'a>, Option<SemaphorePermit<'a>>),
}

/// What came of a question.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    LetIn,
    Refused,
    /// Or one that says nothing about the token.
    NoAnswer,
    /// The client did not wait for the answer, perhaps so as not to be counted.
    HungUp,
}

impl Pass<'_> {
    pub(super) fn came_to(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        if let (End::LetIn, Some(address)) = (self.end, self.address) {
            self.gate.known_addresses.insert(address, now, ());
        }
        let (Some(in_vain), false) = (self.in_vain, matches!(self.end, End::LetIn)) else {
            return;
        };
        in_vain.charge(now);
        // Trouble at the homeserver is nobody's failure.
        if let (End::Refused | End::HungUp, Some(address)) = (self.end, self.address) {
            self.gate.refused_by_address.charge(&address, now);
        }
    }
}
