//! Moves SQLite's log into the file, beside the writer.
//!
//! Left to itself SQLite does it in the commit that finds the log too long, and that one waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use rusqlite::Connection;

use super::schema::{CHECKPOINT_PAGES, Directory};

/// How often the log's length is looked at while something is written. The fastest writer adds a
/// tenth of what makes it long in this time.
const PAUSE: Duration = Duration::from_millis(50);
/// When nothing was written for this long, a shorter log is moved as well: whoever reads finds a
/// page in the file in half the time.
const QUIET: Duration = Duration::from_secs(1);
/// 4 MiB: what single keys leave behind is not worth the syncs.
const QUIET_PAGES: i32 = 512;
/// Pages only pass through this connection.
const CACHE_KIB: u32 = 256;

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Checkpoints {
    thread: Option<JoinHandle<()>>,
    is_stopping: Arc<AtomicBool>,
}

impl Checkpoints {
    pub(super) fn start(directory: &Directory) -> rusqlite::Result<Self> {
        let connection = directory.writer(CACHE_KIB)?;
        let is_stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopping);
        let thread = thread::spawn(move || run(&connection, &stop));
        Ok(Self { thread: Some(thread), is_stopping })
    }

    /// To be unparked after each commit.
    pub(super) fn waker(&self) -> Option<Thread> {
        self.thread.as_ref().map(|thread| thread.thread().clone())
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there cost checkpoints, not data.
            let _ = thread.join();
        }
    }
}

fn run(connection: &Connection, is_stopping: &AtomicBool) {
    while !is_stopping.load(Ordering::Relaxed) {
        thread::park();
        if let Err(error) = follow(connection, is_stopping) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a checkpoint failed");
        }
    }
}

/// Keeps the log short until nothing more is written.
fn follow(connection: &Connection, is_stopping: &AtomicBool) -> rusqlite::Result<()> {
    let (mut length, mut quiet) = (0, Duration::ZERO);
    while quiet < QUIET && !is_stopping.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
        // NOOP only tells the pages in the log, and how many of them are in the file already.
        let (log, moved): (i32, i32) = connection
            .prepare_cached("PRAGMA wal_checkpoint(NOOP)")?
            .query_one([], |row| Ok((row.get(1)?, row.get(2)?)))?;
        quiet = if log == length { quiet + PAUSE } else { Duration::ZERO };
        length = log;
        let long = if quiet < QUIET { CHECKPOINT_PAGES } else { QUIET_PAGES };
        if log - moved >= long {
            connection
                .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
                .query_one([], |_| Ok(()))?;
        }
    }
    Ok(())
}
