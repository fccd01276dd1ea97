//! A database that the disk has damaged: whatever its bytes, it is refused or read to an end, each key
//! once and in order, and it can still be written to or says why not.
//!
//! The first byte of an input says of what kind of file; the rest is a list of changes to it.

use std::{fs, sync::LazyLock, time::Duration};

use strongroom_protocol::{
    DeviceId, NewVersion, Object, Rank, RoomId, RoomKey, RoomKeys, SessionId, UserId,
};
use strongroom_store::{
    Author, Backup, PageSize, Retention, Scope, Sqlite, Store, Tick, Timestamp,
};

/// The files of a database, and those of one that was killed before its log went into the file.
struct Files {
    database: Vec<u8>,
    log: Vec<u8>,
}

static CLOSED: LazyLock<Files> = LazyLock::new(|| files(true));
static KILLED: LazyLock<Files> = LazyLock::new(|| files(false));

/// Keys in the database of this target.
const KEYS: usize = 60;
const CHANGES_MAX: usize = 100;
/// More pages than there are keys.
const PAGES_MAX: usize = 100;

pub(crate) fn run(data: &[u8]) {
    let Some((kind, changes)) = data.split_first() else { return };
    let directory = super::scratch();
    let files = if kind & 1 == 0 { &*CLOSED } else { &*KILLED };
    let (mut database, mut log) = (files.database.clone(), files.log.clone());
    if kind & 2 == 0 {
        change(&mut database, changes);
    } else {
        change(&mut log, changes);
    }
    fs::write(directory.path().join("strongroom.db"), database).unwrap();
    if !log.is_empty() {
        fs::write(directory.path().join("strongroom.db-wal"), log).unwrap();
    }
    if let Ok(store) = Sqlite::open(directory.path()) {
        super::run_to_the_end(async {
            read(&store).await;
            // Seldom, since closing it takes fifty milliseconds then.
            if kind & 0x70 == 0x70 {
                write(&store).await;
            }
        });
    }
}

/// As clients do. A failure is an answer too; what follows asks other pages of the file.
async fn read(store: &dyn Store) {
    for user in 0..2 {
        let user_id = author(user, 0).user_id;
        if let Ok(backup) = store.version(&user_id, None).await {
            let _ = store.version(&user_id, Some(backup.version)).await;
        }
        for room_id in [None, Some(room(0))] {
            read_all(store, &user_id, room_id.as_ref()).await;
        }
        for number in 0..3 {
            let _ = store.key(&user_id, None, &room(0), &session(number)).await;
        }
    }
}

async fn write(store: &dyn Store) {
    for user in 0..2 {
        let author = author(user, 1_000);
        if let Ok(Backup { version, .. }) = store.version(&author.user_id, None).await {
            let _ = store.put_keys(&author, version, keys([0, 1, KEYS + 1])).await;
            let _ = store.update_version(&author, version, new_version()).await;
            let _ = store.delete_keys(&author, version, Scope::Room(room(1))).await;
            let _ = store.delete_keys(&author, version, Scope::All).await;
            let _ = store.delete_version(&author, version).await;
        }
        let _ = store.create_version(&author, new_version()).await;
    }
    let retention = Retention { kept: Duration::ZERO, journal: Duration::ZERO };
    let tick = Tick { served: Duration::ZERO, next: Duration::ZERO, retention };
    let _ = store.tick(tick).await;
    for _ in 0..PAGES_MAX {
        let purged = store.purge().await;
        if purged.map_or(true, |purged| purged.is_done) {
            break;
        }
    }
    let _ = store.check().await;
}

async fn read_all(store: &dyn Store, user_id: &UserId, room_id: Option<&RoomId>) {
    let size = PageSize { keys_max: 7, bytes_max: 4096 };
    let first = store.first_page(user_id, None, room_id, size).await;
    let Ok((key_set, mut page)) = first else { return };
    let mut last = None;
    for _ in 0..PAGES_MAX {
        for key in page.iter() {
            let place = Some((key.room_id.to_owned(), key.session_id.to_owned()));
            assert!(last < place, "{place:?} follows {last:?}");
            last = place;
        }
        let (true, Some(after)) = (page.is_full(), page.last()) else { return };
        page = match store.page(key_set, room_id, &after, size).await {
            Ok(page) => page,
            Err(_) => return,
        };
    }
    panic!("a restore without end");
}

/// Each change is six bytes: what, where, and with what.
fn change(file: &mut Vec<u8>, changes: &[u8]) {
    for change in changes.chunks_exact(6).take(CHANGES_MAX) {
        let at = u32::from_le_bytes([change[1], change[2], change[3], 0]) as usize;
        if file.is_empty() {
            return;
        }
        let at = at % file.len();
        let to = file.len().min(at + usize::from(change[4]) + 1);
        // What a disk does that writes a sector in the place of another.
        let elsewhere = usize::from(change[5]) * 512 % (file.len() - (to - at) + 1);
        let piece = &mut file[at..to];
        match change[0] % 5 {
            0 => piece[0] ^= change[5],
            1 => piece.fill(change[5]),
            2 => piece.reverse(),
            3 => file.truncate(at),
            _ => file.copy_within(at..to, elsewhere),
        }
    }
}

/// Two users with versions, keys, and a history.
fn files(is_closed: bool) -> Files {
    let directory = super::scratch();
    let store = Sqlite::open(directory.path()).unwrap();
    super::run_to_the_end(async {
        for user in 0..2 {
            let old = store.create_version(&author(user, 100), new_version()).await.unwrap();
            store.put_keys(&author(user, 200), old, keys(0..9)).await.unwrap();
            store.delete_version(&author(user, 300), old).await.unwrap();
            let version = store.create_version(&author(user, 400), new_version()).await.unwrap();
            store.put_keys(&author(user, 500), version, keys(0..KEYS)).await.unwrap();
            let one = Scope::Session(room(0), session(0));
            store.delete_keys(&author(user, 600), version, one).await.unwrap();
            store.update_version(&author(user, 700), version, new_version()).await.unwrap();
        }
    });
    let read = |name| fs::read(directory.path().join(name)).unwrap_or_default();
    if is_closed {
        drop(store);
        return Files { database: read("strongroom.db"), log: read("strongroom.db-wal") };
    }
    Files { database: read("strongroom.db"), log: read("strongroom.db-wal") }
}

fn author(user: usize, at: i64) -> Author {
    Author {
        user_id: UserId::parse(&format!("@user{user}:x")).unwrap(),
        device_id: Some(DeviceId::parse("PHONE").unwrap()),
        at: Timestamp::from_micros(at),
    }
}

fn new_version() -> NewVersion {
    let auth_data = Object::parse(r#"{"public_key": "key"}"#, 1000).unwrap();
    NewVersion { algorithm: "org.example".to_owned(), auth_data }
}

fn keys(numbers: impl IntoIterator<Item = usize>) -> RoomKeys {
    let session_data = format!(r#"{{"ciphertext":"{}"}}"#, "c".repeat(600));
    let session_data = Object::parse(&session_data, 1000).unwrap();
    let key = RoomKey { rank: Rank::new(false, 1, 0), session_data };
    let keys = numbers.into_iter().map(|number| (room(number % 3), session(number), key.clone()));
    keys.collect()
}

fn room(number: usize) -> RoomId {
    RoomId::parse(&format!("!room{number}:x")).unwrap()
}

fn session(number: usize) -> SessionId {
    SessionId::parse(&format!("session{number}")).unwrap()
}
