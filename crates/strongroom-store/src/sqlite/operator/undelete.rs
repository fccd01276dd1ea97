//! Brings back what left the view.

use rusqlite::Connection;
use strongroom_protocol::{UserId, Version};

use super::SqliteOperator;
use crate::{
    operator::{Progress, Result, Undeleted},
    time::Timestamp,
};

pub(super) fn plan_version(_: &Connection, _: &UserId, _: Version) -> Result<Undeleted> {
    Ok(Undeleted::default())
}

pub(super) fn version(_: &Connection, _: &UserId, _: Version, _: Timestamp) -> Result<Undeleted> {
    Ok(Undeleted::default())
}

pub(super) fn plan_as_of(
    _: &Connection,
    _: &UserId,
    _: Timestamp,
    _: Timestamp,
) -> Result<Undeleted> {
    Ok(Undeleted::default())
}

pub(super) fn as_of(
    _: &mut SqliteOperator,
    _: &UserId,
    _: Timestamp,
    _: Timestamp,
    _: Progress<'_>,
) -> Result<Undeleted> {
    Ok(Undeleted::default())
}
