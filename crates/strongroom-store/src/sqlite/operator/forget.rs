//! The right to be forgotten.

use strongroom_protocol::UserId;

use super::SqliteOperator;
use crate::operator::{Progress, Removed, Result};

pub(super) fn user(
    operator: &mut SqliteOperator,
    user_id: &UserId,
    progress: Progress<'_>,
) -> Result<Removed> {
    let _ = (operator, user_id, progress);
    Ok(Removed::default())
}
