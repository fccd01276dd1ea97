//! What is read: versions, single keys, pages.

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row, ToSql, params};
use strongroom_protocol::{
    Etag, KeyRef, NewVersion, Rank, RoomId, RoomKey, SessionId, UserId, Version,
};

use crate::{
    page::{Page, PageSize, Position},
    store::{Backup, Error, KeySet, Result, Stored},
};

/// The row of a version, deleted or not.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) user_pk: i64,
    pub(super) version: Version,
    pub(super) key_set: KeySet,
    pub(super) stored: Stored,
    pub(super) algorithm: String,
    pub(super) auth_data: String,
    pub(super) auth_data_since: i64,
    pub(super) is_deleted: bool,
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
        let mut statement = database.prepare_cached(
            "SELECT user_pk, version, key_set_pk, etag, count, algorithm, auth_data,
                auth_data_since, deleted_at IS NOT NULL
             FROM users CROSS JOIN versions USING (user_pk) WHERE user_id = ?1 AND version = ?2",
        )?;
        Self::query(&mut statement, params![user_id.as_str(), version.get()])
    }

    /// The newest version of a user that is not deleted.
    pub(super) fn current(database: &Connection, user_id: &UserId) -> Result<Option<Self>> {
        let mut statement = database.prepare_cached(
            "SELECT user_pk, version, key_set_pk, etag, count, algorithm, auth_data,
                auth_data_since, 0
             FROM users CROSS JOIN versions USING (user_pk)
             WHERE user_id = ?1 AND deleted_at IS NULL ORDER BY version DESC LIMIT 1",
        )?;
        Self::query(&mut statement, params![user_id.as_str()])
    }

    fn query(statement: &mut CachedStatement<'_>, params: &[&dyn ToSql]) -> Result<Option<Self>> {
        let row = statement.query_row(params, |row| Ok(Self::from_row(row))).optional()?;
        row.transpose()
    }

    fn from_row(row: &Row<'_>) -> Result<Self> {
        let damaged = |what| move || Error::Damaged { what };
        let etag = Etag::new(row.get(3)?).ok_or_else(damaged("etag"))?;
        let count =
            row.get::<_, i64>(4)?.try_into().map_err(|_| Error::Damaged { what: "count" })?;
        Ok(Self {
            user_pk: row.get(0)?,
            version: Version::new(row.get(1)?).ok_or_else(damaged("version"))?,
            key_set: KeySet(row.get(2)?),
            stored: Stored { etag, count },
            algorithm: row.get(5)?,
            auth_data: row.get(6)?,
            auth_data_since: row.get(7)?,
            is_deleted: row.get(8)?,
        })
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
    let found = Found::exact(database, user_id, version)?.filter(|found| !found.is_deleted);
    found.ok_or(Error::NoSuchVersion)
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
    let mut statement = database.prepare_cached(
        "SELECT room_id, session_id, is_verified, first_message_index, forwarded_count, session_data
         FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 AND session_id = ?3",
    )?;
    let mut rows = statement.query(params![key_set.0, room_id.as_str(), session_id.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let KeyRef { rank, session_data, .. } = key_ref(row)?;
    let session_data = Backup::stored_object(session_data, "session_data")?;
    Ok(Some(RoomKey { rank, session_data }))
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
        (None, None) => {
            "SELECT room_id, session_id, is_verified, first_message_index, forwarded_count,
                session_data
             FROM keys WHERE key_set_pk = ?1 ORDER BY room_id, session_id"
        }
        (None, Some(_)) => {
            "SELECT room_id, session_id, is_verified, first_message_index, forwarded_count,
                session_data
             FROM keys WHERE key_set_pk = ?1 AND (room_id, session_id) > (?2, ?3)
             ORDER BY room_id, session_id"
        }
        (Some(_), None) => {
            "SELECT room_id, session_id, is_verified, first_message_index, forwarded_count,
                session_data
             FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 ORDER BY session_id"
        }
        (Some(_), Some(_)) => {
            "SELECT room_id, session_id, is_verified, first_message_index, forwarded_count,
                session_data
             FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 AND session_id > ?3
             ORDER BY session_id"
        }
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
    while let Some(row) = rows.next()? {
        if page.push(key_ref(row)?, size) {
            break;
        }
    }
    Ok(page)
}

/// Reads room, session, the three fields of the rank, and the data, borrowed from the row.
fn key_ref<'a>(row: &'a Row<'_>) -> Result<KeyRef<'a>> {
    let text = |index, what| -> Result<&'a str> {
        row.get_ref(index)?.as_str().map_err(|_| Error::Damaged { what })
    };
    Ok(KeyRef {
        room_id: text(0, "room id")?,
        session_id: text(1, "session id")?,
        rank: Rank::new(row.get(2)?, row.get(3)?, row.get(4)?),
        session_data: text(5, "session_data")?,
    })
}
