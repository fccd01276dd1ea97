//! What must hold for every byte that comes from the network or a file.
//!
//! Each target is a function that takes any bytes, makes of them what its part of Strongroom reads, and
//! panics when its sentence is false. `cargo xtask test` runs all of them for some seconds on what
//! lies in `corpus/` and on changes of it (`src/bin/briefly.rs`); `cargo xtask fuzz TARGET` runs one for
//! as long as one likes, guided by coverage (`src/bin/guided.rs`).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a target fails loudly"
)]

// The program has no library, so what it reads is compiled in here as it is.
#[path = "../../crates/strongroom/src/address.rs"]
mod address;
#[path = "../../crates/strongroom/src/config.rs"]
#[allow(dead_code, reason = "the program uses the rest of it")]
mod config;
#[path = "../../crates/strongroom-store/tests/it/contract.rs"]
#[allow(dead_code, reason = "the store's tests use the rest of it")]
mod contract;

mod json;
mod targets;

/// Takes any bytes and panics when its sentence is false.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 11] = [
    ("config", targets::config::run),
    ("database", targets::database::run),
    ("homeserver", targets::homeserver::run),
    ("ids", targets::ids::run),
    ("object", targets::object::run),
    ("rank", targets::rank::run),
    ("room_keys", targets::room_keys::run),
    ("router", targets::router::run),
    ("store", targets::store::run),
    ("tokens", targets::tokens::run),
    ("version", targets::version::run),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
