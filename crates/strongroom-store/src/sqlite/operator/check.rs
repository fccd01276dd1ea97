//! Reads everything, says what is wrong, and puts right what can be.
//!
//! A server may be running meanwhile, so whatever is compared is read in one transaction, a user at a
//! time, and what is repaired is looked at once more in the transaction that repairs it. Nothing is
//! deleted here.

mod problem;
mod repair;
mod user;

use rusqlite::{Connection, ErrorCode};
use strongroom_protocol::UserId;

use self::{
    problem::{Kind, Problem},
    user::Examined,
};
use super::{SqliteOperator, number, sqlite_error};
use crate::{
    operator::{Checked, Finding, OperatorError, Progress, Result},
    store,
    time::Timestamp,
};

/// Findings that are listed; what goes beyond is only counted, so that memory does not grow with damage.
const FINDINGS_MAX: usize = 1000;
/// Messages of SQLite's own check; a file that is damaged in more places is beyond repair anyhow.
const MESSAGES_MAX: usize = 100;
/// Characters of such a message.
const MESSAGE_CHARS_MAX: usize = 300;

/// Says what is wrong.
pub(super) fn check(operator: &mut SqliteOperator, progress: Progress<'_>) -> Result<Checked> {
    run(operator, None, progress)
}

/// Says what is wrong, and puts right what can be.
pub(super) fn repair(
    operator: &mut SqliteOperator,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Checked> {
    run(operator, Some(now), progress)
}

fn run(
    operator: &mut SqliteOperator,
    repair_at: Option<Timestamp>,
    progress: Progress<'_>,
) -> Result<Checked> {
    let mut report = Report::default();
    let total = operator.read(keys_expected).map_or(0, number);
    let mut seen = 0;
    let mut see = |keys| {
        seen += keys;
        progress(seen, Some(total.max(seen)));
    };
    see(0);
    // First the indexes, through which everything else is found.
    file(operator, repair_at.is_some(), &mut report)?;
    let mut last = i64::MIN;
    while let Some(Some(user_pk)) = report.read(None, operator.read(|db| next_user(db, last)))? {
        last = user_pk;
        one_user(operator, user_pk, repair_at, &mut report, &mut see)?;
    }
    rest(operator, repair_at.is_some(), &mut report)?;
    Ok(report.checked)
}

fn keys_expected(database: &Connection) -> Result<i64> {
    let sql = "SELECT (SELECT coalesce(sum(count), 0) FROM versions WHERE deleted_at IS NULL)
        + (SELECT coalesce(sum(kept_keys), 0) FROM users)";
    Ok(database.query_one(sql, [], |row| row.get(0))?)
}

fn next_user(database: &Connection, last: i64) -> Result<Option<i64>> {
    let sql = "SELECT min(user_pk) FROM users WHERE user_pk > ?1";
    Ok(database.prepare_cached(sql)?.query_one([last], |row| row.get(0))?)
}

/// What SQLite itself finds: pages, indexes, and the types of values.
fn file(operator: &mut SqliteOperator, is_repairing: bool, report: &mut Report) -> Result<()> {
    let before = messages(&operator.database)?;
    let is_of_index = |message: &String| message.contains("index");
    let mut after = None;
    if is_repairing && before.iter().any(is_of_index) {
        let rebuilt = operator.write(|database| Ok(database.execute_batch("REINDEX")?));
        undamaged(rebuilt)?.ok();
        after = Some(messages(&operator.database)?);
    }
    let new = after.iter().flatten().filter(|message| !before.contains(message));
    for message in before.iter().chain(new) {
        let is_repaired = after.as_ref().is_some_and(|after| !after.contains(message));
        let kind = if is_of_index(message) { Kind::Index } else { Kind::File };
        report.found(None, Problem { version: None, kind: kind(message.clone()) }, is_repaired);
    }
    Ok(())
}

fn messages(database: &Connection) -> Result<Vec<String>> {
    let read = || -> rusqlite::Result<Vec<String>> {
        let mut statement = database.prepare(&format!("PRAGMA integrity_check({MESSAGES_MAX})"))?;
        let messages = statement.query_map([], |row| row.get::<_, String>(0))?;
        messages.collect()
    };
    let mut messages = match read() {
        Ok(messages) => messages,
        Err(error) if is_damage(&error) => vec![error.to_string()],
        Err(error) => return Err(error.into()),
    };
    messages.retain(|message| message != "ok");
    let short = |message: String| message.chars().take(MESSAGE_CHARS_MAX).collect();
    Ok(messages.into_iter().map(short).collect())
}

fn one_user(
    operator: &mut SqliteOperator,
    user_pk: i64,
    repair_at: Option<Timestamp>,
    report: &mut Report,
    see: &mut dyn FnMut(u64),
) -> Result<()> {
    let examined = operator.read(|database| user::examine(database, user_pk, see));
    let user_id = operator.read(|database| user_id(database, user_pk)).ok().flatten();
    let Some(Some(before)) = report.read(user_id.as_ref(), examined)? else { return Ok(()) };
    let is_due = !before.problems.is_empty() || before.without_checksum > 0;
    let Some(now) = repair_at.filter(|_| is_due) else {
        report.count(&before);
        for problem in before.problems {
            report.found(user_id.as_ref(), problem, false);
        }
        return Ok(());
    };
    if let Some(user_id) = &user_id {
        repair::user(operator, user_pk, user_id, &before.to_walk, now)?;
    }
    // Whether it is repaired is not taken from the repair's word.
    let examined = operator.read(|database| user::examine(database, user_pk, &mut |_| ()));
    let Some(after) = report.read(user_id.as_ref(), examined)? else { return Ok(()) };
    let after = after.unwrap_or_default();
    report.count(&after);
    let is_in = |problem: &Problem, list: &[Problem]| list.iter().any(|it| it.is_like(problem));
    let new = after.problems.iter().filter(|problem| !is_in(problem, &before.problems));
    for problem in before.problems.iter().chain(new) {
        let is_repaired = !is_in(problem, &after.problems);
        report.found(user_id.as_ref(), problem.clone(), is_repaired);
    }
    Ok(())
}

fn user_id(database: &Connection, user_pk: i64) -> Result<Option<UserId>> {
    let sql = "SELECT user_id FROM users WHERE user_pk = ?1";
    let text: String = database.query_one(sql, [user_pk], |row| row.get(0))?;
    Ok(UserId::parse(&text).ok())
}

/// Rows that nobody's walk has come by.
const ORPHANS: [(&str, &str); 7] = [
    ("versions", "SELECT count(*) FROM versions WHERE user_pk NOT IN (SELECT user_pk FROM users)"),
    (
        "sets of keys",
        "SELECT count(*) FROM key_sets WHERE user_pk NOT IN (SELECT user_pk FROM users)",
    ),
    (
        "replaced auth_data",
        "SELECT count(*) FROM auth_data_history WHERE user_pk NOT IN (SELECT user_pk FROM users)",
    ),
    (
        "lines of the journal",
        "SELECT count(*) FROM journal WHERE user_pk NOT IN (SELECT user_pk FROM users)",
    ),
    ("keys", "SELECT count(*) FROM keys WHERE key_set_pk NOT IN (SELECT key_set_pk FROM key_sets)"),
    (
        "replaced keys",
        "SELECT count(*) FROM key_history WHERE key_set_pk NOT IN (SELECT key_set_pk FROM key_sets)",
    ),
    (
        "past attachments",
        "SELECT count(*) FROM past_attachments
         WHERE key_set_pk NOT IN (SELECT key_set_pk FROM key_sets)",
    ),
];

/// The greatest number that a set has or had, as far as anything tells.
const SET_NUMBER: &str = "SELECT max(
    coalesce((SELECT max(key_set_pk) FROM key_sets), 0),
    coalesce((SELECT max(key_set_pk) FROM keys), 0),
    coalesce((SELECT max(key_set_pk) FROM key_history), 0),
    coalesce((SELECT max(key_set_pk) FROM versions), 0))";

