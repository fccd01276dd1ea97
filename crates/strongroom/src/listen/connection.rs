//! One connection, from its first byte until it ends or has to make place.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, extract::Request};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use strongroom_server::Peer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};
use tokio_io_timeout::TimeoutStream;

use super::{ConnectionLimits, metrics::Reason, places::Place};

/// Bytes of a request's header, and of one piece of its body.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// Serves it. When `stop` changes, what is in flight is finished; when it has to make place, only
/// what has arrived.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(
    stream: S,
    peer: Peer,
    router: Router,
    limits: ConnectionLimits,
    place: Arc<Place>,
    mut stop: watch::Receiver<()>,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_timeout));
    let stream = Stream {
        stream: Box::pin(stream),
        place: Arc::clone(&place),
        header_timeout: limits.header_finish_timeout,
        begun: None,
        timer: None,
    };
    let (router, its_place) = (TowerToHyperService::new(router), Arc::clone(&place));
    let service = service_fn(move |mut request: Request<Incoming>| {
        let in_flight = its_place.begin();
        request.extensions_mut().insert(peer);
        let answer = router.call(request);
        async move {
            // Until the last piece of the answer was taken.
            let held = move |frame| {
                let _ = &in_flight;
                frame
            };
            answer.await.map(|response| response.map(|body| body.map_frame(held)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // Without a sender nobody stops it.
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = place.told_to_leave() => {
            connection.as_mut().graceful_shutdown();
            let polled = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await;
            if place.is_idle() {
                place.metrics().closed(Reason::MadePlace);
            }
            match polled {
                Poll::Ready(ended) => ended,
                // Perhaps a header that has begun.
                Poll::Pending if place.is_idle() => Ok(()),
                Poll::Pending => connection.await,
            }
        }
    };
    if let Err(error) = ended {
        // Clients hang up all the time; what was answered has been logged.
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
    }
}

/// A stream that ends if a header that has begun does not come to its end in time.
struct Stream<S> {
    stream: Pin<Box<TimeoutStream<S>>>,
    place: Arc<Place>,
    header_timeout: Duration,
    /// The first bytes of a header, and how many requests there were before.
    begun: Option<(Instant, u64)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        let read = self.stream.as_mut().poll_read(cx, buf);
        let requests = self.place.requests();
        if self.begun.is_some_and(|(_, before)| before != requests) {
            (self.begun, self.timer) = (None, None);
        }
        // Otherwise it is of a body.
        if self.place.is_idle() && self.begun.is_none() && buf.filled().len() > filled {
            self.begun = Some((Instant::now(), requests));
        }
        if let (Poll::Pending, Some((begun, _))) = (&read, self.begun) {
            let end = begun + self.header_timeout;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
            ready!(timer.as_mut().poll(cx));
            self.place.metrics().closed(Reason::HeaderUnfinished);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}
