//! Asks a homeserver whose token it is: `GET /_matrix/client/v3/account/whoami`.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use reqwest::{Client, Response, Url, header, redirect};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use strongroom_protocol::{DeviceId, MatrixError, Object, UserId};
use tokio::time::{timeout, timeout_at};

use super::{
    Authenticator, Credentials, Freshness, Requester,
    cache::{Remembered, TokenHasher},
    gate::{End, Gate, KNOWN_FOR},
};
use crate::{metrics::Metrics, rate::Rate};

/// A whoami answer has some hundred bytes; more is no whoami answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Refusals that are remembered, apart from the acceptances: a flood of wrong tokens drives out
/// nothing but wrong tokens.
const REFUSALS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Accepted tokens that are remembered, unless configured otherwise: a large homeserver's devices.
const CACHE_ENTRIES: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// Questions under way at once, unless configured otherwise: a homeserver has other work.
const QUESTIONS_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Those that wait for that, unless configured otherwise: in the time that an answer may take, a
/// homeserver answers no more of them.
const QUESTIONS_WAITING_MAX: usize = 4096;
/// When a client may try again after the homeserver could not be asked.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long a connection to the homeserver is kept for the next question; shorter than homeservers
/// keep it themselves, so that it is seldom closed just when it is used.
const IDLE_CONNECTION: Duration = Duration::from_secs(5);

/// How a homeserver is asked.
#[derive(Clone, Debug)]
pub struct HomeserverOptions {
    /// Its base URL, such as `http://127.0.0.1:8008`.
    pub url: String,
    /// The part of its users' ids after the colon.
    pub server_name: String,
    /// How long an accepted token is not asked about again; after a logout it works this long.
    pub cache_ttl: Duration,
    /// How long a refused token is not asked about again.
    pub refused_ttl: Duration,
    /// Accepted tokens that are remembered.
    pub cache_entries: NonZeroUsize,
    /// How long an answer may take, the wait for a place among the questions included.
    pub timeout: Duration,
    /// Questions that are under way at once.
    pub questions_max: NonZeroUsize,
    /// Questions that wait for that; a further one is answered 503.
    pub questions_waiting_max: usize,
    /// Questions in vain about tokens that were not accepted within a day, from everywhere together;
    /// and as many once more from addresses from which a token was accepted within a day. Beyond
    /// that such tokens are answered 503.
    pub wrong_tokens: Rate,
    /// Those of them that come from one address. Beyond that it is answered 429.
    pub address_failures: Rate,
    /// Where it is counted what these limits held off.
    pub metrics: Metrics,
}

impl HomeserverOptions {
    /// The defaults for everything but the homeserver itself.
    pub fn new(url: impl Into<String>, server_name: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            server_name: server_name.into(),
            cache_ttl: Duration::from_secs(30),
            refused_ttl: Duration::from_secs(3),
            cache_entries: CACHE_ENTRIES,
            timeout: Duration::from_secs(10),
            questions_max: QUESTIONS_MAX,
            questions_waiting_max: QUESTIONS_WAITING_MAX,
            // A homeserver hardly notices them. Tokens that expired are not among them as long as
            // they are known, and successes never are.
            wrong_tokens: Rate { per_second: 100, burst: 1000 },
            // A company behind one address whose devices all wake up with tokens that expired.
            address_failures: Rate { per_second: 20, burst: 2000 },
            metrics: Metrics::default(),
        }
    }
}

