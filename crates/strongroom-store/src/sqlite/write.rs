//! What is written. Whatever a function did is undone by the writer when it returns an error.

use rusqlite::{Connection, params};
use strongroom_protocol::{KeyRef, NewVersion, RoomId, RoomKey, RoomKeys, SessionId, Version};

use super::{
    checksum,
    kept::{self, Kept, Line},
    read::{self, Found, KeyRow, key_columns},
};
use crate::store::{Author, Error, KeySet, Quota, Quotas, Result, Scope, Stored};

pub(super) fn create_version(
    database: &Connection,
    author: &Author,
    new: &NewVersion,
    quotas: Quotas,
) -> Result<Version> {
    let user_id = author.user_id.as_str();
    database
        .prepare_cached("INSERT INTO users (user_id) VALUES (?1) ON CONFLICT (user_id) DO NOTHING")?
        .execute([user_id])?;
    let user_pk: i64 = database
        .prepare_cached("SELECT user_pk FROM users WHERE user_id = ?1")?
        .query_one([user_id], |row| row.get(0))?;
    // Deleted ones count as long as they are kept: who creates and deletes is bounded as well.
    let versions: i64 = database
        .prepare_cached(
            "SELECT count(*) FROM versions WHERE user_pk = ?1
             AND (deleted_at IS NULL OR key_set_pk IN (SELECT key_set_pk FROM key_sets))",
        )?
        .query_one([user_pk], |row| row.get(0))?;
    if versions.unsigned_abs() >= quotas.versions_max {
        return Err(Error::OverQuota(Quota::Versions(quotas.versions_max)));
    }
    // The greatest stamp that any of the user's backups has used, or one of a user who was purged:
    // it may have been this one.
    let latest: i64 = database
        .prepare_cached(
            "SELECT max(stamp_floor, coalesce((SELECT max(max(version, etag, auth_data_since))
                FROM versions WHERE user_pk = ?1), 0)) FROM service",
        )?
        .query_one([user_pk], |row| row.get(0))?;
    let stamp = author.at.stamp_after(latest);
    let version = Version::new(stamp).ok_or(Error::Damaged { what: "version" })?;
    let found = Found {
        user_pk,
        version,
        key_set: kept::new_key_set(database, user_pk, version, stamp)?,
        stored: Stored { etag: kept::etag(stamp)?, count: 0 },
        bytes: 0,
        algorithm: new.algorithm.clone(),
        auth_data: new.auth_data.as_str().to_owned(),
        auth_data_since: stamp,
        deleted_at: None,
    };
    database
        .prepare_cached(
            "INSERT INTO versions (user_pk, version, key_set_pk, etag, count, bytes, auth_data_since,
                checksum, algorithm, auth_data) VALUES (?1, ?2, ?3, ?2, 0, 0, ?2, ?4, ?5, ?6)",
        )?
        .execute(params![
            user_pk,
            stamp,
            found.key_set.0,
            found.checksum(),
            found.algorithm,
            found.auth_data
        ])?;
    let line = Line { action: "create_version", version, keys: 0 };
    kept::record(database, author, user_pk, stamp, line, Kept::default())?;
    Ok(version)
}

pub(super) fn update_version(
    database: &Connection,
    author: &Author,
    version: Version,
    new: &NewVersion,
    quotas: Quotas,
) -> Result<()> {
    let found = read::live(database, &author.user_id, Some(version))?;
    new.may_replace(&found.created()?).map_err(Error::MayNotReplace)?;
    if new.auth_data.as_str() == found.auth_data {
        return Ok(());
    }
    let stamp = author.at.stamp_after(found.latest_stamp());
    let replaced = kept::keep_auth_data(database, &found, stamp)?;
    let auth_data = new.auth_data.as_str().to_owned();
    kept::update(database, &Found { auth_data, auth_data_since: stamp, ..found.clone() })?;
    let line = Line { action: "update_version", version, keys: 0 };
    kept::record(database, author, found.user_pk, stamp, line, replaced)?;
    check_quotas(database, found.user_pk, quotas)
}

pub(super) fn delete_version(
    database: &Connection,
    author: &Author,
    version: Version,
) -> Result<()> {
    let found = Found::exact(database, &author.user_id, version)?.ok_or(Error::NoSuchVersion)?;
    if found.deleted_at.is_some() {
        return Ok(());
    }
    let stamp = author.at.stamp_after(found.latest_stamp());
    let deleted = kept::detach(database, &found, stamp)?;
    let after = found.with_keys(found.key_set, deleted, stamp)?;
    kept::update(database, &Found { deleted_at: Some(stamp), ..after })?;
    let line = Line { action: "delete_version", version, keys: deleted.keys };
    kept::record(database, author, found.user_pk, stamp, line, deleted)
}

