//! What an operator sees and does, on the file of a server that may be running.
//!
//! A second process on the file is nothing special to SQLite: readers see one consistent state, and
//! writers take turns. Transactions here are short, so that the server's writer does not wait long.

mod attached;
mod check;
mod forget;
mod look;
mod snapshot;
mod undelete;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, TransactionBehavior};
use strongroom_protocol::{UserId, Version};

use self::attached::Attached;
use super::{purge, schema::OpenError, service::micros};
use crate::{
    operator::{
        Checked, JournalLine, OperatorError, Progress, Removed, Result, Snapshot, SortUsers,
        Status, Undeleted, UserHistory, UserSummary,
    },
    store,
    time::Timestamp,
};

/// Instructions of SQLite between two looks at whether to stop: a fraction of a millisecond.
const STOP_STEPS: i32 = 1000;

/// The store in one directory, as its operator sees it. Every method may block for as long as the disk
/// takes, and may be called while a server is running.
#[derive(Debug)]
pub struct SqliteOperator {
    // Closed first.
    database: Connection,
    directory: Attached,
    stop: Stop,
}

/// Whether what is under way is to be given up.
#[derive(Clone, Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl From<rusqlite::Error> for OperatorError {
    fn from(error: rusqlite::Error) -> Self {
        store::Error::from(error).into()
    }
}

impl From<store::Error> for OperatorError {
    fn from(error: store::Error) -> Self {
        let code = sqlite_error(&error).and_then(rusqlite::Error::sqlite_error_code);
        // Only what `stop_when` has set up interrupts anything.
        if code == Some(ErrorCode::OperationInterrupted) {
            Self::Interrupted
        } else {
            Self::Store(error)
        }
    }
}

impl SqliteOperator {
    /// Opens the store in `directory`, where there must be one.
    ///
    /// # Errors
    ///
    /// [`OpenError::Missing`] where there is none; [`OpenError::Older`] if a server of an older
    /// release is running on it.
    pub fn open(directory: impl AsRef<Path>) -> std::result::Result<Self, OpenError> {
        let (directory, database) = Attached::open(directory.as_ref())?;
        Ok(Self { directory, database, stop: Stop::default() })
    }

    /// From now on every method ends with [`OperatorError::Interrupted`] soon after `flag` has become
    /// true. Each transaction is then done or not; so is each method, except that a purge and a repair
    /// go in steps, and are done in part.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Store`]
    pub fn stop_when(&mut self, flag: Arc<AtomicBool>) -> Result<()> {
        self.stop = Stop(flag);
        let stop = self.stop.clone();
        Ok(self.database.progress_handler(STOP_STEPS, Some(move || stop.is_stopped()))?)
    }

    /// The whole of it in numbers.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Store`]
    pub fn status(&mut self) -> Result<Status> {
        let (is_served, disk_bytes) = (self.directory.is_served(), self.directory.disk_bytes());
        self.read(|database| look::status(database, is_served, disk_bytes))
    }

    /// All users of whom anything is stored.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Store`]
    pub fn users(&mut self, sort: SortUsers) -> Result<Vec<UserSummary>> {
        self.read(|database| look::users(database, sort))
    }

    /// The versions of a user, with what was deleted and replaced.
    ///
    /// # Errors
    ///
    /// [`OperatorError::NoSuchUser`], [`OperatorError::Store`].
    pub fn show(&mut self, user_id: &UserId) -> Result<UserHistory> {
        self.read(|database| look::show(database, user_pk(database, user_id)?))
    }

    /// Who changed what, the oldest first.
    ///
    /// # Errors
    ///
    /// [`OperatorError::NoSuchUser`], [`OperatorError::Store`].
    pub fn journal(&mut self, user_id: &UserId) -> Result<Vec<JournalLine>> {
        self.read(|database| look::journal(database, user_pk(database, user_id)?))
    }

    /// Keeps what a user deletes and replaces for longer than the others', from now on; `None`: as
    /// long as the others'.
    ///
    /// # Errors
    ///
    /// [`OperatorError::NoSuchUser`], [`OperatorError::Store`].
    pub fn retain(&mut self, user_id: &UserId, retention: Option<Duration>) -> Result<()> {
        let retention = retention.map(micros);
        self.write(|database| {
            let user_pk = user_pk(database, user_id)?;
            let sql = "UPDATE users SET retention = ?2 WHERE user_pk = ?1";
            database.execute(sql, rusqlite::params![user_pk, retention])?;
            Ok(())
        })
    }

