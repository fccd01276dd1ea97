//! One user's backups as clients see them, one request after the other: too simple to be wrong, and
//! sharing no code with the server.
//!
//! Version ids and etags are the server's to choose. The model takes them from the answers, and then
//! holds the server to them: ids rise, an etag rises if and only if keys changed.

use std::rc::Rc;

use super::history::{Asked, Key, Keys, Line, Operation, Outcome, Scope};

/// The state after some requests.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Model {
    /// In the order in which they were created.
    backups: Vec<Backup>,
    /// How many lines the journal has.
    lines: usize,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Backup {
    /// None until somebody is told.
    version: Option<u64>,
    auth_data: u32,
    etag: Etag,
    keys: Rc<Keys>,
    is_deleted: bool,
}

/// An etag that was told, or one of which is known only that it is greater than this.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Etag {
    Is(u64),
    Above(u64),
}

/// What of an answer can't be.
pub(crate) type Contradiction = &'static str;

/// What is to be in the journal.
struct Change {
    action: &'static str,
    backup: usize,
    keys: usize,
}

impl Model {
    /// The state after one more request, if it can have been answered so and, where the journal is
    /// known, has left its line there.
    pub(crate) fn after(
        &self,
        asked: &Asked,
        device_id: &str,
        journal: Option<&[Line]>,
    ) -> Result<Self, Contradiction> {
        let mut next = self.clone();
        let change = next.apply(&asked.operation, asked.outcome.as_ref())?;
        if let Some(change) = change {
            next.journalled(&change, device_id, journal)?;
        }
        Ok(next)
    }

