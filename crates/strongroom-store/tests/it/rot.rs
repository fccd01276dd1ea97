//! Bytes of the file that change by themselves: wrong data is never returned.

use std::{fs, path::Path, thread};

use strongroom_protocol::{Rank, RoomId, RoomKeys, UserId, Version};
use strongroom_store::{Error, PageSize, Scope, Sqlite, Store};
use tokio::runtime::{self, Runtime};

use crate::contract::{author, key, new_version, room, session, user};

/// More than there are: a list that is longer has no end.
const KEYS_MAX: usize = 20;
const PAGE_BYTES: usize = 8192;
/// SQLite's first page holds mostly the text of the schema, a damage to which shows at once.
const SCHEMA_BYTES: usize = PAGE_BYTES;
/// Of the text of the schema, of what else is in use, and of what is empty, every so manieth byte.
const STRIDES: [usize; 3] = [11, 3, 499];

/// Two users, versions of which one is deleted, keys, and a history of what was replaced and deleted.
async fn fill(store: &dyn Store) -> Vec<(UserId, Vec<Version>)> {
    let keys = |keys: &[(u8, u8, u32)]| -> RoomKeys {
        let key = |index| key(Rank::new(false, index, 0));
        keys.iter().map(|&(r, s, index)| (room(r), session(s), key(index))).collect()
    };
    let [alice, bob] = [0, 1].map(|number| move |at| author(number, at));
    let old = store.create_version(&alice(100), new_version(0, true)).await.unwrap();
    store.put_keys(&alice(200), old, keys(&[(0, 0, 1), (1, 1, 2)])).await.unwrap();
    let gone = store.create_version(&alice(300), new_version(1, false)).await.unwrap();
    store.put_keys(&alice(400), gone, keys(&[(0, 0, 3)])).await.unwrap();
    let current = store.create_version(&alice(500), new_version(0, true)).await.unwrap();
    store.delete_version(&alice(600), gone).await.unwrap();
    let put: Vec<_> = (0..9).map(|n| (n / 3, n % 3, u32::from(n) + 4)).collect();
    store.put_keys(&alice(700), current, keys(&put)).await.unwrap();
    store.put_keys(&alice(800), current, keys(&[(0, 1, 0)])).await.unwrap();
    let last = Scope::Session(room(2), session(2));
    store.delete_keys(&alice(900), current, last).await.unwrap();
    store.update_version(&alice(1000), current, new_version(2, true)).await.unwrap();
    let only = store.create_version(&bob(1100), new_version(1, true)).await.unwrap();
    store.put_keys(&bob(1200), only, keys(&[(0, 0, 20)])).await.unwrap();
    vec![(user(0), vec![old, gone, current]), (user(1), vec![only])]
}

/// What was asked, and the parts of the answer.
type Answer = (String, Result<Vec<String>, Error>);

/// Asks for everything that there is, and for some of what there is not.
async fn everything(store: &dyn Store, users: &[(UserId, Vec<Version>)]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for (user_id, versions) in users {
        for version in versions.iter().copied().map(Some).chain([None]) {
            let mut answer = |what: &str, found| {
                answers.push((format!("{what} of {version:?} of {user_id}"), found));
            };
            let backup = store.version(user_id, version).await;
            answer("what is known", backup.map(|backup| vec![format!("{backup:?}")]));
            for number in 0..3 {
                let (room_id, session_id) = (room(number), session(number));
                let found = store.key(user_id, version, &room_id, &session_id).await;
                let found = found.map(|key| key.iter().map(|key| format!("{key:?}")).collect());
                answer(&format!("key {number}"), found);
            }
            answer("room 1", list(store, user_id, version, Some(&room(1)), KEYS_MAX).await);
            for keys_max in [4, KEYS_MAX] {
                answer("every key", list(store, user_id, version, None, keys_max).await);
            }
        }
    }
    answers
}

/// Keys, read in pages of `keys_max`.
async fn list(
    store: &dyn Store,
    user_id: &UserId,
    version: Option<Version>,
    room_id: Option<&RoomId>,
    keys_max: usize,
) -> Result<Vec<String>, Error> {
    let size = PageSize { keys_max, bytes_max: 100_000 };
    let mut found = Vec::new();
    let (key_set, mut page) = store.first_page(user_id, version, room_id, size).await?;
    loop {
        found.extend(page.iter().map(|key| format!("{key:?}")));
        assert!(found.len() < KEYS_MAX, "there is no end to it: {found:#?}");
        let (true, Some(after)) = (page.is_full(), page.last()) else { return Ok(found) };
        page = store.page(key_set, room_id, &after, size).await?;
    }
}

