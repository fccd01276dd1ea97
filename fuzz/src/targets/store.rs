//! Whatever is done to it, in whatever order, opened anew in between: SQLite answers as the model does.
//!
//! An input is a history for the store's contract: for each step who does it, when, what, and to what.

use std::{iter::from_fn, sync::Arc};

use proptest::{
    prelude::{Strategy as _, any},
    sample::Index,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use strongroom_protocol::Rank;
use strongroom_store::{Sqlite, Store};
use tempfile::TempDir;

use crate::contract::{Engine, Op, Which, agrees_with_the_model};

const STEPS_MAX: usize = 60;

pub(crate) fn run(data: &[u8]) {
    let mut bytes = data.iter().copied();
    let history: Vec<_> = from_fn(|| step(&mut bytes)).take(STEPS_MAX).collect();
    let mut engine = OnDisk::new();
    let outcome = agrees_with_the_model(&mut engine, history.clone());
    if let Err(error) = super::run_to_the_end(outcome) {
        panic!("{error}\nafter {history:?}");
    }
}

fn step(bytes: &mut impl Iterator<Item = u8>) -> Option<(u8, i64, Op)> {
    let (who, when, what) = (bytes.next()?, bytes.next()?, bytes.next()?);
    let op = match what % 16 {
        0 | 1 => Op::Create { auth_data: what / 16 % 4, algorithm: what > 127 },
        2 => Op::Update { version: which(bytes)?, auth_data: what / 16 % 4, algorithm: what > 127 },
        3 => Op::Delete { version: which(bytes)? },
        4 => Op::DeleteKeys { version: which(bytes)?, scope: None },
        5 | 6 => {
            let (room, session) = (bytes.next()? % 3, bytes.next()?);
            let session = (session < 128).then_some(session % 3);
            Op::DeleteKeys { version: which(bytes)?, scope: Some((room, session)) }
        }
        // It takes fifty milliseconds.
        7 if what > 200 => Op::Restart,
        _ => {
            let version = which(bytes)?;
            let keys = from_fn(|| Some((bytes.next()? % 3, bytes.next()? % 3, rank(bytes)?)));
            Op::Put { version, keys: keys.take(usize::from(what / 16 % 6)).collect() }
        }
    };
    // The clock jumps as it likes.
    Some((who % 2, i64::from(when % 40), op))
}

fn which(bytes: &mut impl Iterator<Item = u8>) -> Option<Which> {
    Some(match bytes.next()? {
        0..=150 => Which::Newest,
        made @ 151..=230 => Which::Made(index((made - 151) * 3)),
        255 => Which::Never(i64::MAX),
        never => Which::Never(i64::from(never) - 231),
    })
}

/// As far into the list as the byte into its range; there is no other way to make one.
fn index(byte: u8) -> Index {
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, &[byte; size_of::<usize>()]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    any::<Index>().new_tree(&mut runner).unwrap().current()
}

/// Small numbers, so that copies of one key meet, and those at the edges.
fn rank(bytes: &mut impl Iterator<Item = u8>) -> Option<Rank> {
    const NUMBERS: [u32; 5] = [0, 1, 2, 1 << 31, u32::MAX];
    let (is_verified, rest) = (bytes.next()?, bytes.next()?);
    let [index, forwards] = [rest % 5, rest / 5 % 5].map(|it| NUMBERS[usize::from(it)]);
    Some(Rank::new(is_verified % 2 == 1, index, forwards))
}

struct OnDisk {
    // Closed before its directory goes.
    store: Option<Arc<Sqlite>>,
    directory: TempDir,
}

impl OnDisk {
    fn new() -> Self {
        let mut this = Self { store: None, directory: super::scratch() };
        this.restart();
        this
    }
}

impl Engine for OnDisk {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    fn restart(&mut self) {
        self.store = None;
        self.store = Some(Arc::new(Sqlite::open(self.directory.path()).unwrap()));
    }
}