    /// How many lines of the journal are accounted for.
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }

    fn apply(
        &mut self,
        operation: &Operation,
        outcome: Option<&Outcome>,
    ) -> Result<Option<Change>, Contradiction> {
        match operation {
            Operation::CreateVersion { auth_data } => self.create(*auth_data, outcome),
            Operation::Version { version } => self.version(*version, outcome).map(|()| None),
            Operation::UpdateVersion { version, auth_data } => {
                self.update(*version, *auth_data, outcome)
            }
            Operation::DeleteVersion { version } => self.delete_version(*version, outcome),
            Operation::PutKeys { version, keys, .. } => self.put(*version, keys, outcome),
            Operation::Keys { version, scope } => {
                self.keys(*version, *scope, outcome).map(|()| None)
            }
            Operation::DeleteKeys { version, scope } => self.delete(*version, *scope, outcome),
        }
    }

    fn create(
        &mut self,
        auth_data: u32,
        outcome: Option<&Outcome>,
    ) -> Result<Option<Change>, Contradiction> {
        let (etag, keys) = (Etag::Above(0), Rc::default());
        self.backups.push(Backup { version: None, auth_data, etag, keys, is_deleted: false });
        let backup = self.backups.len() - 1;
        match outcome {
            Some(Outcome::Created { version }) => self.named(backup, *version)?,
            None => {}
            Some(_) => return Err("it creates a backup"),
        }
        Ok(Some(Change { action: "create_version", backup, keys: 0 }))
    }

    fn version(
        &mut self,
        version: Option<u64>,
        outcome: Option<&Outcome>,
    ) -> Result<(), Contradiction> {
        let Some(backup) = self.shown(version) else { return is(outcome, &Outcome::NotFound) };
        let (version, auth_data, count, etag) = match outcome {
            Some(Outcome::Backup { version, auth_data, count, etag }) => {
                (*version, *auth_data, *count, *etag)
            }
            None => return Ok(()),
            Some(_) => return Err("there is this backup"),
        };
        self.named(backup, version)?;
        if self.backups[backup].auth_data != auth_data {
            return Err("the auth_data is another");
        }
        self.stored(backup, Some(&Outcome::Stored { count, etag }))
    }

    fn update(
        &mut self,
        version: u64,
        auth_data: u32,
        outcome: Option<&Outcome>,
    ) -> Result<Option<Change>, Contradiction> {
        let Some(backup) = self.shown(Some(version)) else {
            return is(outcome, &Outcome::NotFound).map(|()| None);
        };
        is(outcome, &Outcome::Done)?;
        let replaced = std::mem::replace(&mut self.backups[backup].auth_data, auth_data);
        let change = Change { action: "update_version", backup, keys: 0 };
        Ok((replaced != auth_data).then_some(change))
    }

    fn delete_version(
        &mut self,
        version: u64,
        outcome: Option<&Outcome>,
    ) -> Result<Option<Change>, Contradiction> {
        let Some(backup) = self.ever(version) else {
            return is(outcome, &Outcome::NotFound).map(|()| None);
        };
        is(outcome, &Outcome::Done)?;
        let was_deleted = std::mem::replace(&mut self.backups[backup].is_deleted, true);
        let keys = self.backups[backup].keys.len();
        Ok((!was_deleted).then_some(Change { action: "delete_version", backup, keys }))
    }

    /// Keys are put into the current backup only.
    fn put(
        &mut self,
        version: u64,
        keys: &Keys,
        outcome: Option<&Outcome>,
    ) -> Result<Option<Change>, Contradiction> {
        let (Some(current), Some(backup)) = (self.shown(None), self.ever(version)) else {
            return is(outcome, &Outcome::NotFound).map(|()| None);
        };
        if backup != current {
            return match outcome {
                Some(Outcome::WrongVersion { current: told }) => {
                    self.named(current, *told).map(|()| None)
                }
                None => Ok(None),
                Some(_) => Err("another backup is the current one"),
            };
        }
        let (mut added, mut replaced) = (0, 0);
        for (place, new) in keys {
            let stored = Rc::make_mut(&mut self.backups[backup].keys);
            match stored.get(place) {
                None => added += 1,
                Some(old) if keeps_new(*old, *new) => replaced += 1,
                Some(_) => continue,
            }
            stored.insert(*place, *new);
        }
        if added + replaced > 0 {
            self.backups[backup].etag.rise();
        }
        self.stored(backup, outcome)?;
        let change = Change { action: "replace_keys", backup, keys: replaced };
        // That keys were added is not in the journal.
        Ok((replaced > 0).then_some(change))
    }

    fn keys(
        &self,
        version: Option<u64>,
        scope: Scope,
        outcome: Option<&Outcome>,
    ) -> Result<(), Contradiction> {
        let Some(backup) = self.shown(version) else { return is(outcome, &Outcome::NotFound) };
        let nothing = Keys::new();
        let told = match (outcome, scope) {
            (Some(Outcome::Keys(keys)), _) => keys,
            (Some(Outcome::NotFound), Scope::Session(_)) => &nothing,
            (None, _) => return Ok(()),
            (Some(_), _) => return Err("there is this backup"),
        };
        let stored = self.backups[backup].keys.iter();
        let in_scope = stored.filter(|(place, _)| scope.contains(**place));
        if in_scope.eq(told) { Ok(()) } else { Err("the keys are others") }
    }

    fn delete(
        &mut self,
        version: u64,
        scope: Scope,
        outcome: Option<&Outcome>,
    ) -> Result<Option<Change>, Contradiction> {
        let Some(backup) = self.shown(Some(version)) else {
            return is(outcome, &Outcome::NotFound).map(|()| None);
        };
        let stored = Rc::make_mut(&mut self.backups[backup].keys);
        let count = stored.len();
        stored.retain(|place, _| !scope.contains(*place));
        let keys = count - stored.len();
        if keys > 0 {
            self.backups[backup].etag.rise();
        }
        self.stored(backup, outcome)?;
        Ok((keys > 0).then_some(Change { action: "delete_keys", backup, keys }))
    }

    /// The backup of this version, or the current one, unless it is deleted.
    fn shown(&self, version: Option<u64>) -> Option<usize> {
        let Some(version) = version else {
            return self.backups.iter().rposition(|backup| !backup.is_deleted);
        };
        self.ever(version).filter(|backup| !self.backups[*backup].is_deleted)
    }

    /// The backup of this version, deleted or not. Nobody asks for a version before it was told.
    fn ever(&self, version: u64) -> Option<usize> {
        self.backups.iter().position(|backup| backup.version == Some(version))
    }

    /// Somebody was told the version of a backup.
    fn named(&mut self, backup: usize, version: u64) -> Result<(), Contradiction> {
        self.backups[backup].version.get_or_insert(version);
        if self.backups[backup].version != Some(version) {
            return Err("the version is another");
        }
        let told = self.backups.iter().filter_map(|backup| backup.version);
        if told.is_sorted_by(|earlier, later| earlier < later) {
            Ok(())
        } else {
            Err("the version is not greater than those before it")
        }
    }

    /// Somebody was told the count and the etag of a backup.
    fn stored(&mut self, backup: usize, outcome: Option<&Outcome>) -> Result<(), Contradiction> {
        let backup = &mut self.backups[backup];
        match outcome {
            Some(Outcome::Stored { count, .. }) if *count != backup.keys.len() => {
                Err("the count is another")
            }
            Some(Outcome::Stored { etag, .. }) => backup.etag.told(*etag),
            None => Ok(()),
            Some(_) => Err("there is this backup"),
        }
    }

    fn journalled(
        &mut self,
        change: &Change,
        device_id: &str,
        journal: Option<&[Line]>,
    ) -> Result<(), Contradiction> {
        let number = self.lines;
        self.lines += 1;
        let Some(journal) = journal else { return Ok(()) };
        let line = journal.get(number).ok_or("it is not in the journal")?;
        let found = (line.action.as_str(), line.device_id.as_str(), line.keys);
        if found != (change.action, device_id, change.keys) {
            return Err("the journal has another line");
        }
        self.named(change.backup, line.version)
    }
}

impl Etag {
    /// Keys changed.
    fn rise(&mut self) {
        let (Self::Is(etag) | Self::Above(etag)) = *self;
        *self = Self::Above(etag);
    }

    fn told(&mut self, told: u64) -> Result<(), Contradiction> {
        match *self {
            Self::Is(etag) if told != etag => Err("the etag is another, and no keys have changed"),
            Self::Above(etag) if told <= etag => {
                Err("the etag has not risen, and keys have changed")
            }
            Self::Is(_) | Self::Above(_) => {
                *self = Self::Is(told);
                Ok(())
            }
        }
    }
}

/// No answer may be any.
fn is(outcome: Option<&Outcome>, expected: &Outcome) -> Result<(), Contradiction> {
    match outcome {
        Some(outcome) if outcome != expected => Err("it is answered otherwise"),
        Some(_) | None => Ok(()),
    }
}

/// The specification's sentence, transcribed.
fn keeps_new(old: Key, new: Key) -> bool {
    if old.is_verified != new.is_verified {
        new.is_verified
    } else if old.index != new.index {
        new.index < old.index
    } else {
        new.forwards < old.forwards
    }
}
