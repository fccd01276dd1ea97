//! Matrix server-side key backup as an axum [`Router`](axum::Router): all operations of
//! `/_matrix/client/{v3,r0,unstable}/room_keys`, over any [`Store`](strongroom_store::Store) and any
//! [`Authenticator`].
//!
//! It has no code to decrypt a key, and none for SQL: it decides who asks ([`Authenticator`]), what is
//! asked (`strongroom-protocol`), has it done (`strongroom-store`), and says it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use strongroom_server::{FixedTokens, router};
//! use strongroom_store::Memory;
//! use axum::{body::Body, http::Request};
//! use tower::ServiceExt as _;
//!
//! let tokens = FixedTokens::parse("secret-token @alice:example.org")?;
//! let router = router(Arc::new(Memory::default()), Arc::new(tokens));
//!
//! let request = Request::get("/_matrix/client/v3/room_keys/version")
//!     .header("authorization", "Bearer secret-token")
//!     .body(Body::empty())?;
//! assert_eq!(router.oneshot(request).await?.status(), 404); // Alice has no backup yet
//! # Ok(())
//! # }
//! ```
//!
//! `examples/embed.rs` mounts it in another server with an authenticator of its own.

mod address;
mod auth;
mod body;
mod extract;
mod handlers;
mod metrics;
mod observe;
mod rate;
mod refusal;
mod restore;
mod router;

pub use address::{BadNetwork, ClientAddress, Peer, TrustedProxies};
pub use auth::{
    AccessToken, Authenticator, BadHomeserver, Credentials, FixedTokens, Freshness, Homeserver,
    HomeserverOptions, PerHost, Requester, TokensError,
};
pub use metrics::Metrics;
pub use rate::Rate;
pub use router::{Options, router, router_with, service};
