//! The parts of a request that come before its body. Each refuses with a Matrix error.

use std::{borrow::Cow, time::Instant};

use axum::{
    extract::{FromRequestParts, Path},
    http::{header, request::Parts},
};
use strongroom_protocol::{MatrixError, RoomId, SessionId, Version};
use strongroom_store::{Author, Timestamp};

use crate::{
    address::ClientAddress,
    auth::{AccessToken, Credentials, Freshness, Requester},
    metrics::Limit,
    observe::Seen,
    refusal::Refusal,
    router::App,
};

/// The requester, of a request that reads or adds.
impl FromRequestParts<App> for Requester {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        authenticate(parts, app, Freshness::Remembered).await
    }
}

/// The requester, of a request that adds keys, as the store wants to know it.
pub(crate) struct Writer(pub(crate) Author);

impl FromRequestParts<App> for Writer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        Ok(Self(author(authenticate(parts, app, Freshness::Remembered).await?)))
    }
}

/// The requester, of a request that destroys or redirects: the homeserver is asked each time.
pub(crate) struct Changer(pub(crate) Author);

impl FromRequestParts<App> for Changer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        Ok(Self(author(authenticate(parts, app, Freshness::AskedNow).await?)))
    }
}

fn author(Requester { user_id, device_id }: Requester) -> Author {
    Author { user_id, device_id, at: Timestamp::now() }
}

async fn authenticate(
    parts: &Parts,
    app: &App,
    freshness: Freshness,
) -> Result<Requester, Refusal> {
    let mut authorizations = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(authorization), None) = (authorizations.next(), authorizations.next()) else {
        return Err(MatrixError::MissingToken.into());
    };
    // The scheme's case does not matter (RFC 9110, section 11.1).
    let token = authorization.to_str().ok().and_then(|value| value.split_once(' '));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = token.map(|(_, token)| token.trim()).filter(|token| !token.is_empty());
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let query = |name| parameter(parts, name).map(Cow::into_owned);
    let token = AccessToken::parse(token.ok_or(MatrixError::MissingToken)?);
    let credentials = Credentials {
        token: token.ok_or(MatrixError::UnknownToken)?,
        user_id: query("user_id"),
        device_id: query("device_id").or_else(|| query("org.matrix.msc3202.device_id")),
        host: host.map(str::to_owned),
        address: parts.extensions.get::<ClientAddress>().copied(),
        freshness,
    };
    let requester = app.authenticator.requester(&credentials).await?;
    if let Some(seen) = parts.extensions.get::<Seen>() {
        seen.requester(&requester);
    }
    let taken = app.users.take(&requester.user_id, Instant::now());
    taken.map_err(|retry_after| {
        app.options.metrics.limited(Limit::User);
        MatrixError::LimitExceeded { retry_after }
    })?;
    Ok(requester)
}

/// The first value of a query parameter, decoded; an empty one counts as absent, since old clients
/// send `version=` for "the current one".
fn parameter<'a>(parts: &'a Parts, name: &str) -> Option<Cow<'a, str>> {
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let found = form_urlencoded::parse(query).find(|(key, _)| key == name);
    found.map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// A version that never existed is no other error than one that is unknown.
fn version(text: &str) -> Result<Version, Refusal> {
    text.parse().map_err(|_| MatrixError::NotFound("Unknown backup version").into())
}

/// The query parameter `version`, where the specification requires it.
pub(crate) struct AtVersion(pub(crate) Version);

impl FromRequestParts<App> for AtVersion {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Refusal> {
        let text = parameter(parts, "version").ok_or(MatrixError::MissingParam("version"))?;
        version(&text).map(Self)
    }
}

/// The query parameter `version` of a `GET`: absent, it means the current one (MSC1219).
pub(crate) struct MaybeAtVersion(pub(crate) Option<Version>);

impl FromRequestParts<App> for MaybeAtVersion {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Refusal> {
        parameter(parts, "version").map(|text| version(&text)).transpose().map(Self)
    }
}

/// The version in the path, and its text: a body may repeat it.
pub(crate) struct VersionPath(pub(crate) Version, pub(crate) String);

impl FromRequestParts<App> for VersionPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let Path(text) = path::<String>(parts, app).await?;
        Ok(Self(version(&text)?, text))
    }
}

/// The room in the path.
pub(crate) struct RoomPath(pub(crate) RoomId);

impl FromRequestParts<App> for RoomPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let Path(room_id) = path::<String>(parts, app).await?;
        room(&room_id).map(Self)
    }
}

/// The room and the session in the path.
pub(crate) struct SessionPath(pub(crate) RoomId, pub(crate) SessionId);

impl FromRequestParts<App> for SessionPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let Path((room_id, session_id)) = path::<(String, String)>(parts, app).await?;
        let session_id = SessionId::parse(&session_id)
            .map_err(|error| MatrixError::InvalidParam(format!("The session id {error}")))?;
        Ok(Self(room(&room_id)?, session_id))
    }
}

fn room(text: &str) -> Result<RoomId, Refusal> {
    RoomId::parse(text)
        .map_err(|error| MatrixError::InvalidParam(format!("The room id {error}")).into())
}

/// The parameters of the path, each percent-decoded once.
async fn path<T: serde::de::DeserializeOwned + Send>(
    parts: &mut Parts,
    app: &App,
) -> Result<Path<T>, Refusal> {
    Path::from_request_parts(parts, app).await.map_err(|_| {
        MatrixError::InvalidParam("The path is not UTF-8 in percent-encoding".to_owned()).into()
    })
}
