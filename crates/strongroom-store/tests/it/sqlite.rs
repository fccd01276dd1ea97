//! The embedded engine.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, test_runner::Config};
use rusqlite::Connection;
use strongroom_protocol::{Rank, RoomKeys};
use strongroom_store::{
    Error, OpenError, PageSize, Quotas, Retention, Scope, Sqlite, SqliteOperator, Store, Tick,
    Timestamp,
};
use tempfile::TempDir;

use crate::contract::{self, Engine, all_keys, author, key, new_version, room, session, user};

pub(crate) struct OnDisk {
    pub(crate) directory: TempDir,
    store: Option<Arc<Sqlite>>,
}

impl OnDisk {
    pub(crate) fn new() -> Self {
        Self::open(Quotas::default())
    }

    pub(crate) fn open(quotas: Quotas) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Some(Arc::new(Sqlite::open_with(directory.path(), quotas).unwrap()));
        Self { directory, store }
    }

    /// What SQLite itself sees in the file.
    pub(crate) fn inspect(&self) -> Connection {
        Connection::open(self.directory.path().join("strongroom.db")).unwrap()
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.inspect().query_row(sql, [], |row| row.get(0)).unwrap()
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

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

pub(crate) const RETENTION: Duration = Duration::from_secs(3600);

/// Lets a time of service pass, in ticks of a minute.
pub(crate) async fn serve_for(store: &dyn Store, time: Duration) {
    let minute = Duration::from_secs(60);
    let retention = Retention { kept: RETENTION, journal: RETENTION * 10 };
    // The first announces the second.
    for served in [Duration::ZERO].into_iter().chain((0..=time.as_secs() / 60).map(|_| minute)) {
        store.tick(Tick { served, next: minute, retention }).await.unwrap();
    }
}

pub(crate) fn one_key(rank: Rank) -> RoomKeys {
    [(room(0), session(1), key(rank))].into_iter().collect()
}

proptest! {
    #![proptest_config(Config { cases: 96, ..Config::default() })]

    /// Whatever is done, answered and restarted, the store shows what the model shows.
    #[test]
    fn sqlite_agrees_with_the_model(history in contract::history()) {
        let mut engine = OnDisk::new();
        run(contract::agrees_with_the_model(&mut engine, history))?;
        engine.restart();
        prop_assert_eq!(engine.number(COUNTS_THAT_LIE), 0);
        prop_assert_eq!(engine.number(KEYS_IN_NO_SET), 0);
    }

    /// SQL's row-value comparison is the better-key rule.
    #[test]
    fn sql_keeps_the_key_that_rank_keeps(
        old in (any::<bool>(), any::<u32>(), any::<u32>()),
        new in (any::<bool>(), any::<u32>(), any::<u32>()),
        same_index in any::<bool>(),
    ) {
        let old = Rank::new(old.0, old.1, old.2);
        let index = if same_index { old.first_message_index() } else { new.1 };
        let new = Rank::new(new.0, index, new.2);
        let kept = run(async {
            let engine = OnDisk::new();
            let store = engine.store();
            let version = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
            store.put_keys(&author(0, 0), version, one_key(old)).await.unwrap();
            store.put_keys(&author(0, 0), version, one_key(new)).await.unwrap();
            store.key(&user(0), None, &room(0), &session(1)).await.unwrap().unwrap()
        });
        prop_assert_eq!(kept, key(if new.beats(old) { new } else { old }));
    }
}

/// Counts are kept, never counted; so they are counted here.
const COUNTS_THAT_LIE: &str = "SELECT count(*) FROM versions v WHERE deleted_at IS NULL AND
    count <> (SELECT count(*) FROM keys k WHERE k.key_set_pk = v.key_set_pk)";
const KEYS_IN_NO_SET: &str =
    "SELECT count(*) FROM keys WHERE key_set_pk NOT IN (SELECT key_set_pk FROM key_sets)";

#[test]
fn disjoint_puts_lose_nothing() {
    let engine = OnDisk::new();
    run(contract::disjoint_puts_lose_nothing(engine.store()));
}

#[test]
fn racing_puts_end_with_the_best_key() {
    let engine = OnDisk::new();
    run(contract::racing_puts_end_with_the_best_key(engine.store()));
}

#[test]
fn acknowledged_keys_are_where_they_were_acknowledged() {
    let engine = OnDisk::new();
    run(contract::acknowledged_keys_are_where_they_were_acknowledged(engine.store()));
}

#[test]
fn the_current_backup_is_read_as_it_is() {
    let engine = OnDisk::new();
    run(contract::the_current_backup_is_read_as_it_is(engine.store()));
}

#[test]
fn a_restore_in_flight_survives_deletion() {
    let engine = OnDisk::new();
    run(contract::a_restore_in_flight_survives_deletion(engine.store()));
}

/// What happened to a backup, as the journal has it.
fn journal(engine: &OnDisk) -> Vec<(String, String, i64)> {
    let database = engine.inspect();
    let mut lines =
        database.prepare("SELECT action, device_id, keys FROM journal ORDER BY rowid").unwrap();
    let lines = lines.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    lines.map(Result::unwrap).collect()
}

#[test]
fn nothing_that_leaves_the_view_is_lost_before_its_time() {
    let engine = OnDisk::new();
    let store = engine.store();
    run(async {
        let (worse, better) = (Rank::new(false, 0, 0), Rank::new(true, 9, 0));
        let version = store.create_version(&author(0, 100), new_version(0, true)).await.unwrap();
        store.put_keys(&author(0, 200), version, one_key(worse)).await.unwrap();
        store.put_keys(&author(0, 300), version, one_key(better)).await.unwrap();
        store.update_version(&author(0, 400), version, new_version(2, true)).await.unwrap();
        let session = Scope::Session(room(0), session(1));
        store.delete_keys(&author(0, 500), version, session).await.unwrap();
        store.put_keys(&author(0, 600), version, one_key(worse)).await.unwrap();
        store.delete_keys(&author(0, 700), version, Scope::All).await.unwrap();
        store.put_keys(&author(0, 800), version, one_key(better)).await.unwrap();
        store.delete_version(&author(0, 900), version).await.unwrap();

        let purged = store.purge().await.unwrap();
        assert!(purged.is_done && purged.keys == 0, "{purged:?}");
        let device = |action: &str, keys| (action.to_owned(), "PHONE".to_owned(), keys);
        assert_eq!(
            journal(&engine),
            [
                device("create_version", 0),
                device("replace_keys", 1),
                device("update_version", 0),
                device("delete_keys", 1),
                device("delete_keys", 1),
                device("delete_version", 1),
            ]
        );
        let all = [
            // Beaten at 300, deleted at 500.
            "SELECT count(*) FROM key_history WHERE ended_at = 300 AND stored_at = 200 AND NOT is_verified",
            "SELECT count(*) FROM key_history WHERE ended_at = 500 AND stored_at = 300 AND is_verified",
            // In the sets that were detached at 700 and 900.
            "SELECT count(*) FROM keys JOIN key_sets USING (key_set_pk) WHERE detached_at = 700 AND count = 1",
            "SELECT count(*) FROM keys JOIN key_sets USING (key_set_pk) WHERE detached_at = 900 AND count = 1",
            "SELECT count(*) FROM auth_data_history WHERE since = 100 AND ended_at = 400",
        ];
        for sql in all {
            assert_eq!(engine.number(sql), 1, "{sql}");
        }
        serve_for(&*store, RETENTION).await;
        while !store.purge().await.unwrap().is_done {}
        for table in ["keys", "key_history", "auth_data_history", "key_sets"] {
            assert_eq!(engine.number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
        // That the version existed is remembered: deleting it again succeeds, its id is not reused.
        store.delete_version(&author(0, 0), version).await.unwrap();
        let next = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
        assert!(next > version, "{next} {version}");
    });
}

#[test]
fn a_purge_goes_in_steps_and_a_reader_of_what_it_removes_is_told() {
    let engine = OnDisk::new();
    let store = engine.store();
    run(async {
        let version = store.create_version(&author(0, 100), new_version(0, true)).await.unwrap();
        let many = (0..1000).map(|n| {
            let session = strongroom_protocol::SessionId::parse(&n.to_string()).unwrap();
            (room(0), session, key(Rank::new(false, 0, 0)))
        });
        store.put_keys(&author(0, 200), version, many.collect()).await.unwrap();
        let size = PageSize { keys_max: 10, bytes_max: 10_000 };
        let (key_set, read) = store.first_page(&user(0), None, None, size).await.unwrap();
        store.delete_version(&author(0, 300), version).await.unwrap();
        serve_for(&*store, RETENTION).await;
        let first = store.purge().await.unwrap();
        assert!(first.keys > 0 && first.keys < 1000 && !first.is_done, "{first:?}");
        let page = store.page(key_set, None, &read.last().unwrap(), size).await;
        assert!(matches!(page, Err(Error::Purged)), "{page:?}");
    });
}

#[test]
fn a_request_that_is_refused_leaves_its_neighbours_alone() {
    let engine = OnDisk::new();
    let store = engine.store();
    run(async {
        let old = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
        let new = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..200 {
            let store = Arc::clone(&store);
            let version = if n % 2 == 0 { old } else { new };
            tasks.spawn(async move {
                let session = strongroom_protocol::SessionId::parse(&n.to_string()).unwrap();
                let keys = [(room(0), session, key(Rank::new(false, 0, 0)))];
                store.put_keys(&author(0, 0), version, keys.into_iter().collect()).await.is_ok()
            });
        }
        let stored = tasks.join_all().await.into_iter().filter(|is_stored| *is_stored).count();
        assert_eq!(stored, 100);
        assert_eq!(store.version(&user(0), Some(new)).await.unwrap().count, 100);
        assert_eq!(store.version(&user(0), Some(old)).await.unwrap().count, 0);
    });
}

#[test]
fn only_the_owner_may_look_into_the_directory() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b");
    let store = Sqlite::open(&path).unwrap();
    run(store.create_version(&author(0, 0), new_version(0, true))).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<PathBuf> = fs::read_dir(&path).unwrap().map(|f| f.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{file:?}");
    }
}

#[test]
fn a_directory_that_is_in_use_is_not_opened_again() {
    let engine = OnDisk::new();
    let again = Sqlite::open(engine.directory.path());
    assert!(matches!(again, Err(OpenError::InUse(_))), "{again:?}");
}

#[test]
fn a_newer_or_foreign_or_broken_file_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(Sqlite::open(directory.path()).unwrap());
    let path = directory.path().join("strongroom.db");
    let set = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();

    set("PRAGMA user_version = 99");
    let newer = Sqlite::open(directory.path());
    assert!(matches!(newer, Err(OpenError::Newer { found: 99, .. })), "{newer:?}");

    set("PRAGMA user_version = 1; PRAGMA application_id = 7");
    let foreign = Sqlite::open(directory.path());
    assert!(matches!(foreign, Err(OpenError::Foreign(_))), "{foreign:?}");

    fs::write(&path, "not a database, but long enough to be looked at as one").unwrap();
    let broken = Sqlite::open(directory.path());
    assert!(matches!(broken, Err(OpenError::Database { .. })), "{broken:?}");
    let kept = fs::read_to_string(&path).unwrap();
    assert!(kept.starts_with("not a database"), "{kept}");
}

/// A file of the first format with a key in view, one in history, one in a detached set, a deleted
/// version, and a replaced `auth_data`, as the first release wrote it.
const FORMAT_1: &str = include_str!("format-1.sql");

#[test]
fn a_file_of_the_first_format_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("strongroom.db");
    Connection::open(&path).unwrap().execute_batch(FORMAT_1).unwrap();
    let store = Arc::new(Sqlite::open(directory.path()).unwrap());
    let engine = OnDisk { directory, store: Some(store) };
    let store = engine.store();
    run(async {
        let alice = user(0);
        let backup = store.version(&alice, None).await.unwrap();
        assert_eq!((backup.version.get(), backup.etag.get(), backup.count), (100, 600, 1));
        let found = all_keys(&*store, &alice, None, None, 10).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].2, found[0].3.as_str()), (Rank::new(true, 9, 0), r#"{"kept": 1}"#));
        assert_eq!(crate::operator::contradictions(&engine), Vec::<String>::new());

        // What was kept is kept on, for as long as if it had just left the view.
        let purged = store.purge().await.unwrap();
        assert!(purged.is_done && purged.keys == 0, "{purged:?}");
        let mut operator = SqliteOperator::open(engine.directory.path()).unwrap();
        let (then, now) = (Timestamp::from_micros(250), Timestamp::from_micros(900));
        operator.undelete_as_of(&alice, then, now, &mut |_, _| ()).unwrap();
        let backup = store.version(&alice, None).await.unwrap();
        assert_eq!(backup.created.auth_data.as_str(), r#"{"public_key": "key0", "signature": 0}"#);
        let found = all_keys(&*store, &alice, None, None, 10).await.unwrap();
        assert_eq!((found.len(), found[0].2), (1, Rank::new(false, 0, 0)));
        assert_eq!(crate::operator::contradictions(&engine), Vec::<String>::new());
    });
}

