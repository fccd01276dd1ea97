//! Room keys: put, read, deleted; which copy is kept; and what `etag` and `count` say of it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use strongroom_testing::{Answer, Server, User};

use crate::client::{
    assert_cross_origin, assert_ok, assert_refused, bearer, create_backup, encoded, room_key, send,
    start, text_at,
};

const PREFIXES: [&str; 3] = ["v3", "r0", "unstable"];

/// A path below `keys`, with its version.
fn at(path: &str, version: &str) -> String {
    format!("/room_keys/keys{path}?version={version}")
}

/// `etag` and `count`, as an answer to `PUT` and `DELETE`, or to `GET` of a version, tells them.
#[track_caller]
fn stored(answer: &Answer) -> (String, u64) {
    assert_ok(answer);
    let (etag, count) = (&answer.json["etag"], &answer.json["count"]);
    assert!(etag.is_string() && count.is_u64(), "{answer:?}");
    (etag.as_str().unwrap().to_owned(), count.as_u64().unwrap())
}

async fn stored_in(server: &Server, user: &User, version: &str) -> (String, u64) {
    stored(&server.get(&format!("/room_keys/version/{version}"), user).await)
}

#[tokio::test]
async fn every_operation_works_under_every_prefix() {
    let (_homeserver, server, alice) = start().await;
    let authorization = bearer(&alice);
    let key = room_key(true, 1, 2, "k");
    for (prefix, other) in PREFIXES.into_iter().zip(["r0", "unstable", "v3"]) {
        let version = create_backup(&server, &alice).await;
        let call = async |prefix: &str, method: &str, path: &str, body: Value| {
            let path = format!("/_matrix/client/{prefix}/room_keys/keys{path}?version={version}");
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let answer =
                server.raw(method, &path, &[("authorization", &authorization)], body).await;
            assert_ok(&answer);
            answer
        };
        let sessions = json!({"sessions": {"s": key}});
        let rooms = json!({"rooms": {"!a:x": sessions}});
        let bodies = [("", &rooms), ("/!a:x", &sessions), ("/!a:x/s", &key)];
        for (path, body) in bodies {
            let put = call(prefix, "PUT", path, body.clone()).await;
            assert_eq!(stored(&put).1, 1, "{put:?}");
            // It is the same backup under each prefix.
            for (path, body) in bodies {
                assert_eq!(&call(prefix, "GET", path, Value::Null).await.json, body);
                assert_eq!(&call(other, "GET", path, Value::Null).await.json, body);
            }
            let deleted = call(other, "DELETE", path, Value::Null).await;
            assert_eq!(stored(&deleted).1, 0, "{deleted:?}");
            assert_ne!(stored(&deleted).0, stored(&put).0);
            let empty = call(prefix, "GET", "", Value::Null).await;
            assert_eq!(empty.json, json!({"rooms": {}}));
        }
        // The versions themselves as well.
        let path = format!("/_matrix/client/{prefix}/room_keys/version");
        let current = server.raw("GET", &path, &[("authorization", &authorization)], "").await;
        assert_eq!(current.json["version"], json!(version), "{current:?}");
        let path = format!("{path}/{version}");
        for (method, body) in
            [("PUT", crate::client::new_version().to_string()), ("DELETE", String::new())]
        {
            assert_ok(&server.raw(method, &path, &[("authorization", &authorization)], body).await);
        }
    }
}

