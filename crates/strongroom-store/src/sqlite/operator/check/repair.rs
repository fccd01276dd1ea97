//! Puts right what is wrong with one user. Nothing is deleted.
//!
//! What to believe: first a row whose checksum matches, then the keys themselves, then counts and
//! marks, which can be made anew from these.

mod walk;

use rusqlite::{Connection, OptionalExtension as _, params};
use strongroom_protocol::{UserId, Version};

use super::{
    undamaged,
    user::{intact, is_shown},
};
use crate::{
    operator::Result,
    sqlite::{
        checksum,
        kept::{self, Kept},
        operator::{SqliteOperator, damaged},
        read::{Found, version_columns},
    },
    store::{Author, KeySet, Stored},
    time::Timestamp,
};

/// Puts right what can be, step by step; damage that stops one does not stop the next. What has come
/// of it is for somebody else to say.
pub(super) fn user(
    operator: &mut SqliteOperator,
    user_pk: i64,
    user_id: &UserId,
    to_walk: &[KeySet],
    now: Timestamp,
) -> Result<()> {
    let author = Author { user_id: user_id.clone(), device_id: None, at: now };
    undamaged(operator.write(|database| versions(database, user_pk)))?.ok();
    undamaged(operator.write(|database| key_sets(database, user_pk, now)))?.ok();
    undamaged(operator.write(|database| recount(database, user_pk, now)))?.ok();
    for key_set in to_walk {
        undamaged(walk::keys(operator, *key_set, &author))?.ok();
        undamaged(walk::history(operator, *key_set))?.ok();
    }
    undamaged(walk::auth_data(operator, user_pk))?.ok();
    Ok(())
}

/// The rows of a user's versions: those that are as they were written, or not.
fn rows(database: &Connection, user_pk: i64) -> Result<Vec<(Option<Found>, Version)>> {
    let mut statement = database.prepare_cached(Found::ALL)?;
    let mut rows = statement.query([user_pk])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let version = Version::new(row.get(1)?).ok_or_else(|| damaged("version"))?;
        all.push((intact(row)?, version));
    }
    Ok(all)
}

fn intact_rows(database: &Connection, user_pk: i64) -> Result<Vec<Found>> {
    Ok(rows(database, user_pk)?.into_iter().filter_map(|(found, _)| found).collect())
}

/// Rows that do not match their checksums, and rows that have none.
fn versions(database: &Connection, user_pk: i64) -> Result<()> {
    for (found, version) in rows(database, user_pk)? {
        let found = match found {
            Some(found) => Some(found),
            None => undamaged(restored(database, user_pk, version))?.ok().flatten(),
        };
        if let Some(found) = found {
            kept::update(database, &found)?;
        }
    }
    Ok(())
}

/// A row that does not match its checksum, with those numbers replaced that the other tables tell as
/// well. If it matches then, it is what was written.
fn restored(database: &Connection, user_pk: i64, version: Version) -> Result<Option<Found>> {
    let (found, sum) = database
        .prepare_cached(concat!(
            "SELECT ",
            version_columns!(),
            " FROM versions WHERE user_pk = ?1 AND version = ?2"
        ))?
        .query_one([user_pk, version.get()], |row| Ok(Found::raw(row)))??;
    let key = [user_pk, version.get()];
    let mut key_sets = vec![found.key_set];
    let sql = "SELECT key_set_pk FROM key_sets WHERE user_pk = ?1 AND version = ?2
        ORDER BY key_set_pk DESC LIMIT 1";
    key_sets.extend(database.query_row(sql, key, |row| row.get(0)).optional()?.map(KeySet));
    for key_set in key_sets {
        let keys = contents(database, key_set)?;
        let count = keys.keys.unsigned_abs();
        let sql = "SELECT detached_at FROM key_sets WHERE key_set_pk = ?1";
        let detached_at: Option<Option<i64>> =
            database.query_row(sql, [key_set.0], |row| row.get(0)).optional()?;
        let newest = kept::etag(newest(database, key_set)?)?;
        for deleted_at in [found.deleted_at, None, detached_at.flatten()] {
            for etag in [found.stored.etag, newest] {
                for (count, bytes) in [(found.stored.count, found.bytes), (count, keys.bytes)] {
                    let stored = Stored { etag, count };
                    let maybe = Found { key_set, stored, bytes, deleted_at, ..found.clone() };
                    if checksum::matches(sum, maybe.checksum()) {
                        return Ok(Some(maybe));
                    }
                }
            }
        }
    }
    Ok(None)
}

