//! A consistent copy of the database, while it is served.
//!
//! SQLite's backup API over one read transaction: what is written meanwhile does not make it begin
//! anew, writers do not wait, and the file is read from end to end. (`VACUUM INTO` took twice as long,
//! and for as long the log can't be moved into the file.)

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::PermissionsExt as _,
    },
    path::Path,
};

use rusqlite::{
    Connection, ErrorCode, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{SqliteOperator, number, sqlite_error};
use crate::operator::{OperatorError, Progress, Result, Snapshot};

/// Pages between two reports of progress, and two looks at whether it is to stop: 8 MiB.
const STEP_PAGES: i32 = 1024;

pub(super) fn write(
    operator: &mut SqliteOperator,
    file: &Path,
    progress: Progress<'_>,
) -> Result<Snapshot> {
    let failed = |source| OperatorError::Io { path: file.to_owned(), source };
    // Looked at again in the end; this only saves the work.
    if file.symlink_metadata().is_ok() {
        return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "it exists already")));
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    // Removed when it is dropped, whatever fails.
    let partial = tempfile::Builder::new()
        .prefix(".strongroom-snapshot-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(failed)?;
    let rows = copy(operator, partial.path(), progress);
    // What is copied is only read, so it is the copy that has no space.
    let full = |error| {
        if is_full(&error) {
            failed(io::Error::new(io::ErrorKind::StorageFull, "there is no room for it"))
        } else {
            error
        }
    };
    let rows = rows.map_err(full)?;
    partial.as_file().sync_all().map_err(failed)?;
    let snapshot = look(partial.path(), rows)?;
    partial.persist_noclobber(file).map_err(|error| failed(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(snapshot)
}

/// Copies all pages of one consistent state. Returns how many rows there are.
fn copy(operator: &mut SqliteOperator, to: &Path, progress: Progress<'_>) -> Result<[i64; 7]> {
    let stop = operator.stop.clone();
    let transaction = operator.database.transaction()?;
    // The first thing that is read is what fixes the state.
    let rows = rows(&transaction)?;
    let page_bytes: i64 = transaction.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(to, flags)?;
    // If it fails it is gone, and it is synced in the end.
    copy.pragma_update(None, "journal_mode", "OFF")?;
    copy.pragma_update(None, "synchronous", "OFF")?;
    let backup = Backup::new(&transaction, &mut copy)?;
    loop {
        let step = backup.step(STEP_PAGES)?;
        let pages = backup.progress();
        let bytes = |pages: i32| number(i64::from(pages).saturating_mul(page_bytes));
        progress(bytes(pages.pagecount - pages.remaining), Some(bytes(pages.pagecount)));
        if stop.is_stopped() {
            return Err(OperatorError::Interrupted);
        }
        // Nobody else knows of the copy, so what is not done is never locked.
        if matches!(step, StepResult::Done) {
            return Ok(rows);
        }
    }
}

/// The numbers of rows, by which a copy is compared.
fn rows(database: &Connection) -> Result<[i64; 7]> {
    let sql = "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM versions),
        (SELECT count(*) FROM key_sets), (SELECT count(*) FROM keys),
        (SELECT count(*) FROM key_history), (SELECT count(*) FROM auth_data_history),
        (SELECT count(*) FROM journal)";
    Ok(database.query_one(sql, [], |row| {
        let mut counts = [0; 7];
        for (index, count) in counts.iter_mut().enumerate() {
            *count = row.get(index)?;
        }
        Ok(counts)
    })?)
}

/// Opens the copy as it lies there, and says what is in it.
fn look(path: &Path, expected: [i64; 7]) -> Result<Snapshot> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let copy = Connection::open_with_flags(immutable(path), flags)?;
    let bad = |said: String| OperatorError::BadCopy { said };
    let said: String = copy.query_one("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return Err(bad(said));
    }
    let found = rows(&copy)?;
    if found != expected {
        return Err(bad(format!("{found:?} rows instead of {expected:?}")));
    }
    let (versions, keys) = copy.query_one(
        "SELECT count(*), coalesce(sum(count), 0) FROM versions WHERE deleted_at IS NULL",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let [users, ..] = found;
    let bytes = std::fs::metadata(path)
        .map_err(|source| OperatorError::Io { path: path.to_owned(), source })?
        .len();
    Ok(Snapshot { bytes, users: number(users), versions: number(versions), keys: number(keys) })
}

/// The URI of a file that nobody changes: SQLite reads it without making a log beside it.
fn immutable(path: &Path) -> OsString {
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(*byte),
            _ => uri.extend(format!("%{byte:02X}").into_bytes()),
        }
    }
    uri.extend(b"?immutable=1");
    OsString::from_vec(uri)
}

fn is_full(error: &OperatorError) -> bool {
    let OperatorError::Store(error) = error else { return false };
    let code = sqlite_error(error).and_then(rusqlite::Error::sqlite_error_code);
    code == Some(ErrorCode::DiskFull)
}
