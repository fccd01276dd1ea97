//! The endpoints, and what is the same for all of them.

use std::{
    any::Any,
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use strongroom_protocol::{Limits, MatrixError};
use strongroom_store::Store;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;

use crate::{
    address::TrustedProxies,
    auth::Authenticator,
    body::{Budget, DRAINS_MAX, drained},
    handlers::{
        create_version, current_version, delete_keys, delete_room, delete_session, delete_version,
        keys, one_version, put_keys, put_room, put_session, room, session, update_version,
    },
    metrics::{Limit, Metrics},
    observe::Record,
    rate::{Buckets, Rate},
    refusal::Refusal,
};

/// The prefixes under which clients in the field ask (iOS `r0`, Android `unstable`).
const PREFIXES: [&str; 3] = ["v3", "r0", "unstable"];

/// What may be set; the defaults are ones that no honest client meets.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sizes of bodies and their parts.
    pub limits: Limits,
    /// Bytes of all bodies in memory together; a further one waits, then is answered 503. One user
    /// has a quarter of it, or one body.
    pub bodies_in_flight_bytes_max: usize,
    /// How long a body may stand still.
    pub body_idle_timeout: Duration,
    /// How long a body may take in all.
    pub body_timeout: Duration,
    /// How fast a body must come once `body_grace` is over, on average; 0: however slow.
    pub body_bytes_per_second_min: u64,
    /// How long that does not matter.
    pub body_grace: Duration,
    /// Requests of one user, whatever they are.
    pub user_requests: Rate,
    /// Requests from one address, before it is known who asks.
    pub address_requests: Rate,
    /// Who may say where a request comes from, in `X-Forwarded-For`.
    pub trusted_proxies: TrustedProxies,
    /// Where the requests are counted.
    pub metrics: Metrics,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            bodies_in_flight_bytes_max: 256 * 1024 * 1024,
            body_idle_timeout: Duration::from_secs(20),
            body_timeout: Duration::from_secs(600),
            // Of the slowest mobile network there is, on a bad day.
            body_bytes_per_second_min: 1024,
            body_grace: Duration::from_secs(30),
            // Some clients send one request a key, all at once, and none of them again if refused.
            user_requests: Rate { per_second: 500, burst: 1_000_000 },
            // Behind one address there can be thousands of users.
            address_requests: Rate { per_second: 0, burst: 10_000 },
            trusted_proxies: TrustedProxies::default(),
            metrics: Metrics::default(),
        }
    }
}

/// What all requests share.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) options: Options,
    pub(crate) budget: Budget,
    pub(crate) drains: Semaphore,
    pub(crate) users: Buckets,
    addresses: Buckets,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// All operations of `/_matrix/client/{v3,r0,unstable}/room_keys`, to be merged into the router of
/// another server. Whatever else is asked below these paths is `M_UNRECOGNIZED`.
pub fn router(store: Arc<dyn Store>, authenticator: Arc<dyn Authenticator>) -> Router {
    router_with(store, authenticator, Options::default())
}

/// The same with limits of one's own, and requests that are counted.
pub fn router_with(
    store: Arc<dyn Store>,
    authenticator: Arc<dyn Authenticator>,
    options: Options,
) -> Router {
    finish(endpoints(), store, authenticator, options)
}

/// As [`router_with`], for a server that answers nothing else: every other path is `M_UNRECOGNIZED`.
pub fn service(
    store: Arc<dyn Store>,
    authenticator: Arc<dyn Authenticator>,
    options: Options,
) -> Router {
    finish(endpoints().fallback(unknown_endpoint), store, authenticator, options)
}

fn endpoints() -> Router<App> {
    let mut router = Router::new();
    for prefix in PREFIXES {
        let at = |path: &str| format!("/_matrix/client/{prefix}/room_keys{path}");
        router = router
            .route(&at("/version"), get(current_version).post(create_version))
            .route(
                &at("/version/{version}"),
                get(one_version).put(update_version).delete(delete_version),
            )
            .route(&at("/keys"), get(keys).put(put_keys).delete(delete_keys))
            .route(&at("/keys/{room_id}"), get(room).put(put_room).delete(delete_room))
            .route(
                &at("/keys/{room_id}/{session_id}"),
                get(session).put(put_session).delete(delete_session),
            )
            .route(&at(""), any(unknown_endpoint))
            .route(&at("/"), any(unknown_endpoint))
            .route(&at("/{*unknown}"), any(unknown_endpoint));
    }
    router.method_not_allowed_fallback(unknown_method)
}

fn finish(
    router: Router<App>,
    store: Arc<dyn Store>,
    authenticator: Arc<dyn Authenticator>,
    options: Options,
) -> Router {
    let body_bytes_max = options.limits.body_bytes_max;
    let budget = Budget::new(options.bodies_in_flight_bytes_max, body_bytes_max);
    let users = Buckets::new(options.user_requests);
    let addresses = Buckets::new(options.address_requests);
    let drains = Semaphore::new(DRAINS_MAX);
    let shared = Shared { store, authenticator, options, budget, drains, users, addresses };
    let app = App(Arc::new(shared));
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(app.clone(), around))
        .with_state(app)
}

/// What is the same for every request.
async fn around(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let record = Record::begin(&app.options.metrics, &mut request);
    let mut response = answer(&app, request, next).instrument(record.span()).await;
    allow_cross_origin(response.headers_mut());
    record.end(response.status(), response.extensions().get().copied());
    response
}

async fn answer(app: &App, mut request: Request, next: Next) -> Response {
    // A preflight must not run any of the endpoint's logic, and has no token.
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let client = app.options.trusted_proxies.client(request.extensions(), request.headers());
    if let Some(client) = client {
        if let Err(retry_after) = app.addresses.take(&client, Instant::now()) {
            app.options.metrics.limited(Limit::Address);
            return Refusal(MatrixError::LimitExceeded { retry_after }).into_response();
        }
        request.extensions_mut().insert(client);
    }
    match check_path(request.uri().path()) {
        Ok(()) => drained(app, request, next).await,
        Err(error) => Refusal(error).into_response(),
    }
}

async fn unknown_endpoint() -> Refusal {
    MatrixError::UnknownEndpoint.into()
}

async fn unknown_method() -> Refusal {
    MatrixError::UnknownMethod.into()
}

/// Refuses paths that the routes would take for what they are not: between two slashes there is
/// neither a room nor a session, and a `%` that escapes nothing would be taken literally.
fn check_path(path: &str) -> Result<(), MatrixError> {
    let is_escape = |after: &str| {
        let mut digits = after.bytes();
        let mut is_digit = || digits.next().is_some_and(|digit| digit.is_ascii_hexdigit());
        is_digit() && is_digit()
    };
    if path.contains("//") {
        Err(MatrixError::UnknownEndpoint)
    } else if !path.split('%').skip(1).all(is_escape) {
        Err(MatrixError::InvalidParam("The path has a '%' that escapes nothing".to_owned()))
    } else {
        Ok(())
    }
}

/// A defect costs the request in which it shows. What panicked has been logged by the panic hook.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    Refusal(MatrixError::Unknown).into_response()
}

/// The headers for browsers, on every answer and error (client-server API, "Web Browser Clients").
fn allow_cross_origin(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "X-Requested-With, Content-Type, Authorization"),
        // A browser shows a script no other header of a 429 or 503.
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
