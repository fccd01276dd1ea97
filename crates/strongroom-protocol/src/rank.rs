//! Which of two copies of a room key a backup keeps.
//!
//! The verified one; then the one that decrypts from an earlier message; then the one that was
//! forwarded fewer times (client-server API, "Server-side key backups").

use std::cmp::Reverse;

/// How good one copy of a room key is: the greater rank is kept.
///
/// ```
/// use strongroom_protocol::Rank;
///
/// let (from_the_start, verified) = (Rank::new(false, 0, 0), Rank::new(true, 40, 2));
/// assert!(verified.beats(from_the_start)); // trust outweighs reach
/// assert!(!verified.beats(verified)); // an upload repeated changes nothing
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Rank {
    // The derived order compares fields from the top, so the order of the fields is the rule.
    is_verified: bool,
    first_message_index: Reverse<u32>,
    forwarded_count: Reverse<u32>,
}

impl Rank {
    /// The index counts messages (a megolm index has 32 bits), the forwards count hops.
    pub const fn new(is_verified: bool, first_message_index: u32, forwarded_count: u32) -> Self {
        let (index, forwards) = (Reverse(first_message_index), Reverse(forwarded_count));
        Self { is_verified, first_message_index: index, forwarded_count: forwards }
    }

    /// Whether this copy replaces `stored`. An equal does not, so a retry leaves the etag alone.
    pub fn beats(self, stored: Self) -> bool {
        self > stored
    }

    /// Whether the device that backed the key up had verified the device that the key is from.
    pub const fn is_verified(self) -> bool {
        self.is_verified
    }

    /// The index of the first message that the key decrypts.
    pub const fn first_message_index(self) -> u32 {
        self.first_message_index.0
    }

    /// How often the key was forwarded from device to device.
    pub const fn forwarded_count(self) -> u32 {
        self.forwarded_count.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The specification's sentence, transcribed. Shares no code with `Rank`.
    fn keeps_new(old: (bool, u32, u32), new: (bool, u32, u32)) -> bool {
        if old.0 != new.0 {
            new.0
        } else if old.1 != new.1 {
            new.1 < old.1
        } else {
            new.2 < old.2
        }
    }

    /// Small ranges make copies collide; the extremes catch a sign or a width.
    fn fields() -> impl Strategy<Value = (bool, u32, u32)> {
        let number = || prop_oneof![0..3u32, Just(u32::MAX), Just(i32::MAX as u32 + 1)];
        (any::<bool>(), number(), number())
    }

    proptest! {
        #[test]
        fn beats_is_the_rule_of_the_specification(old in fields(), new in fields()) {
            let (old_rank, new_rank) = (Rank::new(old.0, old.1, old.2), Rank::new(new.0, new.1, new.2));
            prop_assert_eq!(new_rank.beats(old_rank), keeps_new(old, new));
            prop_assert!(!(new_rank.beats(old_rank) && old_rank.beats(new_rank)));
        }

        #[test]
        fn the_fields_come_back_as_they_went_in(key in fields()) {
            let rank = Rank::new(key.0, key.1, key.2);
            let back = (rank.is_verified(), rank.first_message_index(), rank.forwarded_count());
            prop_assert_eq!(back, key);
        }
    }
}
