//! Connections for reading, lent to one reader at a time.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::schema::Directory;
use crate::store::{Error, Result};

/// Connections, and so readers at once. Each reads a bounded page and gives way.
const CONNECTIONS: usize = 4;
/// Small: the system's page cache holds what is read often.
const CACHE_KIB: u32 = 1024;

#[derive(Debug)]
pub(super) struct Readers {
    directory: Arc<Directory>,
    places: Semaphore,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        let places = Semaphore::new(CONNECTIONS);
        Self { directory, places, idle: Arc::default() }
    }

    /// Runs `read` on one consistent state of the database.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _place =
            self.places.acquire().await.map_err(|closed| Error::Database(Box::new(closed)))?;
        let (directory, idle) = (Arc::clone(&self.directory), Arc::clone(&self.idle));
        let task = spawn_blocking(move || {
            let lent = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = lent.map_or_else(|| directory.reader(CACHE_KIB), Ok)?;
            let transaction = connection.unchecked_transaction()?;
            let result = read(&transaction);
            drop(transaction);
            // After a failure of the database a new connection is opened instead.
            if !matches!(result, Err(Error::Database(_))) {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            result
        });
        task.await.map_err(|panicked| Error::Database(Box::new(panicked)))?
    }
}
