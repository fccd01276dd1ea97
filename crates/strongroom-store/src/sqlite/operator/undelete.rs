//! Brings back what left the view.
//!
//! The tables hold every state that a backup was in until it is purged: a set of keys was shown from
//! `attached_at` until `detached_at` (and, if it was brought back before, as `past_attachments` says),
//! and a key of it was there from `stored_at` until `ended_at`. Going back is a change like any other:
//! it has a stamp of its own, and the state before it can be gone back to.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{Connection, OptionalExtension as _, params};
use strongroom_protocol::{UserId, Version};

use super::{
    super::{
        checksum,
        kept::{self, Kept, Line},
        read::{Found, KeyRow, key_columns},
    },
    SqliteOperator, damaged, number, user_pk,
};
use crate::{
    operator::{Fate, OperatorError, Progress, Result, Undeleted, UndeletedVersion},
    store::{self, Author, KeySet},
    time::Timestamp,
};

/// Keys copied in one transaction: some 20 ms, for which the server's writer may have to wait.
const COPY_KEYS: i64 = 500;
/// How often a plan is made anew because clients have changed something since.
const ROUNDS_MAX: usize = 20;

pub(super) fn plan_version(
    database: &Connection,
    user_id: &UserId,
    version: Version,
) -> Result<Undeleted> {
    let found = deleted(database, user_id, version)?;
    let is_whole: Option<bool> = database
        .query_row(
            "SELECT is_purging = 0 FROM key_sets WHERE key_set_pk = ?1",
            [found.key_set.0],
            |row| row.get(0),
        )
        .optional()?;
    if is_whole != Some(true) {
        return Err(OperatorError::Purged(version));
    }
    let current = current(&Found::all(database, found.user_pk)?).max(Some(version));
    let keys_after = found.stored.count;
    let fate = Fate::ComesBack;
    let version = UndeletedVersion { version, fate, keys_before: 0, keys_after, auth_data: false };
    Ok(Undeleted { versions: vec![version], current })
}

pub(super) fn version(
    database: &Connection,
    user_id: &UserId,
    version: Version,
    now: Timestamp,
) -> Result<Undeleted> {
    let plan = plan_version(database, user_id, version)?;
    let found = deleted(database, user_id, version)?;
    let stamp = now.stamp_after(found.latest_stamp());
    let keys = kept::attach(database, found.key_set, stamp)?;
    let after = found.with_keys(found.key_set, keys, stamp)?;
    kept::update(database, &Found { deleted_at: None, ..after })?;
    let line = Line { action: "undelete_version", version, keys: keys.keys };
    kept::record(database, &operator(user_id, now), found.user_pk, stamp, line, -keys)?;
    Ok(plan)
}

/// A version that is deleted now.
fn deleted(database: &Connection, user_id: &UserId, version: Version) -> Result<Found> {
    user_pk(database, user_id)?;
    let found = Found::exact(database, user_id, version)?;
    let found = found.ok_or(OperatorError::NoSuchVersion(version))?;
    if found.deleted_at.is_some() { Ok(found) } else { Err(OperatorError::NotDeleted(version)) }
}

fn current(all: &[Found]) -> Option<Version> {
    all.iter().filter(|found| found.deleted_at.is_none()).map(|found| found.version).max()
}

/// The operator has no device.
fn operator(user_id: &UserId, at: Timestamp) -> Author {
    Author { user_id: user_id.clone(), device_id: None, at }
}

/// How to put everything back.
struct Plan {
    /// All versions as they are now; if one of them changes, the plan is void.
    now: Vec<Found>,
    /// What is to be done, for those that are not as they were.
    steps: Vec<Step>,
}

struct Step {
    now: Found,
    fate: Fate,
    keys: Keys,
    keys_after: u64,
    /// What it is to be put back to, if it is another.
    auth_data: Option<String>,
}

/// Which keys are to be in view.
enum Keys {
    /// Those that are.
    Same,
    /// None: the version is put aside.
    None,
    /// Those of a set that is as it was.
    Attach(KeySet),
    /// Those that were in a set which has changed since.
    Copy(KeySet),
}

impl Plan {
    fn make(
        database: &Connection,
        user_id: &UserId,
        as_of: Timestamp,
        now: Timestamp,
    ) -> Result<Self> {
        let user_pk = user_pk(database, user_id)?;
        if as_of > now {
            return Err(OperatorError::InFuture);
        }
        check_reach(database, user_pk, as_of)?;
        let now = Found::all(database, user_pk)?;
        let steps = now.iter().map(|found| Step::make(database, found, as_of.as_micros()));
        let steps: Vec<_> = steps.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        Ok(Self { now, steps })
    }