#[test]
fn a_file_where_the_directory_should_be_is_told_by_its_path() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Sqlite::open(file.path()).unwrap_err();
    let OpenError::Io { path, source } = error else { panic!("{error:?}") };
    assert_eq!((path.as_path(), source.kind()), (file.path(), io::ErrorKind::AlreadyExists));
}

/// A scan would make a poll or a page slower with every key that is stored.
#[test]
fn what_is_read_often_is_found_through_an_index() {
    let engine = OnDisk::new();
    let database = engine.inspect();
    let plan = |sql: &str| -> String {
        let mut statement = database.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = statement.parameter_count();
        let params = rusqlite::params_from_iter((0..count).map(|_| 1));
        let rows = statement.query_map(params, |row| row.get::<_, String>(3)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    for sql in [
        "SELECT * FROM keys WHERE key_set_pk = ?1 ORDER BY room_id, session_id",
        "SELECT * FROM keys WHERE key_set_pk = ?1 AND (room_id, session_id) > (?2, ?3)
            ORDER BY room_id, session_id",
        "SELECT * FROM keys WHERE key_set_pk = ?1 AND room_id = ?2 AND session_id > ?3
            ORDER BY session_id",
        "SELECT * FROM users CROSS JOIN versions USING (user_pk)
            WHERE user_id = ?1 AND deleted_at IS NULL ORDER BY version DESC LIMIT 1",
        "SELECT user_pk, key_set_pk FROM key_sets CROSS JOIN users USING (user_pk)
            WHERE end_age <= ?1 AND (users.retention IS NULL OR end_age <= ?2 - users.retention)
            ORDER BY end_age LIMIT 1",
        "SELECT user_pk, key_set_pk FROM key_history CROSS JOIN key_sets USING (key_set_pk)
            CROSS JOIN users USING (user_pk) WHERE key_history.end_age <= ?1
            ORDER BY key_history.end_age LIMIT 1",
    ] {
        let plan = plan(sql);
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}
