//! Whatever is wrong with a store is found, and put right where it can be.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use proptest::{prelude::*, test_runner::Config};
use strongroom_protocol::{Rank, RoomKeys, SessionId, Version};
use strongroom_store::{Checked, Finding, Scope, Sqlite, SqliteOperator, Store, Timestamp};

use crate::{
    contract::{self, Engine, all_keys, author, key, new_version, room, session, user},
    sqlite::{OnDisk, RETENTION, one_key, run, serve_for},
};

const NOW: Timestamp = Timestamp::from_micros(10_000);
const GOOD: Rank = Rank::new(false, 0, 0);
const BETTER: Rank = Rank::new(true, 9, 0);

/// Alice has a deleted version, 100, with a set of keys that were deleted before it, 1, and one that
/// left with it, 2; and the current version, 1000, with the set 3: two keys, one of which was replaced,
/// and one more that was deleted. Bob has version 2000 with the set 4 and a key.
async fn fill(store: &dyn Store) {
    let old = store.create_version(&author(0, 100), new_version(0, true)).await.unwrap();
    store.put_keys(&author(0, 200), old, one_key(GOOD)).await.unwrap();
    store.put_keys(&author(0, 300), old, one_key(BETTER)).await.unwrap();
    store.update_version(&author(0, 400), old, new_version(2, true)).await.unwrap();
    store.delete_keys(&author(0, 500), old, Scope::All).await.unwrap();
    store.put_keys(&author(0, 600), old, one_key(GOOD)).await.unwrap();
    store.delete_version(&author(0, 900), old).await.unwrap();
    let new = store.create_version(&author(0, 1000), new_version(0, true)).await.unwrap();
    let keys = [(room(0), session(1)), (room(0), session(2)), (room(1), session(1))];
    let keys: RoomKeys = keys.into_iter().map(|(r, s)| (r, s, key(GOOD))).collect();
    store.put_keys(&author(0, 1100), new, keys).await.unwrap();
    store.put_keys(&author(0, 1200), new, one_key(BETTER)).await.unwrap();
    let scope = Scope::Session(room(1), session(1));
    store.delete_keys(&author(0, 1300), new, scope).await.unwrap();
    let bobs = store.create_version(&author(1, 2000), new_version(0, true)).await.unwrap();
    store.put_keys(&author(1, 2100), bobs, one_key(GOOD)).await.unwrap();
}

fn filled() -> OnDisk {
    let engine = OnDisk::new();
    run(fill(&*engine.store()));
    engine
}

fn operator(engine: &OnDisk) -> SqliteOperator {
    SqliteOperator::open(engine.directory.path()).unwrap()
}

fn check(engine: &OnDisk) -> Checked {
    operator(engine).check(&mut |_, _| ()).unwrap()
}

fn repair(engine: &OnDisk) -> Checked {
    operator(engine).repair(NOW, &mut |_, _| ()).unwrap()
}

/// Keys and replaced `auth_data`, wherever they lie: what must never become fewer.
fn rows(engine: &OnDisk) -> i64 {
    engine.number(
        "SELECT (SELECT count(*) FROM keys) + (SELECT count(*) FROM key_history)
            + (SELECT count(*) FROM auth_data_history) + (SELECT count(*) FROM versions)",
    )
}