    fn summary(&self) -> Undeleted {
        let versions = self.steps.iter().map(|step| UndeletedVersion {
            version: step.now.version,
            fate: step.fate,
            keys_before: step.keys_before(),
            keys_after: step.keys_after,
            auth_data: step.auth_data.is_some(),
        });
        let mut after = self.now.clone();
        for found in &mut after {
            let step = self.steps.iter().find(|step| step.now.version == found.version);
            match step.map(|step| step.fate) {
                Some(Fate::ComesBack) => found.deleted_at = None,
                Some(Fate::IsPutAside) => found.deleted_at = Some(i64::MAX),
                Some(Fate::IsPutBack) | None => {}
            }
        }
        Undeleted { versions: versions.collect(), current: current(&after) }
    }
}

/// Whether everything that was there at this time still is.
fn check_reach(database: &Connection, user_pk: i64, as_of: Timestamp) -> Result<()> {
    let purged_until: i64 = database.query_one(
        "SELECT purged_until FROM users WHERE user_pk = ?1",
        [user_pk],
        |row| row.get(0),
    )?;
    let purged_until = Timestamp::from_micros(purged_until);
    if as_of < purged_until {
        return Err(OperatorError::TooEarly { purged_until });
    }
    Ok(())
}

impl Step {
    /// What is to be done with one version, if anything is.
    fn make(database: &Connection, now: &Found, as_of: i64) -> Result<Option<Self>> {
        let is_shown = now.deleted_at.is_none();
        let step = |fate, keys, keys_after, auth_data| {
            Some(Self { now: now.clone(), fate, keys, keys_after, auth_data })
        };
        let Some(key_set) = shown_at(database, now, as_of)? else {
            return Ok(if is_shown { step(Fate::IsPutAside, Keys::None, 0, None) } else { None });
        };
        let auth_data = auth_data_at(database, now, as_of)?;
        let auth_data = (auth_data != now.auth_data).then_some(auth_data);
        let (keys, keys_after) = if is_shown && now.stored.etag.get() <= as_of {
            (Keys::Same, now.stored.count)
        } else {
            let count = count_at(database, key_set, as_of)?;
            if is_shown && count == now.stored.count && shows_all(database, now, key_set, as_of)? {
                (Keys::Same, count)
            } else if has_changed(database, key_set, as_of)? {
                (Keys::Copy(key_set), count)
            } else {
                (Keys::Attach(key_set), count)
            }
        };
        Ok(match (is_shown, &keys, &auth_data) {
            (true, Keys::Same, None) => None,
            (true, _, _) => step(Fate::IsPutBack, keys, keys_after, auth_data),
            (false, _, _) => step(Fate::ComesBack, keys, keys_after, auth_data),
        })
    }

    fn keys_before(&self) -> u64 {
        if self.now.deleted_at.is_none() { self.now.stored.count } else { 0 }
    }

    /// Does it, at one stamp for all versions. A copy has been prepared.
    fn apply(
        &self,
        database: &Connection,
        author: &Author,
        prepared: Option<KeySet>,
        stamp: i64,
    ) -> Result<()> {
        let mut after = self.now.clone();
        let mut kept = Kept::default();
        let attached = match self.keys {
            Keys::Same | Keys::None => None,
            Keys::Attach(key_set) => Some(key_set),
            Keys::Copy(_) => Some(prepared.ok_or_else(|| damaged("plan"))?),
        };
        let leaves_view = attached.is_some() || matches!(self.keys, Keys::None);
        if leaves_view && self.now.deleted_at.is_none() {
            kept += kept::detach(database, &self.now, stamp)?;
        }
        if let Some(key_set) = attached {
            let keys = kept::attach(database, key_set, stamp)?;
            kept += -keys;
            after = after.with_keys(key_set, keys, stamp)?;
        } else if leaves_view {
            after = after.with_keys(after.key_set, after.keys(), stamp)?;
        }
        after.deleted_at = matches!(self.keys, Keys::None).then_some(stamp);
        if let Some(auth_data) = &self.auth_data {
            kept += kept::keep_auth_data(database, &self.now, stamp)?;
            after.auth_data.clone_from(auth_data);
            after.auth_data_since = stamp;
        }
        kept::update(database, &after)?;
        let keys = if leaves_view { self.keys_before().max(self.keys_after) } else { 0 };
        let keys = i64::try_from(keys).unwrap_or(i64::MAX);
        let line = Line { action: "undelete_as_of", version: after.version, keys };
        Ok(kept::record(database, author, after.user_pk, stamp, line, kept)?)
    }
}