/// What a set holds, counted.
fn contents(database: &Connection, key_set: KeySet) -> Result<Kept> {
    let sql = "SELECT count(*), coalesce(sum(octet_length(session_data)), 0) FROM keys
        WHERE key_set_pk = ?1";
    let read = |row: &rusqlite::Row<'_>| Ok(Kept { keys: row.get(0)?, bytes: row.get(1)? });
    Ok(database.prepare_cached(sql)?.query_one([key_set.0], read)?)
}

/// The greatest stamp in a set.
fn newest(database: &Connection, key_set: KeySet) -> Result<i64> {
    let sql = "SELECT max(coalesce((SELECT max(stored_at) FROM keys WHERE key_set_pk = ?1), 0),
        coalesce((SELECT max(ended_at) FROM key_history WHERE key_set_pk = ?1), 0))";
    Ok(database.prepare_cached(sql)?.query_one([key_set.0], |row| row.get(0))?)
}

/// Sets and what shows them: what a version shows is in view, all others are on their way to be purged.
fn key_sets(database: &Connection, user_pk: i64, now: Timestamp) -> Result<()> {
    let age = kept::age(database)?;
    for found in intact_rows(database, user_pk)? {
        let key = [found.key_set.0, user_pk, found.version.get()];
        if found.deleted_at.is_none() {
            // One that is missing was shown since the one before it left.
            database.execute(
                "INSERT INTO key_sets (key_set_pk, user_pk, version, attached_at)
                 VALUES (?1, ?2, ?3, max(?3, coalesce((SELECT max(detached_at) FROM key_sets
                    WHERE user_pk = ?2 AND version = ?3), 0)))
                 ON CONFLICT (key_set_pk) DO UPDATE SET detached_at = NULL, count = NULL,
                    bytes = NULL, end_age = NULL, is_purging = 0
                    WHERE user_pk = ?2 AND version = ?3",
                key,
            )?;
        } else {
            database.execute(
                "UPDATE key_sets SET detached_at = ?4, end_age = coalesce(end_age, ?5)
                 WHERE key_set_pk = ?1 AND user_pk = ?2 AND version = ?3",
                params![key[0], key[1], key[2], found.deleted_at, age],
            )?;
        }
        let sql = "SELECT key_set_pk FROM key_sets WHERE user_pk = ?1 AND version = ?2
            AND key_set_pk <> ?3 AND (detached_at IS NULL OR end_age IS NULL)";
        let others = database
            .prepare_cached(sql)?
            .query_map([user_pk, found.version.get(), found.key_set.0], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        for other in others {
            if !is_shown(database, KeySet(other))? {
                // As if it had never been shown: when it was, nobody knows.
                let stamp = now.stamp_after(found.latest_stamp());
                database.execute(
                    "UPDATE key_sets SET attached_at = iif(detached_at IS NULL, ?2, attached_at),
                        detached_at = coalesce(detached_at, ?2), end_age = coalesce(end_age, ?3)
                     WHERE key_set_pk = ?1",
                    [other, stamp, age],
                )?;
            }
        }
    }
    Ok(())
}

/// Counts, bytes, etags, and the account of the user.
fn recount(database: &Connection, user_pk: i64, now: Timestamp) -> Result<()> {
    database.execute(
        "UPDATE key_sets SET count = (SELECT count(*) FROM keys
                WHERE keys.key_set_pk = key_sets.key_set_pk),
            bytes = (SELECT coalesce(sum(octet_length(session_data)), 0) FROM keys
                WHERE keys.key_set_pk = key_sets.key_set_pk)
         WHERE user_pk = ?1 AND detached_at IS NOT NULL AND NOT is_purging",
        [user_pk],
    )?;
    for found in intact_rows(database, user_pk)? {
        let sql = "SELECT EXISTS (SELECT 1 FROM key_sets
            WHERE key_set_pk = ?1 AND user_pk = ?2 AND version = ?3 AND NOT is_purging)";
        let key = [found.key_set.0, user_pk, found.version.get()];
        if !database.prepare_cached(sql)?.query_one(key, |row| row.get(0))? {
            continue;
        }
        let newest = newest(database, found.key_set)?;
        let mut stamp = found.stored.etag.get();
        // One from the future is damage itself.
        if stamp < newest && newest <= now.as_micros() {
            stamp = now.stamp_after(found.latest_stamp().max(newest));
        }
        let after = found.with_keys(found.key_set, contents(database, found.key_set)?, stamp)?;
        if after != found {
            kept::update(database, &after)?;
        }
    }
    Ok(kept::recount(database, user_pk)?)
}
