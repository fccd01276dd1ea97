//! A data directory in which a server may be running.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use super::super::schema::{
    Directory, FILE_NAMES, FORMAT, LOCK_NAME, OpenError, connect, format, private_file,
};

/// Pages only pass through the connection.
const CACHE_KIB: u32 = 8 * 1024;

/// It is not locked: the server keeps it, or may take it.
#[derive(Debug)]
pub(super) struct Attached {
    path: PathBuf,
    files: [PathBuf; 3],
    lock: File,
}

impl Attached {
    pub(super) fn open(path: &Path) -> Result<(Self, Connection), OpenError> {
        let files = FILE_NAMES.map(|name| path.join(name));
        let [database, _, _] = &files;
        if !database.is_file() {
            return Err(OpenError::Missing(path.to_owned()));
        }
        let lock_path = path.join(LOCK_NAME);
        let io = |source| OpenError::Io { path: lock_path.clone(), source };
        let lock = private_file(&lock_path).map_err(io)?;
        let this = Self { path: path.to_owned(), files, lock };
        // What a killed server has left is seen to first.
        this.tidy()?;
        let [database, _, _] = &this.files;
        let sqlite = |source| OpenError::Database { path: database.clone(), source };
        let connection = connect(database, CACHE_KIB).map_err(sqlite)?;
        if format(database, &connection)? < FORMAT {
            return Err(OpenError::Older(path.to_owned()));
        }
        Ok((this, connection))
    }

    /// Where no server runs, does what one does at its start and its end: the log is moved into the
    /// database, and nothing of it is left.
    fn tidy(&self) -> Result<(), OpenError> {
        if self.is_served() {
            return Ok(());
        }
        match Directory::open(&self.path) {
            Ok(ours) => drop(ours),
            // One has started just now.
            Err(OpenError::InUse(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether a server is running on it.
    pub(super) fn is_served(&self) -> bool {
        let is_free = self.lock.try_lock().is_ok();
        if is_free {
            // Fails where nothing is locked.
            let _ = self.lock.unlock();
        }
        !is_free
    }

    /// The bytes of the database and its log.
    pub(super) fn disk_bytes(&self) -> u64 {
        let [database, log, _] = &self.files;
        let bytes = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        bytes(database) + bytes(log)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // What can't be tidied stays in the log, where the next one finds it.
        let _ = self.tidy();
    }
}
