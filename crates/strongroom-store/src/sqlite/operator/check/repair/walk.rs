//! Walks through the keys of one user, some rows in each transaction.

use rusqlite::{
    Connection, OptionalExtension as _, ToSql, params,
    types::{ToSqlOutput, ValueRef},
};

use super::{
    super::user::{is_auth_data_well, is_well},
    intact_rows,
};
use crate::{
    operator::Result,
    sqlite::{
        checksum,
        kept::{self, Kept, Line},
        operator::SqliteOperator,
        read::{Found, KeyRow, key_columns},
    },
    store::{Author, KeySet},
    time::Timestamp,
};

/// Rows looked at in one transaction: some 20 ms, for which the server's writer may have to wait.
const STEP_ROWS: i64 = 500;

/// What a mark is made of: see `checksum::is_mark`.
macro_rules! mark {
    () => {
        "iif(checksum < 0, checksum, -1 - coalesce(checksum, 0))"
    };
}

/// A place in a set, as raw as the texts there may be.
type Place = (Vec<u8>, Vec<u8>);

/// A text that may not be UTF-8.
struct Raw<'a>(&'a [u8]);

impl ToSql for Raw<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// Damaged keys of a set give way to their newest intact copies, or leave it; those without a checksum
/// get one.
pub(super) fn keys(operator: &mut SqliteOperator, key_set: KeySet, author: &Author) -> Result<()> {
    walk(operator, |database, place| some_keys(database, key_set, author, place))
}

/// Of a set's history, damaged keys are marked, and those without a checksum get one.
pub(super) fn history(operator: &mut SqliteOperator, key_set: KeySet) -> Result<()> {
    walk(operator, |database, place| some_history(database, key_set, place))
}

/// The same for replaced `auth_data`.
pub(super) fn auth_data(operator: &mut SqliteOperator, user_pk: i64) -> Result<()> {
    walk(operator, |database, place| some_auth_data(database, user_pk, place))
}

/// Goes on from place to place until there is none any more.
fn walk<P>(
    operator: &mut SqliteOperator,
    mut step: impl FnMut(&Connection, Option<P>) -> Result<Option<P>>,
) -> Result<()> {
    let mut place = None;
    loop {
        place = operator.write_piece(|database| step(database, place.take()))?;
        if place.is_none() {
            return Ok(());
        }
    }
}

fn some_keys(
    database: &Connection,
    key_set: KeySet,
    author: &Author,
    place: Option<Place>,
) -> Result<Option<Place>> {
    let Some(mut home) = Home::of(database, key_set, author.at)? else { return Ok(None) };
    let (room_id, session_id) = place.unwrap_or_default();
    let (mut last, mut seen) = (None, 0);
    let (mut to_repair, mut to_seal) = (Vec::new(), Vec::new());
    let mut statement = database.prepare_cached(concat!(
        "SELECT ",
        key_columns!(),
        ", rowid FROM keys WHERE key_set_pk = ?1 AND (room_id, session_id) > (?2, ?3)
         ORDER BY room_id, session_id LIMIT ?4"
    ))?;
    let mut rows =
        statement.query(params![key_set.0, Raw(&room_id), Raw(&session_id), STEP_ROWS])?;
    while let Some(row) = rows.next()? {
        seen += 1;
        let text = |index| Ok::<_, rusqlite::Error>(row.get_ref(index)?.as_bytes()?.to_vec());
        last = Some((text(0)?, text(1)?));
        if !is_well(key_set, row)? {
            to_repair.push(row.get(8)?);
        } else if row.get::<_, Option<i64>>(7)?.is_none() {
            let KeyRow { key, stored_at, .. } = KeyRow::read(key_set, row)?;
            to_seal.push((row.get::<_, i64>(8)?, checksum::of_key(key_set.0, key, stored_at)));
        }
    }
    drop(rows);
    for (rowid, sum) in to_seal {
        let sql = "UPDATE keys SET checksum = ?2 WHERE rowid = ?1";
        database.prepare_cached(sql)?.execute(params![rowid, sum])?;
    }
    let repaired = to_repair.len();
    for rowid in to_repair {
        home.repair(database, key_set, rowid)?;
    }
    if repaired > 0 {
        home.finish(database, key_set, author, repaired)?;
    }
    Ok(if seen < STEP_ROWS { None } else { last })
}

