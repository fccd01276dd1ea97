//! The model: what the engines are held to, and a store for tests and examples.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use strongroom_protocol::{
    Etag, KeyRef, NewVersion, RoomId, RoomKey, RoomKeys, SessionId, UserId, Version,
};

use crate::{
    page::{Page, PageSize, Position},
    store::{Author, Backup, Error, KeySet, Outlook, Purged, Result, Scope, Store, Stored, Tick},
};

/// Backups in memory, as simply as the rules can be written down. Keeps no history: what is deleted
/// is gone, and only what clients see is the same as with the other engines.
#[derive(Debug, Default)]
pub struct Memory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    users: BTreeMap<UserId, BTreeMap<Version, Entry>>,
    /// Every key set that was ever shown, so that reading one goes on after it was detached.
    key_sets: Vec<Keys>,
}

type Keys = BTreeMap<(String, String), RoomKey>;

#[derive(Debug)]
struct Entry {
    created: NewVersion,
    etag: i64,
    auth_data_since: i64,
    key_set: usize,
    is_deleted: bool,
}

impl Entry {
    fn latest_stamp(&self) -> i64 {
        self.etag.max(self.auth_data_since)
    }
}

impl Memory {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn new_key_set(&mut self) -> usize {
        self.key_sets.push(Keys::new());
        self.key_sets.len() - 1
    }

    fn keys(&mut self, key_set: usize) -> Result<&mut Keys> {
        self.key_sets.get_mut(key_set).ok_or(Error::Damaged { what: "key set" })
    }

    fn versions(&mut self, user_id: &UserId) -> &mut BTreeMap<Version, Entry> {
        self.users.entry(user_id.clone()).or_default()
    }

    fn current(&mut self, user_id: &UserId) -> Option<Version> {
        let live = self.versions(user_id).iter().rev().find(|(_, entry)| !entry.is_deleted);
        live.map(|(version, _)| *version)
    }

    fn live(
        &mut self,
        user_id: &UserId,
        version: Option<Version>,
    ) -> Result<(Version, &mut Entry)> {
        let version = match version {
            Some(version) => version,
            None => self.current(user_id).ok_or(Error::NoBackup)?,
        };
        match self.versions(user_id).get_mut(&version) {
            Some(entry) if !entry.is_deleted => Ok((version, entry)),
            Some(_) | None => Err(Error::NoSuchVersion),
        }
    }

    fn stored(&mut self, user_id: &UserId, version: Version) -> Result<Stored> {
        let entry = self.live(user_id, Some(version))?.1;
        let (etag, key_set) = (entry.etag, entry.key_set);
        let etag = Etag::new(etag).ok_or(Error::Damaged { what: "etag" })?;
        Ok(Stored { etag, count: self.keys(key_set)?.len() as u64 })
    }

    fn page(
        &mut self,
        key_set: usize,
        room_id: Option<&RoomId>,
        after: Option<&Position>,
        size: PageSize,
    ) -> Result<Page> {
        let mut page = Page::default();
        let after = after.map(|at| (at.room_id.clone(), at.session_id.clone()));
        for (place, key) in self.keys(key_set)? {
            if after.as_ref().is_some_and(|after| place <= after)
                || room_id.is_some_and(|room_id| place.0 != room_id.as_str())
            {
                continue;
            }
            let (room_id, session_id) = (place.0.as_str(), place.1.as_str());
            let session_data = key.session_data.as_str();
            if page.push(KeyRef { room_id, session_id, rank: key.rank, session_data }, size) {
                break;
            }
        }
        Ok(page)
    }
}

/// The specification's sentence, transcribed.
fn keeps_new(old: &RoomKey, new: &RoomKey) -> bool {
    let (old, new) = (old.rank, new.rank);
    if old.is_verified() != new.is_verified() {
        new.is_verified()
    } else if old.first_message_index() != new.first_message_index() {
        new.first_message_index() < old.first_message_index()
    } else {
        new.forwarded_count() < old.forwarded_count()
    }
}

#[async_trait]
impl Store for Memory {
    async fn create_version(&self, author: &Author, new: NewVersion) -> Result<Version> {
        self.with(|state| {
            let key_set = state.new_key_set();
            let versions = state.versions(&author.user_id);
            let latest = versions.values().map(Entry::latest_stamp).max();
            let stamp = author.at.stamp_after(latest.unwrap_or(0));
            let version = Version::new(stamp).ok_or(Error::Damaged { what: "version" })?;
            let (etag, auth_data_since) = (stamp, stamp);
            let entry = Entry { created: new, etag, auth_data_since, key_set, is_deleted: false };
            versions.insert(version, entry);
            Ok(version)
        })
    }

