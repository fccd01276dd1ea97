//! Removes for good what left the view long enough ago, a little at a time.
//!
//! What is due is looked for beside the writer, however long that takes; the writer then removes a
//! bounded piece of it. Each piece is of one user, whose account is brought up to date with it.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    kept::{self, JOURNAL_LINE_BYTES, Kept},
    read::Found,
    service::Service,
};
use crate::store::{Outlook, Purged, Result};

/// Keys removed in one step: 5 to 10 ms, which is what a writer may have to wait for it.
const STEP_KEYS: i64 = 300;

/// A piece of what is due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// Of a detached set.
    KeySet { user_pk: i64, key_set_pk: i64 },
    /// Keys that left a set one by one.
    History { user_pk: i64, key_set_pk: i64 },
    /// Replaced `auth_data`.
    AuthData { user_pk: i64 },
    /// Lines of the journal.
    Journal { user_pk: i64 },
}

/// Users may have a longer retention than everybody: ?1 is the age that is due, ?2 the present one.
macro_rules! is_due {
    ($end_age:literal) => {
        concat!(
            $end_age,
            " <= ?1 AND (users.retention IS NULL OR ",
            $end_age,
            " <= ?2 - users.retention)"
        )
    };
}

/// Finds the piece that has been due for longest.
pub(super) fn find(database: &Connection) -> Result<Option<Due>> {
    let service = Service::read(database)?;
    let (due_age, age) = (service.due_age(), service.age);
    let key_set = database
        .prepare_cached(concat!(
            "SELECT user_pk, key_set_pk FROM key_sets CROSS JOIN users USING (user_pk)
             WHERE ",
            is_due!("end_age"),
            " ORDER BY end_age LIMIT 1"
        ))?
        .query_row([due_age, age], |row| {
            Ok(Due::KeySet { user_pk: row.get(0)?, key_set_pk: row.get(1)? })
        })
        .optional()?;
    if key_set.is_some() {
        return Ok(key_set);
    }
    let history = database
        .prepare_cached(concat!(
            "SELECT user_pk, key_set_pk
             FROM key_history CROSS JOIN key_sets USING (key_set_pk) CROSS JOIN users USING (user_pk)
             WHERE ",
            is_due!("key_history.end_age"),
            " ORDER BY key_history.end_age LIMIT 1"
        ))?
        .query_row([due_age, age], |row| {
            Ok(Due::History { user_pk: row.get(0)?, key_set_pk: row.get(1)? })
        })
        .optional()?;
    if history.is_some() {
        return Ok(history);
    }
    let auth_data = database
        .prepare_cached(concat!(
            "SELECT user_pk FROM auth_data_history CROSS JOIN users USING (user_pk)
             WHERE ",
            is_due!("end_age"),
            " ORDER BY end_age LIMIT 1"
        ))?
        .query_row([due_age, age], |row| Ok(Due::AuthData { user_pk: row.get(0)? }))
        .optional()?;
    if auth_data.is_some() {
        return Ok(auth_data);
    }
    let journal = database
        .prepare_cached(concat!(
            "SELECT user_pk FROM journal CROSS JOIN users USING (user_pk)
             WHERE ",
            is_due!("age"),
            " ORDER BY age LIMIT 1"
        ))?
        .query_row([service.due_age_of_journal(), age], |row| {
            Ok(Due::Journal { user_pk: row.get(0)? })
        })
        .optional()?;
    Ok(journal)
}

/// Removes a piece that was found.
pub(super) fn remove(database: &Connection, due: Due) -> Result<Purged> {
    // Time that has passed since makes nothing less due; a retention that was made longer does.
    let service = Service::read(database)?;
    let is_done = false;
    let keys = match due {
        Due::KeySet { user_pk, key_set_pk } => {
            let due_age = due_age_of(database, &service, user_pk)?;
            key_set(database, user_pk, key_set_pk, due_age)?
        }
        Due::History { user_pk, key_set_pk } => {
            let due_age = due_age_of(database, &service, user_pk)?;
            history(database, user_pk, key_set_pk, due_age)?
        }
        Due::AuthData { user_pk } => {
            auth_data(database, user_pk, due_age_of(database, &service, user_pk)?)?;
            0
        }
        Due::Journal { user_pk } => {
            let due_age = due_age_of(database, &service, user_pk)?;
            journal(database, user_pk, due_age.min(service.due_age_of_journal()))?;
            0
        }
    };
    Ok(Purged { keys: keys.unsigned_abs(), is_done })
}

