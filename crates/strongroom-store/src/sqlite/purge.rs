//! Removes for good what left the view long enough ago, a little at a time.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{
    store::{Purged, Result},
    time::Timestamp,
};

/// Keys removed in one step: 5 to 10 ms, which is what a writer may have to wait for it.
const STEP_KEYS: i64 = 300;

/// One step: a part of a detached key set, or of the history, or done.
pub(super) fn step(database: &Connection, before: Timestamp) -> Result<Purged> {
    let before = before.as_micros();
    let detached: Option<i64> = database
        .prepare_cached(
            "SELECT key_set_pk FROM key_sets
             WHERE detached_at IS NOT NULL AND detached_at < ?1 ORDER BY detached_at LIMIT 1",
        )?
        .query_row([before], |row| row.get(0))
        .optional()?;
    if let Some(key_set_pk) = detached {
        return Ok(Purged { keys: purge_key_set(database, key_set_pk)?, is_done: false });
    }
    let keys = database
        .prepare_cached(
            "DELETE FROM key_history WHERE rowid IN
                (SELECT rowid FROM key_history WHERE ended_at < ?1 ORDER BY ended_at LIMIT ?2)",
        )?
        .execute([before, STEP_KEYS])?;
    let auth_data = database
        .prepare_cached(
            "DELETE FROM auth_data_history WHERE rowid IN
                (SELECT rowid FROM auth_data_history WHERE ended_at < ?1 ORDER BY ended_at LIMIT ?2)",
        )?
        .execute([before, STEP_KEYS])?;
    Ok(Purged { keys: keys as u64, is_done: keys + auth_data == 0 })
}

/// Removes some keys of a set and their history; with the last of them the set itself. Of a deleted
/// version the `auth_data` goes as well, and the row stays, so that its id is not given again.
fn purge_key_set(database: &Connection, key_set_pk: i64) -> Result<u64> {
    // From here on, who still reads the set must not take what is left of it for the whole.
    database
        .prepare_cached(
            "UPDATE key_sets SET is_purging = 1 WHERE key_set_pk = ?1 AND is_purging = 0",
        )?
        .execute([key_set_pk])?;
    let keys = database
        .prepare_cached(
            "DELETE FROM keys WHERE rowid IN
                (SELECT rowid FROM keys WHERE key_set_pk = ?1 LIMIT ?2)",
        )?
        .execute([key_set_pk, STEP_KEYS])?;
    let history = database
        .prepare_cached(
            "DELETE FROM key_history WHERE rowid IN
                (SELECT rowid FROM key_history WHERE key_set_pk = ?1 LIMIT ?2)",
        )?
        .execute([key_set_pk, STEP_KEYS])?;
    if keys + history == 0 {
        database
            .prepare_cached(
                "UPDATE versions SET auth_data = '{}' WHERE deleted_at IS NOT NULL
                 AND key_set_pk = ?1 AND (user_pk, version) =
                    (SELECT user_pk, version FROM key_sets WHERE key_set_pk = ?1)",
            )?
            .execute([key_set_pk])?;
        database
            .prepare_cached("DELETE FROM key_sets WHERE key_set_pk = ?1")?
            .execute(params![key_set_pk])?;
    }
    Ok((keys + history) as u64)
}
