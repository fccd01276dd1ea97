//! `GET /_matrix/client/v3/account/whoami`: the truth, or a fault in its place.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use axum::{
    Json,
    body::Body,
    extract::{self, RawQuery},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::Fault;

/// A piece of a body that is too big.
const PIECE: &[u8] = &[b'a'; 64 * 1024];

#[derive(Debug)]
pub(super) struct State {
    pub(super) server_name: String,
    /// By access token.
    pub(super) sessions: HashMap<String, Session>,
    /// The query string of each request.
    pub(super) seen: Vec<String>,
    pub(super) fault: Fault,
}

/// What the homeserver knows of a token.
#[derive(Debug)]
pub(super) enum Session {
    Device { user_id: String, device_id: String, is_guest: bool },
    ApplicationService { sender: String, namespace: String },
    SoftLoggedOut,
}

pub(super) async fn whoami(
    extract::State(state): extract::State<Arc<Mutex<State>>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let (fault, truth) = {
        let mut state = state.lock().unwrap();
        state.seen.push(query.clone());
        (state.fault.clone(), state.answer(&headers, &query))
    };
    match fault {
        Fault::None => truth,
        Fault::Stall => std::future::pending().await,
        Fault::Slow(time) => {
            tokio::time::sleep(time).await;
            truth
        }
        Fault::Status(status, content_type, body) => {
            let status = StatusCode::from_u16(status).expect("an HTTP status");
            (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Fault::Redirect(url) => (StatusCode::FOUND, [(header::LOCATION, url)]).into_response(),
        Fault::Huge(bytes) => {
            let pieces = std::iter::repeat_n(PIECE, bytes.div_ceil(PIECE.len()));
            let pieces = [&b"{\"user_id\":\"@"[..]].into_iter().chain(pieces);
            let pieces = pieces.chain([&b":example.org\",\"is_guest\":false}"[..]]);
            streamed(stream::iter(pieces.map(Ok)))
        }
        Fault::Garbage => {
            ([(header::CONTENT_TYPE, "application/json")], r#"{"user_id": @alice"#).into_response()
        }
        Fault::CloseMidway => {
            let half = stream::iter([Ok(&b"{\"user_id\":\"@alice:exam"[..])]);
            let cut = stream::once(async {
                // Hyper sends what it has when there is nothing more for the moment.
                tokio::task::yield_now().await;
                Err(io::ErrorKind::ConnectionReset.into())
            });
            streamed(half.chain(cut))
        }
        Fault::RateLimited { retry_after_ms } => {
            let seconds = retry_after_ms.div_ceil(1000).to_string();
            let body = json!({
                "errcode": "M_LIMIT_EXCEEDED",
                "error": "Too Many Requests",
                "retry_after_ms": retry_after_ms,
            });
            let headers = [(header::RETRY_AFTER, seconds)];
            (StatusCode::TOO_MANY_REQUESTS, headers, Json(body)).into_response()
        }
        Fault::Locked => refusal(401, "M_USER_LOCKED", "User account has been locked", Some(true)),
    }
}

pub(super) async fn unrecognized() -> Response {
    refusal(404, "M_UNRECOGNIZED", "Unrecognized request", None)
}

impl State {
    /// The truth, in Synapse's words.
    fn answer(&self, headers: &HeaderMap, query: &str) -> Response {
        let parameters: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
        let authorization = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
        let token = authorization.and_then(|it| it.strip_prefix("Bearer "));
        let Some(token) = token.or(parameters.get("access_token").map(AsRef::as_ref)) else {
            return refusal(401, "M_MISSING_TOKEN", "Missing access token", None);
        };
        match self.sessions.get(token) {
            Some(Session::Device { user_id, device_id, is_guest }) => {
                told(json!({ "user_id": user_id, "device_id": device_id, "is_guest": is_guest }))
            }
            Some(Session::ApplicationService { sender, namespace }) => {
                let user_id = parameters.get("user_id").map_or(sender.as_str(), AsRef::as_ref);
                let is_its_own = user_id.starts_with(namespace)
                    && user_id.ends_with(&format!(":{}", self.server_name));
                if !is_its_own {
                    let error = "Application service cannot masquerade as this user";
                    return refusal(403, "M_FORBIDDEN", error, None);
                }
                match parameters.get("device_id") {
                    Some(device_id) => told(
                        json!({ "user_id": user_id, "device_id": device_id, "is_guest": false }),
                    ),
                    None => told(json!({ "user_id": user_id, "is_guest": false })),
                }
            }
            Some(Session::SoftLoggedOut) => {
                refusal(401, "M_UNKNOWN_TOKEN", "Access token has expired", Some(true))
            }
            None => refusal(401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", Some(false)),
        }
    }
}

fn told(body: Value) -> Response {
    Json(body).into_response()
}

fn refusal(status: u16, errcode: &str, error: &str, soft_logout: Option<bool>) -> Response {
    let mut body = json!({ "errcode": errcode, "error": error });
    if let Some(soft_logout) = soft_logout {
        body["soft_logout"] = soft_logout.into();
    }
    (StatusCode::from_u16(status).expect("an HTTP status"), Json(body)).into_response()
}

/// A body in pieces, of no announced length; an `Err` among them cuts the connection there.
fn streamed(pieces: impl Stream<Item = io::Result<&'static [u8]>> + Send + 'static) -> Response {
    let body = Body::from_stream(pieces.map_ok(Bytes::from_static));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
