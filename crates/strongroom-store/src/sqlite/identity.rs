//! Whether the files that are open are still the ones that their names stand for.
//!
//! A file that is removed, or that another one is moved over, lives on for who has it open: SQLite
//! would go on, and all that it wrote would be gone with the process.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

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
