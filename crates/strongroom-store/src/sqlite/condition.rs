//! What is wrong with the file, and what may go on: told when it begins and when it is over, and not
//! with every request.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::ffi;

use super::identity::Moved;
use crate::{
    store::{Error, Result},
    trouble::Trouble,
};

/// Trouble that comes back within this time was not over, so that what fails now and then does not
/// flood the log.
const QUIET: Duration = Duration::from_secs(1);

/// Shared by everybody who uses the file.
#[derive(Debug)]
pub(super) struct Condition {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Why nothing is written any more by this process.
    lost: Option<Trouble>,
    /// Nothing may be synced before the file was opened anew; see `recovery.rs`.
    has_failed_sync: bool,
    writes: Episode,
    checkpoints: Episode,
}

impl Condition {
    pub(super) const fn new() -> Self {
        let writes = Episode::new("nothing is written", "it is written again");
        let checkpoints = Episode::new(
            "the log is not moved into the database",
            "the log is moved into the database again",
        );
        let state = State { lost: None, has_failed_sync: false, writes, checkpoints };
        Self { state: Mutex::new(state) }
    }

    /// Whether a writer may begin.
    ///
    /// # Errors
    ///
    /// What can't be trusted is never written again.
    pub(super) fn may_write(&self) -> Result<()> {
        self.state().lost.map_or(Ok(()), |lost| Err(Error::Unavailable(lost)))
    }

    /// Whether the last writer failed, or one shortly before.
    pub(super) fn is_troubled(&self) -> bool {
        self.state().writes.trouble.is_some()
    }

    /// Whether the log is to be moved however short it is: where there is no space, what was moved
    /// leaves its own to what comes next; and after a failure it shows whether that is over.
    pub(super) fn wants_short_log(&self) -> bool {
        let state = self.state();
        state.writes.trouble == Some(Trouble::DiskFull) || state.checkpoints.trouble.is_some()
    }

    /// Whether SQLite may sync what it has written before.
    pub(super) fn may_sync(&self) -> bool {
        let state = self.state();
        state.lost.is_none() && !state.has_failed_sync
    }

    /// Whether a sync failed, and the file was not opened anew since.
    pub(super) fn has_failed_sync(&self) -> bool {
        self.state().has_failed_sync
    }

    pub(super) fn recovered(&self) {
        self.state().has_failed_sync = false;
    }

    /// A transaction failed; says what all that were in it are told.
    pub(super) fn write_failed(&self, error: &Error) -> Trouble {
        let mut state = self.state();
        let mut trouble = trouble(error).unwrap_or(Trouble::Failed);
        // What fails on the way out of it is the same trouble.
        if state.has_failed_sync && trouble == Trouble::DiskFails {
            trouble = Trouble::SyncFailed;
        }
        state.learn(trouble);
        state.writes.fail(trouble, error);
        trouble
    }

    /// A transaction that wrote something is on the disk.
    pub(super) fn write_succeeded(&self) {
        let writes = &mut self.state().writes;
        if is_past(writes.failed_at) {
            writes.end();
        }
    }

    pub(super) fn checkpoint_failed(&self, error: &Error) {
        let trouble = trouble(error).unwrap_or(Trouble::Failed);
        let mut state = self.state();
        state.learn(trouble);
        state.checkpoints.fail(trouble, error);
    }

    pub(super) fn checkpoint_succeeded(&self) {
        self.state().checkpoints.end();
    }

    /// A reader failed. It is its own affair, unless it came upon what keeps writers away as well.
    pub(super) fn read_failed(&self, error: Error) -> Error {
        match trouble(&error) {
            Some(Trouble::Damaged | Trouble::Moved) => {
                Error::Unavailable(self.write_failed(&error))
            }
            Some(
                Trouble::DiskFull
                | Trouble::DiskFails
                | Trouble::ReadOnly
                | Trouble::SyncFailed
                | Trouble::Locked
                | Trouble::OtherFormat
                | Trouble::Failed,
            )
            | None => error,
        }
    }

    /// Whether all is well but for what a writer finds when it tries.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`]
    pub(super) fn check(&self) -> Result<()> {
        self.state().checkpoints.trouble.map_or(Ok(()), |trouble| Err(Error::Unavailable(trouble)))
    }