/// Where the keys of a set are seen, and what changes there.
struct Home {
    /// The version that shows them, unless they are out of view.
    shown_by: Option<Found>,
    user_pk: i64,
    /// When a damaged key leaves the set, and its copy comes. In a set out of view that is when it was
    /// detached: what it held before does not change.
    stamp: i64,
    /// Keys that are in the set more than before.
    gained: Kept,
    /// Damaged keys that left it.
    left: Kept,
}

impl Home {
    /// None if the set is gone, is being purged, or belongs to a version whose row is damaged.
    fn of(database: &Connection, key_set: KeySet, now: Timestamp) -> Result<Option<Self>> {
        let sql = "SELECT user_pk, version, detached_at FROM key_sets
            WHERE key_set_pk = ?1 AND NOT is_purging";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let found = database.prepare_cached(sql)?.query_row([key_set.0], read).optional()?;
        let Some((user_pk, version, detached_at)) = found else { return Ok(None) };
        let version: i64 = version;
        let all = intact_rows(database, user_pk)?;
        let Some(found) = all.into_iter().find(|found| found.version.get() == version) else {
            return Ok(None);
        };
        let (gained, left) = (Kept::default(), Kept::default());
        let is_in_view = found.key_set == key_set && found.deleted_at.is_none();
        let (stamp, shown_by) = match detached_at {
            Some(detached_at) => (detached_at, None),
            None if is_in_view => (now.stamp_after(found.latest_stamp()), Some(found)),
            None => return Ok(None),
        };
        Ok(Some(Self { shown_by, user_pk, stamp, gained, left }))
    }

    /// Puts the newest intact copy of a damaged key in its place, if there is one; else takes it out.
    fn repair(&mut self, database: &Connection, key_set: KeySet, rowid: i64) -> Result<()> {
        let bytes: i64 = database
            .prepare_cached("SELECT octet_length(session_data) FROM keys WHERE rowid = ?1")?
            .query_one([rowid], |row| row.get(0))?;
        database
            .prepare_cached(concat!(
                "INSERT INTO key_history (key_set_pk, room_id, session_id, is_verified,
                    first_message_index, forwarded_count, stored_at, ended_at, session_data,
                    end_age, checksum)
                 SELECT key_set_pk, room_id, session_id, is_verified, first_message_index,
                    forwarded_count, stored_at, ?2, session_data, ?3, ",
                mark!(),
                " FROM keys WHERE rowid = ?1"
            ))?
            .execute([rowid, self.stamp, kept::age(database)?])?;
        self.left += Kept { keys: 1, bytes };
        let mut statement = database.prepare_cached(concat!(
            "SELECT ",
            key_columns!(),
            " FROM key_history WHERE key_set_pk = ?1 AND (room_id, session_id) =
                (SELECT room_id, session_id FROM keys WHERE rowid = ?2)
             ORDER BY ended_at DESC"
        ))?;
        let mut copies = statement.query([key_set.0, rowid])?;
        while let Some(copy) = copies.next()? {
            if !is_well(key_set, copy)? {
                continue;
            }
            let KeyRow { key, .. } = KeyRow::read(key_set, copy)?;
            let bytes = i64::try_from(key.session_data.len()).unwrap_or(i64::MAX);
            self.gained += Kept { keys: 1, bytes };
            database
                .prepare_cached(
                    "UPDATE keys SET is_verified = ?2, first_message_index = ?3,
                        forwarded_count = ?4, stored_at = ?5, session_data = ?6, checksum = ?7
                     WHERE rowid = ?1",
                )?
                .execute(params![
                    rowid,
                    key.rank.is_verified(),
                    key.rank.first_message_index(),
                    key.rank.forwarded_count(),
                    self.stamp,
                    key.session_data,
                    checksum::of_key(key_set.0, key, self.stamp),
                ])?;
            return Ok(());
        }
        database.prepare_cached("DELETE FROM keys WHERE rowid = ?1")?.execute([rowid])?;
        Ok(())
    }

    /// Writes down what has changed: for clients, if they see it, and in the accounts.
    fn finish(
        self,
        database: &Connection,
        key_set: KeySet,
        author: &Author,
        repaired: usize,
    ) -> Result<()> {
        let Self { shown_by, user_pk, stamp, gained, left } = self;
        let Some(found) = shown_by else {
            kept::count(database, user_pk, gained)?;
            database
                .prepare_cached(
                    "UPDATE key_sets SET count = count + ?2, bytes = bytes + ?3
                     WHERE key_set_pk = ?1",
                )?
                .execute([key_set.0, gained.keys - left.keys, gained.bytes - left.bytes])?;
            // A deleted version tells the same of its keys.
            for found in intact_rows(database, user_pk)? {
                if found.key_set == key_set {
                    let mut keys = found.keys();
                    keys += gained;
                    keys += -left;
                    let after = found.with_keys(key_set, keys, found.stored.etag.get())?;
                    kept::update(database, &after)?;
                }
            }
            return Ok(());
        };
        let mut keys = found.keys();
        keys += gained;
        keys += -left;
        kept::update(database, &found.with_keys(key_set, keys, stamp)?)?;
        let repaired = i64::try_from(repaired).unwrap_or(i64::MAX);
        let line = Line { action: "repair_keys", version: found.version, keys: repaired };
        Ok(kept::record(database, author, user_pk, stamp, line, left)?)
    }
}

