//! What is read: versions, single keys, pages.

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row, ToSql, params};
use strongroom_protocol::{
    Etag, KeyRef, NewVersion, Rank, RoomId, RoomKey, SessionId, UserId, Version,
};

use super::checksum;
use crate::{
    page::{Page, PageSize, Position},
    store::{Backup, Error, KeySet, Result, Stored},
};

/// What [`Found::raw`] reads, in its order.
macro_rules! version_columns {
    () => {
        "user_pk, version, key_set_pk, etag, count, bytes, algorithm, auth_data, auth_data_since,
            deleted_at, checksum"
    };
}
pub(super) use version_columns;

/// What [`KeyRow::read`] reads, in its order, of `keys` and `key_history`.
macro_rules! key_columns {
    () => {
        "room_id, session_id, is_verified, first_message_index, forwarded_count, session_data,
            stored_at, checksum"
    };
}
pub(super) use key_columns;

/// The row of a version, deleted or not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Found {
    pub(super) user_pk: i64,
    pub(super) version: Version,
    pub(super) key_set: KeySet,
    pub(super) stored: Stored,
    /// Of `session_data`, in all keys.
    pub(super) bytes: i64,
    pub(super) algorithm: String,
    pub(super) auth_data: String,
    pub(super) auth_data_since: i64,
    pub(super) deleted_at: Option<i64>,
}

impl Found {
    /// What the version was created with, and its present `auth_data`.
    pub(super) fn created(&self) -> Result<NewVersion> {
        let auth_data = Backup::stored_object(&self.auth_data, "auth_data")?;
        Ok(NewVersion { algorithm: self.algorithm.clone(), auth_data })
    }

    /// One version of a user, if it ever existed.
    pub(super) fn exact(
        database: &Connection,
        user_id: &UserId,
        version: Version,
    ) -> Result<Option<Self>> {
        let mut statement = database.prepare_cached(concat!(
            "SELECT ",
            version_columns!(),
            " FROM users CROSS JOIN versions USING (user_pk) WHERE user_id = ?1 AND version = ?2"
        ))?;
        Self::query(&mut statement, params![user_id.as_str(), version.get()])
    }

    /// The newest version of a user that is not deleted.
    pub(super) fn current(database: &Connection, user_id: &UserId) -> Result<Option<Self>> {
        let mut statement = database.prepare_cached(concat!(
            "SELECT ",
            version_columns!(),
            " FROM users CROSS JOIN versions USING (user_pk)
             WHERE user_id = ?1 AND deleted_at IS NULL ORDER BY version DESC LIMIT 1"
        ))?;
        Self::query(&mut statement, params![user_id.as_str()])
    }

    /// Reads the rows of all versions of a user, the oldest first.
    pub(super) const ALL: &str = concat!(
        "SELECT ",
        version_columns!(),
        " FROM versions WHERE user_pk = ?1 ORDER BY version"
    );

    /// All versions of a user, the oldest first.
    pub(super) fn all(database: &Connection, user_pk: i64) -> Result<Vec<Self>> {
        let mut statement = database.prepare_cached(Self::ALL)?;
        let mut rows = statement.query([user_pk])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(Self::from_row(row)?);
        }
        Ok(found)
    }

    fn query(statement: &mut CachedStatement<'_>, params: &[&dyn ToSql]) -> Result<Option<Self>> {
        let row = statement.query_row(params, |row| Ok(Self::from_row(row))).optional()?;
        row.transpose()
    }

    fn from_row(row: &Row<'_>) -> Result<Self> {
        let (found, checksum) = Self::raw(row)?;
        if checksum::matches(checksum, found.checksum()) {
            Ok(found)
        } else {
            Err(Error::Damaged { what: "version" })
        }
    }

    /// The row as it lies there, what was written or not, and its checksum.
    pub(super) fn raw(row: &Row<'_>) -> Result<(Self, Option<i64>)> {
        let damaged = |what| move || Error::Damaged { what };
        let found = Self {
            user_pk: row.get(0)?,
            version: Version::new(row.get(1)?).ok_or_else(damaged("version"))?,
            key_set: KeySet(row.get(2)?),
            stored: Stored {
                etag: Etag::new(row.get(3)?).ok_or_else(damaged("etag"))?,
                count: u64::try_from(row.get::<_, i64>(4)?).map_err(|_| damaged("count")())?,
            },
            bytes: row.get(5)?,
            algorithm: row.get(6)?,
            auth_data: row.get(7)?,
            auth_data_since: row.get(8)?,
            deleted_at: row.get(9)?,
        };
        Ok((found, row.get(10)?))
    }

    pub(super) fn checksum(&self) -> u32 {
        let numbers = [
            self.user_pk,
            self.version.get(),
            self.key_set.0,
            self.stored.etag.get(),
            i64::try_from(self.stored.count).unwrap_or(i64::MAX),
            self.bytes,
            self.auth_data_since,
            self.deleted_at.unwrap_or(-1),
        ];
        checksum::of(numbers, [&self.algorithm, &self.auth_data])
    }

    /// The greatest stamp that this version has used.
    pub(super) fn latest_stamp(&self) -> i64 {
        self.stored.etag.get().max(self.auth_data_since)
    }
}

