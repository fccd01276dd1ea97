//! The contract: whatever is done to a store, it answers as the model does.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestCaseError};
use strongroom_protocol::{
    ALGORITHM_V1, DeviceId, NewVersion, Object, Rank, RoomId, RoomKey, RoomKeys, SessionId, UserId,
    Version,
};
use strongroom_store::{Author, Error, Memory, PageSize, Scope, Store, Stored, Timestamp};
use tokio::task::JoinSet;

/// A store that can be stopped and opened again on what it kept.
pub(crate) trait Engine {
    fn store(&self) -> Arc<dyn Store>;
    fn restart(&mut self);
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create { auth_data: u8, algorithm: bool },
    Update { version: Which, auth_data: u8, algorithm: bool },
    Delete { version: Which },
    Put { version: Which, keys: Vec<(u8, u8, Rank)> },
    DeleteKeys { version: Which, scope: Option<(u8, Option<u8>)> },
    Restart,
}

/// One of the versions that exist or existed, or one that never did.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    Newest,
    Made(Index),
    Never(i64),
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![
        6 => Just(Which::Newest),
        3 => any::<Index>().prop_map(Which::Made),
        1 => prop_oneof![0..9i64, Just(i64::MAX)].prop_map(Which::Never),
    ]
}

/// Small ranges, so that copies of one key meet; and the numbers at the edges.
fn rank() -> impl Strategy<Value = Rank> {
    let number = || prop_oneof![5 => 0..3u32, 1 => Just(u32::MAX), 1 => Just(1 << 31)];
    (any::<bool>(), number(), number()).prop_map(|(v, i, f)| Rank::new(v, i, f))
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..4u8, any::<bool>())
            .prop_map(|(auth_data, algorithm)| Op::Create { auth_data, algorithm }),
        2 => (which(), 0..4u8, any::<bool>()).prop_map(|(version, auth_data, algorithm)| {
            Op::Update { version, auth_data, algorithm }
        }),
        2 => which().prop_map(|version| Op::Delete { version }),
        9 => (which(), vec((0..3u8, 0..3u8, rank()), 0..6))
            .prop_map(|(version, keys)| Op::Put { version, keys }),
        3 => (which(), prop::option::of((0..3u8, prop::option::of(0..3u8))))
            .prop_map(|(version, scope)| Op::DeleteKeys { version, scope }),
        1 => Just(Op::Restart),
    ]
}

/// A history: who, when (the clock jumps as it likes), what.
pub(crate) fn history() -> impl Strategy<Value = Vec<(u8, i64, Op)>> {
    vec((0..2u8, 0..40i64, op()), 0..40)
}

pub(crate) fn user(number: u8) -> UserId {
    UserId::parse(&format!("@user{number}:example.org")).unwrap()
}

pub(crate) fn author(number: u8, at: i64) -> Author {
    let device_id = Some(DeviceId::parse("PHONE").unwrap());
    Author { user_id: user(number), device_id, at: Timestamp::from_micros(at) }
}

