//! A moment, as an operator writes it.

use std::{str::FromStr, time::SystemTime};

use strongroom_store::Timestamp;

/// A moment that is known once it is known what time it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moment {
    At(Timestamp),
    /// So long ago.
    Ago(std::time::Duration),
}

impl Moment {
    pub(super) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(span) => now.minus(span),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bad = || {
            format!(
                "{text:?} is no time; write 2026-11-25T10:00:00Z (UTC), \"10 minutes ago\", or a stamp \
                 as `strongroom admin log` shows it"
            )
        };
        if let Some(span) = text.strip_suffix("ago") {
            return humantime::parse_duration(span.trim_end()).map(Self::Ago).map_err(|_| bad());
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let stamp = text.parse().map_err(|_| bad())?;
            return Ok(Self::At(Timestamp::from_micros(stamp)));
        }
        let time = humantime::parse_rfc3339_weak(text).map_err(|_| bad())?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| bad())?;
        let micros = i64::try_from(since.as_micros()).map_err(|_| bad())?;
        Ok(Self::At(Timestamp::from_micros(micros)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_can_be_written_in_several_ways() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        for (text, micros) in [
            ("2026-11-25T10:00:00Z", 1_795_600_800_000_000),
            ("2026-11-25T10:00:00", 1_795_600_800_000_000),
            ("2026-11-25 10:00:00", 1_795_600_800_000_000),
            ("2026-11-25 10:00:00.25Z", 1_795_600_800_250_000),
            ("2026-11-25T10:00:00.123456Z", 1_795_600_800_123_456),
            ("1795600800123456", 1_795_600_800_123_456),
            (" 0 ", 0),
            ("10 minutes ago", 1_799_999_400_000_000),
            ("10m ago", 1_799_999_400_000_000),
            ("1day 2h ago", 1_799_906_400_000_000),
            ("0s ago", 1_800_000_000_000_000),
        ] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!(moment.resolve(now).as_micros(), micros, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "yesterday",
            "ago",
            "10 ago",
            "-5",
            "99999999999999999999",
            "2026-11-25T10:00:00+01:00",
            "2026-13-01T00:00:00Z",
            "10m",
        ] {
            let refused = text.parse::<Moment>();
            assert!(refused.as_ref().is_err_and(|it| it.contains("is no time")), "{refused:?}");
        }
    }
}
