//! Bodies of requests: bounded in size, in time, and all of them together in memory.

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
use strongroom_protocol::{BodyError, MatrixError};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use crate::{refusal::Refusal, router::App};

/// Bodies in flight are accounted for in pieces of this size.
const PIECE_BYTES: usize = 4 * 1024;
/// Smaller bodies are not accounted for: a single key need not wait for the uploads of others.
const UNCOUNTED_BYTES_MAX: usize = 16 * 1024;
/// A larger body is parsed away from the threads that serve everybody.
const PARSED_INLINE_BYTES_MAX: usize = 256 * 1024;
/// How long the rest of a refused body is read.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The memory that all bodies in flight may take.
#[derive(Debug)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes_max / PIECE_BYTES).min(Semaphore::MAX_PERMITS))))
    }
}

/// A body that has arrived whole. It counts against the budget until it is dropped.
pub(crate) struct Received {
    bytes: Bytes,
    permit: Option<OwnedSemaphorePermit>,
}

impl Received {
    /// Parses it into something that owns what it needs, which counts on as the body did.
    pub(crate) async fn parse<T: Send + 'static>(
        self,
        parse: impl FnOnce(&[u8]) -> Result<T, BodyError> + Send + 'static,
    ) -> Result<(T, Option<OwnedSemaphorePermit>), Refusal> {
        let Self { bytes, permit } = self;
        let parsed = if bytes.len() <= PARSED_INLINE_BYTES_MAX {
            parse(&bytes)
        } else {
            let parsed = spawn_blocking(move || parse(&bytes));
            parsed.await.map_err(|_| Refusal(MatrixError::Unknown))?
        };
        Ok((parsed?, permit))
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
        let mut body = request.into_body();
        let bytes_max = app.options.limits.body_bytes_max;
        if announced.is_some_and(|length| length > bytes_max) {
            return Err(MatrixError::TooLarge { bytes_max }.into());
        }
        let deadline = Instant::now() + app.options.body_timeout;
        // All at once where the length is known: bodies that each held a part and waited for more
        // would wait for each other.
        let (mut bytes, mut permit) = (Vec::new(), None);
        reserve(app, &mut permit, announced.unwrap_or(0)).await?;
        loop {
            let next = timeout(app.options.body_idle_timeout, body.frame());
            let frame = match timeout_at(deadline, next).await {
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
            reserve(app, &mut permit, bytes.len()).await?;
        }
        Ok(Self { bytes: bytes.into(), permit })
    }
}

/// Takes what is still missing for `length` bytes from the budget, or waits for it, not for ever.
async fn reserve(
    app: &App,
    permit: &mut Option<OwnedSemaphorePermit>,
    length: usize,
) -> Result<(), Refusal> {
    if length <= UNCOUNTED_BYTES_MAX {
        return Ok(());
    }
    let held = permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let more = length.div_ceil(PIECE_BYTES).saturating_sub(held);
    if more == 0 {
        return Ok(());
    }
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    let wait = app.options.body_idle_timeout;
    let got = timeout(wait, Arc::clone(&app.budget.0).acquire_many_owned(more)).await;
    let Ok(Ok(got)) = got else {
        return Err(MatrixError::Unavailable { retry_after: wait }.into());
    };
    match permit {
        Some(permit) => permit.merge(got),
        None => *permit = Some(got),
    }
    Ok(())
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