#[tokio::test]
async fn nothing_stored_is_an_empty_object_and_a_single_key_is_not_found() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    assert_eq!(server.get(&at("", &version), &alice).await.json, json!({"rooms": {}}));
    assert_eq!(server.get(&at("/!r:x", &version), &alice).await.json, json!({"sessions": {}}));
    let session = server.get(&at("/!r:x/s", &version), &alice).await;
    assert_refused(&session, 404, "M_NOT_FOUND");

    // Beside another key as well.
    assert_ok(&server.put(&at("/!r:x/s", &version), &alice, room_key(true, 0, 0, "k")).await);
    assert_eq!(server.get(&at("/!R:x", &version), &alice).await.json, json!({"sessions": {}}));
    for path in ["/!r:x/S", "/!r:x/s%20", "/!R:x/s", "/!r/s"] {
        assert_refused(&server.get(&at(path, &version), &alice).await, 404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn deleting_answers_with_what_is_left_and_deleting_nothing_leaves_the_etag() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let key = room_key(false, 0, 0, "k");
    let three = json!({"sessions": {"1": key, "2": key, "3": key}});
    let body = json!({"rooms": {"!a:x": three, "!b:x": three, "!b:xy": three}});
    let (mut etag, mut count) = stored(&server.put(&at("", &version), &alice, &body).await);
    assert_eq!(count, 9);
    for (path, deleted) in [
        ("/!c:x", 0),
        ("/!b:x/4", 0),
        ("/!b:x/1", 1),
        ("/!b:x/1", 0),
        ("/!b:x", 2),
        ("/!b:x", 0),
        ("", 6),
        ("", 0),
    ] {
        let answer = server.delete(&at(path, &version), &alice).await;
        let (now, left) = stored(&answer);
        assert_eq!(answer.json, json!({"etag": now, "count": left}));
        assert_eq!(left, count - deleted, "DELETE {path}: {answer:?}");
        assert_eq!(now != etag, deleted > 0, "DELETE {path} after {etag}: {answer:?}");
        assert_eq!(stored_in(&server, &alice, &version).await, (now.clone(), left));
        (etag, count) = (now, left);
    }
    assert_eq!(server.get(&at("", &version), &alice).await.json, json!({"rooms": {}}));
}

/// The specification's sentence, transcribed: "if the keys have different values for `is_verified`,
/// then it will keep the key that has `is_verified` set to `true`; if they have the same values for
/// `is_verified`, then it will keep the key with a lower `first_message_index`; and finally, if
/// `is_verified` and `first_message_index` are equal, then it will keep the key with a lower
/// `forwarded_count`."
fn keeps_new(old: Fields, new: Fields) -> bool {
    if old.0 != new.0 {
        new.0
    } else if old.1 != new.1 {
        new.1 < old.1
    } else {
        new.2 < old.2
    }
}

/// `is_verified`, `first_message_index`, `forwarded_count`.
type Fields = (bool, u32, u32);

/// The numbers lie on both sides of a signed 32-bit integer's end.
fn all_fields() -> impl Iterator<Item = Fields> + Clone {
    let numbers = [0, 2_147_483_647, u32::MAX];
    [false, true].into_iter().flat_map(move |is_verified| {
        numbers.into_iter().flat_map(move |index| numbers.map(|count| (is_verified, index, count)))
    })
}

#[tokio::test]
async fn the_better_copy_is_kept_for_all_combinations_of_the_three_fields() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let pairs: Vec<_> =
        all_fields().flat_map(|old| all_fields().map(move |new| (old, new))).collect();
    assert_eq!(pairs.len(), 324);
    let key = |fields: Fields, mark| room_key(fields.0, fields.1, fields.2, mark);
    let (mut old, mut new, mut kept) = (json!({}), json!({}), json!({}));
    for (n, (was, comes)) in pairs.iter().enumerate() {
        let session = n.to_string();
        old[&session] = key(*was, "old");
        new[&session] = key(*comes, "new");
        kept[&session] =
            if keeps_new(*was, *comes) { key(*comes, "new") } else { key(*was, "old") };
    }
    let rooms = ["!all:x", "!room:x", "!session:x"];
    let olds: BTreeMap<_, _> = rooms.iter().map(|room| (room, json!({"sessions": old}))).collect();
    let put = server.put(&at("", &version), &alice, json!({"rooms": olds})).await;
    assert_eq!(stored(&put).1, 3 * 324);

    let all = json!({"rooms": {"!all:x": {"sessions": new}}});
    assert_ok(&server.put(&at("", &version), &alice, &all).await);
    let room = json!({"sessions": new});
    let mut etag = stored(&server.put(&at("/!room:x", &version), &alice, &room).await).0;
    for (n, (was, comes)) in pairs.iter().enumerate() {
        let path = at(&format!("/!session:x/{n}"), &version);
        let put = server.put(&path, &alice, key(*comes, "new")).await;
        let (now, count) = stored(&put);
        assert_eq!(count, 3 * 324);
        assert_eq!(now != etag, keeps_new(*was, *comes), "{comes:?} onto {was:?}: {put:?}");
        etag = now;
    }

    let got = server.get(&at("", &version), &alice).await;
    for room in rooms {
        for (n, pair) in pairs.iter().enumerate() {
            let session = n.to_string();
            let got = &got.json["rooms"][room]["sessions"][&session];
            assert_eq!(got, &kept[&session], "{room}: (stored, sent) was {pair:?}");
        }
    }
    // Everything once more, in all forms: nothing is better than itself.
    let all = json!({"rooms": {"!all:x": room, "!room:x": room, "!session:x": room}});
    assert_eq!(stored(&server.put(&at("", &version), &alice, &all).await), (etag, 3 * 324));
}

/// One request of a random history. Rooms and sessions are few, so that they collide.
#[derive(Clone, Debug)]
enum Op {
    CreateVersion,
    DeleteVersion(Which),
    PutAll(Which, BTreeMap<u8, BTreeMap<u8, Fields>>),
    PutRoom(Which, u8, BTreeMap<u8, Fields>),
    PutSession(Which, u8, u8, Fields),
    DeleteAll(Which),
    DeleteRoom(Which, u8),
    DeleteSession(Which, u8, u8),
}

/// The current backup, or one of all that ever were.
#[derive(Clone, Copy, Debug)]
enum Which {
    Current,
    Of(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let which = || prop_oneof![6 => Just(Which::Current), 1 => (0..8usize).prop_map(Which::Of)];
    let fields = || (any::<bool>(), 0..3u32, 0..3u32);
    let (room, session) = (|| 0..3u8, || 0..4u8);
    let sessions = move || btree_map(session(), fields(), 0..4);
    vec(
        prop_oneof![
            2 => Just(Op::CreateVersion),
            1 => which().prop_map(Op::DeleteVersion),
            6 => (which(), btree_map(room(), sessions(), 0..3)).prop_map(|(w, r)| Op::PutAll(w, r)),
            6 => (which(), room(), sessions()).prop_map(|(w, r, s)| Op::PutRoom(w, r, s)),
            8 => (which(), room(), session(), fields())
                .prop_map(|(w, r, s, f)| Op::PutSession(w, r, s, f)),
            1 => which().prop_map(Op::DeleteAll),
            2 => (which(), room()).prop_map(|(w, r)| Op::DeleteRoom(w, r)),
            3 => (which(), room(), session()).prop_map(|(w, r, s)| Op::DeleteSession(w, r, s)),
        ],
        1..40,
    )
}

/// Room, session.
type Ids = (u8, u8);

/// What a user's backups should be.
#[derive(Default)]
struct Model(Vec<Backup>);

#[derive(Default)]
struct Backup {
    version: String,
    is_deleted: bool,
    keys: BTreeMap<Ids, (Fields, String)>,
    etag: String,
    etags: BTreeSet<String>,
}

impl Model {
    fn current(&self) -> Option<usize> {
        self.0.iter().rposition(|backup| !backup.is_deleted)
    }

