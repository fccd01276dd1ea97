//! A short random history of one client, and what must be left of it after any fault.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use strongroom_testing::{Answer, until};

use crate::{
    client::{assert_ok, assert_refused, assert_says_when_to_retry, room_key},
    hostile::wire::Alice,
};

const ROOM: &str = "!history:x";

/// What was asked for, and so what may be there.
#[derive(Clone, Default)]
pub(crate) struct History {
    /// Each is there as a whole, or not at all: the sessions of a request, before and after it.
    puts: Vec<Put>,
    /// The values that `auth_data` may have.
    auth_data: Vec<Value>,
    /// The last etag that was given.
    etag: u64,
    acknowledged: usize,
    refused: usize,
    random: u32,
}

#[derive(Clone)]
struct Put {
    sessions: Vec<String>,
    /// Any of these, the same for all of them.
    allowed: Vec<Option<Value>>,
}

impl History {
    pub(crate) fn new(seed: u32) -> Self {
        let random = seed.wrapping_mul(2_654_435_761) | 1;
        Self { random, auth_data: vec![json!({"public_key": "abc"})], ..Self::default() }
    }

    /// A number below `end` that depends on the seed only.
    fn below(&mut self, end: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random % end
    }

    /// Asks for so many changes, one after the other.
    pub(crate) async fn go_on(&mut self, alice: &Alice, changes: usize) {
        for _ in 0..changes {
            match self.below(6) {
                0 | 1 => self.put(alice, 1).await,
                2 => self.put(alice, 20).await,
                3 => self.replace(alice).await,
                4 => self.delete(alice).await,
                _ => self.sign(alice).await,
            }
        }
    }

    /// Puts new keys until it succeeds: whatever is wrong passes.
    pub(crate) async fn recover(&mut self, alice: &Alice) {
        until("an acknowledgement", async || {
            let before = self.acknowledged;
            self.put(alice, 1).await;
            (self.acknowledged > before).then_some(())
        })
        .await;
    }

    /// How many requests were acknowledged, and how many were answered with 503.
    pub(crate) fn answers(&self) -> (usize, usize) {
        (self.acknowledged, self.refused)
    }

    async fn put(&mut self, alice: &Alice, keys: usize) {
        let number = self.puts.len();
        let sessions: Vec<_> = (0..keys).map(|key| format!("{number}/{key}")).collect();
        let allowed = vec![None, Some(self.next_key())];
        self.puts.push(Put { sessions, allowed });
        self.put_last_allowed(alice, number).await;
    }

    /// Puts a better copy over a key.
    async fn replace(&mut self, alice: &Alice) {
        let Some(number) = self.settled() else { return self.put(alice, 1).await };
        let key = self.next_key();
        self.puts[number].allowed.push(Some(key));
        self.put_last_allowed(alice, number).await;
    }

    /// Better than each before, and different.
    fn next_key(&mut self) -> Value {
        let number = u32::try_from(self.acknowledged + self.refused).expect("few");
        room_key(false, u32::MAX - number, 0, &number.to_string())
    }

    async fn put_last_allowed(&mut self, alice: &Alice, number: usize) {
        let put = &self.puts[number];
        let key = put.allowed.last().expect("what is put");
        let sessions: BTreeMap<_, _> =
            put.sessions.iter().map(|session| (session.as_str(), key)).collect();
        let body = json!({ "rooms": { ROOM: { "sessions": sessions } } });
        let path = format!("/room_keys/keys?version={}", alice.version);
        let answer = alice.server.put(&path, &alice.user, body).await;
        if self.is_acknowledged(&answer) {
            self.etag_rises(&answer);
            self.puts[number].settle();
        }
    }

    async fn delete(&mut self, alice: &Alice) {
        let Some(number) = self.settled() else { return self.put(alice, 1).await };
        if self.puts[number].sessions.len() > 1 {
            return self.put(alice, 1).await;
        }
        self.puts[number].allowed.push(None);
        let session = self.puts[number].sessions[0].replace('/', "%2F");
        let path = format!("/room_keys/keys/{ROOM}/{session}?version={}", alice.version);
        let answer = alice.server.delete(&path, &alice.user).await;
        if self.is_acknowledged(&answer) {
            self.etag_rises(&answer);
            self.puts[number].settle();
        }
    }

    /// Replaces `auth_data` as a client does who adds a signature.
    async fn sign(&mut self, alice: &Alice) {
        let number = self.acknowledged + self.refused;
        let auth_data = json!({"public_key": "abc", "signature": number});
        self.auth_data.push(auth_data.clone());
        let path = format!("/room_keys/version/{}", alice.version);
        let body = json!({"algorithm": crate::client::ALGORITHM, "auth_data": auth_data});
        let answer = alice.server.put(&path, &alice.user, body).await;
        if self.is_acknowledged(&answer) {
            self.auth_data = vec![auth_data];
        }
    }

    /// One of the requests of which it is certain that its keys are there.
    fn settled(&mut self) -> Option<usize> {
        let number = self.below(u32::try_from(self.puts.len().max(1)).expect("few")) as usize;
        let is_settled = |put: &Put| matches!(put.allowed.as_slice(), [Some(_)]);
        self.puts.get(number).is_some_and(is_settled).then_some(number)
    }

    /// 200, or an error that every client tries again after.
    fn is_acknowledged(&mut self, answer: &Answer) -> bool {
        if answer.status == 200 {
            assert_ok(answer);
            self.acknowledged += 1;
            return true;
        }
        assert_refused(answer, 503, "M_UNKNOWN");
        assert_says_when_to_retry(answer);
        self.refused += 1;
        false
    }

    fn etag_rises(&mut self, answer: &Answer) {
        let etag = etag(answer);
        assert!(etag > self.etag, "the etag went from {} to {etag}", self.etag);
        self.etag = etag;
    }

    /// What was acknowledged is there, and of the rest each as a whole or not at all.
    pub(crate) async fn check(&mut self, alice: &Alice) {
        let path = format!("/room_keys/version/{}", alice.version);
        let version = alice.server.get(&path, &alice.user).await;
        assert_ok(&version);
        let found = &version.json["auth_data"];
        assert!(self.auth_data.contains(found), "{found} is none of {:?}", self.auth_data);
        assert!(etag(&version) >= self.etag, "{version:?} after etag {}", self.etag);

        let rooms = alice.restored().await;
        let sessions = |room: &Value| room["sessions"].as_object().cloned().unwrap_or_default();
        let count: usize =
            rooms.as_object().expect("rooms").values().map(|room| sessions(room).len()).sum();
        assert_eq!(version.json["count"], count, "{version:?}");
        let stored = sessions(&rooms[ROOM]);
        let mut expected = 0;
        for put in &self.puts {
            let found: Vec<_> = put.sessions.iter().map(|session| stored.get(session)).collect();
            let is_allowed =
                |allowed: &Option<Value>| found.iter().all(|found| *found == allowed.as_ref());
            assert!(put.allowed.iter().any(is_allowed), "{:?}: {found:?}", put.sessions);
            expected += found.iter().flatten().count();
        }
        assert_eq!(stored.len(), expected, "there are keys that nobody put");
    }
}

impl Put {
    /// What was asked for last is what is there.
    fn settle(&mut self) {
        self.allowed.drain(..self.allowed.len() - 1);
    }
}

fn etag(answer: &Answer) -> u64 {
    let etag = answer.json["etag"].as_str().and_then(|etag| etag.parse().ok());
    etag.unwrap_or_else(|| panic!("no etag: {answer:?}"))
}
