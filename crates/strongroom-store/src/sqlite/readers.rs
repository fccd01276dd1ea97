//! Connections for reading, lent to one reader at a time.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::schema::Directory;
use crate::store::{Error, Result};

/// Pages that are read at once. Each is bounded, and its reader then gives way.
const PAGES_AT_ONCE: usize = 4;
/// Small: the system's page cache holds what is read often.
const CACHE_KIB: u32 = 1024;

/// The connections. There are as many as were ever needed at once: one for each thread of the
/// runtime, and those for the pages.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    directory: Arc<Directory>,
    places: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        Self { directory, places: Arc::new(Semaphore::new(PAGES_AT_ONCE)), idle: Arc::default() }
    }

    /// Looks up a single row or two, on the calling thread.
    ///
    /// That blocks it, for some microseconds, or for a few reads of the disk where nothing is cached.
    /// Handing it to another thread costs ten times as much, and a client waits for it with every
    /// message that it can't read.
    pub(super) fn look_up<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let lent = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = lent.map_or_else(|| self.directory.reader(CACHE_KIB), Ok)?;
        // One consistent state, however many statements.
        connection.prepare_cached("BEGIN")?.execute([])?;
        let result = read(&connection);
        connection.prepare_cached("ROLLBACK")?.execute([])?;
        // After a failure of the database a new connection is opened instead.
        if !matches!(result, Err(Error::Database(_))) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        result
    }

    /// Reads many rows, away from the threads that serve everybody.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _place =
            self.places.acquire().await.map_err(|closed| Error::Database(Box::new(closed)))?;
        let this = self.clone();
        let task = spawn_blocking(move || this.look_up(read));
        task.await.map_err(|panicked| Error::Database(Box::new(panicked)))?
    }
}
