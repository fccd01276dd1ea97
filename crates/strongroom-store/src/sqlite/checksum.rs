//! Finds out what the disk has changed: a CRC-32 with each row, over what it says and where it lies.
//!
//! It guards against rot, not against people: whoever can write the file can write checksums. A row
//! that does not match is never answered with, and does not hide the others.

use strongroom_protocol::KeyRef;

/// The checksum of a key in a set, or of what it was in history.
pub(super) fn of_key(key_set_pk: i64, key: KeyRef<'_>, stored_at: i64) -> u32 {
    let rank = key.rank;
    let numbers = [
        key_set_pk,
        rank.is_verified().into(),
        rank.first_message_index().into(),
        rank.forwarded_count().into(),
        stored_at,
    ];
    of(numbers, [key.room_id, key.session_id, key.session_data])
}

/// The checksum of numbers and texts. Lists that differ in their borders have different ones.
pub(super) fn of<const N: usize, const T: usize>(numbers: [i64; N], texts: [&str; T]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    // In one piece: many small ones cost more than the texts.
    hasher.update(numbers.map(i64::to_le_bytes).as_flattened());
    hasher.update(texts.map(|text| (text.len() as u64).to_le_bytes()).as_flattened());
    for text in texts {
        hasher.update(text.as_bytes());
    }
    hasher.finalize()
}

/// Whether a row is what was written. One of the first format has no checksum, and is believed.
pub(super) fn matches(stored: Option<i64>, computed: u32) -> bool {
    stored.is_none_or(|stored| stored == i64::from(computed))
}

/// Whether a row is known to be damaged: a repair has put it out of view, and turned its checksum into
/// a number that no row has (`-1 - checksum`), so that it is never brought back.
pub(super) fn is_mark(stored: Option<i64>) -> bool {
    stored.is_some_and(|stored| stored < 0)
}
