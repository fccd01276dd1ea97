//! What keeps a store from its work, in words for whoever operates it.

/// What is wrong where the data lie.
///
/// The store logs it once when it begins and once when it is over, not with every request.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Trouble {
    /// There is no space for what is to be written.
    #[error("the disk is full")]
    DiskFull,
    /// It can't be read, or written, for another reason.
    #[error("the disk fails")]
    DiskFails,
    /// The system does not let this process write.
    #[error("the database can't be written to")]
    ReadOnly,
    /// What the system says it has written need not be on the disk.
    #[error("a sync failed")]
    SyncFailed,
    /// Another program has locked the database and does not let go.
    #[error("another program locks the database")]
    Locked,
    /// What is written would go into a file that nobody finds again.
    #[error("the database was moved, removed or replaced")]
    Moved,
    /// The database contradicts itself.
    #[error("the database is damaged")]
    Damaged,
    /// Another release, or another program, has changed it.
    #[error("the database has another format")]
    OtherFormat,
    /// Something else; the log has the details.
    #[error("the database failed")]
    Failed,
}

impl Trouble {
    /// What to do about it.
    pub const fn help(self) -> &'static str {
        match self {
            Self::DiskFull => "free some space; writing then goes on by itself",
            Self::DiskFails => {
                "see what the system says about the disk; writing goes on by itself once it works"
            }
            Self::ReadOnly => {
                "let strongroom write to its data directory; writing then goes on by itself"
            }
            Self::SyncFailed => {
                "see what the system says about the disk, and end other programs that have the \
                 database open; writing goes on by itself once it is on the disk"
            }
            Self::Locked => "end the other program; writing then goes on by itself",
            Self::Moved => {
                "put the files back, or stop strongroom, put its data directory in order, and start \
                 it again; what was written last may be in the running process only"
            }
            Self::Damaged => {
                "stop strongroom, keep a copy of its data directory, and put a sound copy in its \
                 place; until then nothing is written, and what is intact is read"
            }
            Self::OtherFormat => {
                "start the release that the database belongs to; until then nothing is written"
            }
            Self::Failed => "see the log",
        }
    }
}
