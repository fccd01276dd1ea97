//! Connections for reading, lent to one reader at a time.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::Connection;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::schema::Directory;
use crate::{
    store::{Error, Result},
    trouble::Trouble,
};

/// Pages that are read at once. Each is bounded, and its reader then gives way.
const PAGES_AT_ONCE: usize = 4;
/// Small: the system's page cache holds what is read often.
const CACHE_KIB: u32 = 1024;
/// How long whoever closes them waits for those that are lent: far longer than a page takes.
const RETURN_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections. There are as many as were ever needed at once: one for each thread of the
/// runtime, and those for the pages.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    directory: Arc<Directory>,
    places: Arc<Semaphore>,
    pool: Arc<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    lent: usize,
    /// None is lent while the file is opened anew.
    is_closed: bool,
}

impl Readers {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        let places = Arc::new(Semaphore::new(PAGES_AT_ONCE));
        let this = Self { directory, places, pool: Arc::default() };
        // One from the beginning: it reads on when no other can be opened. A failure shows again.
        let _ = this.look_up(|_| Ok(()));
        this
    }

    /// Looks up a single row or two, on the calling thread.
    ///
    /// That blocks it, for some microseconds, or for a few reads of the disk where nothing is cached.
    /// Handing it to another thread costs ten times as much, and a client waits for it with every
    /// message that it can't read.
    pub(super) fn look_up<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let mut lent = self.pool.lend()?;
        self.look_up_with(&mut lent.connection, read).map_err(|error| {
            if matches!(error, Error::Database(_)) {
                // A new connection is opened instead.
                lent.connection = None;
            }
            self.directory.condition().read_failed(error)
        })
    }

    fn look_up_with<T>(
        &self,
        lent: &mut Option<Connection>,
        read: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let connection = match lent {
            Some(connection) => connection,
            None => lent.insert(self.directory.reader(CACHE_KIB)?),
        };
        // One consistent state, however many statements.
        connection.prepare_cached("BEGIN")?.execute([])?;
        let result = read(connection);
        connection.prepare_cached("ROLLBACK")?.execute([])?;
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

    /// Does something while no connection for reading is open. Whoever wants to read meanwhile is told
    /// to come again.
    pub(super) fn without_any<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let _closed = self.pool.close()?;
        act()
    }
}

impl Pool {
    fn lend(&self) -> Result<Lent<'_>> {
        let mut state = self.state();
        if state.is_closed {
            return Err(Error::Unavailable(Trouble::SyncFailed));
        }
        state.lent += 1;
        Ok(Lent { connection: state.idle.pop(), pool: self })
    }

    fn close(&self) -> Result<Closed<'_>> {
        let closed = Closed(self);
        let mut state = self.state();
        state.is_closed = true;
        state.idle.clear();
        let is_lent = |state: &mut State| state.lent > 0;
        let waited = self.returned.wait_timeout_while(state, RETURN_TIMEOUT, is_lent);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if timeout.timed_out() {
            return Err(Error::Unavailable(Trouble::SyncFailed));
        }
        Ok(closed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on loan, or a place for one that is to be opened.
struct Lent<'a> {
    connection: Option<Connection>,
    pool: &'a Pool,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.lent -= 1;
        if let Some(connection) = self.connection.take()
            && !state.is_closed
        {
            state.idle.push(connection);
        }
        self.pool.returned.notify_all();
    }
}

/// No connection is lent while this lives.
struct Closed<'a>(&'a Pool);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.state().is_closed = false;
    }
}
