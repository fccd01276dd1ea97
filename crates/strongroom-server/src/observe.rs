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

use crate::{auth::Requester, router::App};

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
    app.metrics.end(&operation, status, time);
    drop(in_flight);
    let user = seen.0.get().map_or("-", UserId::as_str);
    let ms = time.as_secs_f64() * 1000.0;
    span.in_scope(|| tracing::info!(user, operation, status, ms, "answered"));
    response
}

/// The method and the template of the path below `room_keys`, such as `PUT keys/{room_id}`.
fn operation(request: &Request) -> String {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let below = path.and_then(|path| path.split_once("/room_keys/")).map_or("-", |(_, path)| path);
    // Methods are the client's to invent; as labels they would be without bound.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "PUT" | "POST" | "DELETE" | "OPTIONS") => known,
        _ => "OTHER",
    };
    format!("{method} {below}")
}
