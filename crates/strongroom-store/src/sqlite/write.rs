//! What is written. Whatever a function did is undone by the writer when it returns an error.

use rusqlite::{Connection, OptionalExtension as _, params};
use strongroom_protocol::{Etag, NewVersion, RoomId, RoomKey, RoomKeys, SessionId, Version};

use super::read::{self, Found};
use crate::store::{Author, Error, KeySet, Result, Scope, Stored};

pub(super) fn create_version(
    database: &Connection,
    author: &Author,
    new: &NewVersion,
) -> Result<Version> {
    let user_id = author.user_id.as_str();
    database
        .prepare_cached("INSERT INTO users (user_id) VALUES (?1) ON CONFLICT (user_id) DO NOTHING")?
        .execute([user_id])?;
    let user_pk: i64 = database
        .prepare_cached("SELECT user_pk FROM users WHERE user_id = ?1")?
        .query_one([user_id], |row| row.get(0))?;
    // The greatest stamp that any of the user's backups has used.
    let latest: Option<i64> = database
        .prepare_cached("SELECT max(max(version, etag)) FROM versions WHERE user_pk = ?1")?
        .query_one([user_pk], |row| row.get(0))?;
    let stamp = author.at.stamp_after(latest.unwrap_or(0));
    let version = Version::new(stamp).ok_or(Error::Damaged { what: "version" })?;
    let key_set = attach_key_set(database, user_pk, version, stamp)?;
    database
        .prepare_cached(
            "INSERT INTO versions (user_pk, version, algorithm, auth_data, auth_data_since,
                key_set_pk, etag, count) VALUES (?1, ?2, ?3, ?4, ?2, ?5, ?2, 0)",
        )?
        .execute(params![user_pk, stamp, new.algorithm, new.auth_data.as_str(), key_set.0])?;
    record(database, author, user_pk, stamp, "create_version", version, 0)?;
    Ok(version)
}

pub(super) fn update_version(
    database: &Connection,
    author: &Author,
    version: Version,
    new: &NewVersion,
) -> Result<()> {
    let found = read::live(database, &author.user_id, Some(version))?;
    new.may_replace(&found.created()?).map_err(Error::MayNotReplace)?;
    if new.auth_data.as_str() == found.auth_data {
        return Ok(());
    }
    let stamp = author.at.stamp_after(found.auth_data_since.max(found.stored.etag.get()));
    database
        .prepare_cached(
            "INSERT INTO auth_data_history (user_pk, version, auth_data, since, ended_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            found.user_pk,
            version.get(),
            found.auth_data,
            found.auth_data_since,
            stamp
        ])?;
    database
        .prepare_cached(
            "UPDATE versions SET auth_data = ?3, auth_data_since = ?4
             WHERE user_pk = ?1 AND version = ?2",
        )?
        .execute(params![found.user_pk, version.get(), new.auth_data.as_str(), stamp])?;
    record(database, author, found.user_pk, stamp, "update_version", version, 0)
}

pub(super) fn delete_version(
    database: &Connection,
    author: &Author,
    version: Version,
) -> Result<()> {
    let found = Found::exact(database, &author.user_id, version)?.ok_or(Error::NoSuchVersion)?;
    if found.is_deleted {
        return Ok(());
    }
    let stamp = author.at.stamp_after(found.stored.etag.get());
    detach_key_set(database, &found, stamp)?;
    database
        .prepare_cached(
            "UPDATE versions SET deleted_at = ?3, etag = ?3 WHERE user_pk = ?1 AND version = ?2",
        )?
        .execute(params![found.user_pk, version.get(), stamp])?;
    let keys = found.stored.count;
    record(database, author, found.user_pk, stamp, "delete_version", version, keys)
}

