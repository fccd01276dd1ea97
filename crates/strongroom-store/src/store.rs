//! What a store does, and what always holds of it.

use std::time::Duration;

use async_trait::async_trait;
use strongroom_protocol::{
    DeviceId, Etag, NewVersion, Object, RoomId, RoomKey, RoomKeys, SessionId, UserId, Version,
};

use crate::{
    page::{Page, PageSize, Position},
    time::Timestamp,
    trouble::Trouble,
};

/// What a store returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a store refused, or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This user has no backup at all, or none any more.
    #[error("there is no backup")]
    NoBackup,
    /// This user has no backup of this version; it may have been deleted.
    #[error("no backup has this version")]
    NoSuchVersion,
    /// Keys are written only to the current version.
    #[error("the current backup version is {current}")]
    NotCurrent {
        /// The version to write to.
        current: Version,
    },
    /// What a version was created with can't be changed so.
    #[error("{0}")]
    MayNotReplace(&'static str),
    /// The user has as much as a user may have.
    #[error("the user has reached a limit: {0}")]
    OverQuota(Quota),
    /// The key set that was being read has meanwhile been deleted for good.
    #[error("the keys were purged while they were read")]
    Purged,
    /// What is stored contradicts itself; trying again is no use.
    #[error("the stored {what} is damaged")]
    Damaged {
        /// Which part of it.
        what: &'static str,
    },
    /// It can't be done now, and perhaps was done: every operation may be tried again. The store has
    /// logged it when it began.
    #[error("{0}")]
    Unavailable(Trouble),
    /// The database failed, perhaps after it had done it: every operation may be tried again.
    #[error("the database failed")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Who changes something, from which device, and when: what the journal keeps.
#[derive(Clone, Debug)]
pub struct Author {
    /// Whose backup it is.
    pub user_id: UserId,
    /// The device that the access token belongs to, if the homeserver told.
    pub device_id: Option<DeviceId>,
    /// When it was asked for.
    pub at: Timestamp,
}

/// What is known of one backup without looking at its keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backup {
    /// Its id.
    pub version: Version,
    /// What it was created with; only `auth_data` can be replaced.
    pub created: NewVersion,
    /// The state of its keys, as a clock that only rises.
    pub etag: Etag,
    /// How many keys it holds.
    pub count: u64,
}

/// The state of the keys of a backup after a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stored {
    /// The same as before if and only if nothing changed.
    pub etag: Etag,
    /// How many keys the backup holds.
    pub count: u64,
}

/// Which keys of a backup are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// All of them.
    All,
    /// Those of one room.
    Room(RoomId),
    /// The key of one session.
    Session(RoomId, SessionId),
}

/// The keys that a version showed when it was looked at. Reading them goes on undisturbed when the
/// version, or all its keys, are deleted meanwhile.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeySet(pub(crate) i64);

/// How much one user may have. What is kept of deleted and replaced keys counts as well, so that
/// whoever deletes and uploads in a circle does not fill the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quotas {
    /// Keys in all versions.
    pub keys_max: u64,
    /// Bytes of their `session_data`, of replaced `auth_data`, and of the journal.
    pub bytes_max: u64,
    /// Versions, those included that were deleted and can still be brought back.
    pub versions_max: u64,
}

impl Default for Quotas {
    /// Fifty times what the heaviest users have.
    fn default() -> Self {
        Self { keys_max: 5_000_000, bytes_max: 8 << 30, versions_max: 1_000 }
    }
}

/// A limit that a user has reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Quota {
    /// Of keys.
    #[error("{0} keys")]
    Keys(u64),
    /// Of bytes.
    #[error("{0} bytes")]
    Bytes(u64),
    /// Of versions.
    #[error("{0} versions")]
    Versions(u64),
}

/// How long what left the view is kept, measured in time of service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Retention {
    /// Keys, versions and `auth_data`; zero: nothing is kept.
    pub kept: Duration,
    /// Lines of the journal, which stay at least as long as what they tell of.
    pub journal: Duration,
}

/// Time of service that has passed.
///
/// Retention does not trust the clock, which may jump ahead by a year: it counts the time during
/// which somebody kept telling the store, by a clock that only runs forward, that time passes. A
/// server that is off half of the time keeps things for twice as long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tick {
    /// Since the last tick, or since the start; more than the last tick announced does not count.
    pub served: Duration,
    /// No later than this comes the next tick.
    pub next: Duration,
    /// What holds from now on.
    pub retention: Retention,
}

/// How far one step of a purge came.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Purged {
    /// Keys that are now gone for good.
    pub keys: u64,
    /// Whether nothing was left whose time is over.
    pub is_done: bool,
}

