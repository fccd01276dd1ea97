//! Strongroom as people have it: behind a reverse proxy, beside a homeserver, with keys that
//! another implementation made.
//!
//! Run with `cargo xtask test`, which provides the real programs.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod behind_nginx;
mod beside_synapse;
mod real_keys;
mod typed;
mod typed_answers;
