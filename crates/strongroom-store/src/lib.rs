//! Where Matrix key backups are kept: the [`Store`] trait, the [`Memory`] model that says what it
//! means, and [`Sqlite`], which does it on one file.
//!
//! What always holds is in the trait's documentation; `tests/it/contract.rs` puts every engine
//! through random histories beside the model.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use strongroom_protocol::{NewVersion, UserId};
//! use strongroom_store::{Author, Sqlite, Store, Timestamp};
//!
//! let directory = tempfile::tempdir()?;
//! let store = Sqlite::open(directory.path())?;
//! let alice = Author {
//!     user_id: UserId::parse("@alice:example.org")?,
//!     device_id: None,
//!     at: Timestamp::now(),
//! };
//! let new = NewVersion::parse(br#"{"algorithm": "org.example", "auth_data": {}}"#)?;
//! let version = store.create_version(&alice, new).await?;
//! assert_eq!(store.version(&alice.user_id, None).await?.version, version);
//! # Ok(())
//! # }
//! ```

mod memory;
mod operator;
mod page;
mod sqlite;
mod store;
mod time;
mod trouble;

pub use memory::Memory;
pub use operator::{
    Change, Checked, DetachedKeys, Fate, Finding, JournalLine, OperatorError, Progress, Removed,
    ReplacedKeys, Snapshot, SortUsers, Status, Undeleted, UndeletedVersion, UserHistory,
    UserSummary, VersionHistory,
};
pub use page::{Page, PageSize, Position};
pub use sqlite::{OpenError, Sqlite, SqliteOperator};
pub use store::{
    Author, Backup, Error, KeySet, Outlook, Purged, Quota, Quotas, Result, Retention, Scope, Store,
    Stored, Tick,
};
pub use time::Timestamp;
pub use trouble::Trouble;