pub(crate) fn new_version(auth_data: u8, is_v1: bool) -> NewVersion {
    let algorithm = if is_v1 { ALGORITHM_V1 } else { "org.example.other" }.to_owned();
    let (key, signature) = (auth_data % 2, auth_data / 2);
    let auth_data = format!(r#"{{"public_key": "key{key}", "signature": {signature}}}"#);
    NewVersion { algorithm, auth_data: Object::parse(&auth_data, 1000).unwrap() }
}

/// Ids whose bytes do not sort as their letters would.
pub(crate) fn room(number: u8) -> RoomId {
    RoomId::parse(["!a:x", "!é/%2F", "!Z"][usize::from(number)]).unwrap()
}

pub(crate) fn session(number: u8) -> SessionId {
    SessionId::parse(["", "a+/\"\\", "B"][usize::from(number)]).unwrap()
}

/// The data tells the rank, so that a key with the fields of one and the data of another shows.
pub(crate) fn key(rank: Rank) -> RoomKey {
    let data = format!(r#"{{"from": "{rank:?}"}}"#).replace("Reverse", "");
    RoomKey { rank, session_data: Object::parse(&data, 1000).unwrap() }
}

fn keys(keys: &[(u8, u8, Rank)]) -> RoomKeys {
    keys.iter().map(|&(r, s, rank)| (room(r), session(s), key(rank))).collect()
}

fn scope(scope: Option<(u8, Option<u8>)>) -> Scope {
    match scope {
        None => Scope::All,
        Some((r, None)) => Scope::Room(room(r)),
        Some((r, Some(s))) => Scope::Session(room(r), session(s)),
    }
}

/// Everything that a client can see of a backup, read in pages of `keys_max`.
pub(crate) async fn all_keys(
    store: &dyn Store,
    user_id: &UserId,
    version: Option<Version>,
    room_id: Option<&RoomId>,
    keys_max: usize,
) -> Result<Vec<(String, String, Rank, String)>, Error> {
    let size = PageSize { keys_max, bytes_max: 100_000 };
    let (key_set, mut page) = store.first_page(user_id, version, room_id, size).await?;
    let mut found = Vec::new();
    loop {
        found.extend(page.iter().map(|key| {
            let data = key.session_data.to_owned();
            (key.room_id.to_owned(), key.session_id.to_owned(), key.rank, data)
        }));
        match page.last() {
            Some(last) if page.is_full() => {
                page = store.page(key_set, room_id, &last, size).await?;
            }
            Some(_) | None => return Ok(found),
        }
    }
}

/// Errors are compared as they print: what they say is what decides the answer.
fn told<T: std::fmt::Debug>(result: &Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("error: {error}"),
    }
}

pub(crate) async fn run(store: &dyn Store, author: &Author, op: &Op, made: &[Version]) -> String {
    let pick = |which: &Which| match which {
        Which::Newest => made.last().copied(),
        Which::Made(index) => (!made.is_empty()).then(|| *index.get(made)),
        Which::Never(number) => Version::new(*number),
    };
    let pick = |which| pick(which).unwrap_or_else(|| Version::new(1).unwrap());
    match op {
        Op::Create { auth_data, algorithm } => {
            told(&store.create_version(author, new_version(*auth_data, *algorithm)).await)
        }
        Op::Update { version, auth_data, algorithm } => {
            let new = new_version(*auth_data, *algorithm);
            told(&store.update_version(author, pick(version), new).await)
        }
        Op::Delete { version } => told(&store.delete_version(author, pick(version)).await),
        Op::Put { version, keys } => {
            told(&store.put_keys(author, pick(version), self::keys(keys)).await)
        }
        Op::DeleteKeys { version, scope } => {
            told(&store.delete_keys(author, pick(version), self::scope(*scope)).await)
        }
        Op::Restart => String::new(),
    }
}

/// All that can be read about the versions of a user.
async fn view(store: &dyn Store, user_id: &UserId, made: &[Version]) -> Vec<String> {
    let mut view = Vec::new();
    for version in made.iter().copied().map(Some).chain([None, Version::new(3)]) {
        view.push(told(&store.version(user_id, version).await));
        view.push(told(&all_keys(store, user_id, version, None, 2).await));
        for r in 0..3 {
            view.push(told(&all_keys(store, user_id, version, Some(&room(r)), 1).await));
            view.push(told(&store.key(user_id, version, &room(r), &session(1)).await));
        }
    }
    view
}

/// Runs one history on the engine and on the model, and compares every answer and every state.
pub(crate) async fn agrees_with_the_model(
    engine: &mut dyn Engine,
    history: Vec<(u8, i64, Op)>,
) -> Result<(), TestCaseError> {
    let model = Memory::default();
    let mut made = [Vec::new(), Vec::new()];
    for (number, at, op) in history {
        if matches!(op, Op::Restart) {
            engine.restart();
        }
        let store = engine.store();
        let (author, versions) = (author(number, at), &mut made[usize::from(number)]);
        let expected = run(&model, &author, &op, versions).await;
        let got = run(&*store, &author, &op, versions).await;
        prop_assert_eq!(&got, &expected, "{:?}", op);
        if matches!(op, Op::Create { .. }) {
            let version = model.version(&author.user_id, None).await.unwrap().version;
            prop_assert!(versions.iter().all(|earlier| *earlier < version), "{version} rises");
            versions.push(version);
        }
        for (number, versions) in (0..).zip(&made) {
            let expected = view(&model, &user(number), versions).await;
            let got = view(&*store, &user(number), versions).await;
            prop_assert_eq!(got, expected, "user {} after {:?}", number, op);
        }
    }
    Ok(())
}

/// Clients that put different keys at once lose none, and no two changes get the same etag.
pub(crate) async fn disjoint_puts_lose_nothing(store: Arc<dyn Store>) {
    const CLIENTS: u32 = 16;
    const PUTS: u32 = 20;
    let version = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let store = Arc::clone(&store);
        clients.spawn(async move {
            let mut etags = Vec::new();
            for put in 0..PUTS {
                let session = SessionId::parse(&format!("{client}/{put}")).unwrap();
                let keys = [(room(0), session, key(Rank::new(false, put, 0)))];
                let keys = keys.into_iter().collect();
                etags.push(store.put_keys(&author(0, 0), version, keys).await.unwrap().etag);
            }
            assert!(etags.is_sorted(), "{etags:?}");
            etags
        });
    }
    let mut etags: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    etags.sort_unstable();
    etags.dedup();
    let backup = store.version(&user(0), None).await.unwrap();
    let found = all_keys(&*store, &user(0), None, None, 7).await.unwrap();
    assert_eq!(etags.len(), (CLIENTS * PUTS) as usize, "an etag was given twice");
    assert_eq!((backup.count, found.len()), (u64::from(CLIENTS * PUTS), etags.len()));
    assert_eq!(etags.last(), Some(&backup.etag));
}

