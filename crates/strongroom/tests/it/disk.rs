//! The disk: writes and syncs that fail, space that ends, files that go away, and damage. Whatever
//! happens, what was acknowledged is there, and nothing else is acknowledged.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

mod faults;
mod history;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use serde_json::json;
use strongroom_testing::{Process, until};

use self::{
    faults::{
        DATABASE, FAILED, Fault, INDEX, LOG, OPERATED, SmallDisk, episodes, health, well_again,
    },
    history::History,
};
use crate::{
    client::{assert_refused, assert_says_when_to_retry, create_backup},
    hostile::wire::Alice,
};

/// Starts the server anew, its log empty, with a fault.
async fn start_with(alice: &mut Alice, fault: &Fault<'_>) {
    alice.server.terminate();
    alice.server.wait().await;
    let launcher = fault.launcher(&alice.server);
    alice.server.set_launcher(launcher);
    alice.server.start().await;
}

/// SIGKILL, and a start without the fault.
async fn restart_without(alice: &mut Alice) {
    alice.server.set_launcher(Vec::new());
    alice.server.kill_and_restart().await;
}

/// A start ends at once, and says why.
async fn does_not_start(alice: &Alice, expected: &str) {
    let mut process = Process::spawn("strongroom", &mut alice.server.command());
    assert_eq!(process.wait().await.code(), Some(2), "{}", process.output());
    assert_eq!(process.output(), expected);
}

/// For each of these faults: a history in which it happens, then what was acknowledged is there, and
/// is there after SIGKILL.
async fn survives(file: &str, faults: impl IntoIterator<Item = String>) {
    let mut alice = Alice::new(&[]).await;
    let mut history = History::new(1);
    for fault in faults {
        let fault = Fault::new(&alice.server, file, &fault);
        start_with(&mut alice, &fault).await;
        let (_, refused_before) = history.answers();
        history.go_on(&alice, 8).await;
        assert_eq!(fault.failed(), 1, "{} of {} calls", fault.inject, fault.calls().len());
        let (_, refused) = history.answers();
        assert_eq!(refused, refused_before + 1, "{} costs one request", fault.inject);
        history.check(&alice).await;
        history.recover(&alice).await;
        restart_without(&mut alice).await;
        history.check(&alice).await;
    }
}

#[tokio::test]
async fn whichever_write_finds_no_space_nothing_acknowledged_is_lost() {
    let calls = [1, 2, 3, 4, 6, 9, 14, 21, 32];
    survives(LOG, calls.map(|n| format!("pwrite64:error=ENOSPC:when={n}"))).await;
}

#[tokio::test]
async fn whichever_write_fails_nothing_acknowledged_is_lost() {
    let calls = [1, 2, 3, 5, 8, 13, 19, 28];
    survives(LOG, calls.map(|n| format!("pwrite64:error=EIO:when={n}"))).await;
}

#[tokio::test]
async fn whichever_sync_fails_nothing_acknowledged_is_lost() {
    survives(LOG, (1..=8).map(|n| format!("fsync:error=EIO:when={n}"))).await;
}

#[tokio::test]
async fn while_syncs_fail_nothing_is_acknowledged_and_what_was_is_read() {
    let mut alice = Alice::new(&OPERATED).await;
    let mut history = History::new(2);
    let fault = Fault::new(&alice.server, LOG, "fsync:error=EIO:when=6+");
    start_with(&mut alice, &fault).await;
    history.go_on(&alice, 30).await;
    let (acknowledged, refused) = history.answers();
    assert_eq!((acknowledged, refused), (4, 26), "the log's header has a sync of its own");
    let sync_failed = "a sync failed\nhelp: see what the system says about the disk, and end other \
         programs that have the database open; writing goes on by itself once it is on the disk\n";
    assert_eq!(health(&alice.server).await, (503, sync_failed.to_owned()));
    assert_eq!(episodes(&alice.server), ["nothing is written trouble=a sync failed"]);
    history.check(&alice).await;

    restart_without(&mut alice).await;
    history.check(&alice).await;
    history.recover(&alice).await;
    well_again(&alice.server).await;
}

