//! What is stored, in numbers: status, users, one user, the journal.

use std::{collections::HashMap, time::Duration};

use rusqlite::{Connection, Row};
use strongroom_protocol::{DeviceId, UserId, Version};

use super::{
    super::{purge, read::Found, service::Service},
    damaged, number,
};
use crate::{
    operator::{
        Change, DetachedKeys, JournalLine, ReplacedKeys, Result, SortUsers, Status, UserHistory,
        UserSummary, VersionHistory,
    },
    store::Retention,
    time::Timestamp,
};

pub(super) fn status(database: &Connection, is_served: bool, disk_bytes: u64) -> Result<Status> {
    let service = Service::read(database)?;
    let format = database.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let users = database.query_one("SELECT count(*) FROM users", [], |row| row.get(0))?;
    let (versions, keys, bytes) = database.query_one(
        "SELECT count(*), coalesce(sum(count), 0), coalesce(sum(bytes), 0) FROM versions
         WHERE deleted_at IS NULL",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let deleted_versions = database.query_one(
        "SELECT count(*) FROM versions JOIN key_sets USING (key_set_pk)
         WHERE deleted_at IS NOT NULL AND NOT is_purging",
        [],
        |row| row.get(0),
    )?;
    let changed_at: Option<i64> =
        database.query_one("SELECT max(max(etag, auth_data_since)) FROM versions", [], |row| {
            row.get(0)
        })?;
    let micros = |micros| Duration::from_micros(number(micros));
    Ok(Status {
        format,
        disk_bytes,
        is_served,
        users: number(users),
        versions: number(versions),
        deleted_versions: number(deleted_versions),
        keys: number(keys),
        bytes: number(bytes),
        changed_at: changed_at.map(Timestamp::from_micros),
        outlook: purge::outlook(database)?,
        retention: Retention {
            kept: micros(service.retention),
            journal: micros(service.journal_retention),
        },
        in_service: micros(service.age),
    })
}

/// One row for each user; a condition and an order may follow.
macro_rules! summaries {
    ($rest:literal) => {
        concat!(
            "SELECT user_id, users.retention, kept_keys, kept_bytes,
                coalesce(sum(deleted_at IS NULL), 0) AS versions,
                coalesce(sum(iif(deleted_at IS NULL, count, 0)), 0) AS keys,
                coalesce(sum(iif(deleted_at IS NULL, bytes, 0)), 0) AS bytes,
                max(max(etag, auth_data_since)) AS changed_at
             FROM users LEFT JOIN versions USING (user_pk) ",
            $rest
        )
    };
}

pub(super) fn users(database: &Connection, sort: SortUsers) -> Result<Vec<UserSummary>> {
    let mut statement = database.prepare(match sort {
        SortUsers::Name => summaries!("GROUP BY user_pk ORDER BY user_id"),
        SortUsers::Keys => summaries!("GROUP BY user_pk ORDER BY keys + kept_keys DESC, user_id"),
        SortUsers::Bytes => {
            summaries!("GROUP BY user_pk ORDER BY bytes + kept_bytes DESC, user_id")
        }
        SortUsers::Recent => summaries!("GROUP BY user_pk ORDER BY changed_at DESC, user_id"),
    })?;
    let mut rows = statement.query([])?;
    let mut users = Vec::new();
    while let Some(row) = rows.next()? {
        users.push(summary(row)?);
    }
    Ok(users)
}

fn summary(row: &Row<'_>) -> Result<UserSummary> {
    let user_id: String = row.get(0)?;
    let retention: Option<i64> = row.get(1)?;
    let changed_at: Option<i64> = row.get(7)?;
    Ok(UserSummary {
        user_id: UserId::parse(&user_id).map_err(|_| damaged("user id"))?,
        retention: retention.map(|micros| Duration::from_micros(number(micros))),
        kept_keys: number(row.get(2)?),
        kept_bytes: number(row.get(3)?),
        versions: number(row.get(4)?),
        keys: number(row.get(5)?),
        bytes: number(row.get(6)?),
        changed_at: changed_at.map(Timestamp::from_micros),
    })
}

pub(super) fn show(database: &Connection, user_pk: i64) -> Result<UserHistory> {
    let mut statement = database.prepare(summaries!("WHERE user_pk = ?1 GROUP BY user_pk"))?;
    let mut rows = statement.query([user_pk])?;
    let summary = summary(rows.next()?.ok_or_else(|| damaged("user"))?)?;
    let purged_until: i64 = database.query_one(
        "SELECT purged_until FROM users WHERE user_pk = ?1",
        [user_pk],
        |row| row.get(0),
    )?;
    let changes = Changes::of(database, user_pk)?;
    let found = Found::all(database, user_pk)?;
    let current = found.iter().filter(|found| found.deleted_at.is_none()).map(|f| f.version).max();
    let versions = found.iter().map(|found| version(database, found, current, &changes));
    Ok(UserHistory {
        summary,
        purged_until: (purged_until > 0).then(|| Timestamp::from_micros(purged_until)),
        versions: versions.collect::<Result<_>>()?,
    })
}

