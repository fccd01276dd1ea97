//! A homeserver that has key backup built in: it mounts our router beside its own endpoints, and lets
//! its own table of sessions say whom a token belongs to.
//!
//! `cargo run --release -p strongroom-server --example embed`, then
//! `curl -i -H 'Authorization: Bearer alices-token' http://127.0.0.1:8019/_matrix/client/v3/room_keys/version`

use std::{collections::HashMap, error::Error, sync::Arc};

use async_trait::async_trait;
use axum::{Router, extract::State, routing::get};
use strongroom_protocol::{DeviceId, MatrixError, UserId};
use strongroom_server::{Authenticator, Credentials, Requester, router};
use strongroom_store::Sqlite;
use tokio::net::TcpListener;

/// What a homeserver has anyway: who is logged in, with which device.
struct Sessions(HashMap<String, Requester>);

#[async_trait]
impl Authenticator for Sessions {
    async fn requester(&self, credentials: &Credentials) -> Result<Requester, MatrixError> {
        // A homeserver whose database fails here would say `MatrixError::Unavailable`: a 401 that is
        // not true makes clients log out and forget their keys.
        self.0.get(credentials.token.expose()).cloned().ok_or(MatrixError::UnknownToken)
    }
}

async fn versions() -> &'static str {
    r#"{"versions": ["v1.11"]}"#
}

async fn who_is_here(State(sessions): State<Arc<Sessions>>) -> String {
    format!("{} sessions\n", sessions.0.len())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let alice = Requester {
        user_id: UserId::parse("@alice:example.org")?,
        device_id: Some(DeviceId::parse("PHONE")?),
    };
    let sessions = Arc::new(Sessions(HashMap::from([("alices-token".to_owned(), alice)])));
    let data = tempfile::tempdir()?;
    let store = Arc::new(Sqlite::open(data.path())?);

    let backup = router(store, Arc::<Sessions>::clone(&sessions));
    let homeserver = Router::new()
        .route("/_matrix/client/versions", get(versions))
        .route("/sessions", get(who_is_here))
        .with_state(sessions)
        .merge(backup);

    let listener = TcpListener::bind("127.0.0.1:8019").await?;
    axum::serve(listener, homeserver).await?;
    Ok(())
}