fn some_history(
    database: &Connection,
    key_set: KeySet,
    place: Option<(Place, i64, i64)>,
) -> Result<Option<(Place, i64, i64)>> {
    let ((room_id, session_id), ended_at, rowid) = place.unwrap_or_default();
    let (mut last, mut seen) = (None, 0);
    let mut changes = Vec::new();
    let mut statement = database.prepare_cached(concat!(
        "SELECT ",
        key_columns!(),
        ", ended_at, rowid FROM key_history
         WHERE key_set_pk = ?1 AND (room_id, session_id, ended_at, rowid) > (?2, ?3, ?4, ?5)
         ORDER BY room_id, session_id, ended_at, rowid LIMIT ?6"
    ))?;
    let mut rows = statement.query(params![
        key_set.0,
        Raw(&room_id),
        Raw(&session_id),
        ended_at,
        rowid,
        STEP_ROWS
    ])?;
    while let Some(row) = rows.next()? {
        seen += 1;
        let text = |index| Ok::<_, rusqlite::Error>(row.get_ref(index)?.as_bytes()?.to_vec());
        let (ended_at, rowid) = (row.get(8)?, row.get(9)?);
        last = Some(((text(0)?, text(1)?), ended_at, rowid));
        let sum: Option<i64> = row.get(7)?;
        if checksum::is_mark(sum) {
            continue;
        }
        if !is_well(key_set, row)? {
            changes.push((rowid, None));
        } else if sum.is_none() {
            let KeyRow { key, stored_at, .. } = KeyRow::read(key_set, row)?;
            changes.push((rowid, Some(checksum::of_key(key_set.0, key, stored_at))));
        }
    }
    drop(rows);
    for (rowid, sum) in changes {
        let sql = concat!(
            "UPDATE key_history SET checksum = coalesce(?2, ",
            mark!(),
            ") WHERE rowid = ?1"
        );
        database.prepare_cached(sql)?.execute(params![rowid, sum])?;
    }
    Ok(if seen < STEP_ROWS { None } else { last })
}

fn some_auth_data(
    database: &Connection,
    user_pk: i64,
    place: Option<[i64; 3]>,
) -> Result<Option<[i64; 3]>> {
    let [version, ended_at, rowid] = place.unwrap_or_default();
    let (mut last, mut seen) = (None, 0);
    let mut changes = Vec::new();
    let mut statement = database.prepare_cached(
        "SELECT auth_data, user_pk, version, since, checksum, ended_at, rowid FROM auth_data_history
         WHERE user_pk = ?1 AND (version, ended_at, rowid) > (?2, ?3, ?4)
         ORDER BY version, ended_at, rowid LIMIT ?5",
    )?;
    let mut rows = statement.query([user_pk, version, ended_at, rowid, STEP_ROWS])?;
    while let Some(row) = rows.next()? {
        seen += 1;
        let (version, ended_at, rowid) = (row.get(2)?, row.get(5)?, row.get(6)?);
        last = Some([version, ended_at, rowid]);
        let sum: Option<i64> = row.get(4)?;
        if checksum::is_mark(sum) {
            continue;
        }
        if !is_auth_data_well(row)? {
            changes.push((rowid, None));
        } else if sum.is_none() {
            let text = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
            changes.push((rowid, Some(checksum::of([user_pk, version, row.get(3)?], [text]))));
        }
    }
    drop(rows);
    for (rowid, sum) in changes {
        let sql = concat!(
            "UPDATE auth_data_history SET checksum = coalesce(?2, ",
            mark!(),
            ") WHERE rowid = ?1"
        );
        database.prepare_cached(sql)?.execute(params![rowid, sum])?;
    }
    Ok(if seen < STEP_ROWS { None } else { last })
}
