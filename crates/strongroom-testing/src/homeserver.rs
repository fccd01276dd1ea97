//! A homeserver as far as Strongroom asks one: tokens, and `whoami`.

mod whoami;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing};
use tokio::{
    net::TcpStream,
    runtime::{self, Runtime},
};

use self::whoami::{Session, State};
use crate::{SECRET, User, port::Port, until};

/// What the homeserver answers to `whoami` in place of the truth.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing is wrong.
    None,
    /// It takes the request and never answers.
    Stall,
    /// The truth, after so long.
    Slow(Duration),
    /// A status, a content type, and a body.
    Status(u16, &'static str, String),
    /// 302 to another place.
    Redirect(String),
    /// 200 with a JSON object of at least so many bytes; the user's id in it does not end earlier.
    Huge(usize),
    /// 200 with a body that says it is JSON and is not.
    Garbage,
    /// 200, half a body, and the connection is closed.
    CloseMidway,
    /// 429 `M_LIMIT_EXCEEDED`.
    RateLimited {
        /// In the body; in the `Retry-After` header too, rounded up to seconds.
        retry_after_ms: u64,
    },
    /// 401 `M_USER_LOCKED`, to which `soft_logout: true` belongs.
    Locked,
}

/// A small homeserver with a port of its own, reached over HTTP like any other.
///
/// It runs in a thread of its own, and so answers whatever the test is doing.
#[derive(Debug)]
pub struct Homeserver {
    server_name: String,
    port: Port,
    state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

impl Homeserver {
    /// The homeserver of `example.org`.
    pub async fn start() -> Self {
        Self::start_named("example.org").await
    }

    /// The homeserver of `server_name`.
    pub async fn start_named(server_name: &str) -> Self {
        let state = Arc::new(Mutex::new(State {
            server_name: server_name.to_owned(),
            sessions: HashMap::new(),
            seen: Vec::new(),
            fault: Fault::None,
        }));
        let server_name = server_name.to_owned();
        let mut homeserver = Self { server_name, port: Port::reserve(), state, runtime: None };
        homeserver.restart().await;
        homeserver
    }

    /// Closes the port and every connection: from now on connections are refused.
    pub async fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        until("connections to be refused", async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number())).await.err()
        })
        .await;
    }

    /// Listens on the same port (again), with the same tokens and the same fault.
    pub async fn restart(&mut self) {
        if self.runtime.is_some() {
            self.stop().await;
        }
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, self.port.number())).expect("reserved");
        listener.set_nonblocking(true).expect("a plain socket");
        let app = Router::new()
            .route("/_matrix/client/v3/account/whoami", routing::get(whoami::whoami))
            .fallback(whoami::unrecognized)
            .with_state(Arc::clone(&self.state));

        let mut runtime = runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a thread");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("nonblocking");
            axum::serve(listener, app).await
        });
        self.runtime = Some(runtime);
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// The part of its users' ids behind the colon.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// The arguments that make `strongroom serve` ask this homeserver.
    pub fn arguments(&self) -> Vec<String> {
        let (url, name) = (self.url(), self.server_name.clone());
        vec!["--homeserver".into(), url, "--server-name".into(), name]
    }

    /// A new device of a user, who may as well be of another homeserver, to see what comes of it.
    pub fn login(&self, user_id: &str) -> User {
        self.new_device(user_id, false)
    }

    /// A guest.
    pub fn login_guest(&self) -> User {
        self.new_device(&format!("@1:{}", self.server_name), true)
    }

    /// An application service that may speak for every user whose id begins with `namespace`, as
    /// in `@bridge_`. The user returned is its own, `@bridge_bot`.
    pub fn login_application_service(&self, namespace: &str) -> User {
        let user_id = format!("{namespace}bot:{}", self.server_name);
        let session =
            Session::ApplicationService { sender: user_id.clone(), namespace: namespace.into() };
        User { user_id, token: self.new_token(session), device_id: None }
    }

    /// From now on the token is unknown.
    pub fn logout(&self, user: &User) {
        self.state.lock().unwrap().sessions.remove(&user.token);
    }

    /// From now on the token is unknown, and `soft_logout` is true: the client may log in again
    /// and keep what it has.
    pub fn soft_logout(&self, user: &User) {
        self.state.lock().unwrap().sessions.insert(user.token.clone(), Session::SoftLoggedOut);
    }

    /// What is wrong with it from the next request on.
    pub fn misbehave(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    /// How many requests for `whoami` have come, answered or not.
    pub fn whoami_count(&self) -> usize {
        self.state.lock().unwrap().seen.len()
    }

    /// The query strings of these requests, in order; empty where there was none.
    pub fn whoami_seen(&self) -> Vec<String> {
        self.state.lock().unwrap().seen.clone()
    }

    fn new_device(&self, user_id: &str, is_guest: bool) -> User {
        let (user_id, device_id) = (user_id.to_owned(), format!("DEVICE{}", next_number()));
        let session =
            Session::Device { user_id: user_id.clone(), device_id: device_id.clone(), is_guest };
        User { user_id, token: self.new_token(session), device_id: Some(device_id) }
    }

    fn new_token(&self, session: Session) -> String {
        let token = format!("token_{SECRET}_{}", next_number());
        self.state.lock().unwrap().sessions.insert(token.clone(), session);
        token
    }
}

impl Drop for Homeserver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // In a test's own runtime, a plain drop would panic.
            runtime.shutdown_background();
        }
    }
}

/// Never twice in a process, so that no two homeservers of a test give out the same token.
fn next_number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}
