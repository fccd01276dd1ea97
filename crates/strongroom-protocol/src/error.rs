//! Every Matrix error that this server sends, with its status and `errcode` in one place.

use std::time::Duration;

use serde_json::json;

use crate::{body::BodyError, ids::Version};

/// A "standard error response" (client-server API, "Standard error response").
///
/// Clients in the field log out on a 401, and switch the backup off on a 404 or a 403, so those
/// three are said only when they are certainly true; anything else is a 5xx that they try again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MatrixError {
    /// 401: the request has no access token.
    MissingToken,
    /// 401: nobody has this access token. Said of static tokens; a homeserver says it by itself.
    UnknownToken,
    /// 403: guests have no backups.
    GuestAccessForbidden,
    /// 403: keys are written only to the current backup, which this is.
    WrongRoomKeysVersion {
        /// Typed clients can't read the error without it.
        current: Version,
    },
    /// 404: read from the store, never a sign of trouble.
    NotFound(&'static str),
    /// 404: no such endpoint.
    UnknownEndpoint,
    /// 405: the endpoint has other methods.
    UnknownMethod,
    /// 400: the query lacks this parameter.
    MissingParam(&'static str),
    /// 400: a parameter has a value that it can't have.
    InvalidParam(String),
    /// 400 or 413: the body is not what it should be.
    Body(BodyError),
    /// 413: more bytes than this server reads.
    TooLarge {
        /// What is allowed.
        bytes_max: usize,
    },
    /// 413: the user has as much as this server keeps for one.
    OverQuota(String),
    /// 408: the body did not arrive in time, or not whole.
    BodyTimeout,
    /// 415: bodies are not compressed.
    UnsupportedEncoding,
    /// 421: the `Host` of the request is none of ours.
    Misdirected,
    /// 429: more requests than one user or one address may send.
    LimitExceeded {
        /// When the next one is taken.
        retry_after: Duration,
    },
    /// 500: a defect of this server, or of its data.
    Unknown,
    /// 502: the homeserver could not say whom the token belongs to.
    HomeserverUnavailable {
        /// When to ask again.
        retry_after: Duration,
    },
    /// 503: the store or the server is busy or broken; trying again may help.
    Unavailable {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The homeserver's own 401, 403 or 429 for this token, passed on.
    Homeserver {
        /// 401, 403 or 429.
        status: u16,
        /// Its JSON object, which has an `errcode`.
        body: String,
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
}

impl MatrixError {
    /// The HTTP status.
    pub const fn status(&self) -> u16 {
        match self {
            Self::MissingParam(_) | Self::InvalidParam(_) => 400,
            Self::Body(BodyError::NotJson(_) | BodyError::BadJson { .. }) => 400,
            Self::MissingToken | Self::UnknownToken => 401,
            Self::GuestAccessForbidden | Self::WrongRoomKeysVersion { .. } => 403,
            Self::NotFound(_) | Self::UnknownEndpoint => 404,
            Self::UnknownMethod => 405,
            Self::BodyTimeout => 408,
            Self::TooLarge { .. } | Self::OverQuota(_) | Self::Body(BodyError::TooLarge { .. }) => {
                413
            }
            Self::UnsupportedEncoding => 415,
            Self::Misdirected => 421,
            Self::LimitExceeded { .. } => 429,
            Self::Unknown => 500,
            Self::HomeserverUnavailable { .. } => 502,
            Self::Unavailable { .. } => 503,
            Self::Homeserver { status, .. } => *status,
        }
    }

    /// The `errcode`; for the homeserver's own error it stands in its body.
    pub const fn errcode(&self) -> &'static str {
        match self {
            Self::MissingToken => "M_MISSING_TOKEN",
            Self::UnknownToken => "M_UNKNOWN_TOKEN",
            Self::GuestAccessForbidden => "M_GUEST_ACCESS_FORBIDDEN",
            Self::WrongRoomKeysVersion { .. } => "M_WRONG_ROOM_KEYS_VERSION",
            Self::NotFound(_) => "M_NOT_FOUND",
            Self::UnknownEndpoint | Self::UnknownMethod => "M_UNRECOGNIZED",
            Self::MissingParam(_) => "M_MISSING_PARAM",
            Self::InvalidParam(_) => "M_INVALID_PARAM",
            Self::Body(BodyError::NotJson(_)) => "M_NOT_JSON",
            Self::Body(BodyError::BadJson { .. }) => "M_BAD_JSON",
            Self::TooLarge { .. } | Self::OverQuota(_) | Self::Body(BodyError::TooLarge { .. }) => {
                "M_TOO_LARGE"
            }
            Self::LimitExceeded { .. } => "M_LIMIT_EXCEEDED",
            Self::BodyTimeout
            | Self::UnsupportedEncoding
            | Self::Misdirected
            | Self::Unknown
            | Self::HomeserverUnavailable { .. }
            | Self::Unavailable { .. }
            | Self::Homeserver { .. } => "M_UNKNOWN",
        }
    }

    /// When to try again, which also becomes the header `Retry-After`.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::LimitExceeded { retry_after }
            | Self::HomeserverUnavailable { retry_after }
            | Self::Unavailable { retry_after } => Some(*retry_after),
            Self::Homeserver { retry_after, .. } => *retry_after,
            Self::MissingToken
            | Self::UnknownToken
            | Self::GuestAccessForbidden
            | Self::WrongRoomKeysVersion { .. }
            | Self::NotFound(_)
            | Self::UnknownEndpoint
            | Self::UnknownMethod
            | Self::MissingParam(_)
            | Self::InvalidParam(_)
            | Self::Body(_)
            | Self::TooLarge { .. }
            | Self::OverQuota(_)
            | Self::BodyTimeout
            | Self::UnsupportedEncoding
            | Self::Misdirected
            | Self::Unknown => None,
        }
    }

    /// The JSON object of the answer. `retry_after_ms` repeats the header, since some clients read
    /// only the one and some only the other.
    pub fn body(&self) -> String {
        if let Self::Homeserver { body, .. } = self {
            return body.clone();
        }
        let mut body = json!({ "errcode": self.errcode(), "error": self.message() });
        if let (Self::WrongRoomKeysVersion { current }, Some(body)) = (self, body.as_object_mut()) {
            body.insert("current_version".to_owned(), current.to_string().into());
        }
        if let (Some(retry_after), Some(body)) = (self.retry_after(), body.as_object_mut()) {
            // Rounded up, as the header is: sooner would be refused again.
            let ms = u64::try_from(retry_after.as_nanos().div_ceil(1_000_000));
            let ms = ms.unwrap_or(u64::MAX);
            body.insert("retry_after_ms".to_owned(), ms.into());
        }
        body.to_string()
    }

    fn message(&self) -> String {
        match self {
            Self::MissingToken => "Missing access token".to_owned(),
            Self::UnknownToken => "Unrecognised access token".to_owned(),
            Self::GuestAccessForbidden => "Guests can't have a key backup".to_owned(),
            Self::WrongRoomKeysVersion { .. } => {
                "Wrong backup version: keys are stored in the current one only".to_owned()
            }
            Self::NotFound(what) => (*what).to_owned(),
            Self::UnknownEndpoint => "Unrecognised request".to_owned(),
            Self::UnknownMethod => "Unrecognised method for this endpoint".to_owned(),
            Self::MissingParam(name) => format!("The query parameter {name} is missing"),
            Self::InvalidParam(problem) | Self::OverQuota(problem) => problem.clone(),
            Self::Body(error) => error.to_string(),
            Self::TooLarge { bytes_max } => {
                format!("The body is larger than the {bytes_max} bytes that this server takes")
            }
            Self::BodyTimeout => "The body did not arrive whole in time".to_owned(),
            Self::UnsupportedEncoding => "A compressed body is not understood here".to_owned(),
            Self::Misdirected => "This server does not serve the host of the request".to_owned(),
            Self::LimitExceeded { .. } => "Too many requests; try again later".to_owned(),
            Self::Unknown => "Internal error".to_owned(),
            Self::HomeserverUnavailable { .. } => {
                "The homeserver can't be asked whose access token this is; try again".to_owned()
            }
            Self::Unavailable { .. } => {
                "Key backup is not available just now; try again".to_owned()
            }
            Self::Homeserver { .. } => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_version_tells_the_current_one_as_a_string() {
        let current = Version::new(42).unwrap();
        let error = MatrixError::WrongRoomKeysVersion { current };
        let body: serde_json::Value = serde_json::from_str(&error.body()).unwrap();
        assert_eq!(error.status(), 403);
        assert_eq!(body["errcode"], "M_WRONG_ROOM_KEYS_VERSION");
        assert_eq!(body["current_version"], "42");
    }

    #[test]
    fn what_may_be_tried_again_says_when() {
        let retry_after = Duration::from_micros(1_499_001);
        for (error, status) in [
            (MatrixError::Unavailable { retry_after }, 503),
            (MatrixError::LimitExceeded { retry_after }, 429),
        ] {
            let body: serde_json::Value = serde_json::from_str(&error.body()).unwrap();
            assert_eq!((error.status(), &body["retry_after_ms"]), (status, &1500.into()));
        }
    }
}
