//! What an operator does about what clients have done.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use proptest::{collection::vec, prelude::*, test_runner::Config};
use strongroom_protocol::{Object, Rank, RoomKey, RoomKeys, SessionId, UserId, Version};
use strongroom_store::{
    Error, Fate, OpenError, OperatorError, Quota, Quotas, Scope, Sqlite, SqliteOperator, Store,
    Timestamp,
};

use crate::{
    contract::{self, Engine, Op, all_keys, author, key, new_version, room, session, user},
    sqlite::{OnDisk, RETENTION, one_key, run, serve_for},
};

/// Times at which things happen are so far apart that stamps never have to run ahead of them.
const APART: i64 = 1000;

fn operator(engine: &OnDisk) -> SqliteOperator {
    SqliteOperator::open(engine.directory.path()).unwrap()
}

fn at(time: i64) -> Timestamp {
    Timestamp::from_micros(time * APART)
}

/// The `auth_data` of a version and its keys.
type Content = (String, Vec<(String, String, Rank, String)>);

/// Everything that clients can read of a user but the etags; and which version is current.
async fn everything(
    store: &dyn Store,
    user_id: &UserId,
    made: &[Version],
) -> (Option<Version>, BTreeMap<Version, Content>) {
    let mut found = BTreeMap::new();
    for version in made {
        let Ok(backup) = store.version(user_id, Some(*version)).await else { continue };
        let keys = all_keys(store, user_id, Some(*version), None, 7).await.unwrap();
        assert_eq!(backup.count, keys.len() as u64, "the count of {version}");
        found.insert(*version, (backup.created.auth_data.as_str().to_owned(), keys));
    }
    let current = store.version(user_id, None).await.ok().map(|backup| backup.version);
    (current, found)
}

/// Lets `ops` happen, one after the other, from `time` on.
async fn happen(store: &dyn Store, ops: &[Op], made: &mut Vec<Version>, time: &mut i64) {
    for op in ops {
        *time += 1;
        let author = author(0, *time * APART);
        contract::run(store, &author, op, made).await;
        if matches!(op, Op::Create { .. }) {
            made.push(store.version(&author.user_id, None).await.unwrap().version);
        }
    }
}