/// Asks a database of these bytes. One that is not opened returns nothing wrong.
async fn ask(directory: &Path, bytes: &[u8], users: &[(UserId, Vec<Version>)]) -> Vec<Answer> {
    for file in fs::read_dir(directory).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    fs::write(directory.join("strongroom.db"), bytes).unwrap();
    match Sqlite::open(directory) {
        Ok(store) => everything(&store, users).await,
        Err(_) => Vec::new(),
    }
}

/// Changes some bytes, one after the other, and says what was wrong then.
async fn change(bytes: &[u8], places: &[usize], users: &[(UserId, Vec<Version>)]) -> Vec<String> {
    // In memory: an open takes a sync, and here some thousand times.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let truth = ask(directory.path(), bytes, users).await;
    let mut wrong = Vec::new();
    for &place in places {
        let mut changed = bytes.to_vec();
        // A bit, low or high, or all of them.
        changed[place] ^= [0x01, 0xff, 0x10, 0x80][place % 4];
        for ((what, found), (_, truth)) in
            ask(directory.path(), &changed, users).await.iter().zip(&truth)
        {
            let truth = truth.as_ref().map(Vec::as_slice).unwrap_or_default();
            let found = found.as_ref().map(Vec::as_slice).unwrap_or_default();
            // A key may be missing; none may be another.
            let stranger = found.iter().find(|part| !truth.contains(part));
            wrong.extend(stranger.map(|stranger| format!("byte {place}, {what}: {stranger}")));
        }
    }
    wrong
}

fn runtime() -> Runtime {
    runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn whichever_byte_changes_wrong_data_is_never_returned() {
    let directory = tempfile::tempdir().unwrap();
    let store = Sqlite::open(directory.path()).unwrap();
    let users = runtime().block_on(fill(&store));
    drop(store);
    let bytes = fs::read(directory.path().join("strongroom.db")).unwrap();
    let [schema, used, empty] = STRIDES;
    let places = (0..bytes.len()).filter(|place| {
        let stride = match bytes[*place] {
            0 => empty,
            _ if *place < SCHEMA_BYTES => schema,
            _ => used,
        };
        place % stride == 0
    });
    let places: Vec<_> = places.collect();
    let wrong: Vec<_> = thread::scope(|scope| {
        let (bytes, users) = (bytes.as_slice(), users.as_slice());
        let threads: Vec<_> = places
            .chunks(places.len().div_ceil(2))
            .map(|places| scope.spawn(move || runtime().block_on(change(bytes, places, users))))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let examples: Vec<_> = wrong.iter().step_by(wrong.len() / 20 + 1).collect();
    let (wrong, changes) = (wrong.len(), places.len());
    assert_eq!(wrong, 0, "wrong answers after {changes} changes, among them {examples:#?}");
}

/// The first byte of a page that is a leaf of an index, and where in it stand the number of its entries
/// and, in their order, where each of them lies (SQLite's "Database File Format", section 1.6).
const INDEX_LEAF: u8 = 0x0a;
const COUNT_AT: usize = 3;
const ENTRIES_AT: usize = 8;

#[test]
fn an_index_in_disorder_leads_to_no_key_twice() {
    let directory = tempfile::tempdir().unwrap();
    let store = Sqlite::open(directory.path()).unwrap();
    let users = runtime().block_on(fill(&store));
    drop(store);
    let bytes = fs::read(directory.path().join("strongroom.db")).unwrap();
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut changes = 0;
    for start in (PAGE_BYTES..bytes.len()).step_by(PAGE_BYTES).filter(|it| bytes[*it] == INDEX_LEAF)
    {
        for entry in 1..usize::from(bytes[start + COUNT_AT + 1]) {
            let mut changed = bytes.clone();
            let at = start + ENTRIES_AT + 2 * entry;
            changed[at - 2..at + 2].rotate_left(2);
            changes += 1;
            for (what, found) in runtime().block_on(ask(directory.path(), &changed, &users)) {
                let mut once = found.unwrap_or_default();
                let count = once.len();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), count, "{what}, with entries {entry} of {start} swapped");
            }
        }
    }
    assert!(changes > 20, "only {changes} changes");
}
