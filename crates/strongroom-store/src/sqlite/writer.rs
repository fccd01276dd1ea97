//! The one writer: a thread that commits many requests in one transaction.
//!
//! A sync costs as much for one key as for a thousand, so whatever waits in the queue is done
//! together, each further request in a savepoint of its own, and all are told after the commit.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    checkpoint, condition,
    readers::Readers,
    recovery,
    schema::{self, Directory},
};
use crate::{
    store::{Error, Result},
    trouble::Trouble,
};

/// Requests that wait for the writer; a further one waits for a place.
const QUEUE_MAX: usize = 4096;
/// Requests in one transaction.
const BATCH_MAX: usize = 1024;
/// How long a transaction takes in further requests, so that the first one does not wait for ever.
const BATCH_TIME: Duration = Duration::from_millis(20);
/// The writer's page cache.
const CACHE_KIB: u32 = 16 * 1024;
/// How long after a failure the file is opened anew again: that writes the whole log.
const RECOVERY_PAUSE: Duration = Duration::from_secs(1);

/// The thread and the queue to it.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    directory: Arc<Directory>,
}

/// Does a request, and says what is to become of it and whom to tell.
type Work = Box<dyn FnOnce(&Connection) -> Outcome + Send>;

struct Outcome {
    verdict: Verdict,
    reply: Reply,
}

enum Verdict {
    Keep,
    /// The request is refused, and what it did is undone.
    Undo,
    /// The file failed it, and with it everybody in the transaction.
    Fail(Error),
}

type Reply = Box<dyn FnOnce(Commit) + Send>;

/// How a transaction ended; a failure is shared by all requests that were in it.
type Commit = std::result::Result<(), Trouble>;

#[derive(Debug, thiserror::Error)]
#[error("the writer has stopped")]
struct Stopped;

#[derive(Debug, thiserror::Error)]
#[error("a write panicked")]
struct Panicked;

impl Writer {
    /// Starts the thread; it wakes `checkpoints` after each transaction.
    pub(super) fn start(
        directory: &Arc<Directory>,
        readers: Readers,
        checkpoints: Option<Thread>,
    ) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let file = WrittenFile {
            directory: Arc::clone(directory),
            readers,
            connection: None,
            recovery_failed_at: None,
        };
        let thread = thread::spawn(move || run(file, queue, checkpoints.as_ref()));
        Self { queue: Some(sender), thread: Some(thread), directory: Arc::clone(directory) }
    }

    /// Does `work` in a transaction and returns once it is durable. The work is done even if the
    /// caller stops waiting.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let (verdict, result) = match work(connection) {
                Ok(done) => (Verdict::Keep, Ok(done)),
                Err(error) => match condition::trouble(&error) {
                    None => (Verdict::Undo, Err(error)),
                    Some(trouble) => (Verdict::Fail(error), Err(Error::Unavailable(trouble))),
                },
            };
            let reply = Box::new(move |commit: Commit| {
                // Nobody listens if the client hung up.
                let _ = sender.send(commit.map_err(Error::Unavailable).and(result));
            });
            Outcome { verdict, reply }
        });
        let stopped = || Error::Database(Box::new(Stopped));
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(work).await.map_err(|_| stopped())?;
        receiver.await.unwrap_or_else(|_| {
            // It was not even begun.
            let trouble = self.directory.condition().trouble();
            Err(Error::Unavailable(trouble.unwrap_or(Trouble::Failed)))
        })
    }
}

impl Drop for Writer {
    /// What was asked for is written before the file is closed.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It only panics where its requesters have been told so.
            let _ = thread.join();
        }
    }
}

fn run(mut file: WrittenFile, mut queue: mpsc::Receiver<Work>, checkpoints: Option<&Thread>) {
    while let Some(first) = queue.blocking_recv() {
        let mut replies = Vec::new();
        let commit = file.write(first, &mut queue, &mut replies);
        for reply in replies {
            reply(commit);
        }
        if let Some(connection) = &file.connection {
            checkpoint::keep_up(&file.directory, connection);
        }
        if let Some(checkpoints) = checkpoints {
            checkpoints.unpark();
        }
    }
}

