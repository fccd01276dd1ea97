//! The right to be forgotten.

use rusqlite::{Connection, OptionalExtension as _};
use strongroom_protocol::UserId;

use super::{
    super::{kept, purge, read::Found},
    SqliteOperator, number, user_pk,
};
use crate::operator::{Progress, Removed, Result};

/// Due whatever the retention is. Such a set belongs to a user who is to be forgotten.
pub(super) const FORGOTTEN: i64 = i64::MIN;
/// Rows removed in one transaction.
const STEP_ROWS: i64 = 1000;

pub(super) fn user(
    operator: &mut SqliteOperator,
    user_id: &UserId,
    progress: Progress<'_>,
) -> Result<Removed> {
    // First, at once, nothing of it is in view any more. What follows is only clearing away.
    let (user_pk, end, mut removed) = operator.write(|database| put_away(database, user_id))?;
    let total = removed.keys;
    removed.keys = 0;
    loop {
        let gone = operator.write_piece(|database| {
            let next: Option<i64> = database
                .query_row(
                    "SELECT key_set_pk FROM key_sets WHERE user_pk = ?1 AND end_age = ?2 LIMIT 1",
                    [user_pk, FORGOTTEN],
                    |row| row.get(0),
                )
                .optional()?;
            let Some(key_set_pk) = next else { return Ok(None) };
            Ok(Some(purge::key_set(database, user_pk, key_set_pk, FORGOTTEN)?))
        })?;
        let Some(keys) = gone else { break };
        removed.keys += number(keys);
        progress(removed.keys, Some(total.max(removed.keys)));
    }
    let in_parts = |operator: &mut SqliteOperator, sql| -> Result<u64> {
        let mut rows = 0;
        loop {
            let gone = operator.write_piece(|database| {
                let gone = database.execute(sql, [user_pk, end, STEP_ROWS])?;
                kept::recount(database, user_pk)?;
                Ok(gone)
            })?;
            rows += gone as u64;
            if gone == 0 {
                return Ok(rows);
            }
        }
    };
    removed.auth_data = in_parts(
        operator,
        "DELETE FROM auth_data_history WHERE rowid IN (SELECT rowid FROM auth_data_history
            WHERE user_pk = ?1 AND ended_at <= ?2 LIMIT ?3)",
    )?;
    removed.journal_lines = in_parts(
        operator,
        "DELETE FROM journal WHERE rowid IN (SELECT rowid FROM journal
            WHERE user_pk = ?1 AND at <= ?2 LIMIT ?3)",
    )?;
    removed.left = operator.write(|database| finish(database, user_pk))?;
    removed.is_overwritten = empty_log(&operator.database)?;
    Ok(removed)
}

/// Takes everything out of view. Returns whom, the newest stamp that is theirs, and what there is.
fn put_away(database: &Connection, user_id: &UserId) -> Result<(i64, i64, Removed)> {
    let user_pk = user_pk(database, user_id)?;
    let all = Found::all(database, user_pk)?;
    // Their version ids are not given again, neither to them nor to anybody: nobody knows any more
    // whose they were.
    let end = all.iter().map(|found| found.latest_stamp().max(found.version.get())).max();
    // After an interruption there are no versions any more, and the rest tells.
    let end: i64 = database.query_one(
        "SELECT max(?2, coalesce((SELECT max(ended_at) FROM auth_data_history WHERE user_pk = ?1), 0),
            coalesce((SELECT max(at) FROM journal WHERE user_pk = ?1), 0))",
        [user_pk, end.unwrap_or(0)],
        |row| row.get(0),
    )?;
    database.execute("UPDATE service SET stamp_floor = max(stamp_floor, ?1)", [end])?;
    let (keys, bytes): (i64, i64) = database.query_one(
        "SELECT kept_keys + coalesce(sum(iif(deleted_at IS NULL, count, 0)), 0),
            kept_bytes + coalesce(sum(iif(deleted_at IS NULL, bytes, 0)), 0)
         FROM users LEFT JOIN versions USING (user_pk) WHERE user_pk = ?1",
        [user_pk],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    database.execute(
        "UPDATE users SET kept_keys = ?2, kept_bytes = ?3, retention = NULL WHERE user_pk = ?1",
        [user_pk, keys, bytes],
    )?;
    database.execute(
        "UPDATE key_sets SET detached_at = coalesce(detached_at, ?2), end_age = ?3, is_purging = 1
         WHERE user_pk = ?1",
        [user_pk, end, FORGOTTEN],
    )?;
    database.execute("DELETE FROM versions WHERE user_pk = ?1", [user_pk])?;
    let versions = all.len() as u64;
    Ok((
        user_pk,
        end,
        Removed { versions, keys: number(keys), bytes: number(bytes), ..Removed::default() },
    ))
}

/// Forgets who it was, and counts what there is still: nothing, unless a client has come back.
fn finish(database: &Connection, user_pk: i64) -> Result<u64> {
    let left: i64 = database.query_one(
        "SELECT (SELECT count(*) FROM versions WHERE user_pk = ?1)
            + (SELECT count(*) FROM key_sets WHERE user_pk = ?1)
            + (SELECT count(*) FROM auth_data_history WHERE user_pk = ?1)
            + (SELECT count(*) FROM journal WHERE user_pk = ?1)",
        [user_pk],
        |row| row.get(0),
    )?;
    if left == 0 {
        database.execute("DELETE FROM users WHERE user_pk = ?1", [user_pk])?;
    }
    Ok(number(left))
}

/// Moves the whole log into the file and empties it, so that what was removed is in neither. Readers
/// of the server may hold it up; whether it was done is told.
fn empty_log(database: &Connection) -> Result<bool> {
    let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
    Ok(database.query_one(sql, [], |row| row.get::<_, bool>(0)).map(|is_busy| !is_busy)?)
}