    /// What [`SqliteOperator::undelete_version`] would do.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn plan_undelete_version(
        &mut self,
        user_id: &UserId,
        version: Version,
    ) -> Result<Undeleted> {
        self.read(|database| undelete::plan_version(database, user_id, version))
    }

    /// Brings a deleted version back as it was when it was deleted, in constant time.
    ///
    /// # Errors
    ///
    /// [`OperatorError::NoSuchUser`], [`OperatorError::NoSuchVersion`],
    /// [`OperatorError::NotDeleted`], [`OperatorError::Purged`].
    pub fn undelete_version(
        &mut self,
        user_id: &UserId,
        version: Version,
        now: Timestamp,
    ) -> Result<Undeleted> {
        self.write(|database| undelete::version(database, user_id, version, now))
    }

    /// What [`SqliteOperator::undelete_as_of`] would do.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn plan_undelete_as_of(
        &mut self,
        user_id: &UserId,
        as_of: Timestamp,
        now: Timestamp,
    ) -> Result<Undeleted> {
        self.read(|database| undelete::plan_as_of(database, user_id, as_of, now))
    }

    /// Puts all versions of a user, their `auth_data` and their keys back to what they were at a
    /// moment, and keeps what it puts aside: the moment before can be gone back to in the same way.
    ///
    /// Where keys were replaced or deleted since, a copy of the whole set is prepared first, out of
    /// view, so that clients see all of it at once and wait for none of it.
    ///
    /// # Errors
    ///
    /// [`OperatorError::NoSuchUser`], [`OperatorError::TooEarly`], [`OperatorError::InFuture`],
    /// [`OperatorError::Busy`].
    pub fn undelete_as_of(
        &mut self,
        user_id: &UserId,
        as_of: Timestamp,
        now: Timestamp,
        progress: Progress<'_>,
    ) -> Result<Undeleted> {
        undelete::as_of(self, user_id, as_of, now, progress)
    }

    /// Removes everything of a user for good, history and journal included, and overwrites it in the
    /// file. Interrupted, it is done again from where it was.
    ///
    /// # Errors
    ///
    /// [`OperatorError::NoSuchUser`], [`OperatorError::Store`].
    pub fn purge_user(&mut self, user_id: &UserId, progress: Progress<'_>) -> Result<Removed> {
        forget::user(self, user_id, progress)
    }

    /// Removes what has outlived its retention, as the server does by itself. Returns how many keys.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Store`]
    pub fn purge_expired(&mut self, progress: Progress<'_>) -> Result<u64> {
        let (mut keys, total) = (0, self.read(|database| Ok(purge::outlook(database)?))?.due_keys);
        while let Some(due) = self.read(|database| Ok(purge::find(database)?))? {
            keys += self.write_piece(|database| Ok(purge::remove(database, due)?))?.keys;
            progress(keys, Some(total.max(keys)));
        }
        Ok(keys)
    }

    /// Reads everything and says what is wrong.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Store`] if it can't be read at all.
    pub fn check(&mut self, progress: Progress<'_>) -> Result<Checked> {
        check::check(self, progress)
    }

    /// The same, and puts right what can be. Nothing is deleted: a damaged key leaves the view of
    /// clients as one does that is replaced.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn repair(&mut self, now: Timestamp, progress: Progress<'_>) -> Result<Checked> {
        check::repair(self, now, progress)
    }

    /// Writes a consistent copy to a new file, with mode 0600, and looks at it before it gets its
    /// name.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Io`] if the file exists or can't be written, [`OperatorError::BadCopy`] if the
    /// database itself is damaged.
    pub fn snapshot(&mut self, file: &Path, progress: Progress<'_>) -> Result<Snapshot> {
        snapshot::write(self, file, progress)
    }

    /// Reads one consistent state.
    fn read<T>(&mut self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let transaction = self.database.transaction()?;
        read(&transaction)
    }

    /// Writes in one transaction, all or nothing.
    fn write<T>(&mut self, write: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let transaction =
            self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = write(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// Writes one of many pieces, and then leaves the server's writer as long as that took.
    fn write_piece<T>(&mut self, write: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let done = self.write(write)?;
        thread::sleep(begin.elapsed());
        Ok(done)
    }
}

fn user_pk(database: &Connection, user_id: &UserId) -> Result<i64> {
    let sql = "SELECT user_pk FROM users WHERE user_id = ?1";
    let found = database.query_row(sql, [user_id.as_str()], |row| row.get(0)).optional()?;
    found.ok_or_else(|| OperatorError::NoSuchUser(user_id.clone()))
}

/// What SQLite said, if it was SQLite.
fn sqlite_error(error: &store::Error) -> Option<&rusqlite::Error> {
    match error {
        store::Error::Database(source) => source.downcast_ref(),
        store::Error::NoBackup
        | store::Error::NoSuchVersion
        | store::Error::NotCurrent { .. }
        | store::Error::MayNotReplace(_)
        | store::Error::OverQuota(_)
        | store::Error::Unavailable(_)
        | store::Error::Purged
        | store::Error::Damaged { .. } => None,
    }
}

/// Numbers in the file are signed, and none of them is negative.
fn number(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// A text in the file that was checked when it came in.
fn damaged(what: &'static str) -> OperatorError {
    OperatorError::Store(store::Error::Damaged { what })
}
