//! What leaves the view of clients, and comes back into it. Nothing here removes anything.
//!
//! A key set is shown by one version at a time. Detaching it takes everything in it out of view at
//! once; a single key leaves by way of `key_history`. What is out of view is counted with its user
//! (`kept_keys`, `kept_bytes`), and carries the age of the service at which it left, by which it is
//! purged.

use rusqlite::{Connection, OptionalExtension as _, params};
use strongroom_protocol::{Etag, KeyRef, RoomId, SessionId, Version};

use super::{checksum, read::Found};
use crate::store::{Author, Error, KeySet, Result, Stored};

/// What a line of the journal counts in `kept_bytes`: more than one takes.
pub(super) const JOURNAL_LINE_BYTES: i64 = 128;

/// The copy to history of the keys that a condition names; ?1 is the stamp, ?2 the age.
macro_rules! keep {
    ($condition:literal) => {
        concat!(
            "INSERT INTO key_history (key_set_pk, room_id, session_id, is_verified,
                first_message_index, forwarded_count, stored_at, ended_at, session_data, checksum,
                end_age)
             SELECT key_set_pk, room_id, session_id, is_verified, first_message_index,
                forwarded_count, stored_at, ?1, session_data, checksum, ?2
             FROM keys WHERE ",
            $condition
        )
    };
}

/// Keys out of view, or on their way there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Kept {
    pub(super) keys: i64,
    pub(super) bytes: i64,
}

impl std::ops::Neg for Kept {
    type Output = Self;

    fn neg(self) -> Self {
        Self { keys: -self.keys, bytes: -self.bytes }
    }
}

impl std::ops::AddAssign for Kept {
    fn add_assign(&mut self, more: Self) {
        self.keys += more.keys;
        self.bytes += more.bytes;
    }
}

/// Adds to what is kept of a user.
pub(super) fn count(database: &Connection, user_pk: i64, kept: Kept) -> Result<()> {
    database
        .prepare_cached(
            "UPDATE users SET kept_keys = kept_keys + ?2, kept_bytes = kept_bytes + ?3
             WHERE user_pk = ?1",
        )?
        .execute([user_pk, kept.keys, kept.bytes])?;
    Ok(())
}

/// Counts anew what is kept of a user.
pub(super) fn recount(database: &Connection, user_pk: i64) -> Result<()> {
    database
        .prepare_cached(
            "UPDATE users SET
                kept_keys =
                    (SELECT count(*) FROM key_sets JOIN keys USING (key_set_pk)
                        WHERE user_pk = ?1 AND detached_at IS NOT NULL)
                    + (SELECT count(*) FROM key_sets JOIN key_history USING (key_set_pk)
                        WHERE user_pk = ?1),
                kept_bytes =
                    (SELECT coalesce(sum(octet_length(session_data)), 0)
                        FROM key_sets JOIN keys USING (key_set_pk)
                        WHERE user_pk = ?1 AND detached_at IS NOT NULL)
                    + (SELECT coalesce(sum(octet_length(session_data)), 0)
                        FROM key_sets JOIN key_history USING (key_set_pk) WHERE user_pk = ?1)
                    + (SELECT coalesce(sum(octet_length(auth_data)), 0) FROM auth_data_history
                        WHERE user_pk = ?1)
                    + (SELECT ?2 * count(*) FROM journal WHERE user_pk = ?1)
             WHERE user_pk = ?1",
        )?
        .execute([user_pk, JOURNAL_LINE_BYTES])?;
    Ok(())
}

/// The age of the service that what leaves the view now is given: it is no older than that.
pub(super) fn age(database: &Connection) -> Result<i64> {
    let mut statement = database.prepare_cached("SELECT age_limit FROM service")?;
    Ok(statement.query_one([], |row| row.get(0))?)
}

