//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// How long a condition may take to come about. Far beyond what any of them needs on a busy
/// machine, so that reaching it means that it never would have.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks at a condition that does not announce itself.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `condition` again and again, and returns what it found.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut looks = 0..;
/// let third = strongroom_testing::until("the third look", async || looks.find(|look| *look == 2));
/// assert_eq!(third.await, 2);
/// # }
/// ```
///
/// # Panics
///
/// At the [`DEADLINE`], naming `what` did not come about.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