    fn find(&self, which: Which) -> Option<usize> {
        match which {
            Which::Current => self.current(),
            Which::Of(n) => n.checked_rem(self.0.len()),
        }
    }
}

impl Backup {
    /// The whole, as `GET /room_keys/keys` answers it.
    fn rooms(&self) -> Value {
        let mut rooms = json!({"rooms": {}});
        for ((room, session), (fields, mark)) in &self.keys {
            rooms["rooms"][room_id(*room)]["sessions"][session.to_string()] =
                room_key(fields.0, fields.1, fields.2, mark);
        }
        rooms
    }

    /// Takes over what the server said after a request that changed keys, or did not.
    fn now(&mut self, answer: &Answer, has_changed: bool) {
        let (etag, count) = stored(answer);
        assert_eq!(answer.json, json!({"etag": etag, "count": count}), "{answer:?}");
        assert_eq!(count, self.keys.len() as u64, "{answer:?}");
        if has_changed {
            assert!(self.etags.insert(etag.clone()), "{etag} comes a second time");
        } else {
            assert_eq!(etag, self.etag, "the etag changed and the keys did not");
        }
        self.etag = etag;
    }
}

fn room_id(room: u8) -> String {
    format!("!{room}:x")
}

/// A user with a history, the model of it, and the server that is compared.
struct History<'a> {
    server: &'a Server,
    user: User,
    model: Model,
    /// Marks the copies of this history, so that it shows which one is kept.
    requests: usize,
}

impl History<'_> {
    async fn apply(&mut self, op: &Op) {
        self.requests += 1;
        let mark = self.requests.to_string();
        match op {
            Op::CreateVersion => {
                let version = create_backup(self.server, &self.user).await;
                let (etag, count) = stored_in(self.server, &self.user, &version).await;
                assert_eq!(count, 0);
                let etags = BTreeSet::from([etag.clone()]);
                self.model.0.push(Backup { version, etag, etags, ..Backup::default() });
            }
            Op::DeleteVersion(which) => {
                let Some(n) = self.model.find(*which) else { return };
                let backup = &mut self.model.0[n];
                let path = format!("/room_keys/version/{}", backup.version);
                assert_ok(&self.server.delete(&path, &self.user).await);
                backup.is_deleted = true;
            }
            Op::PutAll(which, rooms) => {
                let keys = rooms.iter().flat_map(|(room, sessions)| {
                    sessions.iter().map(|(session, fields)| ((*room, *session), *fields))
                });
                let body = |sessions: &BTreeMap<u8, Fields>| sessions_body(sessions, &mark);
                let rooms: BTreeMap<_, _> =
                    rooms.iter().map(|(room, sessions)| (room_id(*room), body(sessions))).collect();
                self.put(*which, String::new(), json!({"rooms": rooms}), keys, &mark).await;
            }
            Op::PutRoom(which, room, sessions) => {
                let keys = sessions.iter().map(|(session, fields)| ((*room, *session), *fields));
                let path = format!("/{}", room_id(*room));
                self.put(*which, path, sessions_body(sessions, &mark), keys, &mark).await;
            }
            Op::PutSession(which, room, session, fields) => {
                let body = room_key(fields.0, fields.1, fields.2, &mark);
                let path = format!("/{}/{session}", room_id(*room));
                self.put(*which, path, body, [((*room, *session), *fields)], &mark).await;
            }
            Op::DeleteAll(which) => self.delete(*which, String::new(), |_| true).await,
            Op::DeleteRoom(which, room) => {
                let path = format!("/{}", room_id(*room));
                self.delete(*which, path, |ids| ids.0 == *room).await;
            }
            Op::DeleteSession(which, room, session) => {
                let path = format!("/{}/{session}", room_id(*room));
                self.delete(*which, path, |ids| ids == (*room, *session)).await;
            }
        }
        self.compare().await;
    }

    async fn put(
        &mut self,
        which: Which,
        path: String,
        body: Value,
        keys: impl IntoIterator<Item = (Ids, Fields)>,
        mark: &str,
    ) {
        let current = self.model.current();
        let Some(n) = self.model.find(which) else { return };
        let answer = self.server.put(&at(&path, &self.model.0[n].version), &self.user, body).await;
        match current {
            None => assert_refused(&answer, 404, "M_NOT_FOUND"),
            Some(current) if current != n => {
                assert_refused(&answer, 403, "M_WRONG_ROOM_KEYS_VERSION");
                assert_eq!(answer.json["current_version"], self.model.0[current].version);
            }
            Some(_) => {
                let backup = &mut self.model.0[n];
                let mut has_changed = false;
                for (ids, new) in keys {
                    if backup.keys.get(&ids).is_none_or(|(old, _)| keeps_new(*old, new)) {
                        backup.keys.insert(ids, (new, mark.to_owned()));
                        has_changed = true;
                    }
                }
                backup.now(&answer, has_changed);
            }
        }
    }

    async fn delete(&mut self, which: Which, path: String, is_meant: impl Fn(Ids) -> bool) {
        let Some(n) = self.model.find(which) else { return };
        let backup = &mut self.model.0[n];
        let answer = self.server.delete(&at(&path, &backup.version), &self.user).await;
        if backup.is_deleted {
            return assert_refused(&answer, 404, "M_NOT_FOUND");
        }
        let before = backup.keys.len();
        backup.keys.retain(|ids, _| !is_meant(*ids));
        backup.now(&answer, backup.keys.len() != before);
    }

    /// The current backup is the one that it should be, with the keys that it should have.
    async fn compare(&self) {
        let current = self.server.get("/room_keys/version", &self.user).await;
        let keys = self.server.get("/room_keys/keys", &self.user).await;
        match self.model.current() {
            None => {
                assert_refused(&current, 404, "M_NOT_FOUND");
                assert_refused(&keys, 404, "M_NOT_FOUND");
            }
            Some(n) => {
                let backup = &self.model.0[n];
                assert_eq!(current.json["version"], backup.version);
                assert_eq!(stored(&current), (backup.etag.clone(), backup.keys.len() as u64));
                assert_eq!(keys.json, backup.rooms(), "{keys:?}");
            }
        }
    }

    /// Every backup that ever was, in all the forms in which it can be read.
    async fn compare_all(&self) {
        for backup in &self.model.0 {
            let get =
                async |path: &str| self.server.get(&at(path, &backup.version), &self.user).await;
            let rooms = backup.rooms();
            let all = get("").await;
            if backup.is_deleted {
                assert_refused(&all, 404, "M_NOT_FOUND");
                continue;
            }
            assert_eq!(all.json, rooms, "{all:?}");
            let now = stored_in(self.server, &self.user, &backup.version).await;
            assert_eq!(now, (backup.etag.clone(), backup.keys.len() as u64));
            for room in 0..3 {
                let room_id = room_id(room);
                let expected = rooms["rooms"].get(&room_id).cloned();
                let got = get(&format!("/{room_id}")).await;
                assert_eq!(got.json, expected.unwrap_or_else(|| json!({"sessions": {}})));
                for session in 0..4 {
                    let got = get(&format!("/{room_id}/{session}")).await;
                    match backup.keys.get(&(room, session)) {
                        Some((f, mark)) => assert_eq!(got.json, room_key(f.0, f.1, f.2, mark)),
                        None => assert_refused(&got, 404, "M_NOT_FOUND"),
                    }
                }
            }
        }
    }
}