/// What is done to the file, what is found, and whether it can be put right.
const DAMAGE: &[(&str, &str, bool)] = &[
    // The rows of versions: what the other tables tell as well can be put back.
    ("UPDATE versions SET count = 7 WHERE version = 1000", "its row is damaged", true),
    ("UPDATE versions SET bytes = 7 WHERE version = 1000", "its row is damaged", true),
    ("UPDATE versions SET etag = 1 WHERE version = 1000", "its row is damaged", true),
    ("UPDATE versions SET deleted_at = 5 WHERE version = 1000", "its row is damaged", true),
    ("UPDATE versions SET key_set_pk = 99 WHERE version = 1000", "its row is damaged", true),
    ("UPDATE versions SET key_set_pk = 4 WHERE version = 1000", "its row is damaged", true),
    ("UPDATE versions SET deleted_at = NULL WHERE version = 100", "its row is damaged", true),
    (
        "UPDATE versions SET count = 3, deleted_at = 4 WHERE version = 100",
        "its row is damaged",
        true,
    ),
    ("UPDATE versions SET auth_data = '{}' WHERE version = 1000", "its row is damaged", false),
    (
        "UPDATE versions SET auth_data = CAST(x'7bff7d' AS TEXT) WHERE version = 1000",
        "its row is damaged",
        false,
    ),
    ("UPDATE versions SET etag = -1 WHERE version = 1000", "its row is damaged", false),
    // The same in rows without checksums.
    (
        "UPDATE versions SET count = 7, checksum = NULL WHERE version = 1000",
        "its count is 7, and it has 2 keys",
        true,
    ),
    (
        "UPDATE versions SET bytes = 7, checksum = NULL WHERE version = 100",
        "the bytes of its 1 keys are counted wrong",
        true,
    ),
    (
        "UPDATE versions SET etag = 1150, checksum = NULL WHERE version = 1000",
        "its etag is older than one of its keys",
        true,
    ),
    (
        "UPDATE versions SET deleted_at = 5, checksum = NULL WHERE version = 1000",
        "keys out of view would never be purged",
        true,
    ),
    (
        "UPDATE versions SET deleted_at = NULL, checksum = NULL WHERE version = 100",
        "keys in view are marked as deleted",
        true,
    ),
    (
        "UPDATE versions SET deleted_at = 5, checksum = NULL WHERE version = 100",
        "it and its keys were deleted at different times",
        true,
    ),
    (
        "UPDATE versions SET auth_data = '[]', checksum = NULL WHERE version = 1000",
        "its auth_data is no JSON object",
        false,
    ),
    (
        "UPDATE versions SET key_set_pk = 4, checksum = NULL WHERE version = 1000",
        "it shows the keys of another version",
        false,
    ),
    ("DELETE FROM versions WHERE version = 100", "its row is missing, and 2 keys are there", false),
    // Keys in view: one has an intact copy, the other has none.
    (
        "UPDATE keys SET session_data = '{\"from\": 1}' WHERE stored_at = 1200",
        "damaged keys: 1",
        true,
    ),
    ("UPDATE keys SET session_data = '{}' WHERE stored_at = 1100", "damaged keys: 1", true),
    ("UPDATE keys SET session_data = '{' WHERE stored_at = 1100", "damaged keys: 1", true),
    (
        "UPDATE keys SET session_data = '{', checksum = NULL WHERE stored_at = 1100",
        "damaged keys: 1",
        true,
    ),
    (
        "UPDATE keys SET session_data = CAST(x'ff' AS TEXT) WHERE stored_at = 1200",
        "damaged keys: 1",
        true,
    ),
    (
        "UPDATE keys SET room_id = CAST(x'21ff' AS TEXT) WHERE stored_at = 1200",
        "damaged keys: 1",
        true,
    ),
    (
        "UPDATE keys SET session_id = printf('%300s', ''), checksum = NULL WHERE stored_at = 1200",
        "damaged keys: 1",
        true,
    ),
    ("UPDATE keys SET is_verified = 2 WHERE stored_at = 1200", "damaged keys: 1", true),
    (
        "UPDATE keys SET first_message_index = -1, checksum = NULL WHERE stored_at = 1100",
        "damaged keys: 1",
        true,
    ),
    (
        "UPDATE keys SET forwarded_count = 4294967296, checksum = NULL WHERE stored_at = 1200",
        "damaged keys: 1",
        true,
    ),
    ("UPDATE keys SET session_data = '' WHERE key_set_pk = 3", "damaged keys: 2", true),
    // Keys out of view.
    (
        "UPDATE keys SET session_data = '{}' WHERE key_set_pk = 1",
        "damaged keys among the deleted and replaced: 1",
        true,
    ),
    (
        "UPDATE keys SET session_data = '{}' WHERE key_set_pk = 2",
        "damaged keys among the deleted and replaced: 1",
        true,
    ),
    (
        "UPDATE key_history SET session_data = '{}' WHERE key_set_pk = 3",
        "damaged keys among the deleted and replaced: 2",
        true,
    ),
    (
        "UPDATE key_history SET session_data = CAST(x'ff' AS TEXT), checksum = NULL
            WHERE key_set_pk = 1",
        "damaged keys among the deleted and replaced: 1",
        true,
    ),
    ("UPDATE auth_data_history SET auth_data = '{}'", "damaged replaced auth_data: 1", true),
    // Sets.
    (
        "UPDATE key_sets SET detached_at = 1350, end_age = 0, count = 2, bytes = 9
            WHERE key_set_pk = 3",
        "keys in view are marked as deleted",
        true,
    ),
    (
        "UPDATE key_sets SET is_purging = 1 WHERE key_set_pk = 3",
        "keys in view are marked as deleted",
        true,
    ),
    (
        "UPDATE key_sets SET end_age = NULL WHERE key_set_pk = 1",
        "keys out of view would never be purged",
        true,
    ),
    (
        "UPDATE key_sets SET count = NULL WHERE key_set_pk = 2",
        "keys out of view would never be purged",
        true,
    ),
    (
        "UPDATE key_sets SET detached_at = NULL, end_age = NULL, count = NULL, bytes = NULL
            WHERE key_set_pk = 1",
        "keys out of view would never be purged",
        true,
    ),
    (
        "UPDATE key_sets SET detached_at = 5 WHERE key_set_pk = 2",
        "it and its keys were deleted at different times",
        true,
    ),
    (
        "UPDATE key_sets SET bytes = 1 WHERE key_set_pk = 1",
        "a set of deleted keys is counted wrong",
        true,
    ),
    ("DELETE FROM key_sets WHERE key_set_pk = 3", "its set of keys is missing", true),
    (
        "UPDATE key_sets SET version = 100 WHERE key_set_pk = 3",
        "it shows the keys of another version",
        false,
    ),
    (
        "UPDATE key_sets SET user_pk = 2 WHERE key_set_pk = 3",
        "it shows the keys of another version",
        false,
    ),
    // Users and the rest.
    (
        "UPDATE users SET kept_keys = kept_keys + 1 WHERE user_pk = 1",
        "the count of what is kept out of view is wrong",
        true,
    ),
    (
        "UPDATE users SET kept_bytes = 0 WHERE user_pk = 1",
        "the count of what is kept out of view is wrong",
        true,
    ),
    (
        "UPDATE users SET user_id = 'nobody' WHERE user_pk = 1",
        "the id of user number 1 is damaged",
        false,
    ),
    ("DELETE FROM users WHERE user_pk = 2", "versions that belong to nobody: 1", false),
    ("DELETE FROM key_sets WHERE key_set_pk = 1", "keys that belong to nobody: 1", false),
    ("UPDATE journal SET version = -1 WHERE at = 100", "damaged lines of the journal: 1", false),
    (
        "UPDATE journal SET device_id = printf('%300s', '') WHERE at = 100",
        "damaged lines of the journal: 1",
        false,
    ),
    ("DELETE FROM service", "the time that the store was in service is damaged", false),
    ("UPDATE service SET age = -1", "the time that the store was in service is damaged", false),
    (
        "UPDATE sqlite_sequence SET seq = 3",
        "new keys would be put among those of somebody else",
        true,
    ),
];

