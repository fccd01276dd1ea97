//! SIGKILL at random moments, with many clients at work: what was acknowledged is there, what was
//! not is there whole or not at all, and no version id or etag comes twice.
//!
//! What "is there" means is what [`linear`](crate::linear) checks, across the kills: that one order
//! of requests explains every answer before and after, and the journal in the file between.
//!
//! `STRONGROOM_TEST_ROUNDS` and `STRONGROOM_TEST_SEED` as there.

use std::{iter, time::Duration};

use crate::linear::{
    load::Temper,
    rounds, seeded,
    world::{End, Load, World},
};

/// Of whom some have several devices, and some much to move.
const PEOPLE: usize = 8;
/// Kills in a row on the same data.
const KILLS: usize = 6;
/// About what a start takes, in microseconds.
const START: u64 = 60_000;
/// Nobody stops before the kill.
const REQUESTS_MAX: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_sigkill_and_nothing_is_there_by_half() {
    let mut rng = seeded("killed");
    for _ in 0..rounds(4) {
        let people =
            iter::repeat_with(|| Temper::crowd(&mut rng)).take(PEOPLE - 3).chain([Temper::BULK; 3]);
        let mut world = World::new(people).await;
        for _ in 0..KILLS {
            let (answers, later) = (rng.usize(1..300), Duration::from_micros(rng.u64(..3000)));
            let end = End::Killed { answers, later };
            let people_at_once = rng.usize(1..=PEOPLE);
            world.load(&mut rng, Load { people_at_once, requests: REQUESTS_MAX, end }).await;
            // Which then moves what the last process left in the log into the file.
            if rng.u8(..3) == 0 {
                world.kill_while_it_starts(Duration::from_micros(rng.u64(..START)));
            }
            world.look().await;
        }
    }
}