/// Why a homeserver can't be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum BadHomeserver {
    /// Not `http://…` or `https://…`.
    #[error("{0:?} is not the URL of a homeserver, such as http://127.0.0.1:8008")]
    Url(String),
    /// The HTTP client or its TLS could not be set up.
    #[error("the HTTP client can't be set up")]
    Client(#[from] reqwest::Error),
    /// The system gave no randomness.
    #[error("the system has no random numbers")]
    Randomness(#[from] getrandom::Error),
}

/// The homeserver that hands out the tokens.
#[derive(Debug)]
pub struct Homeserver {
    server_name: String,
    whoami: Url,
    timeout: Duration,
    client: Client,
    gate: Gate,
    hasher: TokenHasher,
    accepted: Remembered<[u8; 32], Requester>,
    refused: Remembered<[u8; 32], MatrixError>,
    lines: Mutex<HashMap<[u8; 32], Line>>,
}

/// Those who wait for what the homeserver says of one token: never more than one question is under
/// way about it, whose answer is left for those behind.
type Line = Arc<tokio::sync::Mutex<Option<Asked>>>;

#[derive(Clone, Debug)]
struct Asked {
    at: Instant,
    answered: Instant,
    answer: Result<Requester, MatrixError>,
}

#[derive(Deserialize)]
struct WhoAmI {
    user_id: String,
    device_id: Option<String>,
    #[serde(default)]
    is_guest: bool,
}

/// What a Matrix error may carry that concerns us.
#[derive(Deserialize)]
struct HomeserverError {
    errcode: String,
    retry_after_ms: Option<u64>,
}

/// Why the homeserver's answer tells nothing about the token.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("it can't be reached")]
    Http(#[from] reqwest::Error),
    #[error("it did not answer in time, or too many questions wait for it")]
    Late,
    #[error("it answered with status {0}, which says nothing about a token")]
    Status(u16),
    #[error("its answer with status {status} is not of the form that the specification gives it")]
    Form { status: u16 },
    #[error("its answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    #[error("it answered with a user of another server; is the configured server name right?")]
    OtherServer,
    #[error("it did not see the token that was sent; does a proxy between us take it away?")]
    TokenNotSeen,
}

impl Homeserver {
    /// Prepares the questions; the first is asked when the first request comes.
    ///
    /// # Errors
    ///
    /// [`BadHomeserver`]
    pub fn new(options: HomeserverOptions) -> Result<Self, BadHomeserver> {
        let gate = Gate::new(&options);
        let whoami = whoami_url(&options.url).ok_or(BadHomeserver::Url(options.url))?;
        // Keeps the provider that the process may have chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .pool_idle_timeout(IDLE_CONNECTION)
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            server_name: options.server_name,
            whoami,
            timeout: options.timeout,
            client,
            gate,
            hasher: TokenHasher::new()?,
            accepted: Remembered::new(options.cache_ttl, options.cache_entries),
            refused: Remembered::new(options.refused_ttl, REFUSALS_MAX),
            lines: Mutex::default(),
        })
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Result<Requester, MatrixError>> {
        let refused = || self.refused.get(key).map(Err);
        self.accepted.get(key).map(Ok).or_else(refused)
    }

    /// Asks, and remembers the answer.
    async fn ask(&self, key: [u8; 32], credentials: &Credentials) -> Asked {
        let begin = Instant::now();
        let (at, answer) = match self.answer(&key, credentials, begin + self.timeout).await {
            Ok((at, answer)) => (at, answer),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    homeserver = self.server_name,
                    "the homeserver can't be asked whose token it is"
                );
                (begin, Err(MatrixError::HomeserverUnavailable { retry_after: RETRY_AFTER }))
            }
        };
        match &answer {
            // From when it was asked: the token may have been logged out since.
            Ok(requester) => self.accepted.insert(key, at, requester.clone()),
            Err(error) => match error.status() {
                401 => {
                    self.accepted.forget(&key);
                    self.refused.insert(key, at, error.clone());
                }
                // A guest, or an account that is locked, which may be unlocked any moment.
                403 => self.accepted.forget(&key),
                // Says nothing about the token.
                _ => {}
            },
        }
        Asked { at, answered: Instant::now(), answer }
    }

    /// The answer to a question, and when it was asked; or why it is not asked now.
    async fn answer(
        &self,
        key: &[u8; 32],
        credentials: &Credentials,
        deadline: Instant,
    ) -> Result<(Instant, Result<Requester, MatrixError>), NoAnswer> {
        let entered = timeout_at(deadline.into(), async {
            if self.accepted.has_known(key, KNOWN_FOR) {
                self.gate.known(credentials.address).await
            } else {
                self.gate.stranger(credentials.address).await
            }
        });
        let entered = entered.await.map_err(|_| NoAnswer::Late)?;
        let at = Instant::now();
        let pass = match entered {
            Ok(pass) => pass,
            Err(held_up) => return Ok((at, Err(held_up))),
        };
        let answer = timeout_at(deadline.into(), self.whoami(credentials)).await;
        let answer = answer.unwrap_or(Err(NoAnswer::Late));
        pass.came_to(match &answer {
            Ok(Ok(_)) => End::LetIn,
            Ok(Err(error)) if matches!(error.status(), 401 | 403) => End::Refused,
            Ok(Err(_)) | Err(_) => End::NoAnswer,
        });
        Ok((at, answer?))
    }

    async fn whoami(
        &self,
        credentials: &Credentials,
    ) -> Result<Result<Requester, MatrixError>, NoAnswer> {
        let mut url = self.whoami.clone();
        let asserted = [("user_id", &credentials.user_id), ("device_id", &credentials.device_id)];
        for (name, value) in asserted {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let question =
            || self.client.get(url.clone()).bearer_auth(credentials.token.expose()).send();
        let response = match question().await {
            // The connection was closed under it, or the homeserver is just starting again.
            Err(_) => question().await,
            Ok(response) => Ok(response),
        };
        // The URL may name a user, so it stays out of the log.
        let response = response.map_err(reqwest::Error::without_url)?;
        let status = response.status().as_u16();
        match status {
            200 => self.accept(&read(response).await?),
            401 | 403 | 429 => refuse(status, response).await.map(Err),
            _ => Err(NoAnswer::Status(status)),
        }
    }

    fn accept(&self, answer: &[u8]) -> Result<Result<Requester, MatrixError>, NoAnswer> {
        let form = NoAnswer::Form { status: 200 };
        let Ok(WhoAmI { user_id, device_id, is_guest }) = serde_json::from_slice(answer) else {
            return Err(form);
        };
        let Ok(user_id) = UserId::parse(&user_id) else { return Err(form) };
        let Ok(device_id) = device_id.as_deref().map(DeviceId::parse).transpose() else {
            return Err(form);
        };
        if user_id.server_name() != self.server_name {
            Err(NoAnswer::OtherServer)
        } else if is_guest {
            Ok(Err(MatrixError::GuestAccessForbidden))
        } else {
            Ok(Ok(Requester { user_id, device_id }))
        }
    }
}