/// Makes an empty key set, which the caller lets the version show.
pub(super) fn new_key_set(
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

/// Takes the keys that a version shows out of view, in constant time.
pub(super) fn detach(database: &Connection, found: &Found, stamp: i64) -> Result<Kept> {
    let keys = i64::try_from(found.stored.count).unwrap_or(i64::MAX);
    database
        .prepare_cached(
            "UPDATE key_sets SET detached_at = ?2, count = ?3, bytes = ?4, end_age = ?5
             WHERE key_set_pk = ?1",
        )?
        .execute([found.key_set.0, stamp, keys, found.bytes, age(database)?])?;
    Ok(Kept { keys, bytes: found.bytes })
}

/// Brings a detached key set back into view, in constant time. The caller lets the version show it.
///
/// # Errors
///
/// [`Error::Purged`] if some of its keys are gone, [`Error::Damaged`] if it is not detached.
pub(super) fn attach(database: &Connection, key_set: KeySet, stamp: i64) -> Result<Kept> {
    let found: Option<(bool, Option<i64>, Option<i64>)> = database
        .prepare_cached("SELECT is_purging, count, bytes FROM key_sets WHERE key_set_pk = ?1")?
        .query_row([key_set.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((false, count, bytes)) = found else { return Err(Error::Purged) };
    let (Some(keys), Some(bytes)) = (count, bytes) else {
        return Err(Error::Damaged { what: "key set" });
    };
    database
        .prepare_cached(
            "INSERT INTO past_attachments (key_set_pk, attached_at, detached_at)
             SELECT key_set_pk, attached_at, detached_at FROM key_sets
             WHERE key_set_pk = ?1 AND attached_at < detached_at",
        )?
        .execute([key_set.0])?;
    database
        .prepare_cached(
            "UPDATE key_sets SET attached_at = ?2, detached_at = NULL, count = NULL, bytes = NULL,
                end_age = NULL
             WHERE key_set_pk = ?1",
        )?
        .execute([key_set.0, stamp])?;
    Ok(Kept { keys, bytes })
}

/// Puts a key into a set, unless the set has one in its place; says whether it did.
pub(super) fn add_key(
    database: &Connection,
    key_set: KeySet,
    key: KeyRef<'_>,
    stored_at: i64,
) -> Result<bool> {
    let added = database
        .prepare_cached(
            "INSERT INTO keys (key_set_pk, room_id, session_id, is_verified, first_message_index,
                forwarded_count, stored_at, session_data, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (key_set_pk, room_id, session_id) DO NOTHING",
        )?
        .execute(params![
            key_set.0,
            key.room_id,
            key.session_id,
            key.rank.is_verified(),
            key.rank.first_message_index(),
            key.rank.forwarded_count(),
            stored_at,
            key.session_data,
            checksum::of_key(key_set.0, key, stored_at),
        ])?;
    Ok(added == 1)
}

/// Copies one key that is about to be replaced or deleted.
pub(super) fn keep_key(database: &Connection, rowid: i64, stamp: i64) -> Result<()> {
    let age = age(database)?;
    database.prepare_cached(keep!("rowid = ?3"))?.execute([stamp, age, rowid])?;
    Ok(())
}

/// Takes the keys of a room out of view.
pub(super) fn delete_room(
    database: &Connection,
    key_set: KeySet,
    room_id: &RoomId,
    stamp: i64,
) -> Result<Kept> {
    let (age, room_id) = (age(database)?, room_id.as_str());
    database
        .prepare_cached(keep!("key_set_pk = ?3 AND room_id = ?4"))?
        .execute(params![stamp, age, key_set.0, room_id])?;
    let mut statement = database.prepare_cached(
        "DELETE FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 RETURNING octet_length(session_data)",
    )?;
    let mut kept = Kept::default();
    for bytes in statement.query_map(params![key_set.0, room_id], |row| row.get(0))? {
        kept += Kept { keys: 1, bytes: bytes? };
    }
    Ok(kept)
}

/// Takes the key of a session out of view.
pub(super) fn delete_session(
    database: &Connection,
    key_set: KeySet,
    room_id: &RoomId,
    session_id: &SessionId,
    stamp: i64,
) -> Result<Kept> {
    let found: Option<(i64, i64)> = database
        .prepare_cached(
            "SELECT rowid, octet_length(session_data) FROM keys
             WHERE key_set_pk = ?1 AND room_id = ?2 AND session_id = ?3",
        )?
        .query_row(params![key_set.0, room_id.as_str(), session_id.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((rowid, bytes)) = found else { return Ok(Kept::default()) };
    keep_key(database, rowid, stamp)?;
    database.prepare_cached("DELETE FROM keys WHERE rowid = ?1")?.execute([rowid])?;
    Ok(Kept { keys: 1, bytes })
}

/// Keeps an `auth_data` that is about to be replaced.
pub(super) fn keep_auth_data(database: &Connection, found: &Found, stamp: i64) -> Result<Kept> {
    let numbers = [found.user_pk, found.version.get(), found.auth_data_since];
    let checksum = checksum::of(numbers, [&found.auth_data]);
    let [user_pk, version, since] = numbers;
    database
        .prepare_cached(
            "INSERT INTO auth_data_history (user_pk, version, auth_data, since, ended_at, checksum,
                end_age) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            user_pk,
            version,
            found.auth_data,
            since,
            stamp,
            checksum,
            age(database)?
        ])?;
    Ok(Kept { keys: 0, bytes: i64::try_from(found.auth_data.len()).unwrap_or(i64::MAX) })
}

/// Writes down the row of a version that has changed.
pub(super) fn update(database: &Connection, found: &Found) -> Result<()> {
    let count = i64::try_from(found.stored.count).map_err(|_| Error::Damaged { what: "count" })?;
    database
        .prepare_cached(
            "UPDATE versions SET key_set_pk = ?3, etag = ?4, count = ?5, bytes = ?6,
                deleted_at = ?7, auth_data_since = ?8, checksum = ?9, auth_data = ?10
             WHERE user_pk = ?1 AND version = ?2",
        )?
        .execute(params![
            found.user_pk,
            found.version.get(),
            found.key_set.0,
            found.stored.etag.get(),
            count,
            found.bytes,
            found.deleted_at,
            found.auth_data_since,
            found.checksum(),
            found.auth_data,
        ])?;
    Ok(())
}

/// What a line of the journal says besides who and when.
pub(super) struct Line {
    pub(super) action: &'static str,
    pub(super) version: Version,
    /// How many were replaced, deleted or brought back.
    pub(super) keys: i64,
}

/// One line of the journal, and the account of what left the view with it.
pub(super) fn record(
    database: &Connection,
    author: &Author,
    user_pk: i64,
    stamp: i64,
    line: Line,
    mut kept: Kept,
) -> Result<()> {
    let device_id = author.device_id.as_ref().map(|device_id| device_id.as_str());
    let Line { action, version, keys } = line;
    database
        .prepare_cached(
            "INSERT INTO journal (user_pk, at, action, version, device_id, keys, age)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![user_pk, stamp, action, version.get(), device_id, keys, age(database)?])?;
    kept += Kept { keys: 0, bytes: JOURNAL_LINE_BYTES };
    count(database, user_pk, kept)
}

/// The etag of a change.
pub(super) fn etag(stamp: i64) -> Result<Etag> {
    Etag::new(stamp).ok_or(Error::Damaged { what: "etag" })
}

impl Found {
    /// The same version with other keys in view.
    pub(super) fn with_keys(&self, key_set: KeySet, keys: Kept, stamp: i64) -> Result<Self> {
        let count = u64::try_from(keys.keys).map_err(|_| Error::Damaged { what: "count" })?;
        let stored = Stored { etag: etag(stamp)?, count };
        Ok(Self { key_set, stored, bytes: keys.bytes, ..self.clone() })
    }

    /// The keys in view.
    pub(super) fn keys(&self) -> Kept {
        Kept { keys: i64::try_from(self.stored.count).unwrap_or(i64::MAX), bytes: self.bytes }
    }
}
