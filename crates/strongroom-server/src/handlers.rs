//! The fourteen operations (client-server API, "Server-side key backups"): parse, call, render.
//!
//! The arguments are the checks, in their order: who, which version, where, what.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Version as HttpVersion},
    response::Response,
};
use strongroom_protocol::{
    MatrixError, NewVersion, RoomId, RoomKeys, StoredAnswer, VersionAnswer, VersionUpdate,
    write_key,
};
use strongroom_store::{Scope, Stored};

use crate::{
    auth::Requester,
    body::Received,
    extract::{AtVersion, Changer, MaybeAtVersion, RoomPath, SessionPath, VersionPath, Writer},
    refusal::{Refusal, json},
    restore::{KeysOf, restore},
    router::App,
};

type Answer = Result<Response, Refusal>;

/// `POST /room_keys/version`: creates a backup, which becomes the current one.
pub(crate) async fn create_version(
    State(app): State<App>,
    Changer(author): Changer,
    body: Received,
) -> Answer {
    let (new, _in_flight) = body.parse(NewVersion::parse).await?;
    let version = app.store.create_version(&author, new).await?;
    Ok(ok(format!(r#"{{"version":"{version}"}}"#)))
}

/// `GET /room_keys/version`: the current backup.
pub(crate) async fn current_version(State(app): State<App>, requester: Requester) -> Answer {
    version_answer(&app, requester, None).await
}

/// `GET /room_keys/version/{version}`.
pub(crate) async fn one_version(
    State(app): State<App>,
    requester: Requester,
    VersionPath(version, _): VersionPath,
) -> Answer {
    version_answer(&app, requester, Some(version)).await
}

/// `PUT /room_keys/version/{version}`: replaces the `auth_data`.
pub(crate) async fn update_version(
    State(app): State<App>,
    Changer(author): Changer,
    VersionPath(version, version_text): VersionPath,
    body: Received,
) -> Answer {
    let (update, _in_flight) = body.parse(VersionUpdate::parse).await?;
    if update.version.is_some_and(|version| version != version_text) {
        let differs = "The version in the body is not the version in the path";
        return Err(MatrixError::InvalidParam(differs.to_owned()).into());
    }
    app.store.update_version(&author, version, update.replacement).await?;
    Ok(ok("{}"))
}

/// `DELETE /room_keys/version/{version}` (MSC2526).
pub(crate) async fn delete_version(
    State(app): State<App>,
    Changer(author): Changer,
    VersionPath(version, _): VersionPath,
) -> Answer {
    app.store.delete_version(&author, version).await?;
    Ok(ok("{}"))
}

/// `PUT /room_keys/keys`: stores each key that beats the copy already stored.
pub(crate) async fn put_keys(
    State(app): State<App>,
    Writer(author): Writer,
    AtVersion(version): AtVersion,
    body: Received,
) -> Answer {
    let limits = app.options.limits.clone();
    let (keys, _in_flight) = body.parse(move |body| RoomKeys::parse(body, &limits)).await?;
    Ok(stored(app.store.put_keys(&author, version, keys).await?))
}

/// `PUT /room_keys/keys/{roomId}`.
pub(crate) async fn put_room(
    State(app): State<App>,
    Writer(author): Writer,
    AtVersion(version): AtVersion,
    RoomPath(room_id): RoomPath,
    body: Received,
) -> Answer {
    check_uploadable(&room_id)?;
    let limits = app.options.limits.clone();
    let parse = move |body: &_| RoomKeys::parse_room(room_id, body, &limits);
    let (keys, _in_flight) = body.parse(parse).await?;
    Ok(stored(app.store.put_keys(&author, version, keys).await?))
}

/// `PUT /room_keys/keys/{roomId}/{sessionId}`.
pub(crate) async fn put_session(
    State(app): State<App>,
    Writer(author): Writer,
    AtVersion(version): AtVersion,
    SessionPath(room_id, session_id): SessionPath,
    body: Received,
) -> Answer {
    check_uploadable(&room_id)?;
    let limits = app.options.limits.clone();
    let parse = move |body: &_| RoomKeys::parse_session(room_id, session_id, body, &limits);
    let (keys, _in_flight) = body.parse(parse).await?;
    Ok(stored(app.store.put_keys(&author, version, keys).await?))
}

/// `GET /room_keys/keys`.
pub(crate) async fn keys(
    State(app): State<App>,
    http: HttpVersion,
    requester: Requester,
    MaybeAtVersion(version): MaybeAtVersion,
) -> Answer {
    let keys = KeysOf { user_id: requester.user_id, version, room_id: None };
    Ok(restore(Arc::clone(&app.store), keys, http).await?)
}

/// `GET /room_keys/keys/{roomId}`.
pub(crate) async fn room(
    State(app): State<App>,
    http: HttpVersion,
    requester: Requester,
    MaybeAtVersion(version): MaybeAtVersion,
    RoomPath(room_id): RoomPath,
) -> Answer {
    let keys = KeysOf { user_id: requester.user_id, version, room_id: Some(room_id) };
    Ok(restore(Arc::clone(&app.store), keys, http).await?)
}

/// `GET /room_keys/keys/{roomId}/{sessionId}`: what a client does for a message that it can't read.
pub(crate) async fn session(
    State(app): State<App>,
    requester: Requester,
    MaybeAtVersion(version): MaybeAtVersion,
    SessionPath(room_id, session_id): SessionPath,
) -> Answer {
    let key = app.store.key(&requester.user_id, version, &room_id, &session_id).await?;
    let key = key.ok_or(MatrixError::NotFound("No such key in the backup"))?;
    let mut body = Vec::with_capacity(key.session_data.as_str().len() + 128);
    write_key(&mut body, key.rank, key.session_data.as_str());
    Ok(ok(body))
}

/// `DELETE /room_keys/keys`.
pub(crate) async fn delete_keys(
    State(app): State<App>,
    Changer(author): Changer,
    AtVersion(version): AtVersion,
) -> Answer {
    Ok(stored(app.store.delete_keys(&author, version, Scope::All).await?))
}

/// `DELETE /room_keys/keys/{roomId}`.
pub(crate) async fn delete_room(
    State(app): State<App>,
    Changer(author): Changer,
    AtVersion(version): AtVersion,
    RoomPath(room_id): RoomPath,
) -> Answer {
    Ok(stored(app.store.delete_keys(&author, version, Scope::Room(room_id)).await?))
}

/// `DELETE /room_keys/keys/{roomId}/{sessionId}`.
pub(crate) async fn delete_session(
    State(app): State<App>,
    Changer(author): Changer,
    AtVersion(version): AtVersion,
    SessionPath(room_id, session_id): SessionPath,
) -> Answer {
    let scope = Scope::Session(room_id, session_id);
    Ok(stored(app.store.delete_keys(&author, version, scope).await?))
}

async fn version_answer(
    app: &App,
    requester: Requester,
    version: Option<strongroom_protocol::Version>,
) -> Answer {
    let backup = app.store.version(&requester.user_id, version).await?;
    let answer = VersionAnswer {
        algorithm: &backup.created.algorithm,
        auth_data: &backup.created.auth_data,
        count: backup.count,
        etag: backup.etag,
        version: backup.version,
    };
    Ok(ok(answer.to_json()))
}

fn check_uploadable(room_id: &RoomId) -> Result<(), Refusal> {
    if room_id.is_uploadable() {
        Ok(())
    } else {
        Err(MatrixError::InvalidParam("The room id does not begin with '!'".to_owned()).into())
    }
}

fn stored(Stored { etag, count }: Stored) -> Response {
    ok(StoredAnswer { etag, count }.to_json())
}

fn ok(body: impl Into<axum::body::Body>) -> Response {
    json(StatusCode::OK, body)
}