/// Whoever comes last, the best copy is what stays.
pub(crate) async fn racing_puts_end_with_the_best_key(store: Arc<dyn Store>) {
    let version = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
    let ranks: Vec<_> = (0..4)
        .flat_map(|i| (0..4).flat_map(move |f| [true, false].map(|v| Rank::new(v, i, f))))
        .collect();
    let mut clients = JoinSet::new();
    for (number, rank) in ranks.iter().copied().enumerate() {
        let store = Arc::clone(&store);
        clients.spawn(async move {
            for r in 0..3 {
                let keys = keys(&[((r + number as u8) % 3, 0, rank)]);
                store.put_keys(&author(0, 0), version, keys).await.unwrap();
            }
        });
    }
    clients.join_all().await;
    let best = *ranks.iter().max().unwrap();
    for r in 0..3 {
        let found = store.key(&user(0), None, &room(r), &session(0)).await.unwrap();
        assert_eq!(found, Some(key(best)), "room {r}");
    }
    assert_eq!(store.version(&user(0), None).await.unwrap().count, 3);
}

/// While versions come and go, a key is in the version that acknowledged it, or was refused.
pub(crate) async fn acknowledged_keys_are_where_they_were_acknowledged(store: Arc<dyn Store>) {
    let first = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
    let rotating = Arc::clone(&store);
    let rotation = tokio::spawn(async move {
        let mut versions = vec![first];
        for _ in 0..20 {
            let new = new_version(0, true);
            versions.push(rotating.create_version(&author(0, 0), new).await.unwrap());
        }
        versions
    });
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let store = Arc::clone(&store);
        clients.spawn(async move {
            let (mut current, mut acknowledged) = (first, Vec::new());
            for put in 0..40 {
                let session = SessionId::parse(&format!("{client}/{put}")).unwrap();
                let keys = [(room(0), session.clone(), key(Rank::new(false, 0, 0)))];
                match store.put_keys(&author(0, 0), current, keys.into_iter().collect()).await {
                    Ok(Stored { .. }) => acknowledged.push((current, session)),
                    Err(Error::NotCurrent { current: newer }) => current = newer,
                    Err(other) => panic!("{other:?}"),
                }
            }
            acknowledged
        });
    }
    let acknowledged = clients.join_all().await.concat();
    let versions = rotation.await.unwrap();
    let mut counts = 0;
    for version in versions {
        counts += store.version(&user(0), Some(version)).await.unwrap().count;
    }
    assert_eq!(counts, acknowledged.len() as u64);
    for (version, session_id) in acknowledged {
        let found = store.key(&user(0), Some(version), &room(0), &session_id).await.unwrap();
        assert!(found.is_some(), "{session_id} is not in {version}");
    }
}

