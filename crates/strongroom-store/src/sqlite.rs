//! One file of data: SQLite, measured against four other engines and chosen for its record, its
//! tools, and its speed where a person feels it.
//!
//! One thread writes and commits many requests in one transaction; readers have connections of their
//! own and see, in WAL mode, a consistent state without waiting for it; a third thread moves the log
//! into the file.

mod checkpoint;
mod checksum;
mod condition;
mod identity;
mod kept;
mod operator;
mod purge;
mod read;
mod readers;
mod recovery;
mod schema;
mod service;
mod write;
mod writer;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use rusqlite::Connection;
use strongroom_protocol::{NewVersion, RoomId, RoomKey, RoomKeys, SessionId, UserId, Version};

use self::{checkpoint::Checkpoints, readers::Readers, schema::Directory, writer::Writer};
use crate::{
    page::{Page, PageSize, Position},
    store::{
        Author, Backup, Error, KeySet, Outlook, Purged, Quotas, Result, Scope, Store, Stored, Tick,
    },
};

pub use self::{operator::SqliteOperator, schema::OpenError};

/// A store in one directory, used by one process at a time.
#[derive(Debug)]
pub struct Sqlite {
    // Dropped in this order: what was asked for is still written, and the file is closed last.
    writer: Writer,
    readers: Readers,
    _checkpoints: Checkpoints,
    quotas: Quotas,
    directory: Arc<Directory>,
}

impl Sqlite {
    /// Opens the store in `directory`, which is made if it is missing, with mode 0700 and its files
    /// 0600. A file of an older release is brought up to date.
    ///
    /// # Errors
    ///
    /// Each [`OpenError`] is something that an operator can see to.
    pub fn open(directory: impl AsRef<Path>) -> std::result::Result<Self, OpenError> {
        Self::open_with(directory, Quotas::default())
    }

    /// The same with limits of one's own to what a user may have.
    ///
    /// # Errors
    ///
    /// [`OpenError`]
    pub fn open_with(
        directory: impl AsRef<Path>,
        quotas: Quotas,
    ) -> std::result::Result<Self, OpenError> {
        let directory = Arc::new(Directory::open(directory.as_ref())?);
        let checkpoints = Checkpoints::start(&directory);
        let readers = Readers::new(Arc::clone(&directory));
        let writer = Writer::start(&directory, readers.clone(), checkpoints.waker());
        Ok(Self { writer, readers, _checkpoints: checkpoints, directory, quotas })
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn create_version(&self, author: &Author, new: NewVersion) -> Result<Version> {
        let (author, quotas) = (author.clone(), self.quotas);
        let write = move |database: &_| write::create_version(database, &author, &new, quotas);
        self.writer.write(write).await
    }

    async fn version(&self, user_id: &UserId, version: Option<Version>) -> Result<Backup> {
        self.readers.look_up(|database| read::backup(database, user_id, version))
    }

    async fn update_version(
        &self,
        author: &Author,
        version: Version,
        new: NewVersion,
    ) -> Result<()> {
        let (author, quotas) = (author.clone(), self.quotas);
        let write =
            move |database: &_| write::update_version(database, &author, version, &new, quotas);
        self.writer.write(write).await
    }

    async fn delete_version(&self, author: &Author, version: Version) -> Result<()> {
        let author = author.clone();
        self.writer.write(move |database| write::delete_version(database, &author, version)).await
    }

    async fn put_keys(&self, author: &Author, version: Version, keys: RoomKeys) -> Result<Stored> {
        let (author, quotas) = (author.clone(), self.quotas);
        let write = move |database: &_| write::put_keys(database, &author, version, &keys, quotas);
        self.writer.write(write).await
    }

    async fn delete_keys(&self, author: &Author, version: Version, scope: Scope) -> Result<Stored> {
        let author = author.clone();
        let write = move |database: &_| write::delete_keys(database, &author, version, &scope);
        self.writer.write(write).await
    }

    async fn key(
        &self,
        user_id: &UserId,
        version: Option<Version>,
        room_id: &RoomId,
        session_id: &SessionId,
    ) -> Result<Option<RoomKey>> {
        self.readers.look_up(|database| read::key(database, user_id, version, room_id, session_id))
    }

    async fn first_page(
        &self,
        user_id: &UserId,
        version: Option<Version>,
        room_id: Option<&RoomId>,
        size: PageSize,
    ) -> Result<(KeySet, Page)> {
        let (user_id, room_id) = (user_id.clone(), room_id.cloned());
        let read = move |database: &_| {
            let key_set = read::live(database, &user_id, version)?.key_set;
            Ok((key_set, read::page(database, key_set, room_id.as_ref(), None, size)?))
        };
        self.readers.read(read).await
    }

    async fn page(
        &self,
        key_set: KeySet,
        room_id: Option<&RoomId>,
        after: &Position,
        size: PageSize,
    ) -> Result<Page> {
        let (room_id, after) = (room_id.cloned(), after.clone());
        let read =
            move |database: &_| read::page(database, key_set, room_id.as_ref(), Some(&after), size);
        self.readers.read(read).await
    }

    async fn tick(&self, tick: Tick) -> Result<()> {
        self.writer.write(move |database| service::tick(database, tick)).await
    }

    async fn purge(&self) -> Result<Purged> {
        match self.readers.read(purge::find).await? {
            Some(due) => self.writer.write(move |database| purge::remove(database, due)).await,
            None => Ok(Purged { keys: 0, is_done: true }),
        }
    }

    async fn outlook(&self) -> Result<Outlook> {
        self.readers.read(purge::outlook).await
    }

    async fn check(&self) -> Result<()> {
        let look =
            |database: &Connection| Ok(database.execute_batch("SELECT 1 FROM users LIMIT 1")?);
        self.readers.look_up(look)?;
        self.writer.write(schema::touch).await?;
        self.directory.condition().check()
    }
}