#[test]
fn each_kind_of_damage_is_found_and_repaired_where_it_can_be() {
    for (sql, what, can_be_repaired) in DAMAGE {
        let engine = filled();
        assert_eq!(check(&engine).findings, [], "before {sql}");
        engine.inspect().execute_batch(sql).unwrap();
        let rows_before = rows(&engine);

        let found = check(&engine).findings;
        assert!(found.iter().any(|it| it.what == *what), "{sql}: {found:?}");
        assert!(found.iter().all(|it| !it.is_repaired), "{sql}: {found:?}");
        let told: Vec<_> = found.iter().filter(|it| it.what == *what).collect();
        assert!(!can_be_repaired || told.iter().all(|it| it.repair.is_some()), "{sql}: {told:?}");
        assert_eq!(check(&engine).findings, found, "{sql}: a check changes nothing");

        let repaired = repair(&engine).findings;
        let is_repaired = repaired.iter().all(|it| it.is_repaired);
        assert_eq!(is_repaired, *can_be_repaired, "{sql}: {repaired:?}");
        assert!(repaired.iter().any(|it| it.what == *what), "{sql}: {repaired:?}");
        assert!(rows(&engine) >= rows_before, "{sql}: something was deleted");
        let again = check(&engine).findings;
        assert_eq!(again.is_empty(), *can_be_repaired, "{sql}: {again:?}");
    }
}

#[test]
fn what_a_version_shows_stays_in_view_whatever_else_is_said_of_it() {
    for spoil in ["version = 100", "user_pk = 2, version = 2000"] {
        let engine = filled();
        let sql = format!("UPDATE key_sets SET {spoil} WHERE key_set_pk = 3");
        engine.inspect().execute_batch(&sql).unwrap();
        let found = check(&engine).findings;
        let detached = "keys out of view would never be purged";
        assert!(found.iter().all(|it| it.what != detached), "{sql}: {found:?}");
        repair(&engine);
        let set = "SELECT detached_at IS NULL FROM key_sets WHERE key_set_pk = 3";
        assert_eq!(engine.number(set), 1, "{sql}");
    }
}

