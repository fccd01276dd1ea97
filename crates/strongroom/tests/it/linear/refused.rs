//! The search itself: histories written by hand, each beside one that differs in what makes it wrong.

use std::{collections::HashSet, ops::Range};

use super::{
    history::{Asked, Device, Key, Keys, Line, Operation, Outcome, Place, Scope},
    model::Model,
    search::explain,
};

/// The version of everybody's backup.
const VERSION: u64 = 7;

/// What devices `0`, `1` … asked of one process after another.
#[derive(Clone)]
struct Story(Vec<Vec<Device>>);

impl Story {
    /// Device 0 creates a backup, long before anything else.
    fn new() -> Self {
        let story = Self(vec![Vec::new()]);
        let create = Operation::CreateVersion { auth_data: 0 };
        story.answered(0, 0..1, create, Outcome::Created { version: VERSION })
    }

    /// The process ends, and another one starts.
    fn restarted(mut self) -> Self {
        self.0.push(Vec::new());
        self
    }

    fn answered(self, device: usize, time: Range<u64>, asked: Operation, got: Outcome) -> Self {
        self.asked(device, time.start, asked, Some(got), time.end)
    }

    fn cut(self, device: usize, at: u64, asked: Operation) -> Self {
        self.asked(device, at, asked, None, u64::MAX)
    }

    fn asked(
        mut self,
        device: usize,
        at: u64,
        operation: Operation,
        outcome: Option<Outcome>,
        answered_at: u64,
    ) -> Self {
        let process = self.0.last_mut().unwrap();
        for number in process.len()..=device {
            process.push(Device { device_id: number.to_string(), asked: Vec::new() });
        }
        process[device].asked.push(Asked { operation, outcome, at, answered_at });
        self
    }

    /// Whether there is an order, with the journal at the end or whatever that says.
    fn is_explained(&self, journal: Option<&[Line]>) -> bool {
        let (last, earlier) = self.0.split_last().unwrap();
        let mut states = HashSet::from([Model::default()]);
        for process in earlier {
            states = explain(&states, process, None).unwrap_or_default();
        }
        explain(&states, last, journal).is_ok()
    }

    #[track_caller]
    fn holds(&self) {
        assert!(self.is_explained(None), "{:?}", self.0);
    }

    #[track_caller]
    fn is_refused(&self) {
        assert!(!self.is_explained(None), "{:?}", self.0);
    }
}

fn place(session: u16) -> Place {
    Place { room: 0, session }
}

/// Keys of these sessions; a later first message makes a worse one.
fn keys(index: u32, sessions: &[u16]) -> Keys {
    let key = Key { is_verified: false, index, forwards: 0, mark: index };
    sessions.iter().map(|session| (place(*session), key)).collect()
}

fn put(index: u32, sessions: &[u16]) -> Operation {
    Operation::PutKeys { version: VERSION, scope: Scope::All, keys: keys(index, sessions) }
}

fn delete(scope: Scope) -> Operation {
    Operation::DeleteKeys { version: VERSION, scope }
}

fn read() -> Operation {
    Operation::Keys { version: Some(VERSION), scope: Scope::All }
}

fn stored(count: usize, etag: u64) -> Outcome {
    Outcome::Stored { count, etag }
}

fn look() -> Operation {
    Operation::Version { version: None }
}

fn backup(count: usize, etag: u64) -> Outcome {
    Outcome::Backup { version: VERSION, auth_data: 0, count, etag }
}

#[test]
fn a_read_after_the_answer_to_a_write_that_does_not_see_it_is_refused() {
    let story = Story::new().answered(0, 10..20, put(0, &[1]), stored(1, 10));
    let read_at =
        |time, sessions| story.clone().answered(1, time, read(), Outcome::Keys(keys(0, sessions)));
    read_at(15..25, &[]).holds();
    read_at(15..25, &[1]).holds();
    read_at(21..25, &[1]).holds();
    read_at(21..25, &[]).is_refused();
}