/// What is not of one user.
fn rest(operator: &mut SqliteOperator, is_repairing: bool, report: &mut Report) -> Result<()> {
    let service = operator.read(|database| {
        let sql = "SELECT count(*) FROM service WHERE age >= 0 AND age_limit >= age
            AND retention >= 0 AND journal_retention >= 0 AND stamp_floor >= 0";
        Ok(database.query_one(sql, [], |row| row.get::<_, i64>(0))?)
    });
    if report.read(None, service)? == Some(0) {
        report.found(None, Problem { version: None, kind: Kind::Service }, false);
    }
    for (what, sql) in ORPHANS {
        let rows = operator.read(|database| Ok(database.query_one(sql, [], |row| row.get(0))?));
        let rows = report.read(None, rows)?.map_or(0, number);
        if rows > 0 {
            let kind = Kind::Orphans { what, rows };
            report.found(None, Problem { version: None, kind }, false);
        }
    }
    let numbering = operator.read(set_numbers);
    if let Some((given, greatest)) = report.read(None, numbering)?
        && given < greatest
    {
        let is_repaired = is_repairing
            && operator.write(|database| {
                let (given, greatest) = set_numbers(database)?;
                let sql = "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'key_sets'";
                Ok(given >= greatest || database.execute(sql, [greatest])? == 1)
            })?;
        report.found(None, Problem { version: None, kind: Kind::SetNumbers }, is_repaired);
    }
    Ok(())
}

