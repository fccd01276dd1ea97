//! The memory that all bodies in flight may take, and each user's share of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use strongroom_protocol::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies in flight are accounted for in pieces of this size.
const PIECE_BYTES: usize = 4 * 1024;
/// Smaller bodies are not accounted for: a single key need not wait for the uploads of others.
const UNCOUNTED_BYTES_MAX: usize = 16 * 1024;
/// So many users have to work together to keep the others out.
const SHARES: usize = 4;

/// The memory that all bodies in flight may take.
#[derive(Debug)]
pub(crate) struct Budget {
    all: Arc<Semaphore>,
    share_pieces: usize,
    shares: Arc<Mutex<Shares>>,
}

/// What is left of the shares of those who have bodies in flight.
type Shares = HashMap<UserId, Arc<Semaphore>>;

impl Budget {
    pub(crate) fn new(bytes_max: usize, body_bytes_max: usize) -> Self {
        let pieces = |bytes: usize| bytes.div_ceil(PIECE_BYTES).min(Semaphore::MAX_PERMITS);
        let share_pieces = pieces(bytes_max / SHARES).max(pieces(body_bytes_max));
        let all = Arc::new(Semaphore::new(pieces(bytes_max)));
        Self { all, share_pieces, shares: Arc::default() }
    }

    /// Takes what is still missing for the `length` bytes of a body of this user, or waits for it:
    /// first for the user's other bodies, then for everybody's.
    pub(super) async fn reserve(
        &self,
        in_flight: &mut Option<InFlight>,
        user_id: &UserId,
        length: usize,
    ) {
        if length <= UNCOUNTED_BYTES_MAX {
            return;
        }
        let InFlight { of_all, of_share, share } =
            in_flight.get_or_insert_with(|| self.begin(user_id));
        let pieces = length.div_ceil(PIECE_BYTES);
        take(of_share, &share.left, pieces).await;
        take(of_all, &self.all, pieces).await;
    }

    fn begin(&self, user_id: &UserId) -> InFlight {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = || Arc::new(Semaphore::new(self.share_pieces));
        let left = Arc::clone(shares.entry(user_id.clone()).or_insert_with(whole));
        let share = Share { shares: Arc::clone(&self.shares), user_id: user_id.clone(), left };
        InFlight { of_all: None, of_share: None, share }
    }
}

/// What a body takes of the budget, until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    of_all: Option<OwnedSemaphorePermit>,
    of_share: Option<OwnedSemaphorePermit>,
    // Dropped last, when nothing is taken of it any more.
    share: Share,
}

async fn take(held: &mut Option<OwnedSemaphorePermit>, from: &Arc<Semaphore>, pieces: usize) {
    let more = pieces.saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    // Nobody closes it.
    let Ok(more) = Arc::clone(from).acquire_many_owned(more).await else { return };
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
}

/// The share of a user; the last of their bodies clears it away.
#[derive(Debug)]
struct Share {
    shares: Arc<Mutex<Shares>>,
    user_id: UserId,
    left: Arc<Semaphore>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        // The table's own and this one.
        if Arc::strong_count(&self.left) == 2 {
            shares.remove(&self.user_id);
        }
    }
}
