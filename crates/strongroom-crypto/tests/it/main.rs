//! What we write others read, what others write we read, and what is malformed has the same verdict,
//! or a reason why not.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod libolm;
mod vodozemac;

use proptest::{collection, prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use rand_core::UnwrapErr;

/// Random cases in each direction.
const CASES: usize = 2000;

fn rng() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

/// As many texts, of lengths on both sides of a block and up to that of a session.
fn texts(count: usize) -> Vec<String> {
    let text = prop_oneof![".{0,40}", "[ -~]{400,700}"];
    let mut runner = TestRunner::default();
    collection::vec(text, count).new_tree(&mut runner).unwrap().current()
}
