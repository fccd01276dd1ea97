//! A copy of a store that is served is whole, and is there whole or not at all.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use strongroom_protocol::{Rank, RoomKeys, SessionId};
use strongroom_store::{OperatorError, Scope, Snapshot, Sqlite, SqliteOperator, Store};

use crate::{
    contract::{self, Engine, all_keys, author, key, new_version, room, user},
    sqlite::{OnDisk, run},
};

fn operator(engine: &OnDisk) -> SqliteOperator {
    SqliteOperator::open(engine.directory.path()).unwrap()
}

fn snapshot(engine: &OnDisk, file: &Path) -> Result<Snapshot, OperatorError> {
    operator(engine).snapshot(file, &mut |_, _| ())
}

/// Keys that all say the same number.
fn batch(number: u32) -> RoomKeys {
    let keys = (0..300).map(|n: u32| {
        let session = SessionId::parse(&format!("{n:04}")).unwrap();
        (room(0), session, key(Rank::new(true, u32::MAX - number, 0)))
    });
    keys.collect()
}

/// The store that a snapshot is put back to.
fn restored(snapshot: &Path) -> (tempfile::TempDir, Sqlite) {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(snapshot, directory.path().join("strongroom.db")).unwrap();
    let checked = SqliteOperator::open(directory.path()).unwrap().check(&mut |_, _| ()).unwrap();
    assert_eq!(checked.findings, []);
    let store = Sqlite::open(directory.path()).unwrap();
    (directory, store)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_snapshot_under_load_is_one_state_of_the_store() {
    let engine = OnDisk::new();
    let store = engine.store();
    let is_over = Arc::new(AtomicBool::new(false));
    let target = tempfile::tempdir().unwrap();
    run(async {
        let version = store.create_version(&author(0, 1), new_version(0, true)).await.unwrap();
        store.put_keys(&author(0, 2), version, batch(0)).await.unwrap();
        let client = tokio::spawn({
            let (store, is_over) = (Arc::clone(&store), Arc::clone(&is_over));
            async move {
                for number in 1.. {
                    let author = author(0, i64::from(number) + 2);
                    store.put_keys(&author, version, batch(number)).await.unwrap();
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        });
        for round in 0..5 {
            let file = target.path().join(format!("{round}"));
            let taken = tokio::task::block_in_place(|| snapshot(&engine, &file)).unwrap();
            assert_eq!((taken.users, taken.versions, taken.keys), (1, 1, 300));
            assert_eq!(taken.bytes, fs::metadata(&file).unwrap().len());
            let (_directory, copy) = tokio::task::block_in_place(|| restored(&file));
            let keys = all_keys(&copy, &user(0), None, None, 1000).await.unwrap();
            assert_eq!(keys.len(), 300);
            assert!(keys.windows(2).all(|two| two[0].2 == two[1].2), "half of a request is there");
        }
        is_over.store(true, Ordering::Relaxed);
        client.await.unwrap();
    });
    assert_eq!(names(target.path()).len(), 5, "{:?}", names(target.path()));
}

#[test]
fn a_snapshot_holds_what_was_deleted_as_well() {
    let engine = OnDisk::new();
    let target = tempfile::tempdir().unwrap();
    // A name that means something in a URI.
    let file = target.path().join("a 100%?#é.db");
    run(async {
        let store = engine.store();
        let version = store.create_version(&author(0, 1), new_version(0, true)).await.unwrap();
        store.put_keys(&author(0, 2), version, batch(0)).await.unwrap();
        store.delete_keys(&author(0, 3), version, Scope::All).await.unwrap();
        store.delete_version(&author(0, 4), version).await.unwrap();
        let taken = snapshot(&engine, &file).unwrap();
        assert_eq!((taken.users, taken.versions, taken.keys), (1, 0, 0));
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (directory, copy) = restored(&file);
        let now = strongroom_store::Timestamp::from_micros(9);
        let mut operator = SqliteOperator::open(directory.path()).unwrap();
        let then = strongroom_store::Timestamp::from_micros(2);
        operator.undelete_as_of(&user(0), then, now, &mut |_, _| ()).unwrap();
        assert_eq!(all_keys(&copy, &user(0), None, None, 1000).await.unwrap().len(), 300);
        // The clock that stands still does not lead to an id that was given before.
        let next = copy.create_version(&contract::author(0, 1), new_version(0, true)).await;
        assert!(next.unwrap() > version);
    });
}

#[test]
fn a_file_that_is_there_is_left_alone() {
    let engine = OnDisk::new();
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("file");
    fs::write(&file, "precious").unwrap();
    let error = snapshot(&engine, &file).unwrap_err();
    let OperatorError::Io { path, source } = error else { panic!("{error:?}") };
    assert_eq!((path, source.kind()), (file.clone(), io::ErrorKind::AlreadyExists));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    // Where it leads makes no difference.
    let link = target.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    assert!(matches!(snapshot(&engine, &link), Err(OperatorError::Io { .. })));
    let missing = target.path().join("missing/file");
    assert!(matches!(snapshot(&engine, &missing), Err(OperatorError::Io { .. })));
    assert_eq!(names(target.path()).len(), 2, "{:?}", names(target.path()));
}

#[test]
fn of_a_snapshot_that_fails_or_is_stopped_nothing_is_left() {
    let engine = OnDisk::new();
    run(async {
        let store = engine.store();
        let version = store.create_version(&author(0, 1), new_version(0, true)).await.unwrap();
        store.put_keys(&author(0, 2), version, batch(0)).await.unwrap();
    });
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("file");

    let mut stopped = operator(&engine);
    let stop = Arc::new(AtomicBool::new(false));
    stopped.stop_when(Arc::clone(&stop)).unwrap();
    let outcome = stopped.snapshot(&file, &mut |_, _| stop.store(true, Ordering::Relaxed));
    assert!(matches!(outcome, Err(OperatorError::Interrupted)), "{outcome:?}");
    assert_eq!(names(target.path()), [""; 0]);
    let outcome = stopped.check(&mut |_, _| ());
    assert!(matches!(outcome, Err(OperatorError::Interrupted)), "{outcome:?}");

    // A row that its table forbids, which only somebody else can have written.
    let spoil = "PRAGMA writable_schema = ON;
        UPDATE sqlite_schema SET sql = replace(sql, 'count INTEGER,', 'count INTEGER NOT NULL,')
            WHERE name = 'key_sets'";
    engine.inspect().execute_batch(spoil).unwrap();
    let outcome = snapshot(&engine, &file);
    assert!(matches!(outcome, Err(OperatorError::BadCopy { .. })), "{outcome:?}");
    assert_eq!(names(target.path()), [""; 0]);
}