#[test]
fn two_reads_that_see_two_writes_in_different_orders_are_refused() {
    let story = Story::new()
        .answered(0, 10..90, put(0, &[1]), stored(1, 10))
        .answered(1, 10..90, put(0, &[2]), stored(2, 11))
        .answered(2, 20..30, read(), Outcome::Keys(keys(0, &[1])));
    story.clone().answered(3, 40..50, read(), Outcome::Keys(keys(0, &[1]))).holds();
    story.clone().answered(3, 20..50, read(), Outcome::Keys(keys(0, &[]))).holds();
    story.clone().answered(3, 40..50, read(), Outcome::Keys(keys(0, &[]))).is_refused();
    story.answered(3, 20..50, read(), Outcome::Keys(keys(0, &[2]))).is_refused();
}

#[test]
fn a_lost_update_is_refused() {
    let story = Story::new().answered(0, 10..20, put(0, &[1]), stored(1, 10)).answered(
        1,
        12..22,
        put(0, &[2]),
        stored(2, 11),
    );
    let end =
        |sessions| story.clone().answered(0, 30..40, read(), Outcome::Keys(keys(0, sessions)));
    end(&[1, 2]).holds();
    end(&[1]).is_refused();
    end(&[2]).is_refused();
    let both_first = Story::new().answered(0, 10..20, put(0, &[1]), stored(1, 10)).answered(
        1,
        12..22,
        put(0, &[2]),
        stored(1, 11),
    );
    both_first.is_refused();
}

#[test]
fn a_count_that_is_off_by_one_is_refused() {
    let story = Story::new().answered(0, 10..20, put(0, &[1, 2]), stored(2, 10));
    story.clone().answered(0, 30..40, look(), backup(2, 10)).holds();
    story.clone().answered(0, 30..40, look(), backup(3, 10)).is_refused();
    story.clone().answered(0, 30..40, delete(Scope::Session(place(1))), stored(1, 11)).holds();
    story.answered(0, 30..40, delete(Scope::Session(place(1))), stored(2, 11)).is_refused();
    Story::new().answered(0, 10..20, put(0, &[1, 2]), stored(1, 10)).is_refused();
}

#[test]
fn an_etag_that_stays_or_falls_when_keys_change_or_moves_when_none_do_is_refused() {
    let story = Story::new().answered(0, 10..20, put(1, &[1]), stored(1, 10));
    let then = |operation, outcome| story.clone().answered(0, 30..40, operation, outcome);
    then(put(0, &[1]), stored(1, 11)).holds();
    then(put(0, &[1]), stored(1, 10)).is_refused();
    then(put(0, &[1]), stored(1, 9)).is_refused();
    then(put(1, &[1]), stored(1, 10)).holds();
    then(put(1, &[1]), stored(1, 11)).is_refused();
    then(delete(Scope::Room(1)), stored(1, 10)).holds();
    then(delete(Scope::Room(1)), stored(1, 11)).is_refused();
    then(look(), backup(1, 11)).is_refused();
    // Twice the same, with a change between that was not answered.
    let changed = |etag| {
        let story = story.clone().cut(0, 30, delete(Scope::All)).restarted();
        story.answered(0, 50..60, look(), backup(0, etag))
    };
    changed(11).holds();
    changed(10).is_refused();
}

#[test]
fn a_worse_key_in_the_place_of_a_better_one_is_refused() {
    let story = Story::new().answered(0, 10..20, put(1, &[1]), stored(1, 10)).answered(
        0,
        30..40,
        put(2, &[1]),
        stored(1, 10),
    );
    story.clone().answered(0, 50..60, read(), Outcome::Keys(keys(1, &[1]))).holds();
    story.answered(0, 50..60, read(), Outcome::Keys(keys(2, &[1]))).is_refused();
}

#[test]
fn half_a_batch_is_refused_and_the_whole_or_nothing_of_one_that_was_cut_is_not() {
    let during = |sessions| {
        let story = Story::new().answered(0, 10..40, put(0, &[1, 2]), stored(2, 10));
        story.answered(1, 20..30, read(), Outcome::Keys(keys(0, sessions)))
    };
    let after = |sessions| {
        let story = Story::new().cut(0, 10, put(0, &[1, 2])).restarted();
        story.answered(0, 50..60, read(), Outcome::Keys(keys(0, sessions)))
    };
    for story in [during(&[]), during(&[1, 2]), after(&[]), after(&[1, 2])] {
        story.holds();
    }
    for story in [during(&[1]), during(&[2]), after(&[1]), after(&[2])] {
        story.is_refused();
    }
}