/// A log whose sync failed may not be on the disk, whatever the system's memory shows of it.
#[tokio::test]
async fn a_log_that_was_left_behind_is_synced_anew_or_not_served_from() {
    let mut alice = Alice::new(&[]).await;
    let mut history = History::new(3);
    history.go_on(&alice, 8).await;
    alice.server.kill();
    let length = fs::metadata(alice.server.data().join(LOG)).unwrap().len();
    let fault = Fault::new(&alice.server, LOG, "fsync:error=EIO:when=1");
    alice.server.set_launcher(fault.launcher(&alice.server));
    let log = alice.server.data().join(LOG);
    let expected = format!(
        "error: what {} holds can't be brought to the disk: Input/output error (os error 5)\n\
         help: keep a copy of the directory before you try anything; is its disk full or damaged?\n",
        log.display()
    );
    does_not_start(&alice, &expected).await;
    let calls = fault.calls();
    let written: u64 = calls.iter().filter_map(|call| write(call)).map(|(_, bytes)| bytes).sum();
    assert_eq!(written, length, "all of it is written: {calls:#?}");
    assert!(calls.last().unwrap().ends_with(FAILED), "and then synced: {calls:#?}");

    restart_without(&mut alice).await;
    history.check(&alice).await;
}

/// The offset and the length of a write, out of the line of a trace.
fn write(call: &str) -> Option<(u64, u64)> {
    let (_, call) = call.split_once(" pwrite64(")?;
    let (arguments, result) = call.rsplit_once(") = ")?;
    let (_, offset) = arguments.rsplit_once(", ")?;
    Some((offset.parse().ok()?, result.trim().parse().ok()?))
}

/// Puts more into the log than is left there for long.
async fn put_five_megabytes(alice: &Alice, room: &str) {
    let ciphertext = "c".repeat(60_000);
    let sessions: serde_json::Map<_, _> = (0..90)
        .map(|n| (n.to_string(), crate::client::room_key(false, 0, 0, &ciphertext)))
        .collect();
    let path = format!("/room_keys/keys?version={}", alice.version);
    let body = json!({ "rooms": { room: { "sessions": sessions } } });
    let put = alice.server.put(&path, &alice.user, body).await;
    assert_eq!(put.status, 200, "{put:?}");
}

