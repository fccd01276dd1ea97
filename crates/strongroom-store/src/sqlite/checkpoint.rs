//! Moves SQLite's log into the file, beside the writer.
//!
//! Left to itself SQLite does it in the commit that finds the log too long, and that one waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::schema::Directory;
use crate::store::Result;

/// Pages of 8 KiB: 64 MiB of log before it is moved into the file.
const LONG_PAGES: i32 = 8 * 1024;
/// Where the thread does not keep up, the writer moves it itself.
const TOO_LONG_PAGES: i32 = 2 * LONG_PAGES;
/// How often the log's length is looked at while something is written. The fastest writer adds a
/// tenth of what makes it long in this time.
const PAUSE: Duration = Duration::from_millis(50);
/// When nothing was written for this long, a shorter log is moved as well: whoever reads finds a
/// page in the file in half the time.
const QUIET: Duration = Duration::from_secs(1);
/// 4 MiB: what single keys leave behind is not worth the syncs.
const QUIET_PAGES: i32 = 512;
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Checkpoints {
    thread: Option<JoinHandle<()>>,
    is_stopping: Arc<AtomicBool>,
}

impl Checkpoints {
    pub(super) fn start(directory: &Arc<Directory>) -> Self {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (directory, stop) = (Arc::clone(directory), Arc::clone(&is_stopping));
        let thread = thread::spawn(move || run(&directory, &stop));
        Self { thread: Some(thread), is_stopping }
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

/// How long the log is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Log {
    /// Pages in it.
    pub(super) pages: i32,
    /// How many of them are in the database already.
    pub(super) moved: i32,
}

impl Log {
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        connection
            .prepare_cached("PRAGMA wal_checkpoint(NOOP)")?
            .query_one([], |row| Ok(Self { pages: row.get(1)?, moved: row.get(2)? }))
    }
}

/// The writer's part: it waits for the log where that has become too long.
pub(super) fn keep_up(directory: &Directory, connection: &Connection) {
    if let Err(error) = move_if(directory, connection, |_| TOO_LONG_PAGES) {
        directory.condition().checkpoint_failed(&error);
    }
}

fn run(directory: &Directory, is_stopping: &AtomicBool) {
    while !is_stopping.load(Ordering::Relaxed) {
        thread::park();
        while let Err(error) = follow(directory, is_stopping) {
            directory.condition().checkpoint_failed(&error);
            rest(is_stopping);
        }
    }
}

/// After a failure, whatever is written meanwhile.
fn rest(is_stopping: &AtomicBool) {
    let begin = Instant::now();
    while let Some(left) = AGAIN.checked_sub(begin.elapsed())
        && !is_stopping.load(Ordering::Relaxed)
    {
        thread::park_timeout(left);
    }
}

/// Keeps the log short until nothing more is written.
fn follow(directory: &Directory, is_stopping: &AtomicBool) -> Result<()> {
    let (mut length, mut quiet) = (0, Duration::ZERO);
    while quiet < QUIET && !is_stopping.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
        let anchor = directory.anchor();
        // Without one the file is being opened anew.
        let Some(connection) = &*anchor else { continue };
        move_if(directory, connection, |log| {
            quiet = if log.pages == length { quiet + PAUSE } else { Duration::ZERO };
            length = log.pages;
            if directory.is_only_log_gone() || directory.condition().wants_short_log() {
                1
            } else if quiet < QUIET {
                LONG_PAGES
            } else {
                QUIET_PAGES
            }
        })?;
    }
    Ok(())
}

/// Moves the log if so many pages of it are not in the database yet.
fn move_if(
    directory: &Directory,
    connection: &Connection,
    pages_min: impl FnOnce(Log) -> i32,
) -> Result<()> {
    let log = Log::of(connection)?;
    let is_due = log.pages - log.moved >= pages_min(log);
    if is_due && directory.condition().may_sync() {
        connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_one([], |_| Ok(()))?;
        directory.condition().checkpoint_succeeded();
    }
    Ok(())
}