fn sessions_body(sessions: &BTreeMap<u8, Fields>, mark: &str) -> Value {
    let key = |(session, f): (&u8, &Fields)| (session.to_string(), room_key(f.0, f.1, f.2, mark));
    json!({"sessions": sessions.iter().map(key).collect::<BTreeMap<_, _>>()})
}

/// The etag changes if and only if stored keys do, and never comes back; `count` is exact; the best
/// copies are kept; the right version is written to. All of it for whatever is sent in whatever order.
#[test]
fn the_server_agrees_with_the_model_through_any_history() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (homeserver, server, _) = runtime.block_on(start());
    let users = AtomicUsize::new(0);
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let judged = TestRunner::new(config).run(&ops(), |ops| {
        // A user of its own for each history.
        let user =
            homeserver.login(&format!("@{}:example.org", users.fetch_add(1, Ordering::Relaxed)));
        runtime.block_on(async {
            let mut history =
                History { server: &server, user, model: Model::default(), requests: 0 };
            history.apply(&Op::CreateVersion).await;
            for op in &ops {
                history.apply(op).await;
            }
            history.compare_all().await;
        });
        Ok(())
    });
    if let Err(failure) = judged {
        panic!("{failure}");
    }
}

#[tokio::test]
async fn keys_are_written_to_the_current_backup_only_and_the_error_names_it() {
    let (homeserver, server, alice) = start().await;
    let bob = homeserver.login("@bob:example.org");
    let bobs = create_backup(&server, &bob).await;
    let key = room_key(true, 0, 0, "k");
    let sessions = json!({"sessions": {"s": key}});
    let rooms = json!({"rooms": {"!r:x": sessions}});
    let forms = [("", &rooms), ("/!r:x", &sessions), ("/!r:x/s", &key)];
    let empty = [("", &json!({"rooms": {}})), ("/!r:x", &json!({"sessions": {}}))];
    let put = async |path: &str, body: &Value, version: &str| {
        server.put(&at(path, version), &alice, body).await
    };
    let unknown = ["1", "0", "abc", "99999999999999999999999", bobs.as_str()];

    // No backup was ever made.
    for (path, body) in forms.into_iter().chain(empty) {
        for version in unknown {
            assert_refused(&put(path, body, version).await, 404, "M_NOT_FOUND");
        }
    }
    let oldest = create_backup(&server, &alice).await;
    let deleted = create_backup(&server, &alice).await;
    assert_ok(&server.delete(&format!("/room_keys/version/{deleted}"), &alice).await);
    let current = create_backup(&server, &alice).await;
    for (path, body) in forms.into_iter().chain(empty) {
        for version in [&oldest, &deleted] {
            let answer = put(path, body, version).await;
            assert_refused(&answer, 403, "M_WRONG_ROOM_KEYS_VERSION");
            assert_eq!(answer.json["current_version"], json!(current), "{answer:?}");
        }
        for version in unknown {
            assert_refused(&put(path, body, version).await, 404, "M_NOT_FOUND");
        }
    }
    for version in [&oldest, &current] {
        assert_eq!(stored_in(&server, &alice, version).await.1, 0, "nothing was stored");
    }
    assert_eq!(stored_in(&server, &bob, &bobs).await.1, 0);
    // No backup is left.
    for version in [&oldest, &current] {
        assert_ok(&server.delete(&format!("/room_keys/version/{version}"), &alice).await);
    }
    for (path, body) in forms.into_iter().chain(empty) {
        for version in [&oldest, &deleted, &current] {
            assert_refused(&put(path, body, version).await, 404, "M_NOT_FOUND");
        }
    }
}