    async fn version(&self, user_id: &UserId, version: Option<Version>) -> Result<Backup> {
        self.with(|state| {
            let (version, entry) = state.live(user_id, version)?;
            let created = entry.created.clone();
            let Stored { etag, count } = state.stored(user_id, version)?;
            Ok(Backup { version, created, etag, count })
        })
    }

    async fn update_version(
        &self,
        author: &Author,
        version: Version,
        new: NewVersion,
    ) -> Result<()> {
        self.with(|state| {
            let entry = state.live(&author.user_id, Some(version))?.1;
            new.may_replace(&entry.created).map_err(Error::MayNotReplace)?;
            if entry.created.auth_data.as_str() != new.auth_data.as_str() {
                entry.auth_data_since = author.at.stamp_after(entry.latest_stamp());
                entry.created = new;
            }
            Ok(())
        })
    }

    async fn delete_version(&self, author: &Author, version: Version) -> Result<()> {
        self.with(|state| {
            let entry = state.versions(&author.user_id).get_mut(&version);
            let entry = entry.ok_or(Error::NoSuchVersion)?;
            if !entry.is_deleted {
                entry.is_deleted = true;
                entry.etag = author.at.stamp_after(entry.latest_stamp());
            }
            Ok(())
        })
    }

    async fn put_keys(&self, author: &Author, version: Version, keys: RoomKeys) -> Result<Stored> {
        self.with(|state| {
            let current = state.current(&author.user_id).ok_or(Error::NoBackup)?;
            let versions = state.versions(&author.user_id);
            let key_set = versions.get(&version).ok_or(Error::NoSuchVersion)?.key_set;
            if version != current {
                return Err(Error::NotCurrent { current });
            }
            let stored = state.keys(key_set)?;
            let mut has_changed = false;
            for (room_id, session_id, key) in keys.iter() {
                let place = (room_id.to_string(), session_id.to_string());
                if stored.get(&place).is_none_or(|old| keeps_new(old, key)) {
                    stored.insert(place, key.clone());
                    has_changed = true;
                }
            }
            if has_changed {
                let entry = state.live(&author.user_id, Some(version))?.1;
                entry.etag = author.at.stamp_after(entry.latest_stamp());
            }
            state.stored(&author.user_id, version)
        })
    }

    async fn delete_keys(&self, author: &Author, version: Version, scope: Scope) -> Result<Stored> {
        self.with(|state| {
            let key_set = state.live(&author.user_id, Some(version))?.1.key_set;
            let mut left = state.keys(key_set)?.clone();
            let count = left.len();
            left.retain(|(room, session), _| match &scope {
                Scope::All => false,
                Scope::Room(room_id) => room != room_id.as_str(),
                Scope::Session(room_id, session_id) => {
                    room != room_id.as_str() || session != session_id.as_str()
                }
            });
            if left.len() != count {
                let is_detached = scope == Scope::All;
                let key_set = if is_detached { state.new_key_set() } else { key_set };
                *state.keys(key_set)? = left;
                let entry = state.live(&author.user_id, Some(version))?.1;
                entry.key_set = key_set;
                entry.etag = author.at.stamp_after(entry.latest_stamp());
            }
            state.stored(&author.user_id, version)
        })
    }

    async fn key(
        &self,
        user_id: &UserId,
        version: Option<Version>,
        room_id: &RoomId,
        session_id: &SessionId,
    ) -> Result<Option<RoomKey>> {
        self.with(|state| {
            let key_set = state.live(user_id, version)?.1.key_set;
            let place = (room_id.to_string(), session_id.to_string());
            Ok(state.keys(key_set)?.get(&place).cloned())
        })
    }

    async fn first_page(
        &self,
        user_id: &UserId,
        version: Option<Version>,
        room_id: Option<&RoomId>,
        size: PageSize,
    ) -> Result<(KeySet, Page)> {
        self.with(|state| {
            let key_set = state.live(user_id, version)?.1.key_set;
            let shown = KeySet(i64::try_from(key_set).unwrap_or(i64::MAX));
            Ok((shown, state.page(key_set, room_id, None, size)?))
        })
    }

    async fn page(
        &self,
        key_set: KeySet,
        room_id: Option<&RoomId>,
        after: &Position,
        size: PageSize,
    ) -> Result<Page> {
        let key_set = usize::try_from(key_set.0).unwrap_or(usize::MAX);
        self.with(|state| state.page(key_set, room_id, Some(after), size))
    }

    async fn tick(&self, _tick: Tick) -> Result<()> {
        Ok(())
    }

    async fn purge(&self) -> Result<Purged> {
        Ok(Purged { keys: 0, is_done: true })
    }

    async fn outlook(&self) -> Result<Outlook> {
        Ok(Outlook::default())
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}
