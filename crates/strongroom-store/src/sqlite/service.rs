//! The time that the store has been in service, by which retention is measured.

use std::time::Duration;

use rusqlite::Connection;

use crate::store::{Result, Tick};

/// What the store knows of time, in microseconds.
pub(super) struct Service {
    /// How long it has been in service, as far as somebody has told.
    pub(super) age: i64,
    /// What the age may have become since.
    pub(super) age_limit: i64,
    /// How long what left the view is kept.
    pub(super) retention: i64,
    /// How long the journal is.
    pub(super) journal_retention: i64,
}

impl Service {
    pub(super) fn read(database: &Connection) -> Result<Self> {
        let mut statement = database
            .prepare_cached("SELECT age, age_limit, retention, journal_retention FROM service")?;
        let read = |row: &rusqlite::Row<'_>| {
            let (age, age_limit) = (row.get(0)?, row.get(1)?);
            Ok(Self { age, age_limit, retention: row.get(2)?, journal_retention: row.get(3)? })
        };
        Ok(statement.query_one([], read)?)
    }

    /// What left the view at this age or earlier is due. The age that it carries is rather too great,
    /// since it lies between two ticks; without any retention that does not matter.
    pub(super) fn due_age(&self) -> i64 {
        let Self { age, age_limit, retention, .. } = *self;
        if retention == 0 { age_limit } else { age.saturating_sub(retention) }
    }

    /// The same for lines of the journal, which are not removed before what they tell of.
    pub(super) fn due_age_of_journal(&self) -> i64 {
        self.age.saturating_sub(self.journal_retention.max(self.retention))
    }
}

/// Lets time pass: as much as was served, and not more than was announced.
pub(super) fn tick(database: &Connection, tick: Tick) -> Result<()> {
    let Tick { served, next, retention } = tick;
    database
        .prepare_cached(
            "UPDATE service SET age = min(age + ?1, max(age, age_limit)),
                age_limit = min(age + ?1, max(age, age_limit)) + ?2,
                retention = ?3, journal_retention = ?4",
        )?
        .execute([
            micros(served),
            micros(next),
            micros(retention.kept),
            micros(retention.journal),
        ])?;
    Ok(())
}

/// Durations beyond a hundred thousand years are as good as that.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}
