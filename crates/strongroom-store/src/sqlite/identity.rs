//! Whether the files that are open are still the ones that their names stand for.
//!
//! A file that is removed, or that another one is moved over, lives on for who has it open: SQLite
//! would go on, and all that it wrote would be gone with the process.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A record is two lines of two numbers.
const RECORD_BYTES_MAX: u64 = 1024;

/// The database and what belongs to it, as they were when they were opened.
#[derive(Debug)]
pub(super) struct Identity {
    files: Vec<(PathBuf, Inode)>,
}

/// Device and number: no two files have the same while one is open.
type Inode = (u64, u64);

/// A file is not the one that was opened, or can't be looked at.
#[derive(Debug, thiserror::Error)]
#[error("{} is not the file that was opened", .path.display())]
pub(super) struct Moved {
    /// The first of them.
    pub(super) path: PathBuf,
    /// Why it can't be looked at.
    #[source]
    pub(super) source: Option<io::Error>,
}

impl Identity {
    pub(super) fn of(paths: [&Path; 3]) -> io::Result<Self> {
        let file = |path: &Path| Ok((path.to_owned(), inode(path)?));
        Ok(Self { files: paths.into_iter().map(file).collect::<io::Result<_>>()? })
    }

    /// Costs a microsecond: a look at each file's name.
    pub(super) fn check(&self) -> Result<(), Moved> {
        for (path, opened) in &self.files {
            let source = match inode(path) {
                Ok(found) if found == *opened => continue,
                Ok(_) => None,
                Err(error) => Some(error),
            };
            return Err(Moved { path: path.clone(), source });
        }
        Ok(())
    }
}

fn inode(path: &Path) -> io::Result<Inode> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Writes down which database the log belongs to, for [`is_orphan`].
pub(super) fn record(record: &File, database: &Path, log: &Path) -> io::Result<()> {
    let [database, log] = [mark(database)?, mark(log)?].map(Option::unwrap_or_default);
    record.set_len(0)?;
    record.write_all_at(format!("{database}\n{log}\n").as_bytes(), 0)
}

/// Whether the log was left behind by a process that had another database open.
///
/// A log does not say whose it is. SQLite would write it into a copy of last week, if that is what was
/// put in the place of the database after a kill; and would delete it where there is none.
pub(super) fn is_orphan(record: &File, database: &Path, log: &Path) -> io::Result<bool> {
    if fs::metadata(log).map_or(0, |log| log.len()) == 0 {
        return Ok(false);
    }
    let Some(database) = mark(database)? else { return Ok(true) };
    let mut recorded = String::new();
    record.take(RECORD_BYTES_MAX).read_to_string(&mut recorded)?;
    let mut recorded = recorded.lines();
    let (Some(database_then), Some(log_then)) = (recorded.next(), recorded.next()) else {
        return Ok(false);
    };
    // Where both are others, they came here together.
    Ok(mark(log)?.as_deref() == Some(log_then) && database != database_then)
}

/// What tells a file from every other of the same directory, even after a restart of the machine. A
/// number alone is given again when its file is gone.
fn mark(path: &Path) -> io::Result<Option<String>> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let created = found.created().unwrap_or(SystemTime::UNIX_EPOCH);
    let created = created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Some(format!("{} {}", found.ino(), created.as_nanos())))
}