/// A version that clients see; `None` is the current one.
pub(super) fn live(
    database: &Connection,
    user_id: &UserId,
    version: Option<Version>,
) -> Result<Found> {
    let Some(version) = version else {
        return Found::current(database, user_id)?.ok_or(Error::NoBackup);
    };
    let found = Found::exact(database, user_id, version)?;
    found.filter(|found| found.deleted_at.is_none()).ok_or(Error::NoSuchVersion)
}

pub(super) fn backup(
    database: &Connection,
    user_id: &UserId,
    version: Option<Version>,
) -> Result<Backup> {
    let found = live(database, user_id, version)?;
    let (created, Stored { etag, count }) = (found.created()?, found.stored);
    Ok(Backup { version: found.version, created, etag, count })
}

pub(super) fn key(
    database: &Connection,
    user_id: &UserId,
    version: Option<Version>,
    room_id: &RoomId,
    session_id: &SessionId,
) -> Result<Option<RoomKey>> {
    let key_set = live(database, user_id, version)?.key_set;
    let mut statement = database.prepare_cached(concat!(
        "SELECT ",
        key_columns!(),
        " FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 AND session_id = ?3"
    ))?;
    let mut rows = statement.query(params![key_set.0, room_id.as_str(), session_id.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let KeyRow { key, is_intact, .. } = KeyRow::read(key_set, row)?;
    // An index that is damaged may lead to another one, which is intact.
    let is_asked = key.room_id == room_id.as_str() && key.session_id == session_id.as_str();
    if !(is_intact && is_asked) {
        return Err(Error::Damaged { what: "key" });
    }
    let session_data = Backup::stored_object(key.session_data, "session_data")?;
    Ok(Some(RoomKey { rank: key.rank, session_data }))
}

pub(super) fn page(
    database: &Connection,
    key_set: KeySet,
    room_id: Option<&RoomId>,
    after: Option<&Position>,
    size: PageSize,
) -> Result<Page> {
    let is_whole: Option<bool> = database
        .prepare_cached("SELECT is_purging = 0 FROM key_sets WHERE key_set_pk = ?1")?
        .query_row([key_set.0], |row| row.get(0))
        .optional()?;
    if is_whole != Some(true) {
        return Err(Error::Purged);
    }
    // Each is one walk along the unique index; the number of keys is bounded by the loop.
    let mut statement = database.prepare_cached(match (room_id, after) {
        (None, None) => concat!(
            "SELECT ",
            key_columns!(),
            " FROM keys WHERE key_set_pk = ?1 ORDER BY room_id, session_id"
        ),
        (None, Some(_)) => concat!(
            "SELECT ",
            key_columns!(),
            " FROM keys WHERE key_set_pk = ?1 AND (room_id, session_id) > (?2, ?3)
             ORDER BY room_id, session_id"
        ),
        (Some(_), None) => concat!(
            "SELECT ",
            key_columns!(),
            " FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 ORDER BY session_id"
        ),
        (Some(_), Some(_)) => concat!(
            "SELECT ",
            key_columns!(),
            " FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 AND session_id > ?3
             ORDER BY session_id"
        ),
    })?;
    let mut rows = match (room_id, after) {
        (None, None) => statement.query([key_set.0])?,
        (None, Some(after)) => {
            statement.query(params![key_set.0, after.room_id, after.session_id])?
        }
        (Some(room_id), None) => statement.query(params![key_set.0, room_id.as_str()])?,
        (Some(room_id), Some(after)) => {
            statement.query(params![key_set.0, room_id.as_str(), after.session_id])?
        }
    };
    let mut page = Page::default();
    let after = after.map(|after| (after.room_id.as_str(), after.session_id.as_str()));
    while let Some(row) = rows.next()? {
        // One that the disk has spoilt, or its entry in the index, must not cost the others. An index
        // in disorder may lead back, to a key once more, and to no end.
        let last = page.last_ids().or(after);
        let is_asked = |key: KeyRef<'_>| {
            room_id.is_none_or(|asked| key.room_id == asked.as_str())
                && last < Some((key.room_id, key.session_id))
        };
        match KeyRow::read(key_set, row) {
            Ok(KeyRow { key, is_intact: true, .. }) if is_asked(key) => {
                if page.push(key, size) {
                    break;
                }
            }
            Ok(_) | Err(Error::Damaged { .. }) => page.leave_out(),
            Err(error) => return Err(error),
        }
    }
    Ok(page)
}

/// A key as it lies in `keys` or `key_history`, borrowed from the row.
pub(super) struct KeyRow<'a> {
    pub(super) key: KeyRef<'a>,
    pub(super) stored_at: i64,
    /// Whether it is what was written.
    pub(super) is_intact: bool,
}

impl<'a> KeyRow<'a> {
    /// Reads the columns of `key_columns`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] where a value can't have been written so.
    pub(super) fn read(key_set: KeySet, row: &'a Row<'_>) -> Result<Self> {
        let damaged = Error::Damaged { what: "key" };
        let text = |index| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
        let read = || -> rusqlite::Result<_> {
            let key = KeyRef {
                room_id: text(0)?,
                session_id: text(1)?,
                rank: Rank::new(row.get(2)?, row.get(3)?, row.get(4)?),
                session_data: text(5)?,
            };
            let stored_at = row.get(6)?;
            let computed = checksum::of_key(key_set.0, key, stored_at);
            Ok(Self { key, stored_at, is_intact: checksum::matches(row.get(7)?, computed) })
        };
        read().map_err(|_| damaged)
    }
}
