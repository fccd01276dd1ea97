//! What can be wrong, and what a repair does about it.

use std::{fmt, mem::discriminant};

use strongroom_protocol::Version;

/// One thing that is wrong, and with which version.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) version: Option<Version>,
    pub(super) kind: Kind,
}

impl Problem {
    /// Whether it is the same trouble at the same place, though perhaps with other numbers.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.version == other.version && discriminant(&self.kind) == discriminant(&other.kind)
    }
}

/// The kinds of it. No text here holds anything of a key.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// What SQLite says of the file.
    File(String),
    /// What SQLite says of an index.
    Index(String),
    /// SQLite can't read it.
    Unreadable(String),
    /// The row of the service is missing, or nonsense.
    Service,
    /// Rows that belong to nobody.
    Orphans { what: &'static str, rows: u64 },
    /// The next set of keys would get a number that has been used.
    SetNumbers,
    /// The id of a user is none.
    UserId { user_pk: i64 },
    /// What is kept of a user is not what the account says.
    Account,
    /// The row of a version is not what was written.
    Version,
    /// The `auth_data` of a version is no object.
    AuthData,
    /// A version counts other keys than it shows.
    Count { counted: u64, found: u64 },
    /// A version has an etag below that of one of its keys.
    Etag,
    /// A version shows a set that does not exist.
    NoSet,
    /// A version shows a set of another one.
    ForeignSet,
    /// A version shows a set that is on its way to be purged.
    ShowsDetached,
    /// A set that no version shows is not on its way to be purged.
    NotDetached,
    /// A deleted version and its keys left the view at different times.
    DetachedElsewhen,
    /// A set out of view counts other keys than it holds.
    SetCount,
    /// Keys of a version that never was.
    NoVersion { keys: u64 },
    /// Keys in view that are damaged.
    Keys { keys: u64 },
    /// Keys out of view that are damaged.
    KeptKeys { keys: u64 },
    /// Replaced `auth_data` that is damaged.
    KeptAuthData { rows: u64 },
    /// Lines of the journal that are damaged.
    Journal { lines: u64 },
}

impl Kind {
    /// What a repair does; `None`: there is no help but a snapshot.
    pub(super) const fn repair(&self) -> Option<&'static str> {
        match self {
            Self::Index(_) => Some("the indexes are built anew"),
            Self::Account | Self::Count { .. } | Self::SetCount => Some("it is counted anew"),
            Self::SetNumbers => Some("numbering goes on behind the greatest"),
            Self::Version => Some("put back where its checksum tells what it was"),
            Self::Etag => Some("the etag is raised"),
            Self::NoSet => Some("the keys that lie there are shown again"),
            Self::ShowsDetached => Some("the keys stay in view"),
            Self::NotDetached | Self::DetachedElsewhen => {
                Some("kept for as long as if it had been deleted now")
            }
            Self::Keys { .. } => {
                Some("put back from an intact older copy, or taken out of view where there is none")
            }
            Self::KeptKeys { .. } | Self::KeptAuthData { .. } => {
                Some("marked, so that they are never brought back")
            }
            Self::File(_)
            | Self::Unreadable(_)
            | Self::Service
            | Self::Orphans { .. }
            | Self::UserId { .. }
            | Self::AuthData
            | Self::ForeignSet
            | Self::NoVersion { .. }
            | Self::Journal { .. } => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(said) => write!(f, "the database file is damaged: {said}"),
            Self::Index(said) => write!(f, "an index is damaged: {said}"),
            Self::Unreadable(said) => write!(f, "it can't be read: {said}"),
            Self::Service => f.write_str("the time that the store was in service is damaged"),
            Self::Orphans { what, rows } => write!(f, "{what} that belong to nobody: {rows}"),
            Self::SetNumbers => f.write_str("new keys would be put among those of somebody else"),
            Self::UserId { user_pk } => write!(f, "the id of user number {user_pk} is damaged"),
            Self::Account => f.write_str("the count of what is kept out of view is wrong"),
            Self::Version => f.write_str("its row is damaged"),
            Self::AuthData => f.write_str("its auth_data is no JSON object"),
            Self::Count { counted, found } if counted == found => {
                write!(f, "the bytes of its {found} keys are counted wrong")
            }
            Self::Count { counted, found } => {
                write!(f, "its count is {counted}, and it has {found} keys")
            }
            Self::Etag => f.write_str("its etag is older than one of its keys"),
            Self::NoSet => f.write_str("its set of keys is missing"),
            Self::ForeignSet => f.write_str("it shows the keys of another version"),
            Self::ShowsDetached => f.write_str("keys in view are marked as deleted"),
            Self::NotDetached => f.write_str("keys out of view would never be purged"),
            Self::DetachedElsewhen => {
                f.write_str("it and its keys were deleted at different times")
            }
            Self::SetCount => f.write_str("a set of deleted keys is counted wrong"),
            Self::NoVersion { keys } => write!(f, "its row is missing, and {keys} keys are there"),
            Self::Keys { keys } => write!(f, "damaged keys: {keys}"),
            Self::KeptKeys { keys } => {
                write!(f, "damaged keys among the deleted and replaced: {keys}")
            }
            Self::KeptAuthData { rows } => write!(f, "damaged replaced auth_data: {rows}"),
            Self::Journal { lines } => write!(f, "damaged lines of the journal: {lines}"),
        }
    }
}
