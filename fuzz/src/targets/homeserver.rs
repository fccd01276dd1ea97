//! Whatever a homeserver answers to `whoami`: only a user of it is let in, a client is told 401, 403 or
//! 429 only if the homeserver has said so in the specification's form, and anything else is a 502.
//!
//! An input is a line with the status, a line with `Retry-After`, and the body. It travels through a
//! socket and the real HTTP client.

use std::{
    cell::OnceCell,
    num::NonZeroUsize,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use strongroom_protocol::{DeviceId, MatrixError, OBJECT_DEPTH_MAX, UserId};
use strongroom_server::{
    AccessToken, Authenticator as _, Credentials, Freshness, Homeserver, HomeserverOptions, Rate,
    Requester,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::json;

const SERVER_NAME: &str = "example.org";

/// One answer of the homeserver.
struct Said<'a> {
    status: u16,
    retry_after: &'a [u8],
    body: &'a [u8],
}

pub(crate) fn run(data: &[u8]) {
    let Some(said) = parse(data) else { return };
    let got = super::run_to_the_end(async {
        let stage = stage().await;
        *stage.answer.lock().unwrap() = said.to_http();
        stage.homeserver.requester(&credentials()).await
    });
    let body = json::read(said.body).unwrap_or_default();
    match (said.status, &got) {
        (200, Ok(requester)) => let_in(requester, &body),
        (200, Err(MatrixError::GuestAccessForbidden)) => {
            assert!(body.is_null() || body["is_guest"] == true, "{body}");
        }
        (
            401 | 403 | 429,
            Err(MatrixError::Homeserver { status, body: passed_on, retry_after }),
        ) => {
            assert_eq!(*status, said.status);
            let passed_on = json::read_by_all(passed_on.as_bytes());
            assert!(is_refusal(&passed_on), "{passed_on}");
            if *status == 429 {
                let has_ms = passed_on["retry_after_ms"].is_u64();
                assert!(retry_after.is_some() && has_ms, "{passed_on}");
            }
            let is_there = |(name, value): (&String, &Value)| {
                passed_on[name] == *value || (name == "retry_after_ms" && value.is_null())
            };
            let is_whole = body.as_object().is_none_or(|body| body.iter().all(is_there));
            assert!(is_whole, "{body} became {passed_on}");
        }
        (status, Err(MatrixError::HomeserverUnavailable { .. })) => {
            let is_sound = match status {
                200 => is_whoami(&body),
                401 | 403 | 429 => is_refusal(&body),
                _ => false,
            };
            assert!(!is_sound, "{status} {body} is taken for nonsense");
        }
        (status, got) => panic!("{status} {body} became {got:?}"),
    }
    if let Err(error) = got {
        let answer = json::read_by_all(error.body().as_bytes());
        assert!(answer["errcode"].is_string(), "{answer}");
        assert!(matches!(error.status(), 401 | 403 | 429 | 502), "{answer}");
    }
}

fn let_in(requester: &Requester, body: &Value) {
    assert_eq!(requester.user_id.server_name(), SERVER_NAME);
    // Where it has members that nobody asks for, a strict reader may refuse the whole.
    if !body.is_null() {
        assert_eq!(requester.user_id.as_str(), body["user_id"], "{body}");
        assert_eq!(requester.device_id.as_ref().map(DeviceId::as_str), body["device_id"].as_str());
        assert_ne!(body["is_guest"], true, "{body}");
    }
}

/// The form of the answer to `GET /account/whoami`, for a user of ours.
fn is_whoami(body: &Value) -> bool {
    let user_id = body["user_id"].as_str().and_then(|user_id| UserId::parse(user_id).ok());
    let device_id = &body["device_id"];
    user_id.is_some_and(|user_id| user_id.server_name() == SERVER_NAME)
        && (device_id.is_null() || device_id.as_str().is_some_and(|it| DeviceId::parse(it).is_ok()))
        && body.get("is_guest").is_none_or(Value::is_boolean)
}

/// The form of a "standard error response" that says something about a token.
fn is_refusal(body: &Value) -> bool {
    let (errcode, retry_after_ms) = (&body["errcode"], &body["retry_after_ms"]);
    errcode.as_str().is_some_and(|errcode| errcode != "M_MISSING_TOKEN")
        && (retry_after_ms.is_null() || retry_after_ms.is_u64())
        && json::depth(body) <= OBJECT_DEPTH_MAX
}

fn parse(data: &[u8]) -> Option<Said<'_>> {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let (status, retry_after, body) = (lines.next()?, lines.next()?, lines.next()?);
    let status = str::from_utf8(status).ok()?.parse().ok()?;
    // With the others no body goes out.
    let has_body = matches!(status, 200..=599) && !matches!(status, 204 | 304);
    let is_header = retry_after.iter().all(|byte| *byte >= b' ' && *byte != 0x7f);
    (has_body && is_header).then_some(Said { status, retry_after, body })
}

impl Said<'_> {
    fn to_http(&self) -> Vec<u8> {
        let head = format!("HTTP/1.1 {} -\r\ncontent-length: {}\r\n", self.status, self.body.len());
        let mut http = head.into_bytes();
        if !self.retry_after.is_empty() {
            http.extend([b"retry-after: ", self.retry_after, b"\r\n"].concat());
        }
        [&http, &b"\r\n"[..], self.body].concat()
    }
}

fn credentials() -> Credentials {
    Credentials {
        token: AccessToken::parse("token").expect("well-formed"),
        user_id: None,
        device_id: None,
        host: None,
        address: None,
        freshness: Freshness::AskedNow,
    }
}

/// A homeserver that says what it is told to say, and ours that asks it.
struct Stage {
    answer: Arc<Mutex<Vec<u8>>>,
    homeserver: Homeserver,
}

async fn stage() -> Rc<Stage> {
    thread_local! {
        static STAGE: OnceCell<Rc<Stage>> = const { OnceCell::new() };
    }
    if let Some(stage) = STAGE.with(|stage| stage.get().cloned()) {
        return stage;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::default();
    let answers = Arc::clone(&answer);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer_all(stream, Arc::clone(&answers)));
        }
    });
    let homeserver = Homeserver::new(HomeserverOptions {
        cache_ttl: Duration::ZERO,
        refused_ttl: Duration::ZERO,
        cache_entries: NonZeroUsize::MIN,
        // It is always asked, however often in vain.
        wrong_tokens: Rate { per_second: 0, burst: 0 },
        ..HomeserverOptions::new(url, SERVER_NAME)
    });
    let stage = Rc::new(Stage { answer, homeserver: homeserver.unwrap() });
    STAGE.with(|place| Rc::clone(place.get_or_init(|| stage)))
}

async fn answer_all(mut stream: TcpStream, answer: Arc<Mutex<Vec<u8>>>) {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await.is_ok_and(|length| length > 0) {
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            let answer = answer.lock().unwrap().clone();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}