/// What of the file contradicts itself.
pub(crate) fn contradictions(engine: &OnDisk) -> Vec<String> {
    let checks = [
        ("a count", "SELECT count(*) FROM versions v WHERE deleted_at IS NULL AND
            count <> (SELECT count(*) FROM keys k WHERE k.key_set_pk = v.key_set_pk)"),
        ("bytes", "SELECT count(*) FROM versions v WHERE deleted_at IS NULL AND bytes <> (SELECT
            coalesce(sum(octet_length(session_data)), 0) FROM keys k WHERE k.key_set_pk = v.key_set_pk)"),
        ("a set", "SELECT count(*) FROM versions v JOIN key_sets s USING (key_set_pk)
            WHERE (deleted_at IS NULL) <> (detached_at IS NULL)"),
        ("kept keys", "SELECT count(*) FROM users u WHERE kept_keys <>
            (SELECT count(*) FROM keys JOIN key_sets s USING (key_set_pk)
                WHERE s.user_pk = u.user_pk AND detached_at IS NOT NULL)
            + (SELECT count(*) FROM key_history JOIN key_sets s USING (key_set_pk)
                WHERE s.user_pk = u.user_pk)"),
        ("kept bytes", "SELECT count(*) FROM users u WHERE kept_bytes <>
            (SELECT coalesce(sum(octet_length(session_data)), 0) FROM keys
                JOIN key_sets s USING (key_set_pk)
                WHERE s.user_pk = u.user_pk AND detached_at IS NOT NULL)
            + (SELECT coalesce(sum(octet_length(session_data)), 0) FROM key_history
                JOIN key_sets s USING (key_set_pk) WHERE s.user_pk = u.user_pk)
            + (SELECT coalesce(sum(octet_length(auth_data)), 0) FROM auth_data_history a
                WHERE a.user_pk = u.user_pk)
            + (SELECT 128 * count(*) FROM journal j WHERE j.user_pk = u.user_pk)"),
    ];
    let wrong = checks.into_iter().filter(|(_, sql)| engine.number(sql) != 0);
    wrong.map(|(what, _)| what.to_owned()).collect()
}

fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(contract::op().prop_filter("in one process", |op| !matches!(op, Op::Restart)), 0..most)
}

proptest! {
    #![proptest_config(Config { cases: 64, ..Config::default() })]

    /// The thief's day: whatever is done with a stolen token, one command puts everything back to the
    /// minute before, and another one puts that back.
    #[test]
    fn everything_can_be_put_back_to_what_it_was(
        before in ops(20),
        theft in ops(20),
        after in ops(6),
    ) {
        let engine = OnDisk::new();
        let (store, alice) = (engine.store(), user(0));
        run(async {
            let (mut made, mut time) = (Vec::new(), 0);
            happen(&*store, &[Op::Create { auth_data: 0, algorithm: true }], &mut made, &mut time).await;
            happen(&*store, &before, &mut made, &mut time).await;
            let (good_time, good) = (time, everything(&*store, &alice, &made).await);
            happen(&*store, &theft, &mut made, &mut time).await;
            let (bad_time, bad) = (time, everything(&*store, &alice, &made).await);
            let etags = etags(&*store, &alice, &made).await;

            let mut operator = operator(&engine);
            let plan = operator.plan_undelete_as_of(&alice, at(good_time), at(time + 1)).unwrap();
            prop_assert_eq!(&everything(&*store, &alice, &made).await, &bad, "a plan changes nothing");
            time += 1;
            let done =
                operator.undelete_as_of(&alice, at(good_time), at(time), &mut |_, _| ()).unwrap();
            prop_assert_eq!(&done, &plan);
            prop_assert_eq!(&everything(&*store, &alice, &made).await, &good);
            prop_assert_eq!(done.current, good.0);
            prop_assert_eq!(contradictions(&engine), Vec::<String>::new());
            let new_etags = self::etags(&*store, &alice, &made).await;
            for (version, etag) in &new_etags {
                let is_same = bad.1.get(version).map(|it| &it.1) == good.1.get(version).map(|it| &it.1);
                if let Some(old) = etags.get(version) {
                    prop_assert_eq!(etag == old, is_same, "the etag of {}", version);
                    prop_assert!(etag >= old);
                }
            }
            let again =
                operator.undelete_as_of(&alice, at(good_time), at(time), &mut |_, _| ()).unwrap();
            prop_assert_eq!(again.versions, []);

            // Life goes on, and what was put aside can be had as well.
            happen(&*store, &after, &mut made, &mut time).await;
            time += 1;
            operator.undelete_as_of(&alice, at(bad_time), at(time), &mut |_, _| ()).unwrap();
            prop_assert_eq!(&everything(&*store, &alice, &made).await, &bad);
            time += 1;
            operator.undelete_as_of(&alice, at(good_time), at(time), &mut |_, _| ()).unwrap();
            prop_assert_eq!(&everything(&*store, &alice, &made).await, &good);
            prop_assert_eq!(contradictions(&engine), Vec::<String>::new());

            // In the end nothing of it is left but what is in view.
            serve_for(&*store, RETENTION).await;
            while !store.purge().await.unwrap().is_done {}
            prop_assert_eq!(&everything(&*store, &alice, &made).await, &good);
            prop_assert_eq!(contradictions(&engine), Vec::<String>::new());
            prop_assert_eq!(engine.number("SELECT kept_keys FROM users"), 0);
            Ok(())
        })?;
    }
}

async fn etags(store: &dyn Store, user_id: &UserId, made: &[Version]) -> BTreeMap<Version, i64> {
    let mut etags = BTreeMap::new();
    for version in made {
        if let Ok(backup) = store.version(user_id, Some(*version)).await {
            etags.insert(*version, backup.etag.get());
        }
    }
    etags
}

const GOOD: Rank = Rank::new(false, 0, 0);

#[test]
fn a_deleted_version_comes_back_with_its_keys() {
    let engine = OnDisk::new();
    let (store, alice) = (engine.store(), user(0));
    run(async {
        let old = store.create_version(&author(0, 1), new_version(0, true)).await.unwrap();
        store.put_keys(&author(0, 2), old, one_key(GOOD)).await.unwrap();
        let before = store.version(&alice, Some(old)).await.unwrap();
        store.delete_version(&author(0, 3), old).await.unwrap();
        let new = store.create_version(&author(0, 4), new_version(1, true)).await.unwrap();

        let mut operator = operator(&engine);
        let now = Timestamp::from_micros(5);
        let done = operator.undelete_version(&alice, old, now).unwrap();
        assert_eq!((done.versions[0].fate, done.versions[0].keys_after), (Fate::ComesBack, 1));
        assert_eq!(done.current, Some(new), "the newest stays the current one");
        let after = store.version(&alice, Some(old)).await.unwrap();
        assert_eq!((after.count, &after.created), (before.count, &before.created));
        assert!(after.etag > before.etag, "{after:?} {before:?}");
        let found = store.key(&alice, Some(old), &room(0), &session(1)).await.unwrap();
        assert_eq!(found, Some(key(GOOD)));
        assert_eq!(contradictions(&engine), Vec::<String>::new());

        let again = operator.undelete_version(&alice, old, now);
        assert!(matches!(again, Err(OperatorError::NotDeleted(_))), "{again:?}");
        let never = operator.undelete_version(&alice, Version::new(77).unwrap(), now);
        assert!(matches!(never, Err(OperatorError::NoSuchVersion(_))), "{never:?}");
        let nobody = operator.undelete_version(&user(1), old, now);
        assert!(matches!(nobody, Err(OperatorError::NoSuchUser(_))), "{nobody:?}");

        store.delete_version(&author(0, 6), old).await.unwrap();
        serve_for(&*store, RETENTION).await;
        while !store.purge().await.unwrap().is_done {}
        let purged = operator.undelete_version(&alice, old, now);
        assert!(matches!(purged, Err(OperatorError::Purged(_))), "{purged:?}");
        let early = operator.undelete_as_of(&alice, Timestamp::from_micros(2), now, &mut |_, _| ());
        assert!(matches!(early, Err(OperatorError::TooEarly { .. })), "{early:?}");
    });
}

#[test]
fn a_user_may_be_kept_for_longer_than_the_others() {
    let engine = OnDisk::new();
    let store = engine.store();
    run(async {
        let mut versions = Vec::new();
        for number in [0, 1] {
            let author = author(number, 1);
            let version = store.create_version(&author, new_version(0, true)).await.unwrap();
            store.put_keys(&author, version, one_key(GOOD)).await.unwrap();
            store.put_keys(&author, version, one_key(Rank::new(true, 0, 0))).await.unwrap();
            store.delete_version(&author, version).await.unwrap();
            versions.push(version);
        }
        let mut operator = operator(&engine);
        operator.retain(&user(1), Some(2 * RETENTION)).unwrap();
        let now = Timestamp::from_micros(9);

        serve_for(&*store, RETENTION).await;
        assert_eq!(operator.purge_expired(&mut |_, _| ()).unwrap(), 2, "a key and its better copy");
        assert!(operator.undelete_version(&user(0), versions[0], now).is_err());
        operator.plan_undelete_version(&user(1), versions[1]).unwrap();

        serve_for(&*store, RETENTION).await;
        assert_eq!(operator.purge_expired(&mut |_, _| ()).unwrap(), 2);
        assert!(operator.undelete_version(&user(1), versions[1], now).is_err());
        assert_eq!(contradictions(&engine), Vec::<String>::new());
    });
}

#[test]
fn of_a_user_who_is_purged_nothing_is_left_in_the_file() {
    let engine = OnDisk::new();
    let (store, alice) = (engine.store(), user(0));
    run(async {
        let secret = |n: usize| {
            let session_data = format!(r#"{{"ciphertext": "ALICES-SECRET-{n}"}}"#);
            let session_data = Object::parse(&session_data, 1000).unwrap();
            let session = SessionId::parse(&format!("ALICES-SESSION-{n}")).unwrap();
            (session, session_data)
        };
        let keys = |rank: Rank| -> RoomKeys {
            let all = (0..700).map(|n| {
                let (session, session_data) = secret(n);
                (room(0), session, RoomKey { rank, session_data })
            });
            all.collect()
        };
        let bob = store.create_version(&author(1, 1), new_version(0, true)).await.unwrap();
        store.put_keys(&author(1, 2), bob, one_key(GOOD)).await.unwrap();
        let version =
            store.create_version(&author(0, 50_000_000), new_version(0, true)).await.unwrap();
        store.put_keys(&author(0, 3), version, keys(GOOD)).await.unwrap();
        store.put_keys(&author(0, 4), version, keys(Rank::new(true, 0, 0))).await.unwrap();
        store.delete_keys(&author(0, 5), version, Scope::Room(room(0))).await.unwrap();
        store.put_keys(&author(0, 6), version, keys(GOOD)).await.unwrap();
        store.update_version(&author(0, 7), version, new_version(2, true)).await.unwrap();
        let bobs = everything(&*store, &user(1), &[bob]).await;

        let mut operator = operator(&engine);
        let removed = operator.purge_user(&alice, &mut |_, _| ()).unwrap();
        assert_eq!((removed.versions, removed.keys, removed.left), (1, 2100, 0), "{removed:?}");
        assert_eq!(removed.auth_data, 1);
        assert!(removed.journal_lines >= 4 && removed.is_overwritten, "{removed:?}");
        for file in fs::read_dir(engine.directory.path()).unwrap() {
            let path = file.unwrap().path();
            let content = fs::read(&path).unwrap();
            for trace in ["ALICES-S", alice.as_str()] {
                let found = content.windows(trace.len()).any(|window| window == trace.as_bytes());
                assert!(!found, "{trace} is still in {}", path.display());
            }
        }
        assert_eq!(everything(&*store, &user(1), &[bob]).await, bobs);
        assert_eq!(contradictions(&engine), Vec::<String>::new());
        let again = operator.purge_user(&alice, &mut |_, _| ());
        assert!(matches!(again, Err(OperatorError::NoSuchUser(_))), "{again:?}");

        // A clock that went back does not give the id again to whoever comes next.
        let next = store.create_version(&author(0, 8), new_version(0, true)).await.unwrap();
        assert!(next > version, "{next} {version}");
    });
}

#[test]
fn a_user_who_comes_back_while_being_purged_begins_anew() {
    let engine = OnDisk::new();
    let (store, alice) = (engine.store(), user(0));
    let old = run(async {
        let version = store.create_version(&author(0, 1), new_version(0, true)).await.unwrap();
        store.put_keys(&author(0, 2), version, one_key(GOOD)).await.unwrap();
        store.update_version(&author(0, 3), version, new_version(2, true)).await.unwrap();
        version
    });
    let mut came_back = false;
    let removed = operator(&engine).purge_user(&alice, &mut |_, _| {
        if !came_back {
            came_back = true;
            let new = run(store.create_version(&author(0, 4), new_version(1, true))).unwrap();
            assert!(new > old, "{new} {old}");
            run(store.put_keys(&author(0, 5), new, one_key(GOOD))).unwrap();
        }
    });
    let removed = removed.unwrap();
    assert_eq!((removed.versions, removed.keys, removed.auth_data), (1, 1, 1), "{removed:?}");
    assert!(removed.left > 0, "{removed:?}");
    assert_eq!(contradictions(&engine), Vec::<String>::new());
    assert_eq!(run(store.version(&alice, None)).unwrap().count, 1);
}

#[test]
fn a_purge_that_was_interrupted_is_done_to_the_end_when_it_is_done_again() {
    let engine = OnDisk::new();
    let (store, alice) = (engine.store(), user(0));
    run(async {
        let version = store.create_version(&author(0, 1), new_version(0, true)).await.unwrap();
        // Some pieces, between which it is interrupted.
        let session = |n: u32| SessionId::parse(&n.to_string()).unwrap();
        let keys = (0..1000).map(|n| (room(0), session(n), key(GOOD))).collect();
        store.put_keys(&author(0, 2), version, keys).await.unwrap();
        store.update_version(&author(0, 3), version, new_version(2, true)).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut interrupted = operator(&engine);
        interrupted.stop_when(Arc::clone(&stop)).unwrap();
        let first = interrupted.purge_user(&alice, &mut |_, _| stop.store(true, Ordering::Relaxed));
        assert!(matches!(first, Err(OperatorError::Interrupted)), "{first:?}");
        assert!(engine.number("SELECT count(*) FROM journal") > 0, "it was interrupted too late");

        let second = operator(&engine).purge_user(&alice, &mut |_, _| ()).unwrap();
        assert_eq!(second.left, 0, "{second:?}");
        for table in ["users", "versions", "keys", "key_sets", "auth_data_history", "journal"] {
            assert_eq!(engine.number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
    });
}

#[test]
fn a_user_has_no_more_than_the_quotas_allow_and_others_do_not_notice() {
    let quotas = Quotas { keys_max: 3, bytes_max: 10_000, versions_max: 2 };
    let engine = OnDisk::open(quotas);
    let store = engine.store();
    let put = |sessions: std::ops::Range<u8>, rank: Rank, data: usize| -> RoomKeys {
        let data = format!(r#"{{"d": "{}"}}"#, "x".repeat(data));
        let session_data = Object::parse(&data, 100_000).unwrap();
        let key = RoomKey { rank, session_data };
        let session = |n: u8| SessionId::parse(&n.to_string()).unwrap();
        sessions.map(|n| (room(0), session(n), key.clone())).collect()
    };
    let over = |result: Result<strongroom_store::Stored, Error>, quota: Quota| {
        assert!(matches!(&result, Err(Error::OverQuota(q)) if *q == quota), "{result:?}");
    };
    run(async {
        let author = author(0, 1);
        let version = store.create_version(&author, new_version(0, true)).await.unwrap();
        store.put_keys(&author, version, put(0..3, GOOD, 10)).await.unwrap();
        let stored = store.version(&user(0), None).await.unwrap();
        over(store.put_keys(&author, version, put(3..4, GOOD, 10)).await, Quota::Keys(3));
        // A better copy of what is there is one key more, since the other is kept.
        let better = Rank::new(true, 0, 0);
        over(store.put_keys(&author, version, put(0..1, better, 10)).await, Quota::Keys(3));
        store.put_keys(&author, version, put(0..3, GOOD, 10)).await.unwrap();
        assert_eq!(store.version(&user(0), None).await.unwrap(), stored, "nothing has changed");

        // What is deleted counts until it is purged.
        store.delete_keys(&author, version, Scope::All).await.unwrap();
        over(store.put_keys(&author, version, put(0..1, GOOD, 10)).await, Quota::Keys(3));
        serve_for(&*store, RETENTION).await;
        while !store.purge().await.unwrap().is_done {}
        over(store.put_keys(&author, version, put(0..1, GOOD, 11_000)).await, Quota::Bytes(10_000));
        store.put_keys(&author, version, put(0..1, GOOD, 8_000)).await.unwrap();

        let second = store.create_version(&author, new_version(0, true)).await.unwrap();
        store.delete_version(&author, second).await.unwrap();
        let third = store.create_version(&author, new_version(0, true)).await;
        assert!(matches!(third, Err(Error::OverQuota(Quota::Versions(2)))), "{third:?}");
        serve_for(&*store, RETENTION).await;
        while !store.purge().await.unwrap().is_done {}
        store.create_version(&author, new_version(0, true)).await.unwrap();

        let other = contract::author(1, 1);
        let version = store.create_version(&other, new_version(0, true)).await.unwrap();
        store.put_keys(&other, version, put(0..3, GOOD, 10)).await.unwrap();
        assert_eq!(contradictions(&engine), Vec::<String>::new());
    });
}

#[test]
fn an_operator_looks_only_where_a_store_is() {
    let directory = tempfile::tempdir().unwrap();
    let error = SqliteOperator::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Missing(_)), "{error:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
    drop(Sqlite::open(directory.path()).unwrap());
    assert!(!SqliteOperator::open(directory.path()).unwrap().status().unwrap().is_served);
    let _store = Sqlite::open(directory.path()).unwrap();
    assert!(SqliteOperator::open(directory.path()).unwrap().status().unwrap().is_served);
}