pub(super) fn put_keys(
    database: &Connection,
    author: &Author,
    version: Version,
    keys: &RoomKeys,
    quotas: Quotas,
) -> Result<Stored> {
    let current = Found::current(database, &author.user_id)?.ok_or(Error::NoBackup)?;
    if current.version != version {
        // Deleted or merely older makes no difference; that it never existed does.
        Found::exact(database, &author.user_id, version)?.ok_or(Error::NoSuchVersion)?;
        return Err(Error::NotCurrent { current: current.version });
    }
    let stamp = author.at.stamp_after(current.latest_stamp());
    let (mut shown, mut replaced) = (current.keys(), Kept::default());
    for (room_id, session_id, key) in keys.iter() {
        let bytes = i64::try_from(key.session_data.as_str().len()).unwrap_or(i64::MAX);
        match put_key(database, current.key_set, room_id, session_id, key, stamp)? {
            Put::Added => shown += Kept { keys: 1, bytes },
            Put::Replaced(old) => {
                shown += Kept { keys: 1, bytes };
                shown += -old;
                replaced += old;
            }
            Put::Kept => {}
        }
    }
    if replaced == Kept::default() && shown == current.keys() {
        return Ok(current.stored);
    }
    let after = current.with_keys(current.key_set, shown, stamp)?;
    kept::update(database, &after)?;
    if replaced.keys > 0 {
        let line = Line { action: "replace_keys", version, keys: replaced.keys };
        kept::record(database, author, current.user_pk, stamp, line, replaced)?;
    }
    check_quotas(database, current.user_pk, quotas)?;
    Ok(after.stored)
}

pub(super) fn delete_keys(
    database: &Connection,
    author: &Author,
    version: Version,
    scope: &Scope,
) -> Result<Stored> {
    let found = read::live(database, &author.user_id, Some(version))?;
    let stamp = author.at.stamp_after(found.latest_stamp());
    let (deleted, key_set) = match scope {
        Scope::All if found.stored.count == 0 => (Kept::default(), found.key_set),
        Scope::All => {
            let deleted = kept::detach(database, &found, stamp)?;
            (deleted, kept::new_key_set(database, found.user_pk, version, stamp)?)
        }
        Scope::Room(room_id) => {
            (kept::delete_room(database, found.key_set, room_id, stamp)?, found.key_set)
        }
        Scope::Session(room_id, session_id) => (
            kept::delete_session(database, found.key_set, room_id, session_id, stamp)?,
            found.key_set,
        ),
    };
    if deleted.keys == 0 {
        return Ok(found.stored);
    }
    let mut left = found.keys();
    left += -deleted;
    let after = found.with_keys(key_set, left, stamp)?;
    kept::update(database, &after)?;
    let line = Line { action: "delete_keys", version, keys: deleted.keys };
    kept::record(database, author, found.user_pk, stamp, line, deleted)?;
    Ok(after.stored)
}

enum Put {
    Added,
    Replaced(Kept),
    Kept,
}

fn put_key(
    database: &Connection,
    key_set: KeySet,
    room_id: &RoomId,
    session_id: &SessionId,
    key: &RoomKey,
    stamp: i64,
) -> Result<Put> {
    let (room_id, session_id) = (room_id.as_str(), session_id.as_str());
    let (rank, session_data) = (key.rank, key.session_data.as_str());
    let new = KeyRef { room_id, session_id, rank, session_data };
    if kept::add_key(database, key_set, new, stamp)? {
        return Ok(Put::Added);
    }
    let Some((rowid, old)) = beaten(database, key_set, room_id, session_id, key)? else {
        return Ok(Put::Kept);
    };
    kept::keep_key(database, rowid, stamp)?;
    database
        .prepare_cached(
            "UPDATE keys SET is_verified = ?2, first_message_index = ?3, forwarded_count = ?4,
                stored_at = ?5, session_data = ?6, checksum = ?7 WHERE rowid = ?1",
        )?
        .execute(params![
            rowid,
            rank.is_verified(),
            rank.first_message_index(),
            rank.forwarded_count(),
            stamp,
            session_data,
            checksum::of_key(key_set.0, new, stamp),
        ])?;
    Ok(Put::Replaced(old))
}

/// The row of the stored key, if the new one is to replace it: a better one, or any one where the
/// stored one is damaged.
fn beaten(
    database: &Connection,
    key_set: KeySet,
    room_id: &str,
    session_id: &str,
    new: &RoomKey,
) -> Result<Option<(i64, Kept)>> {
    let mut statement = database.prepare_cached(concat!(
        "SELECT ",
        key_columns!(),
        ", rowid, octet_length(session_data) FROM keys
         WHERE key_set_pk = ?1 AND room_id = ?2 AND session_id = ?3"
    ))?;
    let mut rows = statement.query(params![key_set.0, room_id, session_id])?;
    let row = rows.next()?.ok_or(Error::Damaged { what: "index of keys" })?;
    let stays = match KeyRow::read(key_set, row) {
        Ok(KeyRow { key, is_intact, .. }) => is_intact && !new.rank.beats(key.rank),
        Err(Error::Damaged { .. }) => false,
        Err(error) => return Err(error),
    };
    let old = Kept { keys: 1, bytes: row.get(9)? };
    Ok(if stays { None } else { Some((row.get(8)?, old)) })
}

/// Whether a user still has what they may have, in view and out of it together.
fn check_quotas(database: &Connection, user_pk: i64, quotas: Quotas) -> Result<()> {
    let (keys, bytes): (i64, i64) = database
        .prepare_cached(
            "SELECT kept_keys + sum(count), kept_bytes + sum(bytes)
             FROM users JOIN versions USING (user_pk)
             WHERE user_pk = ?1 AND deleted_at IS NULL",
        )?
        .query_one([user_pk], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if keys.unsigned_abs() > quotas.keys_max {
        Err(Error::OverQuota(Quota::Keys(quotas.keys_max)))
    } else if bytes.unsigned_abs() > quotas.bytes_max {
        Err(Error::OverQuota(Quota::Bytes(quotas.bytes_max)))
    } else {
        Ok(())
    }
}