/// What is out of view, and what the purge has before it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Outlook {
    /// Keys that are kept.
    pub kept_keys: u64,
    /// Bytes that are kept.
    pub kept_bytes: u64,
    /// Keys whose time is over, and that are removed next.
    pub due_keys: u64,
    /// In what time of service the next becomes due; zero if one is, `None` if nothing is kept.
    pub next_in: Option<Duration>,
}

/// Keeps the backups of any number of users.
///
/// What always holds:
///
/// 1. What is acknowledged survives a power cut.
/// 2. A request is done as a whole or not at all.
/// 3. `count` and `etag` change together with the keys; `etag` rises if and only if keys changed.
/// 4. A version id is given once.
/// 5. Nothing a client does destroys data: what is deleted, replaced or beaten leaves the view, and
///    stays until [`Store::purge`] finds that its [`Retention`] is over.
/// 6. Each request that creates, alters or deletes a version, deletes keys or replaces some leaves
///    one line in the journal.
///
/// A `version` of `None` means the current one: the newest that is not deleted. Every operation may
/// be repeated when it is not known whether it was done.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates a backup, which becomes the current one. Its id and etag come from the clock.
    ///
    /// # Errors
    ///
    /// [`Error::OverQuota`].
    async fn create_version(&self, author: &Author, new: NewVersion) -> Result<Version>;

    /// Looks at one backup.
    ///
    /// # Errors
    ///
    /// [`Error::NoBackup`] if there is no current one, [`Error::NoSuchVersion`].
    async fn version(&self, user_id: &UserId, version: Option<Version>) -> Result<Backup>;

    /// Replaces the `auth_data` of a backup, current or not.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVersion`], [`Error::MayNotReplace`], [`Error::OverQuota`].
    async fn update_version(
        &self,
        author: &Author,
        version: Version,
        new: NewVersion,
    ) -> Result<()>;

    /// Deletes a backup, in constant time; that it is deleted already is no error.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVersion`] if it never existed.
    async fn delete_version(&self, author: &Author, version: Version) -> Result<()>;

    /// Stores each key that is new, or beats the stored one.
    ///
    /// # Errors
    ///
    /// [`Error::NotCurrent`] if the version is another than the current one, or deleted;
    /// [`Error::NoSuchVersion`] if it never existed; [`Error::NoBackup`]; [`Error::OverQuota`].
    async fn put_keys(&self, author: &Author, version: Version, keys: RoomKeys) -> Result<Stored>;

    /// Deletes keys of a backup, current or not; all of them in constant time.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVersion`].
    async fn delete_keys(&self, author: &Author, version: Version, scope: Scope) -> Result<Stored>;

    /// Reads one key, if it is there.
    ///
    /// # Errors
    ///
    /// [`Error::NoBackup`], [`Error::NoSuchVersion`].
    async fn key(
        &self,
        user_id: &UserId,
        version: Option<Version>,
        room_id: &RoomId,
        session_id: &SessionId,
    ) -> Result<Option<RoomKey>>;

    /// Reads the first of the keys that a backup shows now, all or those of one room, in the order of
    /// room and session, no more than `size` says (but one at least). If the page is not full, it is
    /// the last; those behind it are read with [`Store::page`].
    ///
    /// # Errors
    ///
    /// [`Error::NoBackup`], [`Error::NoSuchVersion`].
    async fn first_page(
        &self,
        user_id: &UserId,
        version: Option<Version>,
        room_id: Option<&RoomId>,
        size: PageSize,
    ) -> Result<(KeySet, Page)>;

    /// Reads the keys of a set that follow `after`, as [`Store::first_page`] does.
    ///
    /// # Errors
    ///
    /// [`Error::Purged`]: what was read so far is not the whole.
    async fn page(
        &self,
        key_set: KeySet,
        room_id: Option<&RoomId>,
        after: &Position,
        size: PageSize,
    ) -> Result<Page>;

    /// Takes note that time has passed, by which retention is measured.
    async fn tick(&self, tick: Tick) -> Result<()>;

    /// Removes for good a bounded part of what left the view longer ago than the retention of the
    /// last tick. Called again until it is done, it leaves room for writers in between.
    async fn purge(&self) -> Result<Purged>;

    /// What is kept out of view, and what will be purged next.
    async fn outlook(&self) -> Result<Outlook>;

    /// Whether it can be read, and takes writes: one is made.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`], [`Error::Database`].
    async fn check(&self) -> Result<()>;
}

impl Backup {
    /// Text that was checked when it came in, on its way back out.
    pub(crate) fn stored_object(text: &str, what: &'static str) -> Result<Object> {
        Object::parse(text, usize::MAX).map_err(|_| Error::Damaged { what })
    }
}