/// What a checkpoint moved before one failed to sync need not be on the disk either.
#[tokio::test]
async fn after_a_checkpoint_that_could_not_sync_everything_is_moved_again() {
    let mut alice = Alice::new(&OPERATED).await;
    let mut history = History::new(4);
    let fault = Fault::new(&alice.server, DATABASE, "fsync:error=EIO:when=1");
    start_with(&mut alice, &fault).await;
    put_five_megabytes(&alice, "!first:x").await;
    // A reader elsewhere, who needs the database as it is now.
    let database = Connection::open(alice.server.data().join(DATABASE)).unwrap();
    database.execute_batch("BEGIN; SELECT count(*) FROM keys").unwrap();
    put_five_megabytes(&alice, "!second:x").await;
    let first = until("the first part", async || {
        let calls = fault.calls();
        let first: BTreeSet<_> = calls.iter().filter_map(|call| write(call)).collect();
        (!first.is_empty()).then_some(first)
    });
    let first = first.await;
    drop(database);
    history.go_on(&alice, 1).await;
    let begins = "the log is not moved into the database trouble=a sync failed";
    until("the sync", async || (episodes(&alice.server) == [begins]).then_some(())).await;

    history.recover(&alice).await;
    let ends = "the log is moved into the database again after=a sync failed";
    until("a good one", async || (episodes(&alice.server) == [begins, ends]).then_some(())).await;
    let calls = fault.calls();
    let again = calls.iter().skip_while(|call| !call.ends_with(FAILED));
    let again: BTreeSet<_> = again.filter_map(|call| write(call)).collect();
    let left_out = first.difference(&again).count();
    assert_eq!(left_out, 0, "of {} pages", first.len());
    well_again(&alice.server).await;
    history.check(&alice).await;
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_written_until_there_is_space_again() {
    let mut alice = Alice::new(&OPERATED).await;
    alice.server.terminate();
    alice.server.wait().await;
    let disk = SmallDisk::new(&alice.server.data(), "16m").await;
    alice.server.set_launcher(disk.launcher());
    alice.server.start().await;
    alice.version = create_backup(&alice.server, &alice.user).await;
    let mut history = History::new(5);
    history.go_on(&alice, 10).await;

    disk.fill();
    let (acknowledged, _) = history.answers();
    until("the end of what SQLite has reserved", async || {
        history.go_on(&alice, 1).await;
        (history.answers().1 > 0).then_some(())
    })
    .await;
    history.go_on(&alice, 20).await;
    let full = "the disk is full\nhelp: free some space; writing then goes on by itself\n";
    assert_eq!(health(&alice.server).await, (503, full.to_owned()));
    history.check(&alice).await;
    let told = |alice: &Alice| {
        let mut told = episodes(&alice.server);
        // Whether the log can be moved depends on how much the database would grow.
        told.retain(|line| !line.contains("the log is"));
        told
    };
    let begins = "nothing is written trouble=the disk is full";
    assert_eq!(told(&alice), [begins], "it is told once");

    disk.make_space();
    history.recover(&alice).await;
    well_again(&alice.server).await;
    let ends = "it is written again after=the disk is full";
    until("the end", async || {
        history.recover(&alice).await;
        (told(&alice) == [begins, ends]).then_some(())
    })
    .await;
    assert!(history.answers().0 > acknowledged);
    alice.server.kill_and_restart().await;
    history.check(&alice).await;
}

/// Nothing is written any more, what was is read, and the operator is told `trouble`.
async fn refuses_to_write(alice: &Alice, history: &mut History, trouble: &str) {
    let (acknowledged, refused) = history.answers();
    history.go_on(alice, 5).await;
    assert_eq!(history.answers(), (acknowledged, refused + 5));
    let (status, said) = health(&alice.server).await;
    assert!(status == 503 && said.starts_with(&format!("{trouble}\nhelp: ")), "{status} {said}");
    history.check(alice).await;
    assert_eq!(episodes(&alice.server), [format!("nothing is written trouble={trouble}")]);
}

const MOVED: &str = "the database was moved, removed or replaced";

#[tokio::test]
async fn a_database_that_another_is_moved_over_is_not_written_until_it_is_back() {
    let mut alice = Alice::new(&OPERATED).await;
    let mut history = History::new(6);
    history.go_on(&alice, 8).await;
    let data = alice.server.data();
    let (database, snapshot, aside) =
        (data.join(DATABASE), data.join("snapshot"), data.join("aside"));
    let copy = format!("VACUUM INTO '{}'", snapshot.display());
    Connection::open(&database).unwrap().execute_batch(&copy).unwrap();
    fs::hard_link(&database, &aside).unwrap();
    fs::rename(&snapshot, &database).unwrap();
    refuses_to_write(&alice, &mut history, MOVED).await;

    fs::rename(&aside, &database).unwrap();
    history.recover(&alice).await;
    well_again(&alice.server).await;
    alice.server.kill_and_restart().await;
    history.check(&alice).await;
}

/// SQLite would write the log into whatever is called like its database.
#[tokio::test]
async fn a_log_is_not_read_into_another_database() {
    let mut alice = Alice::new(&[]).await;
    let mut history = History::new(12);
    history.go_on(&alice, 8).await;
    alice.server.kill_and_restart().await;
    let data = alice.server.data();
    let (database, log, aside) = (data.join(DATABASE), data.join(LOG), data.join("aside"));
    let copy = format!("VACUUM INTO '{}'", aside.display());
    Connection::open(&database).unwrap().execute_batch(&copy).unwrap();
    let mut copied = history.clone();
    history.go_on(&alice, 8).await;
    alice.server.kill();
    let expected = format!(
        "error: {} is not the database that {} belongs to\nhelp: put back the database that was \
         there; to use this one as it is, move the other file away\n",
        database.display(),
        log.display()
    );

    // In the place of the database: the copy, and nothing.
    let exchange = || {
        fs::rename(&database, data.join("exchanged")).unwrap();
        fs::rename(&aside, &database).unwrap();
        fs::rename(data.join("exchanged"), &aside).unwrap();
    };
    exchange();
    does_not_start(&alice, &expected).await;
    exchange();
    fs::rename(&database, data.join("exchanged")).unwrap();
    does_not_start(&alice, &expected).await;
    fs::rename(data.join("exchanged"), &database).unwrap();
    alice.server.start().await;
    history.check(&alice).await;

    alice.server.kill();
    exchange();
    for name in [LOG, INDEX] {
        fs::remove_file(data.join(name)).unwrap();
    }
    alice.server.start().await;
    copied.check(&alice).await;
}

#[tokio::test]
async fn a_log_that_is_removed_is_saved_into_the_database() {
    let mut alice = Alice::new(&OPERATED).await;
    let mut history = History::new(7);
    history.go_on(&alice, 8).await;
    fs::remove_file(alice.server.data().join(LOG)).unwrap();
    refuses_to_write(&alice, &mut history, MOVED).await;
    // What is in the database without the log.
    let (database, copy) =
        (alice.server.data().join(DATABASE), alice.server.data().with_extension("copy"));
    until("the log to be moved", async || {
        fs::copy(&database, &copy).unwrap();
        let copy = Connection::open(&copy).unwrap();
        let keys = copy.query_row("SELECT count(*) FROM keys", [], |row| row.get::<_, i64>(0));
        keys.is_ok_and(|keys| keys > 0).then_some(())
    })
    .await;
    alice.server.kill_and_restart().await;
    history.check(&alice).await;
    history.recover(&alice).await;
    well_again(&alice.server).await;
}

/// Nobody finds the files again, but the process still has them.
#[tokio::test]
async fn a_database_that_is_removed_can_be_had_from_the_process() {
    let mut alice = Alice::new(&OPERATED).await;
    let mut history = History::new(8);
    history.go_on(&alice, 8).await;
    let data = alice.server.data();
    for name in [DATABASE, LOG, INDEX] {
        fs::remove_file(data.join(name)).unwrap();
    }
    refuses_to_write(&alice, &mut history, MOVED).await;

    let opened = PathBuf::from(format!("/proc/{}/fd", alice.server.id()));
    for name in [DATABASE, LOG] {
        let gone = PathBuf::from(format!("{} (deleted)", data.join(name).display()));
        let mut links = fs::read_dir(&opened).unwrap().map(|link| link.unwrap().path());
        let link = links.find(|link| fs::read_link(link).is_ok_and(|target| target == gone));
        fs::copy(link.expect("it is open"), data.join(name)).unwrap();
    }
    alice.server.kill_and_restart().await;
    history.check(&alice).await;
    history.recover(&alice).await;
    well_again(&alice.server).await;
}

#[tokio::test]
async fn a_directory_that_may_not_be_looked_into_is_not_written_until_it_may() {
    let mut alice = Alice::new(&OPERATED).await;
    let mut history = History::new(9);
    history.go_on(&alice, 8).await;
    // Root may do everything, so it is the call that fails.
    let fault = Fault::new(&alice.server, DATABASE, "statx:error=EACCES:when=5..14");
    start_with(&mut alice, &fault).await;
    history.go_on(&alice, 1).await;
    refuses_to_write(&alice, &mut history, "the database can't be written to").await;
    history.recover(&alice).await;
    well_again(&alice.server).await;
    history.check(&alice).await;
}

/// Where the root page of a table begins.
fn root_of(database: &Path, table: &str) -> u64 {
    let database = Connection::open(database).unwrap();
    let sql = "SELECT (rootpage - 1) * (SELECT page_size FROM pragma_page_size) FROM sqlite_schema
         WHERE name = ?1";
    let offset: i64 = database.query_row(sql, [table], |row| row.get(0)).unwrap();
    offset.unsigned_abs()
}

/// Writes rubbish over the beginning of a table while the server is stopped, and returns what the
/// database was before.
async fn damage(alice: &mut Alice, table: &str) -> Vec<u8> {
    alice.server.terminate();
    alice.server.wait().await;
    let database = alice.server.data().join(DATABASE);
    let sound = fs::read(&database).unwrap();
    let file = File::options().write(true).open(&database).unwrap();
    file.write_all_at(&[0xff; 16], root_of(&database, table)).unwrap();
    alice.server.start().await;
    sound
}

#[tokio::test]
async fn a_damaged_database_is_not_written_and_what_is_intact_is_read() {
    let mut alice = Alice::new(&OPERATED).await;
    let mut history = History::new(10);
    history.go_on(&alice, 8).await;
    let sound = damage(&mut alice, "journal").await;
    until("the first write into what is damaged", async || {
        history.go_on(&alice, 1).await;
        (history.answers().1 > 0).then_some(())
    })
    .await;
    refuses_to_write(&alice, &mut history, "the database is damaged").await;

    alice.server.kill();
    for name in [LOG, INDEX] {
        fs::remove_file(alice.server.data().join(name)).unwrap();
    }
    fs::write(alice.server.data().join(DATABASE), sound).unwrap();
    alice.server.start().await;
    history.recover(&alice).await;
    well_again(&alice.server).await;
}

#[tokio::test]
async fn damage_that_a_reader_finds_is_no_missing_key() {
    let mut alice = Alice::new(&OPERATED).await;
    alice.is_served().await;
    damage(&mut alice, "keys").await;
    for path in
        ["/room_keys/keys", "/room_keys/keys/!honest:x", "/room_keys/keys/!honest:x/session"]
    {
        let got = alice.server.get(&format!("{path}?version={}", alice.version), &alice.user).await;
        assert_refused(&got, 503, "M_UNKNOWN");
        assert_says_when_to_retry(&got);
    }
    let version = alice.server.get("/room_keys/version", &alice.user).await;
    assert_eq!((version.status, &version.json["count"]), (200, &json!(1)), "{version:?}");
    let (status, said) = health(&alice.server).await;
    assert!(status == 503 && said.starts_with("the database is damaged\n"), "{status} {said}");
    assert_eq!(episodes(&alice.server), ["nothing is written trouble=the database is damaged"]);
}

#[tokio::test]
async fn a_database_that_becomes_one_of_another_release_is_not_written() {
    let alice = Alice::new(&OPERATED).await;
    let mut history = History::new(11);
    history.go_on(&alice, 8).await;
    let database = Connection::open(alice.server.data().join(DATABASE)).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    refuses_to_write(&alice, &mut history, "the database has another format").await;
}