/// The number that was given last to a set of keys, and the greatest that is known.
fn set_numbers(database: &Connection) -> Result<(i64, i64)> {
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'key_sets'";
    let given = database.query_one(sql, [], |row| row.get(0))?;
    Ok((given, database.query_one(SET_NUMBER, [], |row| row.get(0))?))
}

/// What is found, piece by piece.
#[derive(Default)]
struct Report {
    checked: Checked,
}

impl Report {
    fn count(&mut self, examined: &Examined) {
        self.checked.users += 1;
        self.checked.versions += examined.versions;
        self.checked.keys += examined.keys;
        self.checked.without_checksum += examined.without_checksum;
        self.checked.marked += examined.marked;
    }

    fn found(&mut self, user_id: Option<&UserId>, problem: Problem, is_repaired: bool) {
        if self.checked.findings.len() == FINDINGS_MAX {
            self.checked.unlisted += 1;
            return;
        }
        self.checked.findings.push(Finding {
            user_id: user_id.cloned(),
            version: problem.version,
            what: problem.kind.to_string(),
            repair: problem.kind.repair(),
            is_repaired,
        });
    }

    /// What was read; nothing, with a finding, if SQLite could not read it.
    fn read<T>(&mut self, user_id: Option<&UserId>, result: Result<T>) -> Result<Option<T>> {
        match undamaged(result)? {
            Ok(read) => Ok(Some(read)),
            Err(said) => {
                let kind = Kind::Unreadable(said);
                self.found(user_id, Problem { version: None, kind }, false);
                Ok(None)
            }
        }
    }
}

/// Tells damage, which a check goes on after, from what it can't go on after.
fn undamaged<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(done) => Ok(Ok(done)),
        Err(OperatorError::Store(store::Error::Damaged { what })) => {
            Ok(Err(format!("the {what} is damaged")))
        }
        Err(OperatorError::Store(error)) if sqlite_error(&error).is_some_and(is_damage) => {
            let error = sqlite_error(&error).map(ToString::to_string);
            Ok(Err(error.unwrap_or_default()))
        }
        Err(error) => Err(error),
    }
}

/// Whether SQLite says that the file, or the disk below it, is the trouble.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation
                | ErrorCode::SystemIoFailure
        ),
        // A value of a type that nobody writes.
        None => true,
    }
}