#[async_trait]
impl Authenticator for Homeserver {
    async fn requester(&self, credentials: &Credentials) -> Result<Requester, MatrixError> {
        // One token of an application service stands for many users.
        let asserted = [&credentials.user_id, &credentials.device_id];
        let asserted = asserted.into_iter().flat_map(|value| match value {
            Some(value) => ["some", value.as_str()],
            None => ["none", ""],
        });
        let key = self.hasher.hash(std::iter::once(credentials.token.expose()).chain(asserted));
        let arrived = Instant::now();
        let remembered = || match credentials.freshness {
            Freshness::Remembered => self.remembered(&key),
            Freshness::AskedNow => self.refused.get(&key).map(Err),
        };
        if let Some(answer) = remembered() {
            return answer;
        }
        let place = Place::join(&self.lines, key);
        // The question that is under way, and the one that all others share then.
        let line = timeout(self.timeout * 2, place.line.lock()).await;
        let Ok(mut last) = line else {
            return Err(MatrixError::HomeserverUnavailable { retry_after: RETRY_AFTER });
        };
        if let Some(answer) = remembered() {
            return answer;
        }
        let is_good = |asked: &Asked| match credentials.freshness {
            Freshness::Remembered => asked.answered >= arrived,
            Freshness::AskedNow => asked.at >= arrived,
        };
        match &*last {
            Some(asked) if is_good(asked) => asked.answer.clone(),
            Some(_) | None => last.insert(self.ask(key, credentials).await).answer.clone(),
        }
    }
}

/// A place in a line; the last to leave clears the line away.
struct Place<'a> {
    lines: &'a Mutex<HashMap<[u8; 32], Line>>,
    key: [u8; 32],
    line: Line,
}

impl<'a> Place<'a> {
    fn join(lines: &'a Mutex<HashMap<[u8; 32], Line>>, key: [u8; 32]) -> Self {
        let mut table = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = Arc::clone(table.entry(key).or_default());
        Self { lines, key, line }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut table = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // The table's own and this one: nobody else waits, and under the lock nobody joins.
        if Arc::strong_count(&self.line) == 2 {
            table.remove(&self.key);
        }
    }
}

/// The endpoint below a base URL, which may have a path of its own.
fn whoami_url(base: &str) -> Option<Url> {
    let mut url = Url::parse(base).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    url.path_segments_mut()
        .ok()?
        .pop_if_empty()
        .extend(["_matrix", "client", "v3", "account", "whoami"]);
    url.set_query(None);
    Some(url)
}

/// The homeserver's own refusal, if it is a Matrix error.
async fn refuse(status: u16, response: Response) -> Result<MatrixError, NoAnswer> {
    let header = response.headers().get(header::RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.parse().ok());
    let form = NoAnswer::Form { status };
    let Ok(body) = String::from_utf8(read(response).await?) else { return Err(form) };
    // Passed on to readers of all kinds.
    let Ok(body) = Object::parse(body.trim(), ANSWER_BYTES_MAX) else { return Err(form) };
    let body = body.as_str().to_owned();
    let Ok(HomeserverError { errcode, retry_after_ms }) = serde_json::from_str(&body) else {
        return Err(form);
    };
    if errcode == "M_MISSING_TOKEN" {
        return Err(NoAnswer::TokenNotSeen);
    }
    let retry_after =
        seconds.map(Duration::from_secs).or(retry_after_ms.map(Duration::from_millis));
    if status != 429 {
        return Ok(MatrixError::Homeserver { status, body, retry_after });
    }
    // Some clients read the header and some the body, so both say it.
    let retry_after = retry_after.unwrap_or(RETRY_AFTER);
    let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
    let told = if retry_after_ms.is_some() { Ok(body) } else { with_retry_after_ms(&body, ms) };
    let Ok(body) = told else { return Err(form) };
    Ok(MatrixError::Homeserver { status, body, retry_after: Some(retry_after) })
}

/// The other members stay as they came, to the last digit.
fn with_retry_after_ms(body: &str, ms: u64) -> serde_json::Result<String> {
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(body)?;
    members.insert("retry_after_ms".to_owned(), to_raw_value(&ms)?);
    serde_json::to_string(&members)
}

async fn read(mut response: Response) -> Result<Vec<u8>, NoAnswer> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(NoAnswer::TooLong);
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_below_the_base_url() {
        for (base, expected) in [
            ("http://127.0.0.1:8008", "http://127.0.0.1:8008/_matrix/client/v3/account/whoami"),
            ("https://x.org/hs/", "https://x.org/hs/_matrix/client/v3/account/whoami"),
        ] {
            assert_eq!(whoami_url(base).unwrap().as_str(), expected);
        }
        for bad in ["", "127.0.0.1:8008", "localhost", "ftp://x.org", "file:///x"] {
            assert_eq!(whoami_url(bad), None, "{bad}");
        }
    }
}
