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

use super::schema::Directory;
use crate::store::{Error, Result};

/// Requests that wait for the writer; a further one waits for a place.
const QUEUE_MAX: usize = 4096;
/// Requests in one transaction.
const BATCH_MAX: usize = 1024;
/// How long a transaction takes in further requests, so that the first one does not wait for ever.
const BATCH_TIME: Duration = Duration::from_millis(20);
/// The writer's page cache.
const CACHE_KIB: u32 = 16 * 1024;

/// The thread and the queue to it.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// Does a request, and says whether it is to be kept and whom to tell of the commit.
type Work = Box<dyn FnOnce(&Connection) -> Outcome + Send>;

struct Outcome {
    is_kept: bool,
    reply: Reply,
}

type Reply = Box<dyn FnOnce(Commit) + Send>;

/// How a transaction ended; a failure is shared by all requests that were in it.
type Commit = std::result::Result<(), Arc<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, thiserror::Error)]
#[error("the writer has stopped")]
struct Stopped;

#[derive(Debug, thiserror::Error)]
#[error("a write panicked")]
struct Panicked;

impl Writer {
    /// Starts the thread; it wakes `checkpoints` after each commit.
    pub(super) fn start(
        directory: &Arc<Directory>,
        checkpoints: Option<Thread>,
    ) -> rusqlite::Result<Self> {
        let connection = directory.writer(CACHE_KIB)?;
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let directory = Arc::clone(directory);
        let thread =
            thread::spawn(move || run(&directory, connection, queue, checkpoints.as_ref()));
        Ok(Self { queue: Some(sender), thread: Some(thread) })
    }

    /// Does `work` in a transaction and returns once it is durable. The work is done even if the
    /// caller stops waiting.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let result = work(connection);
            let is_kept = result.is_ok();
            let reply = Box::new(move |commit: Commit| {
                let failed = |failure| Error::Database(Box::new(failure));
                // Nobody listens if the client hung up.
                let _ = sender.send(commit.map_err(failed).and(result));
            });
            Outcome { is_kept, reply }
        });
        let stopped = || Error::Database(Box::new(Stopped));
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(work).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
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

fn run(
    directory: &Directory,
    connection: Connection,
    mut queue: mpsc::Receiver<Work>,
    checkpoints: Option<&Thread>,
) {
    let mut connection = Some(connection);
    while let Some(first) = queue.blocking_recv() {
        let mut replies = Vec::new();
        // After a failure the file is opened anew: what the old connection knew is not trusted.
        let opened = connection.take().map_or_else(|| directory.writer(CACHE_KIB), Ok);
        let commit = match opened {
            Ok(opened) => {
                let commit = batch(&opened, first, &mut queue, &mut replies);
                if commit.is_ok() {
                    connection = Some(opened);
                }
                commit
            }
            // The work is dropped undone, which its requester sees.
            Err(error) => Err(error.into()),
        };
        let commit: Commit = commit.map_err(Arc::from);
        if let Err(failure) = &commit {
            tracing::error!(error = failure as &dyn std::error::Error, "nothing could be written");
        }
        for reply in replies {
            reply(commit.clone());
        }
        if let Some(checkpoints) = checkpoints {
            checkpoints.unpark();
        }
    }
}

/// One transaction: the first request and those that came in meanwhile.
fn batch(
    connection: &Connection,
    first: Work,
    queue: &mut mpsc::Receiver<Work>,
    replies: &mut Vec<Reply>,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let begin = Instant::now();
    let execute = |sql| connection.prepare_cached(sql)?.execute([]);
    let perform =
        |work: Work| catch_unwind(AssertUnwindSafe(|| work(connection))).map_err(|_| Panicked);
    execute("BEGIN IMMEDIATE")?;
    // The first one needs no savepoint, for which SQLite would copy each page before it changes: what
    // is undone with it is its own.
    let Outcome { is_kept, reply } = perform(first)?;
    replies.push(reply);
    if !is_kept {
        execute("ROLLBACK")?;
        return Ok(());
    }
    while replies.len() < BATCH_MAX
        && begin.elapsed() < BATCH_TIME
        && let Ok(work) = queue.try_recv()
    {
        execute("SAVEPOINT request")?;
        let Outcome { is_kept, reply } = perform(work)?;
        replies.push(reply);
        if !is_kept {
            // Fails where SQLite had to roll back everything, and with it the whole batch.
            execute("ROLLBACK TO request")?;
        }
        execute("RELEASE request")?;
    }
    execute("COMMIT")?;
    Ok(())
}