/// The key set that a version showed at a moment; none if it did not exist, or was deleted.
fn shown_at(database: &Connection, found: &Found, as_of: i64) -> Result<Option<KeySet>> {
    let mut statement = database.prepare_cached(
        "SELECT key_set_pk FROM key_sets WHERE user_pk = ?1 AND version = ?2
            AND attached_at <= ?3 AND (detached_at IS NULL OR detached_at > ?3)
         UNION ALL
         SELECT key_set_pk FROM key_sets AS sets JOIN past_attachments AS past USING (key_set_pk)
            WHERE user_pk = ?1 AND version = ?2
            AND past.attached_at <= ?3 AND past.detached_at > ?3",
    )?;
    let key = [found.user_pk, found.version.get(), as_of];
    Ok(statement.query_row(key, |row| row.get(0)).optional()?.map(KeySet))
}

fn auth_data_at(database: &Connection, found: &Found, as_of: i64) -> Result<String> {
    if found.auth_data_since <= as_of {
        return Ok(found.auth_data.clone());
    }
    let mut statement = database.prepare_cached(
        "SELECT auth_data, since, checksum FROM auth_data_history
         WHERE user_pk = ?1 AND version = ?2 AND since <= ?3 AND ended_at > ?3",
    )?;
    let (user_pk, version) = (found.user_pk, found.version.get());
    let found: Option<(String, i64, Option<i64>)> = statement
        .query_row([user_pk, version, as_of], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (auth_data, since, sum) = found.ok_or_else(|| damaged("history of auth_data"))?;
    if checksum::matches(sum, checksum::of([user_pk, version, since], [&auth_data])) {
        Ok(auth_data)
    } else {
        Err(damaged("history of auth_data"))
    }
}

/// Whether a set holds other keys than it did.
fn has_changed(database: &Connection, key_set: KeySet, as_of: i64) -> Result<bool> {
    let mut statement = database.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM key_history
            WHERE key_set_pk = ?1 AND stored_at <= ?2 AND ended_at > ?2)
         OR EXISTS (SELECT 1 FROM keys WHERE key_set_pk = ?1 AND stored_at > ?2)",
    )?;
    Ok(statement.query_one([key_set.0, as_of], |row| row.get(0))?)
}

/// How many keys a set held.
fn count_at(database: &Connection, key_set: KeySet, as_of: i64) -> Result<u64> {
    let mut statement = database.prepare_cached(
        "SELECT (SELECT count(*) FROM keys WHERE key_set_pk = ?1 AND stored_at <= ?2)
         + (SELECT count(*) FROM key_history
            WHERE key_set_pk = ?1 AND stored_at <= ?2 AND ended_at > ?2)",
    )?;
    Ok(number(statement.query_one([key_set.0, as_of], |row| row.get(0))?))
}

/// Whether a version shows every key that a set held: in one version, the place and the stamp of a key
/// tell which copy it is.
fn shows_all(database: &Connection, now: &Found, key_set: KeySet, as_of: i64) -> Result<bool> {
    let mut statement = database.prepare_cached(
        "WITH held AS (
            SELECT room_id, session_id, stored_at FROM keys
                WHERE key_set_pk = ?1 AND stored_at <= ?2
            UNION ALL
            SELECT room_id, session_id, stored_at FROM key_history
                WHERE key_set_pk = ?1 AND stored_at <= ?2 AND ended_at > ?2)
         SELECT NOT EXISTS (SELECT 1 FROM held WHERE NOT EXISTS
            (SELECT 1 FROM keys WHERE key_set_pk = ?3 AND room_id = held.room_id
                AND session_id = held.session_id AND stored_at = held.stored_at))",
    )?;
    Ok(statement.query_one([key_set.0, as_of, now.key_set.0], |row| row.get(0))?)
}

pub(super) fn plan_as_of(
    database: &Connection,
    user_id: &UserId,
    as_of: Timestamp,
    now: Timestamp,
) -> Result<Undeleted> {
    Ok(Plan::make(database, user_id, as_of, now)?.summary())
}