fn version(
    database: &Connection,
    found: &Found,
    current: Option<Version>,
    changes: &Changes,
) -> Result<VersionHistory> {
    let version = found.version;
    let key = [found.user_pk, version.get()];
    let mut detached = Vec::new();
    let mut statement = database.prepare(
        "SELECT attached_at, detached_at, coalesce(count, 0), coalesce(bytes, 0), is_purging
         FROM key_sets WHERE user_pk = ?1 AND version = ?2 AND attached_at < detached_at
         ORDER BY attached_at",
    )?;
    let mut rows = statement.query(key)?;
    while let Some(row) = rows.next()? {
        detached.push(DetachedKeys {
            since: Timestamp::from_micros(row.get(0)?),
            until: changes.at(version, row.get(1)?),
            keys: number(row.get(2)?),
            bytes: number(row.get(3)?),
            is_purging: row.get(4)?,
        });
    }
    let mut replaced = Vec::new();
    let mut statement = database.prepare(
        "SELECT ended_at, count(*), sum(octet_length(session_data))
         FROM key_sets JOIN key_history USING (key_set_pk)
         WHERE user_pk = ?1 AND version = ?2 GROUP BY ended_at ORDER BY ended_at",
    )?;
    let mut rows = statement.query(key)?;
    while let Some(row) = rows.next()? {
        replaced.push(ReplacedKeys {
            change: changes.at(version, row.get(0)?),
            keys: number(row.get(1)?),
            bytes: number(row.get(2)?),
        });
    }
    let mut auth_data_changes = Vec::new();
    let mut statement = database.prepare(
        "SELECT ended_at FROM auth_data_history WHERE user_pk = ?1 AND version = ?2
         ORDER BY ended_at",
    )?;
    let mut rows = statement.query(key)?;
    while let Some(row) = rows.next()? {
        auth_data_changes.push(changes.at(version, row.get(0)?));
    }
    let is_whole: bool = database.query_one(
        "SELECT EXISTS (SELECT 1 FROM key_sets WHERE key_set_pk = ?1 AND NOT is_purging)",
        [found.key_set.0],
        |row| row.get(0),
    )?;
    Ok(VersionHistory {
        version,
        algorithm: found.algorithm.clone(),
        is_current: current == Some(version),
        deleted: found.deleted_at.map(|at| changes.at(version, at)),
        is_purged: !is_whole,
        etag: found.stored.etag.get(),
        keys: if is_whole { found.stored.count } else { 0 },
        bytes: if is_whole { number(found.bytes) } else { 0 },
        detached,
        replaced,
        auth_data_changes,
    })
}

/// The journal of a user, by the stamps of the changes.
struct Changes(HashMap<(i64, i64), Change>);

impl Changes {
    fn of(database: &Connection, user_pk: i64) -> Result<Self> {
        let lines = journal(database, user_pk)?;
        let by_stamp =
            lines.into_iter().map(|l| ((l.version.get(), l.change.at.as_micros()), l.change));
        Ok(Self(by_stamp.collect()))
    }

    fn at(&self, version: Version, stamp: i64) -> Change {
        let unknown =
            || Change { at: Timestamp::from_micros(stamp), action: None, device_id: None };
        self.0.get(&(version.get(), stamp)).cloned().unwrap_or_else(unknown)
    }
}

pub(super) fn journal(database: &Connection, user_pk: i64) -> Result<Vec<JournalLine>> {
    let mut statement = database.prepare(
        "SELECT at, action, device_id, version, keys FROM journal
         WHERE user_pk = ?1 ORDER BY at, rowid",
    )?;
    let mut rows = statement.query([user_pk])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        let device_id: Option<String> = row.get(2)?;
        let device_id = device_id.as_deref().map(DeviceId::parse).transpose();
        lines.push(JournalLine {
            change: Change {
                at: Timestamp::from_micros(row.get(0)?),
                action: Some(row.get(1)?),
                device_id: device_id.map_err(|_| damaged("journal"))?,
            },
            version: Version::new(row.get(3)?).ok_or_else(|| damaged("journal"))?,
            keys: number(row.get(4)?),
        });
    }
    Ok(lines)
}
