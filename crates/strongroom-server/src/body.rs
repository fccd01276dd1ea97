//! Bodies of requests: bounded in size, in time, and all of them together in memory.

mod budget;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, Request},
    http::{StatusCode, header},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use strongroom_protocol::{BodyError, MatrixError, UserId};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

pub(crate) use self::budget::{Budget, InFlight};
use crate::{
    metrics::Limit,
    observe::Seen,
    refusal::Refusal,
    router::{App, Options},
};

/// A larger body is parsed away from the threads that serve everybody.
const PARSED_INLINE_BYTES_MAX: usize = 256 * 1024;
/// How long the rest of a refused body is read.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Refused bodies that are read at once: who sends one need have no token, and keeps a connection.
pub(crate) const DRAINS_MAX: usize = 512;

/// A body that has arrived whole. It counts against the budget until it is dropped.
pub(crate) struct Received {
    bytes: Bytes,
    in_flight: Option<InFlight>,
}

impl Received {
    /// Parses it into something that owns what it needs, which counts on as the body did.
    pub(crate) async fn parse<T: Send + 'static>(
        self,
        parse: impl FnOnce(&[u8]) -> Result<T, BodyError> + Send + 'static,
    ) -> Result<(T, Option<InFlight>), Refusal> {
        let Self { bytes, in_flight } = self;
        let parsed = if bytes.len() <= PARSED_INLINE_BYTES_MAX {
            parse(&bytes)
        } else {
            let parsed = spawn_blocking(move || parse(&bytes));
            parsed.await.map_err(|_| Refusal(MatrixError::Unknown))?
        };
        Ok((parsed?, in_flight))
    }
}

impl FromRequest<App> for Received {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &App) -> Result<Self, Refusal> {
        let encoding = request.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(MatrixError::UnsupportedEncoding.into());
        }
        let announced = request.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let bytes_max = app.options.limits.body_bytes_max;
        if announced.is_some_and(|length| length > bytes_max) {
            return Err(MatrixError::TooLarge { bytes_max }.into());
        }
        // A body is read only after it is known whose it is.
        let user_id = request.extensions().get::<Seen>().and_then(Seen::user_id).cloned();
        let user_id = user_id.ok_or(MatrixError::Unknown)?;
        let mut body = request.into_body();
        let mut time = Time::begin(&app.options);
        // All at once where the length is known: bodies that each held a part and waited for more
        // would wait for each other.
        let (mut bytes, mut in_flight) = (Vec::new(), None);
        reserve(app, &mut in_flight, &user_id, announced.unwrap_or(0), &mut time).await?;
        loop {
            let next = timeout(app.options.body_idle_timeout, body.frame());
            let frame = match timeout_at(time.deadline(bytes.len()), next).await {
                Ok(Ok(Some(Ok(frame)))) => frame,
                Ok(Ok(None)) => break,
                Ok(Ok(Some(Err(_)))) => {
                    return Err(BodyError::NotJson("it ended early".to_owned()).into());
                }
                Ok(Err(_)) | Err(_) => return Err(MatrixError::BodyTimeout.into()),
            };
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > bytes_max {
                return Err(MatrixError::TooLarge { bytes_max }.into());
            }
            bytes.extend_from_slice(&data);
            reserve(app, &mut in_flight, &user_id, bytes.len(), &mut time).await?;
        }
        Ok(Self { bytes: bytes.into(), in_flight })
    }
}

/// Takes what is still missing for `length` bytes from the budget, or waits for it, not for ever.
async fn reserve(
    app: &App,
    in_flight: &mut Option<InFlight>,
    user_id: &UserId,
    length: usize,
    time: &mut Time,
) -> Result<(), Refusal> {
    let (begin, wait) = (Instant::now(), app.options.body_idle_timeout);
    let reserved = timeout(wait, app.budget.reserve(in_flight, user_id, length)).await;
    time.was_ours(begin.elapsed());
    reserved.map_err(|_| {
        app.options.metrics.limited(Limit::BodiesInFlight);
        MatrixError::Unavailable { retry_after: wait }.into()
    })
}

/// How long a body may take.
struct Time {
    deadline: Instant,
    /// Moves with each byte.
    slowest: Option<Slowest>,
}

struct Slowest {
    begin: Instant,
    bytes_per_second: u64,
}

impl Time {
    fn begin(options: &Options) -> Self {
        let now = Instant::now();
        let slowest = Slowest {
            begin: now + options.body_grace,
            bytes_per_second: options.body_bytes_per_second_min,
        };
        let slowest = (slowest.bytes_per_second > 0).then_some(slowest);
        Self { deadline: now + options.body_timeout, slowest }
    }

    /// It was us who kept the client waiting.
    fn was_ours(&mut self, time: Duration) {
        if let Some(slowest) = &mut self.slowest {
            slowest.begin += time;
        }
    }

    /// When more must have come than `received`.
    fn deadline(&self, received: usize) -> Instant {
        let Some(Slowest { begin, bytes_per_second }) = &self.slowest else { return self.deadline };
        let ms = (received as u64).saturating_mul(1000) / bytes_per_second;
        self.deadline.min(*begin + Duration::from_millis(ms))
    }
}

/// Answers, then reads and throws away what a refused request still sends, within bounds.
///
/// Clients and proxies write a request before they read the answer. Closing the connection on what
/// they still send would reset it, and a 401 or 413 would never be seen.
pub(crate) async fn drained(app: &App, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Who expects a "100 Continue" has not sent a body that nobody has begun to read.
    let is_expected = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let rest = Arc::new(Mutex::new(Rest { body, is_begun: !is_expected }));
    let request = Request::from_parts(parts, Body::new(Shared(Arc::clone(&rest))));
    let response = next.run(request).await;
    let is_begun = rest.lock().unwrap_or_else(PoisonError::into_inner).is_begun;
    // Of a body that stands still nothing more is waited for.
    if !is_begun || response.status() == StatusCode::REQUEST_TIMEOUT {
        return response;
    }
    let Ok(_place) = app.drains.try_acquire() else { return response };
    let mut rest = Shared(rest);
    let read = async {
        let mut drained = 0;
        while let Some(Ok(frame)) = rest.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > app.options.limits.body_bytes_max {
                break;
            }
        }
    };
    // Whether it ended or not, the answer is the same.
    let _ = timeout(DRAIN_TIME, read).await;
    response
}

struct Rest {
    body: Body,
    is_begun: bool,
}

/// A body that outlives the handler that dropped it.
struct Shared(Arc<Mutex<Rest>>);

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut rest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rest.is_begun = true;
        Pin::new(&mut rest.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).body.is_end_stream()
    }
}