/// Whoever reads the current backup sees it as it was while it was the current one.
pub(crate) async fn the_current_backup_is_read_as_it_is(store: Arc<dyn Store>) {
    let all: Vec<_> = (0..3).map(|s| (0, s, Rank::new(false, 0, 0))).collect();
    let mut current = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
    store.put_keys(&author(0, 0), current, keys(&all)).await.unwrap();
    let mut readers = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        readers.spawn(async move {
            // None of the current backup's keys is deleted, and all are put at once.
            loop {
                let found = all_keys(&*store, &user(0), None, None, 9).await.unwrap().len();
                assert!(found == 0 || found == 3, "{found} of 3 keys");
                tokio::task::yield_now().await;
            }
        });
    }
    for _ in 0..100 {
        let earlier = current;
        current = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
        let scope = Scope::Session(room(0), session(1));
        store.delete_keys(&author(0, 0), earlier, scope).await.unwrap();
        store.put_keys(&author(0, 0), current, keys(&all)).await.unwrap();
    }
    readers.abort_all();
    while let Some(reader) = readers.join_next().await {
        assert!(reader.unwrap_err().is_cancelled(), "a reader saw what never was");
    }
}

/// A restore that has begun reads on when the version is deleted under it.
pub(crate) async fn a_restore_in_flight_survives_deletion(store: Arc<dyn Store>) {
    let version = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
    let put: Vec<_> =
        (0..3).flat_map(|r| (0..3).map(move |s| (r, s, Rank::new(false, 0, 0)))).collect();
    store.put_keys(&author(0, 0), version, keys(&put)).await.unwrap();
    let size = PageSize { keys_max: 4, bytes_max: 100_000 };
    let (key_set, first) = store.first_page(&user(0), None, None, size).await.unwrap();
    store.delete_keys(&author(0, 0), version, Scope::All).await.unwrap();
    store.put_keys(&author(0, 0), version, keys(&put)).await.unwrap();
    store.delete_version(&author(0, 0), version).await.unwrap();
    let second = store.page(key_set, None, &first.last().unwrap(), size).await.unwrap();
    let third = store.page(key_set, None, &second.last().unwrap(), size).await.unwrap();
    assert_eq!((first.len(), second.len(), third.len()), (4, 4, 1));
}

#[tokio::test]
async fn a_page_ends_where_its_bytes_do() {
    let store = Memory::default();
    let version = store.create_version(&author(0, 0), new_version(0, true)).await.unwrap();
    let put = keys(&[(0, 0, Rank::new(true, 0, 0)), (0, 1, Rank::new(true, 0, 0))]);
    store.put_keys(&author(0, 0), version, put).await.unwrap();
    let size = PageSize { keys_max: 100, bytes_max: 1 };
    let (_, first) = store.first_page(&user(0), None, None, size).await.unwrap();
    assert_eq!(first.len(), 1);
}