/// What clients see of Alice's current backup: the etag and the keys.
async fn seen(store: &dyn Store) -> (i64, u64, Vec<(String, String, Rank, String)>) {
    let backup = store.version(&user(0), None).await.unwrap();
    let keys = all_keys(store, &user(0), None, None, 10).await.unwrap();
    (backup.etag.get(), backup.count, keys)
}

#[test]
fn a_damaged_key_gives_way_to_its_newest_intact_copy_or_leaves_the_view() {
    let engine = filled();
    let store = engine.store();
    run(async {
        let before = seen(&*store).await;
        let spoil = "UPDATE keys SET session_data = '{}' WHERE key_set_pk = 3";
        engine.inspect().execute_batch(spoil).unwrap();
        let findings = repair(&engine).findings;
        let found = findings.iter().find(|it| it.what == "damaged keys: 2").unwrap();
        assert_eq!(found.user_id, Some(user(0)));
        assert_eq!(found.version, Version::new(1000));

        let after = seen(&*store).await;
        assert!(after.0 > before.0, "clients see that something has changed");
        assert_eq!(after.1, 1, "the one without a copy is gone from view");
        assert_eq!(
            store.key(&user(0), None, &room(0), &session(1)).await.unwrap(),
            Some(key(GOOD))
        );
        assert_eq!(store.key(&user(0), None, &room(0), &session(2)).await.unwrap(), None);
        let kept = "SELECT count(*) FROM key_history WHERE session_data = '{}' AND checksum < 0";
        assert_eq!(engine.number(kept), 2);
        let line = "SELECT keys FROM journal WHERE action = 'repair_keys' AND device_id IS NULL";
        assert_eq!(engine.number(line), 2);
        assert_eq!(check(&engine).marked, 2);

        // A client that still has it uploads it again; and time can be turned back across the repair.
        let again = [(room(0), session(2), key(GOOD))].into_iter().collect();
        let version = Version::new(1000).unwrap();
        store.put_keys(&author(0, 20_000), version, again).await.unwrap();
        let (then, now) = (Timestamp::from_micros(1250), Timestamp::from_micros(30_000));
        operator(&engine).undelete_as_of(&user(0), then, now, &mut |_, _| ()).unwrap();
        let (_, count, keys) = seen(&*store).await;
        assert!(keys.iter().all(|(.., data)| data != "{}"), "what is damaged never comes back");
        assert_eq!(count, keys.len() as u64);
        assert_eq!(check(&engine).findings, []);
    });
}

#[test]
fn a_deleted_version_comes_back_without_its_damaged_keys() {
    let engine = filled();
    let store = engine.store();
    run(async {
        let more: RoomKeys = (0..3).map(|n| (room(n), session(2), key(GOOD))).collect();
        let version = Version::new(1000).unwrap();
        store.put_keys(&author(0, 2000), version, more).await.unwrap();
        store.delete_version(&author(0, 3000), version).await.unwrap();
        let spoil = "UPDATE keys SET session_data = '' WHERE key_set_pk = 3 AND stored_at = 2000
            AND room_id = '!Z'";
        assert_eq!(engine.inspect().execute(spoil, []).unwrap(), 1);
        assert!(repair(&engine).findings.iter().all(|it| it.is_repaired));
        operator(&engine).undelete_version(&user(0), version, NOW).unwrap();
        let (_, count, keys) = seen(&*store).await;
        assert_eq!((count, keys.len()), (3, 3));
        assert_eq!(check(&engine).findings, []);
    });
}

