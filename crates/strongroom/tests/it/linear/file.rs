//! What the server's file says while no server runs (`docs/storage.md`).

use std::{collections::HashMap, fs, path::Path};

use rusqlite::Connection;
use tempfile::TempDir;

use super::history::Line;

/// The journal of each user, in the order of the changes.
///
/// It is read in a copy, so that the next server finds what the last one left.
///
/// # Panics
///
/// If the file is damaged, or what it says of keys contradicts itself.
pub(crate) fn journals(data: &Path) -> HashMap<String, Vec<Line>> {
    let copy = TempDir::new().expect("a temporary directory");
    for name in ["strongroom.db", "strongroom.db-wal"] {
        if data.join(name).exists() {
            fs::copy(data.join(name), copy.path().join(name)).expect("the directory is ours");
        }
    }
    let file = Connection::open(copy.path().join("strongroom.db")).expect("a database");
    let integrity: String =
        file.query_one("PRAGMA integrity_check", [], |row| row.get(0)).expect("a database");
    assert_eq!(integrity, "ok");
    let miscounted: i64 = file
        .query_one(
            "SELECT count(*) FROM versions v
             WHERE count <> (SELECT count(*) FROM keys WHERE key_set_pk = v.key_set_pk)",
            [],
            |row| row.get(0),
        )
        .expect("the documented tables");
    assert_eq!(miscounted, 0, "versions have another number of keys than they say");

    let mut lines = file
        .prepare(
            "SELECT user_id, action, version, device_id, keys,
                (SELECT count(*) FROM key_sets s JOIN key_history USING (key_set_pk)
                 WHERE s.user_pk = j.user_pk AND s.version = j.version AND ended_at = at)
                + (SELECT count(*) FROM key_sets s JOIN keys USING (key_set_pk)
                   WHERE s.user_pk = j.user_pk AND s.version = j.version AND detached_at = at)
             FROM journal j JOIN users USING (user_pk) ORDER BY j.rowid",
        )
        .expect("the documented tables");
    let mut rows = lines.query([]).expect("the documented tables");
    let mut journals: HashMap<_, Vec<_>> = HashMap::new();
    while let Some(row) = rows.next().expect("rows") {
        let number = |index| row.get::<_, i64>(index).expect("a number").unsigned_abs() as usize;
        let line = Line {
            action: row.get(1).expect("text"),
            version: number(2) as u64,
            device_id: row.get(3).expect("text"),
            keys: number(4),
        };
        if line.keys > 0 {
            assert_eq!(number(5), line.keys, "as many keys are kept as left the view: {line:?}");
        }
        journals.entry(row.get(0).expect("text")).or_default().push(line);
    }
    journals
}
