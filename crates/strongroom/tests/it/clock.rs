//! The clock: it jumps back and ahead, while the server runs and while it does not. What is derived
//! from it rises all the same, and retention is not a matter of it.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

use std::{
    collections::BTreeSet,
    env, fs,
    time::{Duration, Instant, SystemTime},
};

use rusqlite::Connection;
use serde_json::Value;
use strongroom_testing::{Answer, until};
use tempfile::TempDir;

use crate::{
    client::{assert_ok, new_version},
    hostile::wire::{Alice, room_key},
};

/// So much of a year that no test takes as long.
const ALMOST_A_YEAR: Duration = Duration::from_secs(360 * 24 * 60 * 60);

/// The clock of a server, which is not the one of the machine.
struct Clock {
    directory: TempDir,
    library: String,
}

impl Clock {
    fn new() -> Self {
        let library = env::var("STRONGROOM_TEST_FAKETIME")
            .expect("STRONGROOM_TEST_FAKETIME is not set: run the tests with `cargo xtask test`");
        let clock = Self { directory: TempDir::new().unwrap(), library };
        clock.jump("+0");
        clock
    }

    /// To a place relative to the machine's, as libfaketime writes it: `-1h`, `+1y`.
    fn jump(&self, to: &str) {
        let (new, file) = (self.directory.path().join("new"), self.directory.path().join("clock"));
        fs::write(&new, to).unwrap();
        fs::rename(&new, &file).unwrap();
    }

    /// Alice, whose server goes by this clock.
    async fn alice(&self, environment: &[(&str, &str)]) -> Alice {
        let file = self.directory.path().join("clock");
        let faked = [
            ("LD_PRELOAD", self.library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().expect("UTF-8")),
            ("FAKETIME_NO_CACHE", "1"),
            // The time that has passed is the same for everybody, and so are the times of files.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        Alice::new(&[&faked, environment].concat()).await
    }
}

/// The numbers that must rise, and are never to be seen twice.
#[derive(Default)]
struct Stamps(BTreeSet<u64>);

impl Stamps {
    fn take(&mut self, stamp: &Value, when: &str) {
        let stamp = stamp.as_str().and_then(|stamp| stamp.parse().ok()).expect("digits");
        let last = self.0.last().copied().unwrap_or_default();
        assert!(stamp > last, "{when}: {stamp} after {last}");
        self.0.insert(stamp);
    }

    /// The last one, as a time, and how far it is ahead of the machine's clock.
    fn ahead(&self) -> Duration {
        let last = Duration::from_micros(*self.0.last().expect("one"));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        last.saturating_sub(now)
    }
}

/// One of each change that gives a stamp.
async fn change(alice: &mut Alice, stamps: &mut Stamps, when: &str) {
    let take = |stamps: &mut Stamps, answer: &Answer| {
        assert_ok(answer);
        stamps.take(&answer.json["etag"], when);
    };
    let version = alice.server.post("/room_keys/version", &alice.user, new_version()).await;
    assert_ok(&version);
    stamps.take(&version.json["version"], when);
    alice.version = version.json["version"].as_str().unwrap().to_owned();
    let path = format!("/room_keys/keys/!a:x/s?version={}", alice.version);
    // Each is better than the one before.
    for index in [2, 1] {
        take(stamps, &alice.server.put(&path, &alice.user, room_key(index)).await);
    }
    take(stamps, &alice.server.delete(&path, &alice.user).await);
    take(stamps, &alice.server.put(&path, &alice.user, room_key(1)).await);
    // The newest that is left becomes the current one, and its etag is an old one.
    let path = format!("/room_keys/version/{}", alice.version);
    assert_ok(&alice.server.delete(&path, &alice.user).await);
}

#[tokio::test]
async fn etags_and_versions_rise_wherever_the_clock_jumps() {
    let clock = Clock::new();
    let mut alice = clock.alice(&[]).await;
    let mut stamps = Stamps::default();
    for jump in ["+0", "-1h", "+1h", "-60y", "+1y", "-1h", "+100y", "+0"] {
        clock.jump(jump);
        change(&mut alice, &mut stamps, &format!("{jump} while it runs")).await;
        if jump == "+1y" {
            assert!(stamps.ahead() > ALMOST_A_YEAR, "the clock did not jump");
        }
        alice.server.kill();
        clock.jump("-2y");
        alice.server.start().await;
        change(&mut alice, &mut stamps, &format!("{jump}, then -2y while it did not run")).await;
    }
}

/// Retention, in the time in which the server is in service.
const RETENTION: Duration = Duration::from_secs(6);

/// A key that was deleted, and when.
struct Deleted<'a> {
    session: &'a str,
    at: Instant,
}

impl<'a> Deleted<'a> {
    /// Puts a key and deletes it.
    async fn new(alice: &Alice, session: &'a str) -> Self {
        let path = format!("/room_keys/keys/!a:x/{session}?version={}", alice.version);
        assert_ok(&alice.server.put(&path, &alice.user, room_key(0)).await);
        let at = Instant::now();
        assert_ok(&alice.server.delete(&path, &alice.user).await);
        Self { session, at }
    }

    /// Whether it could still be brought back.
    fn is_kept(&self, alice: &Alice) -> bool {
        let database = Connection::open(alice.server.data().join("strongroom.db")).unwrap();
        let sql = "SELECT count(*) FROM key_history WHERE session_id = ?1";
        database.query_row(sql, [self.session], |row| row.get::<_, i64>(0)).unwrap() > 0
    }

    /// Waits until it is purged, and fails if that was before its time.
    async fn is_purged_in_time(&self, alice: &Alice) {
        let what = format!("the purge of {}", self.session);
        until(&what, async || (!self.is_kept(alice)).then_some(())).await;
        let kept = self.at.elapsed();
        assert!(kept >= RETENTION, "{} is gone after {kept:?}", self.session);
    }
}

#[tokio::test]
async fn nothing_is_purged_early_wherever_the_clock_jumps() {
    let clock = Clock::new();
    let mut alice = clock.alice(&[("STRONGROOM_RETENTION", "6s")]).await;
    let first = Deleted::new(&alice, "first").await;
    until("most of its time", async || (first.at.elapsed() > RETENTION * 2 / 3).then_some(()))
        .await;
    let second = Deleted::new(&alice, "second").await;

    clock.jump("+1y");
    let third = Deleted::new(&alice, "third").await;
    first.is_purged_in_time(&alice).await;
    // A purge has looked for what is due, with the clock a year ahead.
    let age = second.at.elapsed();
    assert!(second.is_kept(&alice) || second.at.elapsed() >= RETENTION, "gone after {age:?}");

    alice.server.kill();
    clock.jump("+2y");
    alice.server.start().await;
    second.is_purged_in_time(&alice).await;
    alice.server.kill();
    clock.jump("-1h");
    alice.server.start().await;
    third.is_purged_in_time(&alice).await;
}