fn due_age_of(database: &Connection, service: &Service, user_pk: i64) -> Result<i64> {
    let own: Option<i64> = database
        .prepare_cached("SELECT retention FROM users WHERE user_pk = ?1")?
        .query_row([user_pk], |row| row.get(0))
        .optional()?
        .flatten();
    let own = own.map_or(i64::MAX, |own| service.age.saturating_sub(own));
    Ok(service.due_age().min(own))
}

/// Removes some keys of a detached set and their history; with the last of them the set itself. Of a
/// deleted version the `auth_data` goes as well, and the row stays, so that its id is not given again.
pub(super) fn key_set(
    database: &Connection,
    user_pk: i64,
    key_set_pk: i64,
    due_age: i64,
) -> Result<i64> {
    // From here on, who still reads the set must not take what is left of it for the whole. That it
    // is still due is looked at again: an operator may have brought it back meanwhile.
    let detached_at: Option<i64> = database
        .prepare_cached(
            "UPDATE key_sets SET is_purging = 1 WHERE key_set_pk = ?1 AND end_age <= ?2
             RETURNING detached_at",
        )?
        .query_row([key_set_pk, due_age], |row| row.get(0))
        .optional()?;
    let Some(detached_at) = detached_at else { return Ok(0) };
    let mut gone = delete(
        database,
        "DELETE FROM keys WHERE rowid IN (SELECT rowid FROM keys WHERE key_set_pk = ?1 LIMIT ?2)
         RETURNING octet_length(session_data)",
        [key_set_pk, STEP_KEYS],
    )?;
    gone += delete(
        database,
        "DELETE FROM key_history WHERE rowid IN
            (SELECT rowid FROM key_history WHERE key_set_pk = ?1 LIMIT ?2)
         RETURNING octet_length(session_data)",
        [key_set_pk, STEP_KEYS],
    )?;
    account(database, user_pk, gone, detached_at)?;
    if gone.keys == 0 {
        forget_auth_data(database, user_pk, key_set_pk)?;
        for table in ["past_attachments", "key_sets"] {
            database
                .prepare_cached(&format!("DELETE FROM {table} WHERE key_set_pk = ?1"))?
                .execute([key_set_pk])?;
        }
    }
    Ok(gone.keys)
}

/// Of a deleted version that can't be brought back any more only its id is left.
fn forget_auth_data(database: &Connection, user_pk: i64, key_set_pk: i64) -> Result<()> {
    let deleted = |found: &Found| found.deleted_at.is_some() && found.key_set.0 == key_set_pk;
    for mut found in Found::all(database, user_pk)?.into_iter().filter(deleted) {
        found.auth_data = "{}".to_owned();
        kept::update(database, &found)?;
    }
    Ok(())
}

fn history(database: &Connection, user_pk: i64, key_set_pk: i64, due_age: i64) -> Result<i64> {
    let mut statement = database.prepare_cached(
        "DELETE FROM key_history WHERE rowid IN
            (SELECT rowid FROM key_history WHERE key_set_pk = ?1 AND end_age <= ?2 LIMIT ?3)
         RETURNING octet_length(session_data), ended_at",
    )?;
    let mut rows = statement.query(params![key_set_pk, due_age, STEP_KEYS])?;
    let (mut gone, mut until) = (Kept::default(), 0);
    while let Some(row) = rows.next()? {
        gone += Kept { keys: 1, bytes: row.get(0)? };
        until = row.get::<_, i64>(1)?.max(until);
    }
    account(database, user_pk, gone, until)?;
    Ok(gone.keys)
}