pub(super) fn as_of(
    operator: &mut SqliteOperator,
    user_id: &UserId,
    as_of: Timestamp,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Undeleted> {
    // What a set held at a moment that is past does not change, so a copy stays good.
    let mut prepared = HashMap::new();
    for _ in 0..ROUNDS_MAX {
        let plan = operator.read(|database| Plan::make(database, user_id, as_of, now))?;
        let keys_total = plan.steps.iter().filter(|step| matches!(step.keys, Keys::Copy(_)));
        let keys_total = keys_total.map(|step| step.keys_after).sum();
        let mut keys_done = 0;
        for step in &plan.steps {
            let Keys::Copy(from) = step.keys else { continue };
            if let Entry::Vacant(place) = prepared.entry(from.0) {
                let copied = &mut |keys| progress(keys_done + keys, Some(keys_total));
                place.insert(copy(operator, &step.now, from, as_of, copied)?);
            }
            keys_done += step.keys_after;
        }
        if operator.write(|database| apply(database, user_id, as_of, now, &plan, &prepared))? {
            return Ok(plan.summary());
        }
    }
    Err(OperatorError::Busy)
}

/// Does all of it at once; not if something has changed since the plan was made.
fn apply(
    database: &Connection,
    user_id: &UserId,
    as_of: Timestamp,
    now: Timestamp,
    plan: &Plan,
    prepared: &HashMap<i64, KeySet>,
) -> Result<bool> {
    let user_pk = user_pk(database, user_id)?;
    if Found::all(database, user_pk)? != plan.now {
        return Ok(false);
    }
    check_reach(database, user_pk, as_of)?;
    let latest = plan.now.iter().map(Found::latest_stamp).max().unwrap_or(0);
    let (author, stamp) = (operator(user_id, now), now.stamp_after(latest));
    for step in &plan.steps {
        let copy = match step.keys {
            Keys::Copy(from) => prepared.get(&from.0).copied(),
            Keys::Same | Keys::None | Keys::Attach(_) => None,
        };
        step.apply(database, &author, copy, stamp)?;
    }
    Ok(true)
}

/// Copies what a set held at a moment into a new one, which is not shown; left alone it would be
/// purged as if it had just been deleted. Damaged keys are not copied.
fn copy(
    operator: &mut SqliteOperator,
    found: &Found,
    from: KeySet,
    as_of: Timestamp,
    progress: &mut dyn FnMut(u64),
) -> Result<KeySet> {
    let to = operator.write(|database| {
        database
            .prepare_cached(
                "INSERT INTO key_sets (user_pk, version, attached_at, detached_at, count, bytes,
                    end_age) VALUES (?1, ?2, ?3, ?3, 0, 0, ?4)",
            )?
            .execute([
                found.user_pk,
                found.version.get(),
                as_of.as_micros(),
                kept::age(database)?,
            ])?;
        Ok(KeySet(database.last_insert_rowid()))
    })?;
    // Before the first: no room has an empty id.
    let (mut place, mut keys) = (Some((String::new(), String::new())), 0);
    while let Some((room_id, session_id)) = place {
        let (copied, next) = operator.write_piece(|database| {
            let after = (room_id.as_str(), session_id.as_str());
            copy_some(database, found.user_pk, from, to, as_of.as_micros(), after)
        })?;
        keys += number(copied.keys);
        progress(keys);
        place = next;
    }
    Ok(to)
}

/// Copies the keys behind a place, not too many, and says where they end, unless it was the end.
fn copy_some(
    database: &Connection,
    user_pk: i64,
    from: KeySet,
    to: KeySet,
    as_of: i64,
    (room_id, session_id): (&str, &str),
) -> Result<(Kept, Option<(String, String)>)> {
    let mut statement = database.prepare_cached(concat!(
        "SELECT ",
        key_columns!(),
        " FROM keys WHERE key_set_pk = ?1 AND stored_at <= ?2
            AND (room_id, session_id) > (?3, ?4)
         UNION ALL
         SELECT ",
        key_columns!(),
        " FROM key_history WHERE key_set_pk = ?1 AND stored_at <= ?2 AND ended_at > ?2
            AND (room_id, session_id) > (?3, ?4)
         ORDER BY room_id, session_id LIMIT ?5"
    ))?;
    let mut rows = statement.query(params![from.0, as_of, room_id, session_id, COPY_KEYS])?;
    let (mut copied, mut seen, mut last) = (Kept::default(), 0, None);
    while let Some(row) = rows.next()? {
        seen += 1;
        last = Some((row.get(0)?, row.get(1)?));
        let row = match KeyRow::read(from, row) {
            Ok(row) if row.is_intact => row,
            Ok(_) | Err(store::Error::Damaged { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let (key, stored_at) = (row.key, row.stored_at);
        if !kept::add_key(database, to, key, stored_at)? {
            return Err(damaged("history of keys"));
        }
        let bytes = i64::try_from(key.session_data.len()).unwrap_or(i64::MAX);
        copied += Kept { keys: 1, bytes };
    }
    kept::count(database, user_pk, copied)?;
    database
        .prepare_cached(
            "UPDATE key_sets SET count = count + ?2, bytes = bytes + ?3 WHERE key_set_pk = ?1",
        )?
        .execute([to.0, copied.keys, copied.bytes])?;
    Ok((copied, if seen < COPY_KEYS { None } else { last }))
}
