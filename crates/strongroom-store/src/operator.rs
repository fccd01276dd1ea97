//! What an operator sees and does, in words that no engine owns.

use std::time::Duration;

use strongroom_protocol::{DeviceId, UserId, Version};

use crate::{
    store::{Outlook, Retention},
    time::Timestamp,
};

/// What an operator's command comes to.
pub(crate) type Result<T> = std::result::Result<T, OperatorError>;

/// Why an operator's command was not done. Nothing has changed then, except that a purge or a repair
/// that was interrupted has been done in part.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nothing is stored for this user.
    #[error("nothing is stored for {0}")]
    NoSuchUser(UserId),
    /// The user never had this version.
    #[error("this user never had a version {0}")]
    NoSuchVersion(Version),
    /// A version that clients see can't be brought back.
    #[error("version {0} is not deleted")]
    NotDeleted(Version),
    /// What is to be brought back is gone for good, at least in part.
    #[error("version {0} has been purged")]
    Purged(Version),
    /// Something that was there at this time is gone for good.
    #[error("what was there before {purged_until} has been purged in part")]
    TooEarly {
        /// From here on nothing is missing.
        purged_until: Timestamp,
    },
    /// A time that has not come yet.
    #[error("this time has not come yet")]
    InFuture,
    /// Clients changed the backup again and again while it was being done.
    #[error("the user's clients keep changing it")]
    Busy,
    /// A file could not be written.
    #[error("can't write {}", .path.display())]
    Io {
        /// Which one.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A copy is not what was copied; it has been removed.
    #[error("the copy is damaged: {said}")]
    BadCopy {
        /// What is wrong with it.
        said: String,
    },
    /// It was told to stop.
    #[error("interrupted")]
    Interrupted,
    /// The store failed.
    #[error(transparent)]
    Store(crate::store::Error),
}

/// How far something has come: so many done, of so many if that is known.
pub type Progress<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// The whole of a store in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The format of the database.
    pub format: i64,
    /// Bytes of the database and its log on disk.
    pub disk_bytes: u64,
    /// Whether a server is running on it.
    pub is_served: bool,
    /// Users of whom anything is stored.
    pub users: u64,
    /// Versions that clients see.
    pub versions: u64,
    /// Versions that can be brought back.
    pub deleted_versions: u64,
    /// Keys that clients see.
    pub keys: u64,
    /// Bytes of their `session_data`.
    pub bytes: u64,
    /// The newest change.
    pub changed_at: Option<Timestamp>,
    /// What is kept of what was deleted and replaced, and what the purge removes next.
    pub outlook: Outlook,
    /// How long it is kept, as the server was told last.
    pub retention: Retention,
    /// How long the store has been in service, by which retention is measured.
    pub in_service: Duration,
}

/// The order of users in a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SortUsers {
    /// By their ids.
    Name,
    /// Those with the most keys first, kept ones included.
    Keys,
    /// Those with the most bytes first, kept ones included.
    Bytes,
    /// Those whose backup changed last first.
    Recent,
}

/// One user in a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserSummary {
    /// Who.
    pub user_id: UserId,
    /// Versions that clients see.
    pub versions: u64,
    /// Keys that clients see.
    pub keys: u64,
    /// Bytes of their `session_data`.
    pub bytes: u64,
    /// Deleted and replaced keys.
    pub kept_keys: u64,
    /// Bytes of those, of replaced `auth_data`, and of the journal.
    pub kept_bytes: u64,
    /// The newest change.
    pub changed_at: Option<Timestamp>,
    /// A retention of their own.
    pub retention: Option<Duration>,
}

/// All that is known of a user's backups, except the keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserHistory {
    /// The user in a line.
    pub summary: UserSummary,
    /// Before this, something has been purged: the user can't be put back to an earlier time.
    pub purged_until: Option<Timestamp>,
    /// The oldest first.
    pub versions: Vec<VersionHistory>,
}

