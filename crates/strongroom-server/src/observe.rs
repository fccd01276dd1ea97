//! One line in the log and one count for each request.
//!
//! Never a token, a query, a path, or a body: the operation is named by its template.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use strongroom_protocol::UserId;
use tracing::Instrument as _;

use crate::{auth::Requester, metrics::Operation, router::App};

/// Who asked, once that is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<OnceLock<UserId>>);

impl Seen {
    pub(crate) fn requester(&self, requester: &Requester) {
        // A request has one requester.
        let _ = self.0.set(requester.user_id.clone());
    }
}

/// Wraps every request.
pub(crate) async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    static REQUESTS: AtomicU64 = AtomicU64::new(1);
    let id = REQUESTS.fetch_add(1, Ordering::Relaxed);
    let (begin, in_flight, seen) = (Instant::now(), app.metrics.begin(), Seen::default());
    let operation = operation(&request);
    request.extensions_mut().insert(seen.clone());
    let span = tracing::info_span!("request", id);
    let response = next.run(request).instrument(span.clone()).await;
    let (status, time) = (response.status().as_u16(), begin.elapsed());
    app.metrics.end(operation, status, time);
    drop(in_flight);
    let user = seen.0.get().map_or("-", UserId::as_str);
    let ms = time.as_secs_f64() * 1000.0;
    span.in_scope(|| tracing::info!(user, %operation, status, ms, "answered"));
    response
}

/// The paths below `room_keys`.
const TEMPLATES: [&str; 5] =
    ["version", "version/{version}", "keys", "keys/{room_id}", "keys/{room_id}/{session_id}"];

/// Of a finite set, whatever the client makes up.
fn operation(request: &Request) -> Operation {
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let below = matched.and_then(|path| path.split_once("/room_keys/")).map(|(_, path)| path);
    let path = TEMPLATES.into_iter().find(|template| below == Some(template)).unwrap_or("-");
    let methods = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"];
    let method = methods.into_iter().find(|method| request.method() == method).unwrap_or("-");
    Operation { method, path }
}
