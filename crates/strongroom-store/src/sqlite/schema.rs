//! The file: where it lies, how it is opened, and what its tables mean.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

/// The database's name in the data directory.
const FILE_NAME: &str = "strongroom.db";
/// Locked while a process has the database open.
const LOCK_NAME: &str = "strongroom.lock";
/// "Strg", in the header of the file, so that `file` and we know whose it is.
const APPLICATION_ID: i32 = 0x5374_7267;
/// Below it, a rare race between a writer and a checkpoint could corrupt a file in WAL mode.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Pages of 8 KiB: 64 MiB of log before the checkpoint thread moves it into the file.
pub(super) const CHECKPOINT_PAGES: i32 = 8 * 1024;

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
    lock: File,
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
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => OpenError::InUse(path.to_owned()),
            std::fs::TryLockError::Error(source) => io(&lock_path)(source),
        })?;
        let database = path.join(FILE_NAME);
        // SQLite gives its log and its shared memory the mode of this file.
        private_file(&database).map_err(io(&database))?;
        let this = Self { database, lock };
        this.migrate()?;
        // The names of new files must survive a power cut as well.
        File::open(path).and_then(|directory| directory.sync_all()).map_err(io(path))?;
        Ok(this)
    }

    /// A directory in which a server may be running. It must exist, and is locked only while a database
    /// of an older release is brought up to date.
    pub(super) fn attach(path: &Path) -> Result<Self, OpenError> {
        let database = path.join(FILE_NAME);
        if !database.is_file() {
            return Err(OpenError::Missing(path.to_owned()));
        }
        let io = |source| OpenError::Io { path: path.join(LOCK_NAME), source };
        let this = Self { database, lock: private_file(&path.join(LOCK_NAME)).map_err(io)? };
        if this.lock.try_lock().is_ok() {
            this.migrate()?;
            this.lock.unlock().map_err(io)?;
        } else if !this.is_current()? {
            return Err(OpenError::Older(path.to_owned()));
        }
        Ok(this)
    }

    /// Whether a server is running on it.
    pub(super) fn is_locked(&self) -> bool {
        match self.lock.try_lock() {
            Ok(()) => {
                // Closing the file would do it as well.
                let _ = self.lock.unlock();
                false
            }
            Err(_) => true,
        }
    }

    /// The bytes of the database and its log.
    pub(super) fn disk_bytes(&self) -> u64 {
        let log = self.database.with_extension("db-wal");
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        bytes(&self.database) + bytes(&log)
    }

    /// A connection that writes, with a page cache of `cache_kib` KiB.
    pub(super) fn writer(&self, cache_kib: u32) -> rusqlite::Result<Connection> {
        self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE, cache_kib)
    }

    /// A connection that only reads.
    pub(super) fn reader(&self, cache_kib: u32) -> rusqlite::Result<Connection> {
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE, cache_kib)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }

    /// Each connection is used by one thread at a time, so SQLite's own mutexes are off.
    fn connect(&self, flags: OpenFlags, cache_kib: u32) -> rusqlite::Result<Connection> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.database, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        // A plan that depends on no value need not be made anew with each: a poll costs a third.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.pragma_update(None, "page_size", 8192)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
        // The writer's backstop: it checkpoints by itself when the thread does not keep up.
        connection.pragma_update(None, "wal_autocheckpoint", 2 * CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "trusted_schema", false)?;
        // What is deleted is overwritten: a purge leaves nothing behind in the file.
        connection.pragma_update(None, "secure_delete", true)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }

    /// Whether the database has the format that is known here.
    fn is_current(&self) -> Result<bool, OpenError> {
        let path = &self.database;
        let database = |source| OpenError::Database { path: path.clone(), source };
        let connection = self.reader(64).map_err(database)?;
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(database)?;
        let known = MIGRATIONS.len() as i64;
        if found > known {
            return Err(OpenError::Newer { path: path.clone(), found, known });
        }
        Ok(found == known)
    }

    fn migrate(&self) -> Result<(), OpenError> {
        let path = &self.database;
        let database = |source| OpenError::Database { path: path.clone(), source };
        let mut connection = self.writer(1024).map_err(database)?;
        let transaction = connection.transaction().map_err(database)?;
        let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let found = pragma("user_version").map_err(database)?;
        let application_id = pragma("application_id").map_err(database)?;
        let is_empty = pragma("schema_version").map_err(database)? == 0;
        let known = MIGRATIONS.len() as i64;
        if application_id != i64::from(APPLICATION_ID) && !is_empty {
            return Err(OpenError::Foreign(path.clone()));
        }
        if found > known {
            return Err(OpenError::Newer { path: path.clone(), found, known });
        }
        if found < known {
            for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
                transaction.execute_batch(migration).map_err(database)?;
            }
            transaction
                .pragma_update(None, "application_id", APPLICATION_ID)
                .and_then(|()| transaction.pragma_update(None, "user_version", known))
                .and_then(|()| transaction.commit())
                .map_err(database)?;
        }
        Ok(())
    }
}

/// Opens or makes a file that only its owner may read.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