/// A version, deleted or not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VersionHistory {
    /// Its id.
    pub version: Version,
    /// The algorithm that it was created with.
    pub algorithm: String,
    /// Whether it is the one that keys are written to.
    pub is_current: bool,
    /// When it was deleted, if it is.
    pub deleted: Option<Change>,
    /// Whether nothing is left of it but its id.
    pub is_purged: bool,
    /// The etag that clients see, or saw.
    pub etag: i64,
    /// Keys in view; of a deleted version, those that come back with it.
    pub keys: u64,
    /// Bytes of their `session_data`.
    pub bytes: u64,
    /// Sets of keys that left the view as a whole, the oldest first.
    pub detached: Vec<DetachedKeys>,
    /// Keys that were replaced, or deleted by room or session, by the change with which they went.
    pub replaced: Vec<ReplacedKeys>,
    /// When its `auth_data` was replaced.
    pub auth_data_changes: Vec<Change>,
}

/// A change, as the journal has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// By which operation; `None` if the journal does not reach back so far.
    pub action: Option<String>,
    /// By which device, if the homeserver told.
    pub device_id: Option<DeviceId>,
}

/// Keys that left the view as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DetachedKeys {
    /// Since when they were shown.
    pub since: Timestamp,
    /// How that ended.
    pub until: Change,
    /// How many they are.
    pub keys: u64,
    /// Bytes of their `session_data`.
    pub bytes: u64,
    /// Whether some of them are gone for good.
    pub is_purging: bool,
}

/// Keys that left the view one by one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplacedKeys {
    /// With which change.
    pub change: Change,
    /// How many they are.
    pub keys: u64,
    /// Bytes of their `session_data`.
    pub bytes: u64,
}

/// A line of the journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalLine {
    /// When, who, what.
    pub change: Change,
    /// Which version was changed.
    pub version: Version,
    /// How many keys were replaced, deleted or brought back.
    pub keys: u64,
}

/// What bringing something back does, or would do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Undeleted {
    /// One for each version that is not as it was.
    pub versions: Vec<UndeletedVersion>,
    /// Which version is the current one afterwards.
    pub current: Option<Version>,
}

/// What becomes of one version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UndeletedVersion {
    /// Which one.
    pub version: Version,
    /// What becomes of it.
    pub fate: Fate,
    /// Keys in view before.
    pub keys_before: u64,
    /// Keys in view afterwards.
    pub keys_after: u64,
    /// Whether its `auth_data` is put back.
    pub auth_data: bool,
}

/// What becomes of a version that is not as it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It was deleted, and comes back.
    ComesBack,
    /// It did not exist, or was deleted, at that time, and is put aside.
    IsPutAside,
    /// Its keys or its `auth_data` are put back to what they were.
    IsPutBack,
}

/// What was removed for good, by kinds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Removed {
    /// Versions.
    pub versions: u64,
    /// Keys, those that were kept of deleted and replaced ones included.
    pub keys: u64,
    /// Bytes of their `session_data`.
    pub bytes: u64,
    /// Replaced `auth_data`.
    pub auth_data: u64,
    /// Lines of the journal.
    pub journal_lines: u64,
    /// What is still found of the user in all tables: 0, or a client has come back meanwhile.
    pub left: u64,
    /// Whether the database's log was emptied as well. If not, it holds some of it until the server
    /// has written over it.
    pub is_overwritten: bool,
}

/// A copy of the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// Its size.
    pub bytes: u64,
    /// Users of whom anything is in it.
    pub users: u64,
    /// Versions that clients see.
    pub versions: u64,
    /// Keys that clients see.
    pub keys: u64,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Whom it concerns, if it is one user.
    pub user_id: Option<UserId>,
    /// Which version, if it is one.
    pub version: Option<Version>,
    /// What is wrong.
    pub what: String,
    /// What a repair does about it; `None` if nothing can be done but to go back to a snapshot.
    pub repair: Option<&'static str>,
    /// Whether it has been put right.
    pub is_repaired: bool,
}

/// What a check has read, and what it found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Checked {
    /// Users looked at.
    pub users: u64,
    /// Versions looked at.
    pub versions: u64,
    /// Keys read and compared with their checksums, kept ones included.
    pub keys: u64,
    /// Rows that a release without checksums has written, and that are believed.
    pub without_checksum: u64,
    /// Damaged rows that an earlier repair has put out of view and marked.
    pub marked: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is wrong besides, and too much to be listed.
    pub unlisted: u64,
}