    /// What is wrong, as far as is known.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let state = self.state();
        state.lost.or(state.writes.trouble).or(state.checkpoints.trouble)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Remembers what does not pass by itself.
    fn learn(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::SyncFailed => self.has_failed_sync = true,
            // Writing on would spread it.
            Trouble::Damaged | Trouble::OtherFormat => self.lost = self.lost.or(Some(trouble)),
            // SQLite has undone the transaction, or does when it next opens the file, and what was
            // acknowledged before is not touched by it.
            Trouble::DiskFull
            | Trouble::DiskFails
            | Trouble::ReadOnly
            | Trouble::Locked
            | Trouble::Moved
            | Trouble::Failed => {}
        }
    }
}

/// A time in which something does not succeed.
#[derive(Debug)]
struct Episode {
    begins: &'static str,
    ends: &'static str,
    trouble: Option<Trouble>,
    failed_at: Option<Instant>,
    told: Option<Trouble>,
    told_at: Option<Instant>,
}

impl Episode {
    const fn new(begins: &'static str, ends: &'static str) -> Self {
        Self { begins, ends, trouble: None, failed_at: None, told: None, told_at: None }
    }

    fn fail(&mut self, trouble: Trouble, error: &Error) {
        self.trouble = Some(trouble);
        self.failed_at = Some(Instant::now());
        if self.told != self.trouble && is_past(self.told_at) {
            (self.told, self.told_at) = (self.trouble, self.failed_at);
            let error = error as &dyn std::error::Error;
            tracing::error!(%trouble, error, help = trouble.help(), "{}", self.begins);
        }
    }

    fn end(&mut self) {
        self.trouble = None;
        if let Some(trouble) = self.told.take() {
            tracing::warn!(after = %trouble, "{}", self.ends);
        }
    }
}

fn is_past(instant: Option<Instant>) -> bool {
    instant.is_none_or(|instant| instant.elapsed() >= QUIET)
}

/// What an error says about the file. `None` if it says something about one request only.
pub(super) fn trouble(error: &Error) -> Option<Trouble> {
    let source = match error {
        Error::Unavailable(trouble) => return Some(*trouble),
        Error::Database(source) => source,
        Error::NoBackup
        | Error::NoSuchVersion
        | Error::NotCurrent { .. }
        | Error::MayNotReplace(_)
        | Error::OverQuota(_)
        | Error::Purged
        | Error::Damaged { .. } => return None,
    };
    if let Some(error) = source.downcast_ref::<rusqlite::Error>() {
        return of_sqlite(error.sqlite_extended_error_code()?);
    }
    if let Some(moved) = source.downcast_ref::<Moved>() {
        let is_forbidden = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        let is_forbidden = moved.source.as_ref().is_some_and(is_forbidden);
        return Some(if is_forbidden { Trouble::ReadOnly } else { Trouble::Moved });
    }
    source.downcast_ref::<io::Error>().map(of_system)
}

fn of_sqlite(code: i32) -> Option<Trouble> {
    match code {
        ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => return Some(Trouble::SyncFailed),
        // The file system itself says so.
        ffi::SQLITE_IOERR_CORRUPTFS => return Some(Trouble::Damaged),
        _ => {}
    }
    match code & 0xff {
        ffi::SQLITE_FULL => Some(Trouble::DiskFull),
        ffi::SQLITE_IOERR => Some(Trouble::DiskFails),
        ffi::SQLITE_READONLY | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM | ffi::SQLITE_AUTH => {
            Some(Trouble::ReadOnly)
        }
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL => Some(Trouble::Locked),
        ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => Some(Trouble::Damaged),
        // SQLite may have undone the whole transaction.
        ffi::SQLITE_NOMEM | ffi::SQLITE_INTERRUPT | ffi::SQLITE_ABORT => Some(Trouble::Failed),
        // A statement that is wrong: a defect, and not of the file.
        _ => None,
    }
}

fn of_system(error: &io::Error) -> Trouble {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kind = error.kind();
    if [StorageFull, QuotaExceeded].contains(&kind) {
        Trouble::DiskFull
    } else if [ReadOnlyFilesystem, PermissionDenied].contains(&kind) {
        Trouble::ReadOnly
    } else {
        Trouble::DiskFails
    }
}
