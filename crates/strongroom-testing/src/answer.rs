//! What came back over HTTP, and the client that asks.

use std::fmt;

use bytes::Bytes;
use reqwest::{
    Client, Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::Serialize;
use serde_json::Value;

use crate::{DEADLINE, User};

/// So much of a body is shown when an assertion fails.
const SHOWN_BYTES_MAX: usize = 2000;

/// One whole answer.
#[derive(Clone)]
pub struct Answer {
    /// The HTTP status code.
    pub status: u16,
    /// The headers, as they came.
    pub headers: HeaderMap,
    /// The body, as it came.
    pub body: Vec<u8>,
    /// The body as JSON; `null` if it is none.
    pub json: Value,
}

impl Answer {
    /// The value of a header, if it came and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        let shown = self.body.get(..SHOWN_BYTES_MAX).unwrap_or(&self.body);
        write!(f, "\n{}", String::from_utf8_lossy(shown))?;
        match self.body.len() - shown.len() {
            0 => Ok(()),
            hidden => write!(f, "… and {hidden} bytes more"),
        }
    }
}

/// A request, put together by hand.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) url: String,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: Bytes,
}

impl Call<'_> {
    /// Sends it and reads the whole answer. `Err` if the connection broke, before or within it.
    pub(crate) async fn send(self, client: &Client) -> reqwest::Result<Answer> {
        let method = Method::from_bytes(self.method.as_bytes()).expect("an HTTP method");
        let mut request = client.request(method, self.url);
        for (name, value) in self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
            request = request.header(name, HeaderValue::from_str(value).expect("a header's value"));
        }
        // Only where there is one: an empty body with a length of 0 is another request.
        if !self.body.is_empty() {
            request = request.body(self.body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Answer { status, headers, body, json })
    }
}

/// A client with connections of its own, because those of a server that is gone are dead.
///
/// # Panics
///
/// If the HTTP library can't be set up.
pub fn new_client() -> Client {
    // Built together with the server's, reqwest has TLS without a provider, and insists on one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redirects = reqwest::redirect::Policy::none();
    Client::builder().no_proxy().redirect(redirects).timeout(DEADLINE).build().expect("no TLS")
}

/// Sends JSON (or, where `body` is `None`, nothing) in the name of `user`.
///
/// # Panics
///
/// If no whole answer comes.
pub(crate) async fn ask(
    client: &Client,
    method: &str,
    url: String,
    user: &User,
    body: Option<&(impl Serialize + ?Sized)>,
) -> Answer {
    let authorization = format!("Bearer {}", user.token);
    let mut headers = vec![("authorization", authorization.as_str())];
    let mut bytes = Bytes::new();
    if let Some(body) = body {
        headers.push(("content-type", "application/json"));
        bytes = serde_json::to_vec(body).expect("JSON").into();
    }
    let call = Call { method, url, headers: &headers, body: bytes };
    let what = format!("{method} {}", call.url);
    call.send(client).await.unwrap_or_else(|error| panic!("{what} got no answer: {error:?}"))
}