/// What the thread has in hand.
struct WrittenFile {
    directory: Arc<Directory>,
    readers: Readers,
    /// Gone after a failure: what it knew is not trusted.
    connection: Option<Connection>,
    recovery_failed_at: Option<Instant>,
}

impl WrittenFile {
    /// One transaction: the first request and those that came in meanwhile.
    fn write(
        &mut self,
        first: Work,
        queue: &mut mpsc::Receiver<Work>,
        replies: &mut Vec<Reply>,
    ) -> Commit {
        let failed = |directory: &Directory, error| directory.condition().write_failed(&error);
        let connection = self.begin().map_err(|error| failed(&self.directory, error))?;
        transaction(&connection, first, queue, replies)
            // What went into a file that nobody finds again is not acknowledged.
            .and_then(|()| self.directory.check_identity())
            .map_err(|error| failed(&self.directory, error))?;
        self.connection = Some(connection);
        Ok(())
    }

    /// A transaction, if there is anything against it.
    fn begin(&mut self) -> Result<Connection> {
        let directory = Arc::clone(&self.directory);
        let condition = directory.condition();
        condition.may_write()?;
        if condition.has_failed_sync() {
            self.recover()?;
        }
        directory.check_identity()?;
        let open = || directory.writer(CACHE_KIB);
        let connection = self.connection.take().map_or_else(open, Ok)?;
        if condition.is_troubled() {
            // Whether that is over is tried with nobody's keys.
            begin(&connection)?;
            schema::touch(&connection)?;
            execute(&connection, "COMMIT")?;
            condition.write_succeeded();
        }
        begin(&connection)?;
        Ok(connection)
    }

    fn recover(&mut self) -> Result<()> {
        self.connection = None;
        let failed_at = self.recovery_failed_at;
        if failed_at.is_some_and(|failed_at| failed_at.elapsed() < RECOVERY_PAUSE) {
            return Err(Error::Unavailable(Trouble::SyncFailed));
        }
        let recovered = recovery::recover(&self.directory, &self.readers);
        self.recovery_failed_at = recovered.is_err().then(Instant::now);
        recovered
    }
}

fn begin(connection: &Connection) -> Result<()> {
    execute(connection, "BEGIN IMMEDIATE")?;
    // Somebody may have put a copy of another release in with `.restore`.
    if schema::has_our_format(connection)? {
        Ok(())
    } else {
        Err(Error::Unavailable(Trouble::OtherFormat))
    }
}

/// The rest of a transaction that has begun.
fn transaction(
    connection: &Connection,
    first: Work,
    queue: &mut mpsc::Receiver<Work>,
    replies: &mut Vec<Reply>,
) -> Result<()> {
    let begin = Instant::now();
    let perform = |work: Work| {
        let done = catch_unwind(AssertUnwindSafe(|| work(connection)));
        done.map_err(|_| Error::Database(Box::new(Panicked)))
    };
    // The first one needs no savepoint, for which SQLite would copy each page before it changes: what
    // is undone with it is its own.
    let Outcome { verdict, reply } = perform(first)?;
    replies.push(reply);
    match verdict {
        Verdict::Keep => {}
        Verdict::Undo => return execute(connection, "ROLLBACK"),
        Verdict::Fail(error) => return Err(error),
    }
    while replies.len() < BATCH_MAX
        && begin.elapsed() < BATCH_TIME
        && let Ok(work) = queue.try_recv()
    {
        execute(connection, "SAVEPOINT request")?;
        let Outcome { verdict, reply } = perform(work)?;
        replies.push(reply);
        match verdict {
            Verdict::Keep => {}
            Verdict::Undo => execute(connection, "ROLLBACK TO request")?,
            Verdict::Fail(error) => return Err(error),
        }
        execute(connection, "RELEASE request")?;
    }
    execute(connection, "COMMIT")
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
