//! What must hold of every store, and what holds of the embedded one besides.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod check;
mod contract;
mod operator;
mod rot;
mod snapshot;
mod sqlite;
