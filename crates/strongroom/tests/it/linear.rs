//! However many devices ask at once, what they see is one order of requests, each done as a whole at
//! some moment between its question and its answer (Herlihy and Wing call it linearizable).
//!
//! Random requests go to the real binary; [`model`] says what one request after the other would
//! answer, and [`search`] looks for the order.
//!
//! `STRONGROOM_TEST_ROUNDS` runs more rounds than usual; `STRONGROOM_TEST_SEED` repeats the requests
//! of a run that failed, as far as time repeats itself.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

mod file;
mod history;
mod http;
pub(crate) mod load;
mod model;
mod refused;
mod search;
pub(crate) mod world;

use std::{env, iter, time::Duration};

use fastrand::Rng;

use self::{
    load::Temper,
    world::{End, Load, World},
};

/// People in one round, each of whom makes a history.
const PEOPLE: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_devices_see_at_once_is_one_order_of_requests() {
    let mut rng = seeded("linear");
    for _ in 0..rounds(12) {
        let people = iter::repeat_with(|| Temper::crowd(&mut rng)).take(PEOPLE);
        let mut world = World::new(people).await;
        // Two processes, one after the other, so that every order goes across a restart.
        for _ in 0..2 {
            let answers = rng.usize(1..PEOPLE * 32);
            let end = match rng.u8(..3) {
                0 => End::Idle,
                1 => End::Terminated { answers },
                _ => End::Killed { answers, later: Duration::from_micros(rng.u64(..2000)) },
            };
            let people_at_once = [2, 4, 8, PEOPLE][rng.usize(..4)];
            let load = Load { people_at_once, requests: rng.usize(6..=10), end };
            world.load(&mut rng, load).await;
            world.look().await;
        }
    }
}

/// Random numbers that can be had again.
pub(crate) fn seeded(test: &str) -> Rng {
    let seed = environment("STRONGROOM_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{test}: STRONGROOM_TEST_SEED={seed}");
    Rng::with_seed(seed)
}

/// How many rounds to run.
pub(crate) fn rounds(usual: usize) -> usize {
    environment("STRONGROOM_TEST_ROUNDS").unwrap_or(usual)
}

fn environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = env::var(name).ok()?;
    Some(value.parse().ok().unwrap_or_else(|| panic!("{name} is no number: {value}")))
}
