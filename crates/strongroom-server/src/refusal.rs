//! Where errors become answers, and the only place where a store's error becomes a status. In doubt
//! it is 503, never 404 or 403: on those, clients in the field switch the backup off.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use strongroom_protocol::{BodyError, MatrixError};
use strongroom_store as store;

/// When a client may try again after the store failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The errcodes with which a homeserver refuses a token, as far as operators may want to count them.
const HOMESERVER_ERRCODES: [&str; 7] = [
    "M_CONSENT_NOT_GIVEN",
    "M_FORBIDDEN",
    "M_LIMIT_EXCEEDED",
    "M_UNKNOWN_TOKEN",
    "M_USER_DEACTIVATED",
    "M_USER_LOCKED",
    "M_USER_SUSPENDED",
];

/// What is said of a refusal in the log and the metrics: an extension of the response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Errcode(pub(crate) &'static str);

impl Errcode {
    /// One of a finite set, whatever the homeserver makes up.
    fn of(error: &MatrixError) -> Self {
        let MatrixError::Homeserver { body, .. } = error else { return Self(error.errcode()) };
        let told = serde_json::from_str::<Told>(body);
        let is_told = |errcode: &&str| told.as_ref().is_ok_and(|told| told.errcode == *errcode);
        Self(HOMESERVER_ERRCODES.into_iter().find(is_told).unwrap_or(error.errcode()))
    }
}

#[derive(Deserialize)]
struct Told {
    errcode: String,
}

/// A Matrix error on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Refusal(pub(crate) MatrixError);

impl From<MatrixError> for Refusal {
    fn from(error: MatrixError) -> Self {
        Self(error)
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self(MatrixError::Body(error))
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        let refusal = match &error {
            store::Error::NoBackup => MatrixError::NotFound("No current backup version"),
            store::Error::NoSuchVersion => MatrixError::NotFound("Unknown backup version"),
            store::Error::NotCurrent { current } => {
                MatrixError::WrongRoomKeysVersion { current: *current }
            }
            store::Error::MayNotReplace(why) => MatrixError::InvalidParam((*why).to_owned()),
            store::Error::OverQuota(quota) => MatrixError::OverQuota(format!(
                "This server keeps no more than {quota} for one user, \
                 deleted and replaced ones included for some time"
            )),
            store::Error::Damaged { .. } => MatrixError::Unknown,
            store::Error::Purged | store::Error::Unavailable(_) | store::Error::Database(_) => {
                MatrixError::Unavailable { retry_after: RETRY_AFTER }
            }
        };
        let is_told = matches!(error, store::Error::Unavailable(_));
        if refusal.status() >= 500 && !is_told {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
        }
        Self(refusal)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, self.0.body());
        response.extensions_mut().insert(Errcode::of(&self.0));
        if let Some(retry_after) = self.0.retry_after() {
            // Whole seconds, rounded up: sooner would be refused again.
            let seconds = retry_after.as_nanos().div_ceil(1_000_000_000);
            if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
        }
        response
    }
}

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, body.into()).into_response()
}