#[tokio::test]
async fn without_a_version_reading_means_the_current_backup_and_writing_is_refused() {
    let (_homeserver, server, alice) = start().await;
    for query in ["", "?version=", "?other=1"] {
        for path in ["", "/!r:x", "/!r:x/s"] {
            let answer = server.get(&format!("/room_keys/keys{path}{query}"), &alice).await;
            assert_refused(&answer, 404, "M_NOT_FOUND");
        }
    }
    let older = create_backup(&server, &alice).await;
    let old = room_key(false, 7, 0, "old");
    assert_ok(&server.put(&at("/!r:x/s", &older), &alice, &old).await);
    let version = create_backup(&server, &alice).await;
    let key = room_key(true, 0, 0, "k");
    assert_ok(&server.put(&at("/!r:x/s", &version), &alice, &key).await);
    let sessions = json!({"sessions": {"s": key}});
    let rooms = json!({"rooms": {"!r:x": sessions}});
    let forms = [("", &rooms), ("/!r:x", &sessions), ("/!r:x/s", &key)];
    let before = stored_in(&server, &alice, &version).await;
    for query in ["", "?", "?version=", "?version", "?other=1&version="] {
        for (path, body) in forms {
            let path = format!("/room_keys/keys{path}{query}");
            let got = server.get(&path, &alice).await;
            assert_eq!(&got.json, body, "GET {path}: {got:?}");
            assert_refused(&server.put(&path, &alice, body).await, 400, "M_MISSING_PARAM");
            assert_refused(&server.delete(&path, &alice).await, 400, "M_MISSING_PARAM");
        }
    }
    assert_eq!(stored_in(&server, &alice, &version).await, before);
    // One that is not current is read where it is named, escaped or not.
    for query in [older.clone(), older.bytes().map(|byte| format!("%{byte:X}")).collect()] {
        let got = server.get(&at("/!r:x/s", &query), &alice).await;
        assert_eq!(got.json, old, "{got:?}");
    }
}

#[tokio::test]
async fn ids_of_any_characters_come_back_as_they_were() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let odd = [
        "/",
        "+",
        "%",
        ":",
        "\"",
        "\\",
        "é",
        "😀",
        "__proto__",
        "constructor",
        " ",
        "?",
        "#",
        "&",
        "=",
        "%2F",
        "%252F",
        "a/b",
        "//",
        "../x",
        "a+b c",
        "\u{7f}\u{1}\t\n",
        "\u{2028}\u{feff}",
        "version",
        "s%00",
        "'; DROP TABLE keys; --",
    ];
    let longest = "é".repeat(127);
    let ids: Vec<_> = odd.into_iter().chain([longest.as_str()]).collect();
    let mut expected = json!({"rooms": {}});
    for (n, id) in ids.iter().enumerate() {
        let (room, key) = (format!("!{id}"), room_key(true, n as u32, 0, id));
        let path = format!("/{}/{}", encoded(&room), encoded(id));
        assert_ok(&server.put(&at(&path, &version), &alice, &key).await);
        let got = server.get(&at(&path, &version), &alice).await;
        assert_eq!(got.json, key, "{id:?}: {got:?}");
        let got = server.get(&at(&format!("/{}", encoded(&room)), &version), &alice).await;
        assert_eq!(got.json, json!({"sessions": {*id: key}}), "{id:?}: {got:?}");
        expected["rooms"][room] = json!({"sessions": {*id: key}});
    }
    let got = server.get(&at("", &version), &alice).await;
    assert_eq!(got.json, expected, "{got:?}");

    // By a body they arrive the same.
    let copy = create_backup(&server, &alice).await;
    assert_eq!(stored(&server.put(&at("", &copy), &alice, &expected).await).1, ids.len() as u64);
    assert_eq!(server.get(&at("", &copy), &alice).await.json, expected);
    for id in ids {
        let path = format!("/{}/{}", encoded(&format!("!{id}")), encoded(id));
        assert_ok(&server.delete(&at(&path, &copy), &alice).await);
        let got = server.get(&at(&path, &copy), &alice).await;
        assert_refused(&got, 404, "M_NOT_FOUND");
    }
    assert_eq!(stored_in(&server, &alice, &copy).await.1, 0);
}

#[tokio::test]
async fn an_id_that_can_not_be_one_is_refused() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let key = room_key(true, 0, 0, "k");
    let too_long = "e".repeat(256);
    for path in [
        "/!r:x/a%00b",
        "/!r%00:x/s",
        "/!r:x/%FF",
        "/!%C3%28/s",
        "/!r:x/%ED%A0%80",
        &format!("/!r:x/{too_long}"),
        &format!("/!{too_long}/s"),
    ] {
        for answer in [
            server.get(&at(path, &version), &alice).await,
            server.put(&at(path, &version), &alice, &key).await,
            server.delete(&at(path, &version), &alice).await,
        ] {
            assert_refused(&answer, 400, "M_INVALID_PARAM");
        }
    }
    // Typed clients refuse a whole restore for a room id that does not begin with '!'.
    for room in ["r:x", "@r:x", "__proto__", ""] {
        let body = json!({"rooms": {room: {"sessions": {"s": key}}}});
        assert_refused(&server.put(&at("", &version), &alice, &body).await, 400, "M_BAD_JSON");
    }
    for room in ["r:x", "@r:x", "__proto__"] {
        let path = format!("/{room}");
        let body = json!({"sessions": {"s": key}});
        assert_refused(
            &server.put(&at(&path, &version), &alice, &body).await,
            400,
            "M_INVALID_PARAM",
        );
        let path = format!("/{room}/s");
        assert_refused(
            &server.put(&at(&path, &version), &alice, &key).await,
            400,
            "M_INVALID_PARAM",
        );
    }
    assert_eq!(stored_in(&server, &alice, &version).await.1, 0);
}

