//! The bodies of a `POST` and a `PUT` of a version: what is taken comes back in the answer to a `GET`
//! as every reader reads it, `auth_data` to the byte; what is refused has something wrong with it.

use serde_json::Value;
use strongroom_protocol::{
    ALGORITHM_V1, AUTH_DATA_BYTES_MAX, Etag, ID_BYTES_MAX, MatrixError, NewVersion,
    OBJECT_DEPTH_MAX, Version, VersionAnswer, VersionUpdate,
};

use super::room_keys::answered;
use crate::json;

pub(crate) fn run(data: &[u8]) {
    let sent = json::read(data);
    match NewVersion::parse(data) {
        Ok(new) => {
            let got = json::read_by_all(&answer(&new));
            assert!(as_the_specification_has_it(&got), "{got}");
            if let Some(sent) = sent {
                assert_eq!(got["algorithm"], sent["algorithm"]);
                assert_eq!(got["auth_data"], sent["auth_data"]);
            }
            assert_eq!(new.may_replace(&new), Ok(()));
            update(data, Some(new));
        }
        Err(error) => {
            let is_good = sent.as_ref().is_some_and(as_the_specification_has_it);
            assert!(!is_good || data.len() > AUTH_DATA_BYTES_MAX, "{error}");
            answered(&MatrixError::Body(error));
            update(data, None);
        }
    }
}

/// A `PUT` takes what a `POST` takes, but for a `version` that is no string.
fn update(data: &[u8], new: Option<NewVersion>) {
    match VersionUpdate::parse(data) {
        Ok(update) => {
            assert_eq!(Some(update.replacement), new);
            if let Some(sent) = json::read(data) {
                assert_eq!(update.version.as_deref(), sent["version"].as_str());
            }
        }
        Err(error) => {
            let version = json::read(data).and_then(|sent| sent.get("version").cloned());
            let is_string = version.is_none_or(|version| version.is_string());
            assert!(new.is_none() || json::read(data).is_none() || !is_string, "{error}");
            answered(&MatrixError::Body(error));
        }
    }
}

fn answer(new: &NewVersion) -> Vec<u8> {
    let (algorithm, auth_data) = (new.algorithm.as_str(), &new.auth_data);
    let (etag, version) = (Etag::new(i64::MAX).unwrap(), Version::new(42).unwrap());
    let answer = VersionAnswer { algorithm, auth_data, count: u64::MAX, etag, version }.to_json();
    let kept = format!(r#""auth_data":{},"count""#, auth_data.as_str());
    assert!(String::from_utf8_lossy(&answer).contains(&kept), "auth_data is kept to the byte");
    answer
}

fn as_the_specification_has_it(body: &Value) -> bool {
    let (algorithm, auth_data) = (body["algorithm"].as_str(), &body["auth_data"]);
    algorithm.is_some_and(|algorithm| {
        algorithm.len() <= ID_BYTES_MAX
            && auth_data.is_object()
            && json::depth(auth_data) <= OBJECT_DEPTH_MAX
            && (algorithm != ALGORITHM_V1 || auth_data["public_key"].is_string())
    })
}