pub(super) fn put_keys(
    database: &Connection,
    author: &Author,
    version: Version,
    keys: &RoomKeys,
) -> Result<Stored> {
    let current = Found::current(database, &author.user_id)?.ok_or(Error::NoBackup)?;
    if current.version != version {
        // Deleted or merely older makes no difference; that it never existed does.
        Found::exact(database, &author.user_id, version)?.ok_or(Error::NoSuchVersion)?;
        return Err(Error::NotCurrent { current: current.version });
    }
    let stamp = author.at.stamp_after(current.stored.etag.get());
    let (mut added, mut replaced) = (0, 0);
    for (room_id, session_id, key) in keys.iter() {
        match put_key(database, current.key_set, room_id, session_id, key, stamp)? {
            Put::Added => added += 1,
            Put::Replaced => replaced += 1,
            Put::Kept => {}
        }
    }
    if replaced > 0 {
        record(database, author, current.user_pk, stamp, "replace_keys", version, replaced)?;
    }
    if added + replaced == 0 {
        return Ok(current.stored);
    }
    set_stored(database, &current, stamp, current.stored.count + added, current.key_set)
}

pub(super) fn delete_keys(
    database: &Connection,
    author: &Author,
    version: Version,
    scope: &Scope,
) -> Result<Stored> {
    let found = read::live(database, &author.user_id, Some(version))?;
    let stamp = author.at.stamp_after(found.stored.etag.get());
    let (deleted, key_set) = match scope {
        Scope::All if found.stored.count == 0 => (0, found.key_set),
        Scope::All => {
            detach_key_set(database, &found, stamp)?;
            let empty = attach_key_set(database, found.user_pk, version, stamp)?;
            (found.stored.count, empty)
        }
        Scope::Room(room_id) => {
            (delete_room(database, found.key_set, room_id, stamp)?, found.key_set)
        }
        Scope::Session(room_id, session_id) => {
            let deleted = delete_session(database, found.key_set, room_id, session_id, stamp)?;
            (deleted, found.key_set)
        }
    };
    if deleted == 0 {
        return Ok(found.stored);
    }
    record(database, author, found.user_pk, stamp, "delete_keys", version, deleted)?;
    let left = found.stored.count.checked_sub(deleted).ok_or(Error::Damaged { what: "count" })?;
    set_stored(database, &found, stamp, left, key_set)
}

enum Put {
    Added,
    Replaced,
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
    let rank = key.rank;
    let params = params![
        key_set.0,
        room_id.as_str(),
        session_id.as_str(),
        rank.is_verified(),
        rank.first_message_index(),
        rank.forwarded_count(),
        stamp,
        key.session_data.as_str(),
    ];
    let added = database
        .prepare_cached(
            "INSERT INTO keys (key_set_pk, room_id, session_id, is_verified, first_message_index,
                forwarded_count, stored_at, session_data)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (key_set_pk, room_id, session_id) DO NOTHING",
        )?
        .execute(params)?;
    if added == 1 {
        return Ok(Put::Added);
    }
    // The better-key rule, as in `Rank`: verified, then the lower index, then the lower count.
    let beaten: Option<i64> = database
        .prepare_cached(
            "SELECT rowid FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 AND session_id = ?3
             AND (?4, -?5, -?6) > (is_verified, -first_message_index, -forwarded_count)",
        )?
        .query_row(
            params![
                key_set.0,
                room_id.as_str(),
                session_id.as_str(),
                rank.is_verified(),
                rank.first_message_index(),
                rank.forwarded_count()
            ],
            |row| row.get(0),
        )
        .optional()?;
    let Some(rowid) = beaten else { return Ok(Put::Kept) };
    database.prepare_cached(&format!("{TO_HISTORY} rowid = ?2"))?.execute([stamp, rowid])?;
    database
        .prepare_cached(
            "UPDATE keys SET is_verified = ?2, first_message_index = ?3, forwarded_count = ?4,
                stored_at = ?5, session_data = ?6 WHERE rowid = ?1",
        )?
        .execute(params![
            rowid,
            rank.is_verified(),
            rank.first_message_index(),
            rank.forwarded_count(),
            stamp,
            key.session_data.as_str()
        ])?;
    Ok(Put::Replaced)
}

