//! The file: where it lies, how it is opened, and what its tables mean.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{
    condition::Condition,
    identity::{self, Identity},
    recovery,
};
use crate::store::{Error, Result as StoreResult};

/// The database in the data directory, SQLite's log, and its index of the log.
pub(super) const FILE_NAMES: [&str; 3] =
    ["strongroom.db", "strongroom.db-wal", "strongroom.db-shm"];
/// Locked while a process has the database open; says which one that is.
pub(super) const LOCK_NAME: &str = "strongroom.lock";
/// "Strg", in the header of the file, so that `file` and we know whose it is.
const APPLICATION_ID: i32 = 0x5374_7267;
/// Below it, a rare race between a writer and a checkpoint could corrupt a file in WAL mode.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// How long a lock is tried for, and how often.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Pages only pass through the connection that moves the log.
const ANCHOR_CACHE_KIB: u32 = 256;
/// `PRAGMA user_version`.
pub(super) const FORMAT: i64 = MIGRATIONS.len() as i64;

/// Each brings the file from the version of its place in this list to the next.
const MIGRATIONS: [&str; 2] = [
    // Times, etags and version ids are microseconds since 1970.
    "
    CREATE TABLE users (
        user_pk INTEGER PRIMARY KEY,
        user_id TEXT NOT NULL UNIQUE
    ) STRICT;

    -- Rows stay for ever, so that no version id is given twice.
    CREATE TABLE versions (
        user_pk INTEGER NOT NULL,
        version INTEGER NOT NULL,
        algorithm TEXT NOT NULL,
        auth_data TEXT NOT NULL,
        auth_data_since INTEGER NOT NULL,
        key_set_pk INTEGER NOT NULL,
        etag INTEGER NOT NULL,
        count INTEGER NOT NULL,
        deleted_at INTEGER,
        PRIMARY KEY (user_pk, version)
    ) STRICT, WITHOUT ROWID;

    -- A version shows one key set. Deleting the version, or all its keys, detaches the set.
    CREATE TABLE key_sets (
        key_set_pk INTEGER PRIMARY KEY AUTOINCREMENT, -- a restore in flight holds on to it
        user_pk INTEGER NOT NULL,
        version INTEGER NOT NULL,
        attached_at INTEGER NOT NULL,
        detached_at INTEGER,
        count INTEGER, -- when it was detached
        is_purging INTEGER NOT NULL DEFAULT 0 -- some of its keys are gone already
    ) STRICT;
    CREATE INDEX key_sets_by_version ON key_sets (user_pk, version);
    CREATE INDEX key_sets_by_end ON key_sets (detached_at) WHERE detached_at IS NOT NULL;

    -- A table with row ids: rows lie in the order of their arrival, as measured the fastest.
    CREATE TABLE keys (
        key_set_pk INTEGER NOT NULL,
        room_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        is_verified INTEGER NOT NULL,
        first_message_index INTEGER NOT NULL,
        forwarded_count INTEGER NOT NULL,
        stored_at INTEGER NOT NULL, -- the etag that came with it
        session_data TEXT NOT NULL,
        UNIQUE (key_set_pk, room_id, session_id)
    ) STRICT;

    -- Keys that were deleted one by one or by room, or were beaten by a better one.
    CREATE TABLE key_history (
        key_set_pk INTEGER NOT NULL,
        room_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        is_verified INTEGER NOT NULL,
        first_message_index INTEGER NOT NULL,
        forwarded_count INTEGER NOT NULL,
        stored_at INTEGER NOT NULL,
        ended_at INTEGER NOT NULL, -- the etag that came with the change
        session_data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX key_history_by_key_set ON key_history (key_set_pk, room_id, session_id, ended_at);
    CREATE INDEX key_history_by_end ON key_history (ended_at);

    CREATE TABLE auth_data_history (
        user_pk INTEGER NOT NULL,
        version INTEGER NOT NULL,
        auth_data TEXT NOT NULL,
        since INTEGER NOT NULL,
        ended_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX auth_data_history_by_version ON auth_data_history (user_pk, version, ended_at);
    CREATE INDEX auth_data_history_by_end ON auth_data_history (ended_at);

    -- Who changed what. Plain additions leave no line: their time is in stored_at.
    CREATE TABLE journal (
        user_pk INTEGER NOT NULL,
        at INTEGER NOT NULL,
        action TEXT NOT NULL, -- create_version, update_version, delete_version, replace_keys, delete_keys
        version INTEGER NOT NULL,
        device_id TEXT,
        keys INTEGER NOT NULL -- how many were replaced or deleted
    ) STRICT;
    CREATE INDEX journal_by_user ON journal (user_pk, at);
    ",
    // Retention by time of service, sizes, checksums, and sets that were shown more than once.
    "
    CREATE TABLE service (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        age INTEGER NOT NULL, -- microseconds that the store has been in service
        age_limit INTEGER NOT NULL, -- what age does not exceed before it is written next
        retention INTEGER NOT NULL, -- as the server was told last, for the operator's commands
        journal_retention INTEGER NOT NULL,
        stamp_floor INTEGER NOT NULL -- no stamp of a user who was purged was greater
    ) STRICT;
    -- 30 days and a year, until a server says otherwise.
    INSERT INTO service VALUES (1, 0, 0, 2592000000000, 31536000000000, 0);

    ALTER TABLE users ADD COLUMN retention INTEGER; -- where it is longer than everybody's
    ALTER TABLE users ADD COLUMN kept_keys INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE users ADD COLUMN kept_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE users ADD COLUMN purged_until INTEGER NOT NULL DEFAULT 0; -- before it, history has gaps

    -- The long texts come last: what is read with each request lies before them.
    CREATE TABLE versions_2 (
        user_pk INTEGER NOT NULL,
        version INTEGER NOT NULL,
        key_set_pk INTEGER NOT NULL,
        etag INTEGER NOT NULL,
        count INTEGER NOT NULL,
        bytes INTEGER NOT NULL, -- of session_data
        deleted_at INTEGER,
        auth_data_since INTEGER NOT NULL,
        checksum INTEGER, -- of all the others; rows of format 1 have none
        algorithm TEXT NOT NULL,
        auth_data TEXT NOT NULL,
        PRIMARY KEY (user_pk, version)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO versions_2
        SELECT user_pk, version, key_set_pk, etag, count,
            coalesce((SELECT sum(octet_length(session_data)) FROM keys
                WHERE keys.key_set_pk = versions.key_set_pk), 0),
            deleted_at, auth_data_since, NULL, algorithm, auth_data
        FROM versions;
    DROP TABLE versions;
    ALTER TABLE versions_2 RENAME TO versions;

    ALTER TABLE key_sets ADD COLUMN bytes INTEGER; -- when it was detached
    ALTER TABLE key_sets ADD COLUMN end_age INTEGER; -- of the service, when it was detached
    UPDATE key_sets SET end_age = 0, bytes = coalesce((SELECT sum(octet_length(session_data))
            FROM keys WHERE keys.key_set_pk = key_sets.key_set_pk), 0)
        WHERE detached_at IS NOT NULL;
    DROP INDEX key_sets_by_end;
    CREATE INDEX key_sets_by_end ON key_sets (end_age) WHERE end_age IS NOT NULL;

    -- A set that an operator brought back was shown before, from then until then.
    CREATE TABLE past_attachments (
        key_set_pk INTEGER NOT NULL,
        attached_at INTEGER NOT NULL,
        detached_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX past_attachments_by_key_set ON past_attachments (key_set_pk);

    ALTER TABLE keys ADD COLUMN checksum INTEGER;

    ALTER TABLE key_history ADD COLUMN checksum INTEGER;
    ALTER TABLE key_history ADD COLUMN end_age INTEGER NOT NULL DEFAULT 0;
    DROP INDEX key_history_by_end;
    CREATE INDEX key_history_by_end ON key_history (end_age);

    ALTER TABLE auth_data_history ADD COLUMN checksum INTEGER;
    ALTER TABLE auth_data_history ADD COLUMN end_age INTEGER NOT NULL DEFAULT 0;
    DROP INDEX auth_data_history_by_end;
    CREATE INDEX auth_data_history_by_end ON auth_data_history (end_age);

    ALTER TABLE journal ADD COLUMN age INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX journal_by_age ON journal (age);

    UPDATE users SET
        kept_keys =
            (SELECT count(*) FROM keys JOIN key_sets USING (key_set_pk)
                WHERE key_sets.user_pk = users.user_pk AND detached_at IS NOT NULL)
            + (SELECT count(*) FROM key_history JOIN key_sets USING (key_set_pk)
                WHERE key_sets.user_pk = users.user_pk),
        kept_bytes =
            (SELECT coalesce(sum(key_sets.bytes), 0) FROM key_sets
                WHERE key_sets.user_pk = users.user_pk AND detached_at IS NOT NULL)
            + (SELECT coalesce(sum(octet_length(session_data)), 0)
                FROM key_history JOIN key_sets USING (key_set_pk)
                WHERE key_sets.user_pk = users.user_pk)
            + (SELECT coalesce(sum(octet_length(auth_data)), 0) FROM auth_data_history
                WHERE auth_data_history.user_pk = users.user_pk)
            + (SELECT 128 * count(*) FROM journal WHERE journal.user_pk = users.user_pk);
    ",
];

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("another strongroom is running on {}", .0.display())]
    InUse(PathBuf),
    /// The directory or a file in it can't be made, read or written.
    #[error("can't read and write {}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no database of ours.
    #[error("there is no strongroom database in {}", .0.display())]
    Missing(PathBuf),
    /// It has an older format, and a server of an older release has it open.
    #[error("a server of an older release is running on {}", .0.display())]
    Older(PathBuf),
    /// A process that was killed has left a log, and its database is no longer there.
    #[error("{} is not the database that {} belongs to", .database.display(), .log.display())]
    Orphan {
        /// The database that is there now, or is not.
        database: PathBuf,
        /// SQLite's log.
        log: PathBuf,
    },
    /// A process that was killed has left a log, and the disk does not take it.
    #[error("what {} holds can't be brought to the disk", .path.display())]
    Log {
        /// SQLite's log.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A later release has written it.
    #[error("{} has format {found}, and this strongroom knows formats up to {known}", .path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// A database of something else.
    #[error("{} is not a database of strongroom", .0.display())]
    Foreign(PathBuf),
    /// The linked SQLite has a bug that can corrupt files.
    #[error("SQLite {0} is too old; 3.51.3 or newer is needed")]
    OldSqlite(&'static str),
    /// SQLite could not open it.
    #[error("can't open {}", .path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

/// A data directory that is ours alone while this lives.
#[derive(Debug)]
pub(super) struct Directory {
    database: PathBuf,
    log: PathBuf,
    identity: Identity,
    condition: Condition,
    anchor: Mutex<Option<Connection>>,
    _lock: File,
}

impl Directory {
    /// Makes the directory where it is missing, locks it, and brings the database up to date.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        if rusqlite::version_number() < SQLITE_VERSION_MIN {
            return Err(OpenError::OldSqlite(rusqlite::version()));
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))?;
        let lock_path = path.join(LOCK_NAME);
        let lock = private_file(&lock_path).map_err(io(&lock_path))?;
        try_lock(&lock).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse(path.to_owned()),
            TryLockError::Error(source) => io(&lock_path)(source),
        })?;
        let [database, log, index] = FILE_NAMES.map(|name| path.join(name));
        if identity::is_orphan(&lock, &database, &log).map_err(io(&log))? {
            return Err(OpenError::Orphan { database, log });
        }
        // SQLite gives its log and its shared memory the mode of this file.
        private_file(&database).map_err(io(&database))?;
        let sqlite = |source| OpenError::Database { path: database.clone(), source };
        let mut anchor = connect(&database, ANCHOR_CACHE_KIB).map_err(sqlite)?;
        let found = format(&database, &anchor)?;
        // Before anything is written behind what it ends with.
        let renewed = recovery::renew_log(&anchor, &log).map_err(sqlite)?;
        renewed.map_err(|source| OpenError::Log { path: log.clone(), source })?;
        if found < FORMAT {
            migrate(&mut anchor, found).map_err(sqlite)?;
        }
        // The names of new files must survive a power cut as well.
        File::open(path).and_then(|directory| directory.sync_all()).map_err(io(path))?;
        let identity = Identity::of([&database, &log, &index]).map_err(io(path))?;
        // It only serves to notice a mistake, and a disk that is full is no reason to stay away.
        let _ = identity::record(&lock, &database, &log);
        let (condition, anchor) = (Condition::new(), Mutex::new(Some(anchor)));
        Ok(Self { database, log, identity, condition, anchor, _lock: lock })
    }

    /// A connection that writes, with a page cache of `cache_kib` KiB.
    pub(super) fn writer(&self, cache_kib: u32) -> StoreResult<Connection> {
        // Opened with the log of another database, this one would be damaged, or show its contents.
        self.check_identity()?;
        let connection = connect(&self.database, cache_kib)?;
        self.check_identity()?;
        Ok(connection)
    }

    /// A connection that only reads.
    pub(super) fn reader(&self, cache_kib: u32) -> StoreResult<Connection> {
        let connection = self.writer(cache_kib)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }

    /// The connection that moves the log. It is the last to be closed, for SQLite's index of the log
    /// lives only as long as some connection does; `None` where it could not be opened again.
    pub(super) fn anchor(&self) -> MutexGuard<'_, Option<Connection>> {
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens what [`Directory::anchor`] is to hold.
    pub(super) fn new_anchor(&self) -> StoreResult<Connection> {
        self.writer(ANCHOR_CACHE_KIB)
    }

    /// What is wrong with the files, and what may go on.
    pub(super) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// SQLite's log, which holds what is not in the database yet.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the files are still where they were opened.
    pub(super) fn check_identity(&self) -> StoreResult<()> {
        self.identity.check().map_err(|moved| Error::Database(Box::new(moved)))
    }

    /// Whether the database is there still, and its log is not. Then what the log holds is not lost if
    /// it is moved.
    pub(super) fn is_only_log_gone(&self) -> bool {
        self.identity.check().is_err_and(|moved| moved.path != self.database)
    }
}

