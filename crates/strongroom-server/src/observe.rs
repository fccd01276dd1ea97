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
    extract::{MatchedPath, Request},
    http::StatusCode,
};
use strongroom_protocol::UserId;
use tracing::Span;

use crate::{
    auth::Requester,
    metrics::{Metrics, Operation},
    refusal::Errcode,
};

/// Who asked, once that is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<OnceLock<UserId>>);

impl Seen {
    pub(crate) fn requester(&self, requester: &Requester) {
        // A request has one requester.
        let _ = self.0.set(requester.user_id.clone());
    }

    pub(crate) fn user_id(&self) -> Option<&UserId> {
        self.0.get()
    }
}

/// One request, written down when this is dropped, which a client that hangs up brings about too.
pub(crate) struct Record {
    operation: Operation,
    begin: Instant,
    seen: Seen,
    span: Span,
    metrics: Metrics,
    answer: Option<(StatusCode, Option<Errcode>)>,
}

impl Record {
    pub(crate) fn begin(metrics: &Metrics, request: &mut Request) -> Self {
        static REQUESTS: AtomicU64 = AtomicU64::new(1);
        let id = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let seen = Seen::default();
        request.extensions_mut().insert(seen.clone());
        metrics.begin();
        Self {
            operation: operation(request),
            begin: Instant::now(),
            seen,
            span: tracing::info_span!("request", id),
            metrics: metrics.clone(),
            answer: None,
        }
    }

    /// What is logged within it carries the request's id.
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    pub(crate) fn end(mut self, status: StatusCode, errcode: Option<Errcode>) {
        self.answer = Some((status, errcode));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (operation, time) = (self.operation, self.begin.elapsed());
        let status = self.answer.map(|(status, _)| status.as_u16());
        let errcode = self.answer.and_then(|(_, errcode)| errcode).map(|Errcode(errcode)| errcode);
        self.metrics.end(operation, status, time);
        if let Some(errcode) = errcode {
            self.metrics.refused(errcode);
        }
        let user = self.seen.user_id().map_or("-", UserId::as_str);
        let ms = time.as_micros() as f64 / 1000.0;
        let _entered = self.span.enter();
        match status {
            Some(status) => tracing::info!(user, %operation, status, errcode, ms, "answered"),
            None => tracing::info!(user, %operation, ms, "the client hung up before the answer"),
        }
    }
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