#[test]
fn many_damaged_keys_and_keys_without_checksums_are_put_right_in_steps() {
    let engine = filled();
    let store = engine.store();
    run(async {
        let version = Version::new(1000).unwrap();
        let many = |rank| -> RoomKeys {
            let session = |n: u32| SessionId::parse(&format!("{n:04}")).unwrap();
            (0..1700).map(|n| (room(2), session(n), key(rank))).collect()
        };
        store.put_keys(&author(0, 3000), version, many(GOOD)).await.unwrap();
        store.put_keys(&author(0, 4000), version, many(BETTER)).await.unwrap();
        let spoil = "UPDATE keys SET checksum = NULL WHERE rowid % 2 = 0;
            UPDATE keys SET session_data = '{}' WHERE rowid % 3 = 0;
            UPDATE key_history SET checksum = NULL WHERE rowid % 5 = 0;
            UPDATE key_history SET session_data = 'x' WHERE rowid % 7 = 0;
            UPDATE versions SET checksum = NULL; UPDATE auth_data_history SET checksum = NULL;";
        engine.inspect().execute_batch(spoil).unwrap();
        let found = check(&engine);
        assert!(found.without_checksum > 1000, "{found:?}");
        let rows_before = rows(&engine);
        let repaired = repair(&engine);
        assert!(repaired.findings.iter().all(|it| it.is_repaired), "{repaired:?}");
        assert_eq!(repaired.without_checksum, 0, "{repaired:?}");
        assert!(rows(&engine) >= rows_before);
        let again = check(&engine);
        assert_eq!((again.findings, again.without_checksum), (vec![], 0));
        // Where `{}` had no checksum, it is a key like any other.
        let (_, count, keys) = seen(&*store).await;
        assert_eq!(count, keys.len() as u64);
        assert!(count > 1500, "{count}");
    });
}

proptest! {
    #![proptest_config(Config { cases: 48, ..Config::default() })]

    /// Whatever was done, nothing is wrong with it, and a repair changes nothing.
    #[test]
    fn nothing_is_found_where_nothing_is_wrong(
        history in contract::history(),
        is_purged in any::<bool>(),
        back_to in 0..60i64,
    ) {
        let mut engine = OnDisk::new();
        run(contract::agrees_with_the_model(&mut engine, history))?;
        prop_assert_eq!(check(&engine).findings, []);
        let mut operator = operator(&engine);
        for number in [0, 1] {
            let back_to = Timestamp::from_micros(back_to);
            let _ = operator.undelete_as_of(&user(number), back_to, NOW, &mut |_, _| ());
        }
        prop_assert_eq!(check(&engine).findings, []);
        if is_purged {
            run(serve_for(&*engine.store(), RETENTION));
            prop_assert_eq!(check(&engine).findings, []);
            operator.purge_expired(&mut |_, _| ()).unwrap();
            let _ = operator.purge_user(&user(0), &mut |_, _| ());
        }
        let before = everything_stored(&engine);
        prop_assert_eq!(repair(&engine).findings, []);
        prop_assert_eq!(everything_stored(&engine), before);
    }
}

/// All rows of all tables, as text.
fn everything_stored(engine: &OnDisk) -> [Vec<String>; 7] {
    let database = engine.inspect();
    ["users", "versions", "key_sets", "keys", "key_history", "auth_data_history", "journal"].map(
        |table| {
            let mut statement = database.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = statement.column_count();
            let rows = statement.query_map([], |row| {
                let values = (0..columns).map(|index| Ok(format!("{:?}", row.get_ref(index)?)));
                Ok(values.collect::<rusqlite::Result<Vec<_>>>()?.join(" "))
            });
            rows.unwrap().map(Result::unwrap).collect()
        },
    )
}

#[test]
fn a_server_that_writes_meanwhile_is_no_damage() {
    let engine = filled();
    let store = engine.store();
    let is_over = Arc::new(AtomicBool::new(false));
    run(async {
        let client = tokio::spawn({
            let (store, is_over) = (Arc::clone(&store), Arc::clone(&is_over));
            async move {
                let mut time = 5000;
                while !is_over.load(Ordering::Relaxed) {
                    time += 10;
                    let version = store.version(&user(0), None).await.unwrap().version;
                    let keys: RoomKeys = (0..3)
                        .flat_map(|r| [0, 1, 2].map(|s| (room(r), session(s), key(GOOD))))
                        .collect();
                    store.put_keys(&author(0, time), version, keys).await.unwrap();
                    store.put_keys(&author(0, time), version, one_key(BETTER)).await.unwrap();
                    let scope = Scope::Room(room(0));
                    store.delete_keys(&author(0, time), version, scope).await.unwrap();
                    if time % 50 == 0 {
                        store.delete_version(&author(0, time), version).await.unwrap();
                        let new = new_version(0, true);
                        store.create_version(&author(0, time), new).await.unwrap();
                    }
                }
            }
        });
        for _ in 0..20 {
            let checked = tokio::task::block_in_place(|| check(&engine));
            assert_eq!(checked.findings, []);
            let repaired = tokio::task::block_in_place(|| repair(&engine));
            assert_eq!(repaired.findings, []);
        }
        is_over.store(true, Ordering::Relaxed);
        client.await.unwrap();
    });
}

