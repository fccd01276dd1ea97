//! A bounded piece of a backup on its way out.

use strongroom_protocol::{KeyRef, Rank};

/// How much a page may hold.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    /// Keys.
    pub keys_max: usize,
    /// Bytes of ids and `session_data`; the key that reaches it is the last.
    pub bytes_max: usize,
}

/// The place of a key in the order of a key set.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    pub(crate) room_id: String,
    pub(crate) session_id: String,
}

/// Some keys in their order.
///
/// All texts of a page lie in one buffer: a restore of a hundred thousand keys copies them once, and
/// allocates for a page instead of for each of them.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    keys: Vec<Entry>,
    is_full: bool,
    left_out: usize,
}

/// Where a key's texts end in the buffer; they begin where the one before ended.
#[derive(Debug)]
struct Entry {
    room_end: usize,
    session_end: usize,
    data_end: usize,
    rank: Rank,
}

impl Page {
    /// Appends a key and says whether the page is full now, and no more is to be appended.
    pub fn push(&mut self, key: KeyRef<'_>, size: PageSize) -> bool {
        self.text.push_str(key.room_id);
        let room_end = self.text.len();
        self.text.push_str(key.session_id);
        let session_end = self.text.len();
        self.text.push_str(key.session_data);
        let data_end = self.text.len();
        self.keys.push(Entry { room_end, session_end, data_end, rank: key.rank });
        self.is_full = self.keys.len() >= size.keys_max || data_end >= size.bytes_max;
        self.is_full
    }

    /// Whether there may be keys behind this page. One that is not full is the last.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Counts a key that is damaged, which hides none of the others.
    pub fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// How many keys are missing from it because they are damaged.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// How many keys it holds.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nothing followed the position that was asked for.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The bytes of all its texts.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The keys in their order.
    pub fn iter(&self) -> impl Iterator<Item = KeyRef<'_>> {
        self.keys.iter().scan(0, |start, entry| {
            let key = KeyRef {
                room_id: self.text.get(*start..entry.room_end)?,
                session_id: self.text.get(entry.room_end..entry.session_end)?,
                session_data: self.text.get(entry.session_end..entry.data_end)?,
                rank: entry.rank,
            };
            *start = entry.data_end;
            Some(key)
        })
    }

    /// Where the next page begins.
    pub fn last(&self) -> Option<Position> {
        let (room_id, session_id) = self.last_ids()?;
        Some(Position { room_id: room_id.to_owned(), session_id: session_id.to_owned() })
    }

    /// The room and the session of the last key.
    pub(crate) fn last_ids(&self) -> Option<(&str, &str)> {
        let (last, earlier) = self.keys.split_last()?;
        let start = earlier.last().map_or(0, |entry| entry.data_end);
        let room_id = self.text.get(start..last.room_end)?;
        Some((room_id, self.text.get(last.room_end..last.session_end)?))
    }
}
