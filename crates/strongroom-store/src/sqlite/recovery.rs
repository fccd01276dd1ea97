//! What makes the file trustworthy again after a sync that failed.
//!
//! Linux tells of a page that it could not write once, at the next sync, and takes it for written from
//! then on (PostgreSQL learned it in 2018): another sync succeeds, and proves nothing. What is then in
//! the system's memory need not be on the disk, and two things in SQLite rely on that it is:
//!
//! - *The log.* A transaction whose sync failed is complete in it, as far as memory tells. Whoever next
//!   reads the log from its beginning takes it for committed and writes behind it; after a power cut the
//!   log would end before it, and what was acknowledged since would be lost with it.
//! - *The database.* A checkpoint that can't move the whole log does not sync. The next one moves the
//!   rest and syncs. If that fails, a third one syncs with success, and SQLite writes over the log while
//!   the disk lacks what the first one moved.
//!
//! So after the first sync that fails nothing is synced again, and nothing moved: not even by SQLite
//! itself, which would do it when the last connection is closed or in the commit that finds the log too
//! long (both are turned off in `schema.rs`). All connections are closed. The next one reads the log
//! from its beginning, by which none of it counts as moved: the next checkpoint writes every page anew.
//! And the log is written over with what it holds, so that the sync that follows speaks of all of it.
//! The transaction in question is then there as a whole, or not at all; its requester was told 503.
//!
//! The log of a process that was killed is treated in the same way, since nobody knows how its last
//! sync ended.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use rusqlite::Connection;

use super::{checkpoint::Log, readers::Readers, schema::Directory};
use crate::store::{Error, Result};

/// So much of the log is written over at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// As long as another program has the database open, the index of the log outlives our connections.
#[derive(Debug, thiserror::Error)]
#[error("another program has the database open")]
struct Shared;

/// Opens the file anew. The writer's own connection has been closed by then.
pub(super) fn recover(directory: &Directory, readers: &Readers) -> Result<()> {
    let mut anchor = directory.anchor();
    let connection = readers.without_any(|| {
        *anchor = None;
        directory.new_anchor()
    })?;
    let connection = anchor.insert(connection);
    if Log::of(connection)?.moved > 0 {
        return Err(Error::Database(Box::new(Shared)));
    }
    let renewed = renew_log(connection, directory.log())?;
    renewed.map_err(|error| Error::Database(Box::new(error)))?;
    directory.condition().recovered();
    Ok(())
}

/// Writes the log over with what it holds, if anything, and syncs it.
pub(super) fn renew_log(connection: &Connection, path: &Path) -> rusqlite::Result<io::Result<()>> {
    if Log::of(connection)?.pages == 0 {
        return Ok(Ok(()));
    }
    // Nobody else writes into it meanwhile.
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let renewed = write_over(path);
    connection.execute_batch("ROLLBACK")?;
    Ok(renewed)
}

fn write_over(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    loop {
        let length = file.read_at(&mut piece, offset)?;
        let Some(read @ [_, ..]) = piece.get(..length) else { break };
        file.write_all_at(read, offset)?;
        offset += length as u64;
    }
    file.sync_all()
}