#[tokio::test]
async fn session_data_comes_back_to_the_letter_and_other_members_of_a_key_are_dropped() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let texts = [
        r#"{"ephemeral":"e","ciphertext":"c","mac":"m"}"#,
        r#"{"mac":"m","unauthenticated":[],"ephemeral":"e","org.x":{"a":null,"b":[1,2.50]},"ciphertext":"c"}"#,
        r#"{"n":[12345678901234567890123,1E+2,1e-400,-0.0,0.10,18446744073709551616]}"#,
        r#"{"\u00e9\ud83d\ude00":"é😀\u0000\/\"\\","__proto__":{"constructor":"x"},"":false}"#,
        "{}",
    ];
    for (n, text) in texts.iter().enumerate() {
        let key = format!(
            r#"{{"org.matrix.msc3061.shared_history":true,"first_message_index":0,"forwarded_count":0,
                "is_verified":false,"session_data":{text},"extra":{{"first_message_index":9}}}}"#
        );
        let (all, room, session) =
            (format!("!all{n}:x"), format!("!room{n}:x"), format!("!one{n}:x"));
        let sessions = format!(r#"{{"sessions":{{"s":{key}}},"extra":1}}"#);
        let rooms = format!(r#"{{"extra":[],"rooms":{{"{all}":{sessions}}}}}"#);
        for (path, body) in [
            (String::new(), &rooms),
            (format!("/{room}"), &sessions),
            (format!("/{session}/s"), &key),
        ] {
            assert_ok(&send(&server, "PUT", &at(&path, &version), &alice, body).await);
        }
        let everything = server.get(&at("", &version), &alice).await;
        for room in [&all, &room, &session] {
            let got = text_at(&everything.body, &["rooms", room, "sessions", "s", "session_data"]);
            assert_eq!(&got, text);
            let got = server.get(&at(&format!("/{room}"), &version), &alice).await;
            assert_eq!(&text_at(&got.body, &["sessions", "s", "session_data"]), text);
            let got = server.get(&at(&format!("/{room}/s"), &version), &alice).await;
            assert_eq!(&text_at(&got.body, &["session_data"]), text);
            let members: BTreeSet<_> = got.json.as_object().unwrap().keys().cloned().collect();
            let expected =
                ["first_message_index", "forwarded_count", "is_verified", "session_data"];
            assert_eq!(members, expected.map(str::to_owned).into(), "{got:?}");
        }
    }
}

