//! Everything of one user, read and compared in one transaction.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use strongroom_protocol::{DeviceId, Object, RoomId, SessionId, UserId, Version};

use super::problem::{Kind, Problem};
use crate::{
    operator::Result,
    sqlite::{
        checksum,
        kept::{JOURNAL_LINE_BYTES, Kept},
        operator::{forget::FORGOTTEN, sqlite_error},
        read::{Found, KeyRow, key_columns, version_columns},
    },
    store::{self, KeySet},
};

/// Keys between two reports of progress.
const SEEN_KEYS: u64 = 1000;

/// What one user has, and what is wrong with it.
#[derive(Default)]
pub(super) struct Examined {
    pub(super) user_id: Option<UserId>,
    pub(super) versions: u64,
    pub(super) keys: u64,
    /// Rows of the first format, which have no checksums.
    pub(super) without_checksum: u64,
    /// Rows that an earlier repair has marked as damaged.
    pub(super) marked: u64,
    pub(super) problems: Vec<Problem>,
    /// Sets with keys that are damaged, or have no checksum.
    pub(super) to_walk: Vec<KeySet>,
}

impl Examined {
    fn found(&mut self, version: Option<Version>, kind: Kind) {
        self.problems.push(Problem { version, kind });
    }
}

/// Looks at everything that one user has; `None` if they have been purged meanwhile. Whoever wants to
/// see how far it has come is told of some keys at a time.
pub(super) fn examine(
    database: &Connection,
    user_pk: i64,
    see: &mut dyn FnMut(u64),
) -> Result<Option<Examined>> {
    let sql = "SELECT user_id, kept_keys, kept_bytes FROM users WHERE user_pk = ?1";
    let found = database.query_row(sql, [user_pk], |row| {
        let user_id = row.get_ref(0)?.as_str().ok().and_then(|text| UserId::parse(text).ok());
        Ok((user_id, Kept { keys: row.get(1)?, bytes: row.get(2)? }))
    });
    let Some((user_id, account)) = found.optional()? else { return Ok(None) };
    let mut this = Examined { user_id, ..Examined::default() };
    if this.user_id.is_none() {
        this.found(None, Kind::UserId { user_pk });
    }
    versions(database, user_pk, &mut this)?;
    let mut kept = key_sets(database, user_pk, &mut this, see)?;
    kept += auth_data(database, user_pk, &mut this)?;
    kept += journal(database, user_pk, &mut this)?;
    if kept != account {
        this.found(None, Kind::Account);
    }
    Ok(Some(this))
}

