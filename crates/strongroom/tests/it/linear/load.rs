//! Random requests, about so few keys and versions that they meet.

use std::collections::BTreeSet;

use fastrand::Rng;

use super::history::{Key, Keys, Operation, Place, Scope};

/// Whoever knows so many creates no more: each makes the search for an order longer.
const VERSIONS_MAX: usize = 30;

/// What somebody's requests are like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Temper {
    pub(crate) devices: usize,
    rooms: u8,
    sessions: u16,
    batch_max: usize,
    /// How often each operation comes, in the order of [`Temper::operation`].
    weights: [u32; 7],
}

impl Temper {
    /// Several devices that want the same few keys. No two people are alike: who never reads, or
    /// always resets their backup, comes to where a mixture of everything does not.
    pub(crate) fn crowd(rng: &mut Rng) -> Self {
        let weights = Self::USUAL.map(|weight| weight * [0, 1, 1, 4][rng.usize(..4)]);
        Self { devices: 4, rooms: 2, sessions: 3, batch_max: 5, weights }
    }

    /// One device that moves many keys at once. A restore takes several pages, which together are
    /// no picture of one moment, so nobody else writes meanwhile.
    pub(crate) const BULK: Self =
        Self { devices: 1, rooms: 2, sessions: 200, batch_max: 300, weights: Self::USUAL };

    const USUAL: [u32; 7] = [4, 6, 2, 12, 40, 16, 24];

    /// Anything, mostly about the current backup.
    pub(crate) fn operation(&self, rng: &mut Rng, known: &BTreeSet<u64>) -> Operation {
        let version = version(rng, known);
        let maybe_version = if rng.u8(..4) == 0 { None } else { Some(version) };
        let auth_data = rng.u32(..3);
        if known.is_empty() && rng.u8(..3) == 0 {
            return Operation::CreateVersion { auth_data };
        }
        match self.choose(rng) {
            0 if known.len() < VERSIONS_MAX => Operation::CreateVersion { auth_data },
            1 => Operation::UpdateVersion { version, auth_data },
            2 => Operation::DeleteVersion { version },
            3 => Operation::DeleteKeys { version, scope: self.scope(rng) },
            4 => self.put(rng, version),
            0 | 5 => Operation::Version { version: maybe_version },
            _ => Operation::Keys { version: maybe_version, scope: self.scope(rng) },
        }
    }

    fn choose(&self, rng: &mut Rng) -> usize {
        let mut at = rng.u32(..self.weights.iter().sum::<u32>().max(1));
        let chosen = self.weights.iter().position(|weight| {
            let is_here = at < *weight;
            at = at.saturating_sub(*weight);
            is_here
        });
        chosen.unwrap_or(self.weights.len() - 1)
    }

    fn put(&self, rng: &mut Rng, version: u64) -> Operation {
        let scope = self.scope(rng);
        let mut keys = Keys::new();
        for _ in 0..rng.usize(..=self.batch_max) {
            let place = self.place(rng);
            if scope.contains(place) {
                keys.insert(place, key(rng));
            }
        }
        if let Scope::Session(place) = scope {
            keys.insert(place, key(rng));
        }
        Operation::PutKeys { version, scope, keys }
    }

    fn scope(&self, rng: &mut Rng) -> Scope {
        match rng.u8(..3) {
            0 => Scope::All,
            1 => Scope::Room(rng.u8(..self.rooms)),
            _ => Scope::Session(self.place(rng)),
        }
    }

    fn place(&self, rng: &mut Rng) -> Place {
        Place { room: rng.u8(..self.rooms), session: rng.u16(..self.sessions) }
    }
}

/// Mostly the newest, sometimes an older one, rarely one that never was.
fn version(rng: &mut Rng, known: &BTreeSet<u64>) -> u64 {
    let chosen = match rng.u8(..30) {
        0 => None,
        1..6 => rng.choice(known),
        _ => known.last(),
    };
    chosen.copied().unwrap_or(1)
}

fn key(rng: &mut Rng) -> Key {
    let (is_verified, index, forwards) = (rng.bool(), rng.u32(..3), rng.u32(..2));
    Key { is_verified, index, forwards, mark: rng.u32(..) }
}

/// What somebody asks who looks at everything, one after the other.
pub(crate) fn everything(temper: Temper, known: &BTreeSet<u64>) -> Vec<Operation> {
    let mut operations = vec![Operation::Version { version: None }];
    for version in known.iter().copied().map(Some) {
        operations.push(Operation::Version { version });
        operations.push(Operation::Keys { version, scope: Scope::All });
        let rooms = (0..temper.rooms).map(Scope::Room);
        operations.extend(rooms.map(|scope| Operation::Keys { version, scope }));
    }
    operations
}