#[test]
fn what_was_cut_is_not_done_by_the_next_process() {
    let story = Story::new().cut(0, 10, put(0, &[1]));
    let nothing = Outcome::Keys(Keys::new());
    let something = Outcome::Keys(keys(0, &[1]));
    let seen = |story: Story| {
        let story = story.answered(1, 20..30, read(), nothing.clone());
        story.answered(1, 40..50, read(), something.clone())
    };
    seen(story.clone()).holds();
    seen(story.restarted()).is_refused();
}

#[test]
fn an_acknowledged_write_that_is_gone_after_a_restart_is_refused() {
    let story = Story::new().answered(0, 10..20, put(0, &[1]), stored(1, 10)).restarted();
    story.clone().answered(0, 30..40, look(), backup(1, 10)).holds();
    story.clone().answered(0, 30..40, look(), backup(0, 10)).is_refused();
    story.clone().answered(0, 30..40, look(), backup(1, 11)).is_refused();
    story.answered(0, 30..40, look(), Outcome::NotFound).is_refused();
}

#[test]
fn a_version_that_comes_twice_falls_or_comes_back_is_refused() {
    let create = |version| {
        let create = Operation::CreateVersion { auth_data: 0 };
        Story::new().answered(0, 10..20, create, Outcome::Created { version })
    };
    create(VERSION + 1).holds();
    create(VERSION).is_refused();
    create(VERSION - 1).is_refused();
    let deleted = Story::new().answered(
        0,
        10..20,
        Operation::DeleteVersion { version: VERSION },
        Outcome::Done,
    );
    deleted.clone().answered(0, 30..40, look(), Outcome::NotFound).holds();
    deleted.answered(0, 30..40, look(), backup(0, 9)).is_refused();
}

#[test]
fn a_write_to_a_backup_that_is_not_the_current_one_is_refused() {
    let create = Operation::CreateVersion { auth_data: 0 };
    let new = VERSION + 1;
    let story = Story::new().answered(0, 10..20, create, Outcome::Created { version: new });
    story.clone().answered(1, 30..40, put(0, &[1]), Outcome::WrongVersion { current: new }).holds();
    story.clone().answered(1, 15..40, put(0, &[1]), stored(1, 10)).holds();
    story.clone().answered(1, 30..40, put(0, &[1]), stored(1, 10)).is_refused();
    let wrong = Outcome::WrongVersion { current: VERSION };
    story.answered(1, 30..40, put(0, &[1]), wrong).is_refused();
}

#[test]
fn a_replaced_auth_data_that_is_still_shown_is_refused() {
    let update = Operation::UpdateVersion { version: VERSION, auth_data: 1 };
    let story = Story::new().answered(0, 10..20, update, Outcome::Done);
    story.clone().answered(1, 15..25, look(), backup(0, 9)).holds();
    story.answered(1, 21..25, look(), backup(0, 9)).is_refused();
}

#[test]
fn a_journal_that_says_anything_else_is_refused() {
    let story = Story::new()
        .answered(0, 10..20, put(1, &[1, 2]), stored(2, 10))
        .answered(1, 30..40, put(0, &[1]), stored(2, 11))
        .cut(0, 50, delete(Scope::All));
    let line = |action: &str, device: &str, keys| Line {
        action: action.to_owned(),
        version: VERSION,
        device_id: device.to_owned(),
        keys,
    };
    let (created, replaced, deleted) =
        (line("create_version", "0", 0), line("replace_keys", "1", 1), line("delete_keys", "0", 2));
    for journal in [
        vec![created.clone(), replaced.clone()],
        vec![created.clone(), replaced.clone(), deleted.clone()],
    ] {
        assert!(story.is_explained(Some(&journal)), "{journal:?}");
    }
    for journal in [
        vec![],
        vec![created.clone()],
        vec![created.clone(), deleted.clone()],
        vec![replaced.clone(), created.clone()],
        vec![created.clone(), replaced.clone(), replaced.clone()],
        vec![created.clone(), line("replace_keys", "0", 1)],
        vec![created.clone(), line("replace_keys", "1", 2)],
        vec![created.clone(), replaced, line("delete_keys", "0", 1)],
        vec![created, deleted.clone(), line("replace_keys", "1", 1)],
    ] {
        assert!(!story.is_explained(Some(&journal)), "{journal:?}");
    }
}
