//! What Strongroom's tests need around them, as real as it can be had.
//!
//! - [`Server`] is the real binary in a process of its own, with a data directory of its own.
//! - [`Homeserver`] hands out tokens, answers `whoami`, and misbehaves on demand.
//! - [`Synapse`] and [`Nginx`] are the real ones; `cargo xtask test` provides them.
//!
//! Nothing here skips and nothing waits for a time: a condition that does not come about within
//! [`DEADLINE`] fails the test, with everything that the process in question has said. Every
//! access token contains [`SECRET`], and a test fails if the server has logged or stored it.
//!
//! ```no_run
//! use serde_json::json;
//! use strongroom_testing::{Homeserver, Server, strongroom_binary};
//!
//! # async fn example() {
//! let homeserver = Homeserver::start().await;
//! let alice = homeserver.login("@alice:example.org");
//! let server = Server::spawn(strongroom_binary(), &homeserver).await;
//!
//! let got = server.get("/room_keys/version", &alice).await;
//! assert_eq!((got.status, &got.json["errcode"]), (404, &json!("M_NOT_FOUND")), "{got:?}");
//! # }
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test harness fails loudly"
)]

mod answer;
mod binary;
mod homeserver;
mod nginx;
mod port;
mod process;
mod server;
mod synapse;
mod user;
mod wait;

pub use crate::{
    answer::{Answer, new_client},
    binary::strongroom_binary,
    homeserver::{Fault, Homeserver},
    nginx::Nginx,
    process::Process,
    server::Server,
    synapse::Synapse,
    user::{SECRET, User},
    wait::{DEADLINE, until},
};
