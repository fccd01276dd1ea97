//! The clock that orders changes.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// Microseconds since 1970, from which etags and version ids are taken.
///
/// A change gets the time at which it was asked for, or one more than the last change of the same
/// backup, whichever is later. So what is derived from it rises through clocks that jump back, and
/// is not used twice even after yesterday's file was put back.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The system's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Negative times become 0: nothing was stored before 1970.
    pub const fn from_micros(micros: i64) -> Self {
        if micros < 0 { Self(0) } else { Self(micros) }
    }

    /// Microseconds since 1970; never negative.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The time `before` this one, at the earliest 1970.
    pub fn minus(self, before: Duration) -> Self {
        let micros = i64::try_from(before.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(micros))
    }

    /// The stamp of a change that is asked for now and follows one stamped `previous`.
    pub(crate) const fn stamp_after(self, previous: i64) -> i64 {
        let next = previous.saturating_add(1);
        if next > self.0 { next } else { self.0 }
    }
}

impl fmt::Display for Timestamp {
    /// As RFC 3339 has it, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(self.0.unsigned_abs());
        humantime::format_rfc3339_micros(time).fmt(f)
    }
}