/// An operator's command holds the lock for a moment, so it is tried for some moments.
fn try_lock(lock: &File) -> Result<(), TryLockError> {
    let begin = Instant::now();
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if begin.elapsed() < LOCK_TIMEOUT => {
                thread::sleep(LOCK_PAUSE);
            }
            locked => return locked,
        }
    }
}

impl Drop for Directory {
    /// The last connection moves the log into the database and removes it, if that can be trusted.
    fn drop(&mut self) {
        if self.condition.may_sync()
            && let Some(anchor) = &*self.anchor()
        {
            // Where it fails the log remains, and nothing is lost.
            let _ = anchor.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
        }
    }
}

/// Writes a page that says what it said before: whether the database takes writes.
pub(super) fn touch(database: &Connection) -> StoreResult<()> {
    Ok(database.pragma_update(None, "user_version", FORMAT)?)
}

/// Whether the database still has the format that this release writes.
pub(super) fn has_our_format(database: &Connection) -> StoreResult<bool> {
    let found: i64 =
        database.prepare_cached("PRAGMA user_version")?.query_one([], |row| row.get(0))?;
    Ok(found == FORMAT)
}

/// Each connection is used by one thread at a time, so SQLite's own mutexes are off.
pub(super) fn connect(database: &Path, cache_kib: u32) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    // A plan that depends on no value need not be made anew with each: a poll costs a third.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // What moves the log must know how the last sync ended: it is done where we see that it fails.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "page_size", 8192)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // What is deleted is overwritten: a purge leaves nothing behind in the file.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The format of a database that is ours, or about to be.
pub(super) fn format(path: &Path, connection: &Connection) -> Result<i64, OpenError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let sqlite = |source| OpenError::Database { path: path.to_owned(), source };
    let found = pragma("user_version").map_err(sqlite)?;
    let application_id = pragma("application_id").map_err(sqlite)?;
    let is_empty = pragma("schema_version").map_err(sqlite)? == 0;
    if application_id != i64::from(APPLICATION_ID) && !is_empty {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    if found > FORMAT {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT });
    }
    Ok(found)
}

fn migrate(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

/// Opens or makes a file that only its owner may read.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
