//! The endpoints, and what is the same for all of them.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use strongroom_protocol::{Limits, MatrixError};
use strongroom_store::Store;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    auth::Authenticator,
    body::{Budget, drain},
    handlers::{
        create_version, current_version, delete_keys, delete_room, delete_session, delete_version,
        keys, one_version, put_keys, put_room, put_session, room, session, update_version,
    },
    metrics::Metrics,
    observe::observe,
    refusal::Refusal,
};

/// The prefixes under which clients in the field ask (iOS `r0`, Android `unstable`).
const PREFIXES: [&str; 3] = ["v3", "r0", "unstable"];

/// What may be set; the defaults are ones that no honest client meets.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sizes of bodies and their parts.
    pub limits: Limits,
    /// Bytes of all bodies in memory together; a further one waits, then is answered 503.
    pub bodies_in_flight_bytes_max: usize,
    /// How long a body may stand still.
    pub body_idle_timeout: Duration,
    /// How long a body may take in all.
    pub body_timeout: Duration,
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
            metrics: Metrics::default(),
        }
    }
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) options: Arc<Options>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) metrics: Metrics,
}

/// All operations of `/_matrix/client/{v3,r0,unstable}/room_keys`, to be merged into the router of
/// another server. Whatever else is asked below these paths is `M_UNRECOGNIZED`.
pub fn router(
    store: Arc<dyn Store>,
    authenticator: Arc<dyn Authenticator>,
    options: Options,
) -> Router {
    finish(endpoints(), store, authenticator, options)
}

/// The same for a server that has nothing else to answer: every other path is `M_UNRECOGNIZED` too.
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

/// What is the same for every request, the outermost last.
fn finish(
    router: Router<App>,
    store: Arc<dyn Store>,
    authenticator: Arc<dyn Authenticator>,
    options: Options,
) -> Router {
    let budget = Arc::new(Budget::new(options.bodies_in_flight_bytes_max));
    let metrics = options.metrics.clone();
    let app = App { store, authenticator, options: Arc::new(options), budget, metrics };
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(well_formed_path))
        .layer(middleware::from_fn_with_state(app.clone(), drain))
        .layer(middleware::from_fn(cross_origin))
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

async fn unknown_endpoint() -> Refusal {
    MatrixError::UnknownEndpoint.into()
}

async fn unknown_method() -> Refusal {
    MatrixError::UnknownMethod.into()
}

/// Refuses paths that the routes would take for what they are not: between two slashes there is
/// neither a room nor a session, and a `%` that escapes nothing would be taken literally.
async fn well_formed_path(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_escape = |after: &str| {
        let mut digits = after.bytes();
        let mut is_digit = || digits.next().is_some_and(|digit| digit.is_ascii_hexdigit());
        is_digit() && is_digit()
    };
    if path.contains("//") {
        Refusal(MatrixError::UnknownEndpoint).into_response()
    } else if !path.split('%').skip(1).all(is_escape) {
        let problem = "The path has a '%' that escapes nothing".to_owned();
        Refusal(MatrixError::InvalidParam(problem)).into_response()
    } else {
        next.run(request).await
    }
}

/// A defect costs the request in which it shows. What panicked has been logged by the panic hook.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    Refusal(MatrixError::Unknown).into_response()
}

/// The headers for browsers on every answer and error, and the answer to a preflight, which must not
/// run any of the endpoint's logic (client-server API, "Web Browser Clients").
async fn cross_origin(request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "X-Requested-With, Content-Type, Authorization"),
        // A browser shows a script no other header of a 429 or 503.
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