/// Values that a field can't have, though a lenient reader would make something of most of them.
fn bad_values() -> [(&'static str, Vec<String>); 4] {
    let integer = "-1 -0 0.0 1.0 1.5 1e2 1E0 4294967296 18446744073709551616 1e400 null true \"1\"
        12345678901234567890123 [] {} [1]";
    let boolean = "null 0 1 \"true\" \"\" [] {} 1e400";
    let data = r#"null 0 true "{}" [] [{}] {"a":1e400} {"a":-1e999} {"a":"\ud800"}
        {"a":"\udc00\ud800"} {"\udfff":1} {"a":1,"a":1} {"a":1,"\u0061":2} {"x":[{"a":{},"a":{}}]}"#;
    let split = |values: &str| values.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut data = split(data);
    data.push(format!(r#"{{"a":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000)));
    data.push(format!("{}1{}", r#"{"a":"#.repeat(9_000), "}".repeat(9_000)));
    [
        ("first_message_index", split(integer)),
        ("forwarded_count", split(integer)),
        ("is_verified", split(boolean)),
        ("session_data", data),
    ]
}

/// A `KeyBackupData` in which one field has this text as its value, or stands not at all, or twice.
fn with_field(field: &str, values: &[&str]) -> String {
    let good = [
        ("first_message_index", "1"),
        ("forwarded_count", "2"),
        ("is_verified", "true"),
        ("session_data", r#"{"ciphertext":"c","ephemeral":"e","mac":"m"}"#),
    ];
    let members = good.iter().flat_map(|(name, good)| {
        let values = if *name == field { values } else { std::slice::from_ref(good) };
        values.iter().map(move |value| format!("{name:?}:{value}"))
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// A room of a hundred sessions, the `bad` one in the middle.
fn room_with(session: &str, bad: &str) -> String {
    let good = with_field("", &[]);
    let mut sessions: Vec<_> = (0..99).map(|n| format!(r#""{n}":{good}"#)).collect();
    sessions.insert(50, format!("{session}:{bad}"));
    format!(r#"{{"sessions":{{{}}}}}"#, sessions.join(","))
}

/// The same beside a room of a hundred good ones.
fn rooms_with(room: &str) -> String {
    let good = room_with("\"good\"", &with_field("", &[]));
    format!(r#"{{"rooms":{{"!good:x":{good},"!bad:x":{room}}}}}"#)
}

#[tokio::test]
async fn one_bad_key_among_two_hundred_is_named_and_nothing_is_stored() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let put = server.put(&at("/!good:x/before", &version), &alice, room_key(true, 0, 0, "k")).await;
    let before = stored(&put);

    let mut cases = Vec::new();
    for (field, values) in bad_values() {
        cases.extend(values.iter().map(|value| (field, with_field(field, &[value]))));
        cases.push((field, with_field(field, &[])));
        let good = match field {
            "is_verified" => "true",
            "session_data" => "{}",
            _ => "1",
        };
        cases.push((field, with_field(field, &[good, good])));
    }
    let mut unnamed = Vec::new();
    for (field, key) in &cases {
        let room = room_with("\"broken\"", key);
        for (path, body) in [("", &rooms_with(&room)), ("/!bad:x", &room), ("/!bad:x/broken", key)]
        {
            let answer = send(&server, "PUT", &at(path, &version), &alice, body).await;
            assert_refused(&answer, 400, "M_BAD_JSON");
            let error = answer.json["error"].as_str().unwrap();
            if !["!bad:x", "broken", field].iter().all(|name| error.contains(name)) {
                let shown: String = key.chars().take(200).collect();
                unnamed.push(format!("PUT keys{path} {shown}: {error}"));
            }
        }
        assert_eq!(stored_in(&server, &alice, &version).await, before);
    }
    let got = server.get(&at("", &version), &alice).await;
    let expected =
        json!({"rooms": {"!good:x": {"sessions": {"before": room_key(true, 0, 0, "k")}}}});
    assert_eq!(got.json, expected);
    assert!(
        unnamed.is_empty(),
        "room, session and field are not all named:\n{}",
        unnamed.join("\n")
    );
}

#[tokio::test]
async fn a_bad_session_or_room_among_good_ones_is_named_and_nothing_is_stored() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let before = stored_in(&server, &alice, &version).await;
    let good = with_field("", &[]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let twice = format!(r#""doppel":{good},"doppel""#);
    let mut unnamed = Vec::new();
    // A session, or its id, and what must be in the error beside the room.
    for (session, key, named) in [
        ("\"broken\"", "null", "broken"),
        ("\"broken\"", "[]", "broken"),
        ("\"broken\"", "\"key\"", "broken"),
        ("\"broken\"", &deep, "broken"),
        ("\"broken\"", &with_field("session_data", &[&format!(r#"{{"a":{deep}}}"#)]), "broken"),
        ("\"a\\u0000b\"", &good, "session"),
        ("\"\\ud800\"", &good, "session"),
        ("\"\\udc00x\"", &good, "session"),
        (&format!("\"{}\"", "e".repeat(256)), &good, "session"),
        (&twice, &good, "doppel"),
        ("\"doppel\":{},\"\\u0064oppel\"", &good, "doppel"),
    ] {
        let room = room_with(session, key);
        for (path, body) in [("", &rooms_with(&room)), ("/!bad:x", &room)] {
            let answer = send(&server, "PUT", &at(path, &version), &alice, body).await;
            // The 200,000 bytes of brackets may as well be called what they are: too many.
            match answer.status {
                413 if body.contains(&deep) => assert_refused(&answer, 413, "M_TOO_LARGE"),
                _ => assert_refused(&answer, 400, "M_BAD_JSON"),
            }
            let error = answer.json["error"].as_str().unwrap();
            if !(error.contains("!bad:x") && error.contains(named)) {
                let shown: String = format!("{session}:{key}").chars().take(120).collect();
                unnamed.push(format!("PUT keys{path} {shown}: {error}"));
            }
            assert_eq!(stored_in(&server, &alice, &version).await, before);
        }
    }
    // A room, and the same for it.
    let room = room_with("\"good\"", &good);
    for bad in ["null", "[]", "{}", "1", r#"{"sessions":null}"#, r#"{"sessions":[]}"#, &deep] {
        let answers = [
            ("", send(&server, "PUT", &at("", &version), &alice, &rooms_with(bad)).await),
            ("/!bad:x", send(&server, "PUT", &at("/!bad:x", &version), &alice, bad).await),
        ];
        for (path, answer) in answers {
            assert_refused(&answer, 400, "M_BAD_JSON");
            let error = answer.json["error"].as_str().unwrap();
            // A body that is no object has nothing in it to name.
            if path.is_empty() && !error.contains("!bad:x") {
                let shown: String = bad.chars().take(120).collect();
                unnamed.push(format!("PUT keys{path} with the room {shown}: {error}"));
            }
        }
    }
    for (ids, named) in [
        (r#""!a\u0000:x""#, "room"),
        (r#""!\ud800:x""#, "room"),
        (r#""""#, "room"),
        (r#""!bad:x":{"sessions":{}},"!bad:x""#, "!bad:x"),
        (r#""!bad:x":{"sessions":{}},"\u0021bad:x""#, "!bad:x"),
    ] {
        let body = format!(r#"{{"rooms":{{"!good:x":{room},{ids}:{room}}}}}"#);
        let answer = send(&server, "PUT", &at("", &version), &alice, &body).await;
        assert_refused(&answer, 400, "M_BAD_JSON");
        let error = answer.json["error"].as_str().unwrap();
        if !error.contains(named) {
            unnamed.push(format!("PUT keys with {ids}: {error}"));
        }
    }
    for body in [
        "null",
        "[]",
        "{}",
        "1",
        r#"{"rooms":null}"#,
        r#"{"rooms":[]}"#,
        r#"{"rooms":{},"rooms":{}}"#,
        &deep,
    ] {
        let answer = send(&server, "PUT", &at("", &version), &alice, body).await;
        assert_refused(&answer, 400, "M_BAD_JSON");
    }
    assert_eq!(stored_in(&server, &alice, &version).await, before);
    assert!(unnamed.is_empty(), "what is bad is not named:\n{}", unnamed.join("\n"));
}

#[tokio::test]
async fn head_answers_as_get_does_without_the_body() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    assert_ok(&server.put(&at("/!r:x/s", &version), &alice, room_key(true, 0, 0, "k")).await);
    let before = stored_in(&server, &alice, &version).await;
    for path in [
        "/room_keys/version".to_owned(),
        format!("/room_keys/version/{version}"),
        "/room_keys/version/1".to_owned(),
        at("", &version),
        at("", "1"),
        at("/!r:x", &version),
        at("/!r:x/s", &version),
        at("/!r:x/t", &version),
    ] {
        let get = server.get(&path, &alice).await;
        let head = send(&server, "HEAD", &path, &alice, "").await;
        assert_eq!(head.status, get.status, "HEAD {path}: {head:?}");
        assert!(head.body.is_empty(), "HEAD {path}: {head:?}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{head:?}");
        let length = head.header("content-length").map(str::to_owned);
        assert!(length.is_none_or(|it| it == get.body.len().to_string()), "HEAD {path}: {head:?}");
        assert_cross_origin(&head);
    }
    assert_eq!(stored_in(&server, &alice, &version).await, before);
}

/// The five paths that have the fourteen operations, and what each can do.
const OPERATIONS: [(&str, &[&str]); 5] = [
    ("/version", &["GET", "HEAD", "POST"]),
    ("/version/{version}", &["GET", "HEAD", "PUT", "DELETE"]),
    ("/keys", &["GET", "HEAD", "PUT", "DELETE"]),
    ("/keys/!r:x", &["GET", "HEAD", "PUT", "DELETE"]),
    ("/keys/!r:x/s", &["GET", "HEAD", "PUT", "DELETE"]),
];

#[tokio::test]
async fn a_preflight_needs_no_token_and_does_nothing() {
    let (homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let before = (stored_in(&server, &alice, &version).await, homeserver.whoami_count());
    for prefix in PREFIXES {
        for (path, methods) in OPERATIONS {
            let path = path.replace("{version}", &version);
            let path = format!("/_matrix/client/{prefix}/room_keys{path}");
            for method in methods {
                let headers = [
                    ("origin", "https://app.example.org"),
                    ("access-control-request-method", *method),
                    ("access-control-request-headers", "authorization,content-type"),
                ];
                let answer = server.raw("OPTIONS", &path, &headers, "").await;
                assert!(matches!(answer.status, 200 | 204), "OPTIONS {path}: {answer:?}");
                assert_cross_origin(&answer);
            }
        }
    }
    assert_eq!(homeserver.whoami_count(), before.1);
    assert_eq!(stored_in(&server, &alice, &version).await, before.0);
}

#[tokio::test]
async fn what_is_no_operation_is_not_recognized() {
    let (_homeserver, server, alice) = start().await;
    let version = create_backup(&server, &alice).await;
    let authorization = bearer(&alice);
    let mut wrong = Vec::new();
    let mut check = async |method: &str, path: &str, status: u16| {
        // With and without a token: what is not there needs none.
        for headers in [&[("authorization", authorization.as_str())][..], &[]] {
            let body = if matches!(method, "GET" | "HEAD") { "" } else { "{}" };
            let answer = server.raw(method, path, headers, body).await;
            let Answer { status: got, json, .. } = &answer;
            let is_told = json["errcode"] == "M_UNRECOGNIZED" && json["error"].is_string();
            if *got != status || !(is_told || method == "HEAD") {
                wrong.push(format!("{method} {path}: {status} expected, {got} came: {json}"));
            }
            if answer.header("access-control-allow-origin") != Some("*") {
                wrong.push(format!("{method} {path}: {got} without headers for browsers"));
            }
        }
    };
    for prefix in PREFIXES {
        let root = format!("/_matrix/client/{prefix}/room_keys");
        for (path, methods) in OPERATIONS {
            let path = path.replace("{version}", &version);
            for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"] {
                if !methods.contains(&method) {
                    check(method, &format!("{root}{path}"), 405).await;
                }
            }
        }
    }
    let root = "/_matrix/client/v3/room_keys";
    for path in [
        String::new(),
        "/".to_owned(),
        "//".to_owned(),
        "/version/".to_owned(),
        "//version".to_owned(),
        format!("/version/{version}/"),
        format!("/version//{version}"),
        format!("/version/{version}/keys"),
        "/keys/".to_owned(),
        "//keys".to_owned(),
        "/keys//".to_owned(),
        "/keys//s".to_owned(),
        "/keys/!r:x/".to_owned(),
        "/keys/!r:x/s/".to_owned(),
        "/keys/!r:x/s/t".to_owned(),
        "/keys/!r:x//s".to_owned(),
        "/Keys".to_owned(),
        "/unknown".to_owned(),
    ] {
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"] {
            check(method, &format!("{root}{path}?version={version}"), 404).await;
        }
    }
    for path in [
        "/",
        "/_matrix/client/versions",
        "/_matrix/client/v3/account/whoami",
        "/_matrix/client/v1/room_keys/version",
        "/_matrix/client/api/v1/room_keys/version",
        "/_matrix/client/room_keys/version",
        "/_matrix/client//v3/room_keys/version",
        "//_matrix/client/v3/room_keys/version",
        "/room_keys/version",
    ] {
        check("GET", path, 404).await;
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