/// Copies keys that are about to leave the view.
const TO_HISTORY: &str = "INSERT INTO key_history (key_set_pk, room_id, session_id, is_verified,
        first_message_index, forwarded_count, stored_at, ended_at, session_data)
    SELECT key_set_pk, room_id, session_id, is_verified, first_message_index, forwarded_count,
        stored_at, ?1, session_data
    FROM keys WHERE";

fn delete_room(
    database: &Connection,
    key_set: KeySet,
    room_id: &RoomId,
    stamp: i64,
) -> Result<u64> {
    let room_id = room_id.as_str();
    database
        .prepare_cached(&format!("{TO_HISTORY} key_set_pk = ?2 AND room_id = ?3"))?
        .execute(params![stamp, key_set.0, room_id])?;
    let deleted = database
        .prepare_cached("DELETE FROM keys WHERE key_set_pk = ?1 AND room_id = ?2")?
        .execute(params![key_set.0, room_id])?;
    Ok(deleted as u64)
}

fn delete_session(
    database: &Connection,
    key_set: KeySet,
    room_id: &RoomId,
    session_id: &SessionId,
    stamp: i64,
) -> Result<u64> {
    let (room_id, session_id) = (room_id.as_str(), session_id.as_str());
    database
        .prepare_cached(&format!(
            "{TO_HISTORY} key_set_pk = ?2 AND room_id = ?3 AND session_id = ?4"
        ))?
        .execute(params![stamp, key_set.0, room_id, session_id])?;
    let deleted = database
        .prepare_cached(
            "DELETE FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 AND session_id = ?3",
        )?
        .execute(params![key_set.0, room_id, session_id])?;
    Ok(deleted as u64)
}

/// Makes an empty key set, which the caller lets the version show.
fn attach_key_set(
    database: &Connection,
    user_pk: i64,
    version: Version,
    stamp: i64,
) -> Result<KeySet> {
    database
        .prepare_cached("INSERT INTO key_sets (user_pk, version, attached_at) VALUES (?1, ?2, ?3)")?
        .execute(params![user_pk, version.get(), stamp])?;
    Ok(KeySet(database.last_insert_rowid()))
}

fn detach_key_set(database: &Connection, found: &Found, stamp: i64) -> Result<()> {
    let count = i64::try_from(found.stored.count).unwrap_or(i64::MAX);
    database
        .prepare_cached("UPDATE key_sets SET detached_at = ?2, count = ?3 WHERE key_set_pk = ?1")?
        .execute(params![found.key_set.0, stamp, count])?;
    Ok(())
}

fn set_stored(
    database: &Connection,
    found: &Found,
    stamp: i64,
    count: u64,
    key_set: KeySet,
) -> Result<Stored> {
    let count_stored = i64::try_from(count).map_err(|_| Error::Damaged { what: "count" })?;
    database
        .prepare_cached(
            "UPDATE versions SET etag = ?3, count = ?4, key_set_pk = ?5
             WHERE user_pk = ?1 AND version = ?2",
        )?
        .execute(params![found.user_pk, found.version.get(), stamp, count_stored, key_set.0])?;
    let etag = Etag::new(stamp).ok_or(Error::Damaged { what: "etag" })?;
    Ok(Stored { etag, count })
}

/// One line of the journal.
fn record(
    database: &Connection,
    author: &Author,
    user_pk: i64,
    stamp: i64,
    action: &str,
    version: Version,
    keys: u64,
) -> Result<()> {
    let device_id = author.device_id.as_ref().map(|device_id| device_id.as_str());
    let keys = i64::try_from(keys).unwrap_or(i64::MAX);
    database
        .prepare_cached(
            "INSERT INTO journal (user_pk, at, action, version, device_id, keys)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![user_pk, stamp, action, version.get(), device_id, keys])?;
    Ok(())
}