/// The rows of the versions, each by itself.
fn versions(database: &Connection, user_pk: i64, this: &mut Examined) -> Result<()> {
    let mut statement = database.prepare_cached(Found::ALL)?;
    let mut rows = statement.query([user_pk])?;
    while let Some(row) = rows.next()? {
        this.versions += 1;
        let Some(found) = intact(row)? else {
            this.found(Version::new(row.get(1)?), Kind::Version);
            continue;
        };
        let version = Some(found.version);
        this.without_checksum += u64::from(row.get::<_, Option<i64>>(10)?.is_none());
        if Object::parse(&found.auth_data, usize::MAX).is_err() {
            this.found(version, Kind::AuthData);
        }
        let owner: Option<(i64, i64)> = database
            .prepare_cached("SELECT user_pk, version FROM key_sets WHERE key_set_pk = ?1")?
            .query_row([found.key_set.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match owner {
            Some(owner) if owner != (user_pk, found.version.get()) => {
                this.found(version, Kind::ForeignSet);
            }
            None if found.deleted_at.is_none() => this.found(version, Kind::NoSet),
            // Nothing but its id is left of a deleted version that was purged.
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// The row of a version, if it is what was written.
pub(super) fn intact(row: &Row<'_>) -> Result<Option<Found>> {
    match Found::raw(row) {
        Ok((found, sum)) => Ok(checksum::matches(sum, found.checksum()).then_some(found)),
        Err(store::Error::Damaged { .. }) => Ok(None),
        // A text that is not UTF-8.
        Err(error)
            if matches!(
                sqlite_error(&error),
                Some(
                    rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::Utf8Error(..)
                )
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The sets of a user with all their keys. Returns what of them is kept out of view.
fn key_sets(
    database: &Connection,
    user_pk: i64,
    this: &mut Examined,
    see: &mut dyn FnMut(u64),
) -> Result<Kept> {
    let mut kept = Kept::default();
    let mut statement = database.prepare_cached(
        "SELECT key_set_pk, version, detached_at, count, bytes, end_age, is_purging FROM key_sets
         WHERE user_pk = ?1 ORDER BY key_set_pk",
    )?;
    let mut rows = statement.query([user_pk])?;
    while let Some(row) = rows.next()? {
        let set = SetRow::read(row)?;
        let keys = Tally::of_keys(database, set.key_set, see)?;
        let history = Tally::of_history(database, set.key_set, see)?;
        for tally in [&keys, &history] {
            this.keys += tally.keys;
            this.without_checksum += tally.without_checksum;
            this.marked += tally.marked;
        }
        kept += history.kept();
        if set.detached_at.is_some() {
            kept += keys.kept();
        }
        if set.is_forgotten() {
            continue;
        }
        let mut statement = database.prepare_cached(concat!(
            "SELECT ",
            version_columns!(),
            " FROM versions WHERE user_pk = ?1 AND version = ?2"
        ))?;
        let mut versions = statement.query([user_pk, set.version])?;
        let Some(row) = versions.next()? else {
            let keys = keys.keys + history.keys;
            this.found(Version::new(set.version), Kind::NoVersion { keys });
            continue;
        };
        // Of a version whose row is damaged it is not known what it shows.
        let Some(found) = intact(row)? else { continue };
        compare(database, &set, &found, [&keys, &history], this)?;
        let is_due = |tally: &Tally| tally.damaged + tally.without_checksum > 0;
        if !set.is_purging && (is_due(&keys) || is_due(&history)) {
            this.to_walk.push(set.key_set);
        }
    }
    Ok(kept)
}

/// A set beside the version that it belongs to.
fn compare(
    database: &Connection,
    set: &SetRow,
    found: &Found,
    [keys, history]: [&Tally; 2],
    this: &mut Examined,
) -> Result<()> {
    let version = Some(found.version);
    let is_its_own = found.key_set == set.key_set;
    let is_in_view = is_its_own && found.deleted_at.is_none();
    if is_in_view && !set.is_attached() {
        this.found(version, Kind::ShowsDetached);
    } else if !is_in_view && !set.is_detached() {
        if is_its_own || !is_shown(database, set.key_set)? {
            this.found(version, Kind::NotDetached);
        }
    } else if is_its_own && found.deleted_at != set.detached_at {
        this.found(version, Kind::DetachedElsewhen);
    } else if !is_in_view && !set.is_purging && set.counted() != Some(keys.kept()) {
        this.found(version, Kind::SetCount);
    }
    if is_its_own && !set.is_purging && found.keys() != keys.kept() {
        this.found(version, Kind::Count { counted: found.stored.count, found: keys.keys });
    }
    if is_its_own && found.stored.etag.get() < keys.newest.max(history.newest) {
        this.found(version, Kind::Etag);
    }
    let mut kept_damaged = history.damaged;
    if is_in_view {
        if keys.damaged > 0 {
            this.found(version, Kind::Keys { keys: keys.damaged });
        }
    } else {
        kept_damaged += keys.damaged;
    }
    if kept_damaged > 0 {
        this.found(version, Kind::KeptKeys { keys: kept_damaged });
    }
    Ok(())
}

/// Whether any version at all shows a set. There is no index for it: it is asked in trouble only.
pub(super) fn is_shown(database: &Connection, key_set: KeySet) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM versions WHERE key_set_pk = ?1)";
    Ok(database.prepare_cached(sql)?.query_one([key_set.0], |row| row.get(0))?)
}

/// The row of a set.
struct SetRow {
    key_set: KeySet,
    version: i64,
    detached_at: Option<i64>,
    count: Option<i64>,
    bytes: Option<i64>,
    end_age: Option<i64>,
    is_purging: bool,
}

impl SetRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            key_set: KeySet(row.get(0)?),
            version: row.get(1)?,
            detached_at: row.get(2)?,
            count: row.get(3)?,
            bytes: row.get(4)?,
            end_age: row.get(5)?,
            is_purging: row.get(6)?,
        })
    }

    /// Whether it is ready to be shown.
    fn is_attached(&self) -> bool {
        self.detached_at.is_none()
            && self.end_age.is_none()
            && self.counted().is_none()
            && !self.is_purging
    }

    /// Whether it will be purged in its time.
    fn is_detached(&self) -> bool {
        self.detached_at.is_some() && self.end_age.is_some() && self.counted().is_some()
    }

    /// Whether it belongs to a user who is being purged, or will be, when somebody does it again.
    fn is_forgotten(&self) -> bool {
        self.end_age == Some(FORGOTTEN)
    }

    fn counted(&self) -> Option<Kept> {
        Some(Kept { keys: self.count?, bytes: self.bytes? })
    }
}

/// What was found in a set, or in its history.
#[derive(Default)]
struct Tally {
    keys: u64,
    bytes: i64,
    damaged: u64,
    without_checksum: u64,
    marked: u64,
    /// The greatest stamp of one that is intact.
    newest: i64,
}

impl Tally {
    fn of_keys(database: &Connection, set: KeySet, see: &mut dyn FnMut(u64)) -> Result<Self> {
        let sql = concat!(
            "SELECT ",
            key_columns!(),
            ", octet_length(session_data), stored_at FROM keys WHERE key_set_pk = ?1"
        );
        Self::of(database, sql, set, see)
    }

    fn of_history(database: &Connection, set: KeySet, see: &mut dyn FnMut(u64)) -> Result<Self> {
        let sql = concat!(
            "SELECT ",
            key_columns!(),
            ", octet_length(session_data), ended_at FROM key_history WHERE key_set_pk = ?1"
        );
        Self::of(database, sql, set, see)
    }

    fn of(database: &Connection, sql: &str, set: KeySet, see: &mut dyn FnMut(u64)) -> Result<Self> {
        let mut this = Self::default();
        let mut statement = database.prepare_cached(sql)?;
        let mut rows = statement.query([set.0])?;
        while let Some(row) = rows.next()? {
            this.keys += 1;
            this.bytes += row.get::<_, i64>(8)?;
            let sum: Option<i64> = row.get(7)?;
            if checksum::is_mark(sum) {
                this.marked += 1;
            } else if !is_well(set, row)? {
                this.damaged += 1;
            } else {
                this.without_checksum += u64::from(sum.is_none());
                this.newest = this.newest.max(row.get(9)?);
            }
            if this.keys.is_multiple_of(SEEN_KEYS) {
                see(SEEN_KEYS);
            }
        }
        see(this.keys % SEEN_KEYS);
        Ok(this)
    }

    fn kept(&self) -> Kept {
        Kept { keys: i64::try_from(self.keys).unwrap_or(i64::MAX), bytes: self.bytes }
    }
}

/// Whether the key in a row (of `key_columns`) is what was written, and what a client may have put.
pub(super) fn is_well(key_set: KeySet, row: &Row<'_>) -> Result<bool> {
    let KeyRow { key, is_intact, .. } = match KeyRow::read(key_set, row) {
        Ok(key) => key,
        Err(store::Error::Damaged { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    Ok(is_intact
        && matches!(row.get(2)?, 0_i64 | 1)
        && RoomId::parse(key.room_id).is_ok()
        && SessionId::parse(key.session_id).is_ok()
        && Object::parse(key.session_data, usize::MAX).is_ok())
}

/// Whether a row (`auth_data`, `user_pk`, `version`, `since`, `checksum`) is what was written.
pub(super) fn is_auth_data_well(row: &Row<'_>) -> rusqlite::Result<bool> {
    let Ok(auth_data) = row.get_ref(0)?.as_str() else { return Ok(false) };
    let computed = checksum::of([row.get(1)?, row.get(2)?, row.get(3)?], [auth_data]);
    let is_intact = checksum::matches(row.get(4)?, computed);
    Ok(is_intact && Object::parse(auth_data, usize::MAX).is_ok())
}

fn auth_data(database: &Connection, user_pk: i64, this: &mut Examined) -> Result<Kept> {
    let (mut kept, mut damaged) = (Kept::default(), 0);
    let mut statement = database.prepare_cached(
        "SELECT auth_data, user_pk, version, since, checksum, octet_length(auth_data)
         FROM auth_data_history WHERE user_pk = ?1",
    )?;
    let mut rows = statement.query([user_pk])?;
    while let Some(row) = rows.next()? {
        kept.bytes += row.get::<_, i64>(5)?;
        let sum: Option<i64> = row.get(4)?;
        if checksum::is_mark(sum) {
            this.marked += 1;
        } else if !is_auth_data_well(row)? {
            damaged += 1;
        } else {
            this.without_checksum += u64::from(sum.is_none());
        }
    }
    if damaged > 0 {
        this.found(None, Kind::KeptAuthData { rows: damaged });
    }
    Ok(kept)
}

fn journal(database: &Connection, user_pk: i64, this: &mut Examined) -> Result<Kept> {
    let (mut lines, mut damaged) = (0, 0);
    let mut statement = database
        .prepare_cached("SELECT at, version, device_id, action FROM journal WHERE user_pk = ?1")?;
    let mut rows = statement.query(params![user_pk])?;
    while let Some(row) = rows.next()? {
        lines += 1;
        let device_id = row.get_ref(2)?.as_str_or_null();
        let is_well = row.get::<_, i64>(0)? >= 0
            && Version::new(row.get(1)?).is_some()
            && row.get_ref(3)?.as_str().is_ok()
            && device_id.is_ok_and(|id| id.is_none_or(|id| DeviceId::parse(id).is_ok()));
        damaged += u64::from(!is_well);
    }
    if damaged > 0 {
        this.found(None, Kind::Journal { lines: damaged });
    }
    Ok(Kept { keys: 0, bytes: lines * JOURNAL_LINE_BYTES })
}