#[test]
fn an_index_that_lost_entries_is_built_anew() {
    let mut engine = filled();
    // Written by somebody who does not know the index.
    let spoil = "CREATE TEMP TABLE hidden AS
            SELECT * FROM sqlite_schema WHERE name = 'key_sets_by_version';
        PRAGMA writable_schema = ON;
        DELETE FROM sqlite_schema WHERE name = 'key_sets_by_version';
        PRAGMA writable_schema = RESET;
        INSERT INTO key_sets (user_pk, version, attached_at, detached_at, count, bytes, end_age)
            VALUES (1, 100, 450, 450, 0, 0, 0);
        PRAGMA writable_schema = ON;
        INSERT INTO main.sqlite_schema SELECT * FROM hidden;";
    let database = engine.inspect();
    database.execute_batch(spoil).unwrap();
    drop(database);
    engine.restart();
    let found = check(&engine).findings;
    assert!(found.iter().any(|it| it.what.starts_with("an index is damaged")), "{found:?}");
    let repaired = repair(&engine).findings;
    assert!(repaired.iter().all(|it| it.is_repaired), "{repaired:?}");
    assert_eq!(check(&engine).findings, []);
}

/// Everything that clients can read of both users.
async fn everything(store: &dyn Store) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for number in [0, 1] {
        let user = user(number);
        all.push(format!("{:?}", store.version(&user, None).await.ok()?));
        all.push(format!("{:?}", all_keys(store, &user, None, None, 10).await.ok()?));
    }
    Some(all)
}

/// Each case opens the file anew, so this is a sample; another each time.
#[test]
fn a_bit_that_flips_in_the_file_changes_nothing_that_is_read_or_is_found() {
    let engine = filled();
    let intact = run(everything(&*engine.store())).unwrap();
    let directory = engine.directory.path().to_owned();
    let path = directory.join("strongroom.db");
    engine.inspect().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let bytes = fs::read(&path).unwrap();
    drop(engine.store());
    // Most of a page is empty, and its bytes mean nothing.
    let places: Vec<_> = (0..bytes.len()).filter(|place| bytes[*place] != 0).collect();
    let flips = (prop::sample::select(places), 0..8u8, any::<bool>());
    let config = Config { cases: 150, failure_persistence: None, ..Config::default() };
    proptest!(config, |((place, bit, is_repaired) in flips)| {
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join("strongroom.db");
        fs::write(&path, &bytes).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[bytes[place] ^ (1 << bit)], place as u64).unwrap();
        drop(file);
        // A header that is spoilt is told at once.
        let Ok(mut operator) = SqliteOperator::open(copy.path()) else { return Ok(()) };
        let found = match operator.check(&mut |_, _| ()) {
            Ok(checked) => checked.findings,
            Err(_) => return Ok(()),
        };
        if is_repaired {
            let _ = operator.repair(NOW, &mut |_, _| ());
        }
        drop(operator);
        let Ok(store) = Sqlite::open(copy.path()) else { return Ok(()) };
        let read = run(everything(&store));
        prop_assert!(
            read.as_ref() == Some(&intact) || !found.is_empty(),
            "bit {} of byte {}: {:?}", bit, place, read
        );
    });
}

#[test]
fn a_file_of_the_first_format_is_believed_and_gets_checksums() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("strongroom.db");
    let format_1 = include_str!("format-1.sql");
    rusqlite::Connection::open(path).unwrap().execute_batch(format_1).unwrap();
    let mut operator = SqliteOperator::open(directory.path()).unwrap();
    let found = operator.check(&mut |_, _| ()).unwrap();
    assert_eq!((found.findings, found.without_checksum), (vec![], 6));
    let repaired = operator.repair(NOW, &mut |_, _| ()).unwrap();
    assert_eq!((repaired.findings, repaired.without_checksum), (vec![], 0));
}

#[test]
fn a_finding_names_user_and_version_and_no_key() {
    let engine = filled();
    let spoil = "UPDATE keys SET session_data = '{\"SECRET\": 1'; UPDATE versions SET count = 9";
    engine.inspect().execute_batch(spoil).unwrap();
    let found = check(&engine).findings;
    assert!(!found.is_empty());
    for Finding { what, .. } in &found {
        for told in ["SECRET", "!a:x", "!Z", "session"] {
            assert!(!what.contains(told), "{what}");
        }
    }
}
