//! Of any three copies of a key, the order says what the specification's sentence says.

use strongroom_protocol::Rank;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Copy {
    is_verified: bool,
    first_message_index: u32,
    forwarded_count: u32,
}

pub(crate) fn run(data: &[u8]) {
    let mut copies = data.chunks_exact(9).map(copy);
    let (Some(old), Some(new), Some(third)) = (copies.next(), copies.next(), copies.next()) else {
        return;
    };
    for (old, new) in [(old, new), (new, old), (old, old), (new, third), (old, third)] {
        let beats = rank(new).beats(rank(old));
        assert_eq!(beats, keeps_new(old, new), "{new:?} in place of {old:?}");
        assert!(!(beats && rank(old).beats(rank(new))), "{old:?} and {new:?} beat each other");
    }
    if rank(new).beats(rank(old)) && rank(third).beats(rank(new)) {
        assert!(rank(third).beats(rank(old)), "{old:?}, {new:?}, {third:?} are in no order");
    }
}

/// Nine bytes: one for the flag, and whether the numbers are small, so that copies come to be equal.
fn copy(bytes: &[u8]) -> Copy {
    let mask = if bytes[0] & 2 == 0 { 1 } else { u32::MAX };
    let number = |at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) & mask
    };
    Copy {
        is_verified: bytes[0] & 1 == 1,
        first_message_index: number(1),
        forwarded_count: number(5),
    }
}

fn rank(copy: Copy) -> Rank {
    let rank = Rank::new(copy.is_verified, copy.first_message_index, copy.forwarded_count);
    let (index, forwards) = (rank.first_message_index(), rank.forwarded_count());
    let back = Copy {
        is_verified: rank.is_verified(),
        first_message_index: index,
        forwarded_count: forwards,
    };
    assert_eq!(back, copy, "the fields come back as they went in");
    rank
}

/// The specification's sentence, transcribed.
fn keeps_new(old: Copy, new: Copy) -> bool {
    if old.is_verified != new.is_verified {
        new.is_verified
    } else if old.first_message_index != new.first_message_index {
        new.first_message_index < old.first_message_index
    } else {
        new.forwarded_count < old.forwarded_count
    }
}