fn auth_data(database: &Connection, user_pk: i64, due_age: i64) -> Result<()> {
    let mut statement = database.prepare_cached(
        "DELETE FROM auth_data_history WHERE rowid IN
            (SELECT rowid FROM auth_data_history WHERE user_pk = ?1 AND end_age <= ?2 LIMIT ?3)
         RETURNING octet_length(auth_data), ended_at",
    )?;
    let mut rows = statement.query(params![user_pk, due_age, STEP_KEYS])?;
    let (mut gone, mut until) = (Kept::default(), 0);
    while let Some(row) = rows.next()? {
        gone += Kept { keys: 0, bytes: row.get(0)? };
        until = row.get::<_, i64>(1)?.max(until);
    }
    account(database, user_pk, gone, until)
}

fn journal(database: &Connection, user_pk: i64, due_age: i64) -> Result<()> {
    let lines = database
        .prepare_cached(
            "DELETE FROM journal WHERE rowid IN
                (SELECT rowid FROM journal WHERE user_pk = ?1 AND age <= ?2 LIMIT ?3)",
        )?
        .execute(params![user_pk, due_age, STEP_KEYS])?;
    let lines = i64::try_from(lines).unwrap_or(i64::MAX);
    let gone = Kept { keys: 0, bytes: lines.saturating_mul(JOURNAL_LINE_BYTES) };
    kept::count(database, user_pk, -gone)
}

/// Runs a deletion of keys that returns the bytes of each.
fn delete(database: &Connection, sql: &str, params: [i64; 2]) -> Result<Kept> {
    let mut statement = database.prepare_cached(sql)?;
    let mut gone = Kept::default();
    for bytes in statement.query_map(params, |row| row.get(0))? {
        gone += Kept { keys: 1, bytes: bytes? };
    }
    Ok(gone)
}

/// Takes what is gone off the account of its user, whose history now has gaps before `until`.
fn account(database: &Connection, user_pk: i64, gone: Kept, until: i64) -> Result<()> {
    kept::count(database, user_pk, -gone)?;
    database
        .prepare_cached("UPDATE users SET purged_until = max(purged_until, ?2) WHERE user_pk = ?1")?
        .execute([user_pk, until])?;
    Ok(())
}

/// What is kept, and what will be removed next.
pub(super) fn outlook(database: &Connection) -> Result<Outlook> {
    let service = Service::read(database)?;
    let number = |number: i64| number.unsigned_abs();
    let (kept_keys, kept_bytes) = database.query_one(
        "SELECT coalesce(sum(kept_keys), 0), coalesce(sum(kept_bytes), 0) FROM users",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let due: i64 = database.query_one(
        concat!(
            "SELECT (SELECT coalesce(sum(count), 0) FROM key_sets CROSS JOIN users USING (user_pk)
                 WHERE ",
            is_due!("end_age"),
            ") + (SELECT count(*) FROM key_history CROSS JOIN key_sets USING (key_set_pk)
                    CROSS JOIN users USING (user_pk)
                 WHERE ",
            is_due!("key_history.end_age"),
            ")"
        ),
        [service.due_age(), service.age],
        |row| row.get(0),
    )?;
    // A longer retention of single users is left out of this: it is when the purge looks next.
    let first: Option<i64> = database.query_one(
        "SELECT min(end_age) FROM (SELECT min(end_age) AS end_age FROM key_sets
             WHERE end_age IS NOT NULL
         UNION ALL SELECT min(end_age) FROM key_history
         UNION ALL SELECT min(end_age) FROM auth_data_history)",
        [],
        |row| row.get(0),
    )?;
    let next_in = first.map(|end_age| {
        let left = end_age.saturating_sub(service.due_age()).max(0);
        std::time::Duration::from_micros(number(left))
    });
    let (kept_keys, kept_bytes) = (number(kept_keys), number(kept_bytes));
    Ok(Outlook { kept_keys, kept_bytes, due_keys: number(due), next_in })
}
