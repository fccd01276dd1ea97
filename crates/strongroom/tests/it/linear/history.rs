//! What was asked, what was answered, and in which order as far as anybody could see.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// Where a room key lies.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    pub(crate) room: u8,
    pub(crate) session: u16,
}

/// One copy of a room key. `mark` tells it apart from every other copy.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    pub(crate) is_verified: bool,
    pub(crate) index: u32,
    pub(crate) forwards: u32,
    pub(crate) mark: u32,
}

pub(crate) type Keys = BTreeMap<Place, Key>;

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_verified, index, forwards, mark } = self;
        let verified = if *is_verified { "verified " } else { "" };
        write!(f, "{verified}{index}/{forwards} #{mark}")
    }
}

/// Which keys of a backup are meant: the three forms that a path can have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    All,
    Room(u8),
    Session(Place),
}

impl Scope {
    pub(crate) fn contains(self, place: Place) -> bool {
        match self {
            Self::All => true,
            Self::Room(room) => place.room == room,
            Self::Session(session) => place == session,
        }
    }
}

/// A request. An absent version of a `GET` is the current one.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    CreateVersion { auth_data: u32 },
    Version { version: Option<u64> },
    UpdateVersion { version: u64, auth_data: u32 },
    DeleteVersion { version: u64 },
    PutKeys { version: u64, scope: Scope, keys: Keys },
    Keys { version: Option<u64>, scope: Scope },
    DeleteKeys { version: u64, scope: Scope },
}

/// An answer, as far as it tells anything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// To `CreateVersion`.
    Created { version: u64 },
    /// To `Version`.
    Backup { version: u64, auth_data: u32, count: usize, etag: u64 },
    /// To `UpdateVersion` and `DeleteVersion`: an empty object.
    Done,
    /// To `PutKeys` and `DeleteKeys`.
    Stored { count: usize, etag: u64 },
    /// To `Keys`; of a session it is one.
    Keys(Keys),
    /// 404 `M_NOT_FOUND`.
    NotFound,
    /// 403 `M_WRONG_ROOM_KEYS_VERSION`.
    WrongVersion { current: u64 },
}

/// A request in its time.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) operation: Operation,
    /// None if the connection was cut before the answer: then it was done whole or not at all, at
    /// any time until the process had ended.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) at: u64,
    /// Later than everything if there was no answer.
    pub(crate) answered_at: u64,
}

/// What one device asked of one process, one request after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Device {
    pub(crate) device_id: String,
    pub(crate) asked: Vec<Asked>,
}

/// A line of the journal in the server's file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Line {
    pub(crate) action: String,
    pub(crate) version: u64,
    pub(crate) device_id: String,
    pub(crate) keys: usize,
}

/// What the time is; each time a later one.
///
/// Whoever saw an answer before they asked has the greater number, which is all that the order of
/// requests means.
pub(crate) fn now() -> u64 {
    static NOW: AtomicU64 = AtomicU64::new(0);
    NOW.fetch_add(1, Ordering::SeqCst)
}
