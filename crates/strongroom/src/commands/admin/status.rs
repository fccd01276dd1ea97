//! `strongroom admin status`.

use serde::Serialize;

use super::{
    Context,
    output::{facts, print, print_json, size, span, time_or},
};
use crate::commands::Exit;

/// Say what there is, in numbers
#[derive(clap::Args)]
pub(super) struct Status {}

#[derive(Serialize)]
struct StatusJson {
    format: i64,
    is_served: bool,
    disk_bytes: u64,
    users: u64,
    versions: u64,
    deleted_versions: u64,
    keys: u64,
    bytes: u64,
    kept_keys: u64,
    kept_bytes: u64,
    due_keys: u64,
    next_due_in_seconds: Option<u64>,
    changed_at: Option<String>,
    retention_seconds: u64,
    journal_retention_seconds: u64,
    in_service_seconds: u64,
}

impl Status {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let status = context.open()?.status()?;
        let (outlook, retention) = (status.outlook, status.retention);
        if context.json {
            print_json(&StatusJson {
                format: status.format,
                is_served: status.is_served,
                disk_bytes: status.disk_bytes,
                users: status.users,
                versions: status.versions,
                deleted_versions: status.deleted_versions,
                keys: status.keys,
                bytes: status.bytes,
                kept_keys: outlook.kept_keys,
                kept_bytes: outlook.kept_bytes,
                due_keys: outlook.due_keys,
                next_due_in_seconds: outlook.next_in.map(|next_in| next_in.as_secs()),
                changed_at: status.changed_at.map(|at| at.to_string()),
                retention_seconds: retention.kept.as_secs(),
                journal_retention_seconds: retention.journal.as_secs(),
                in_service_seconds: status.in_service.as_secs(),
            })?;
            return Ok(Exit::Clean);
        }
        let next = match (outlook.due_keys, outlook.next_in) {
            (0, None) => "nothing is kept".to_owned(),
            (0, Some(next_in)) => format!("in {} of service at the earliest", span(next_in)),
            (due, _) => format!("now, {due} keys"),
        };
        print(&facts(&[
            ("server", if status.is_served { "running" } else { "not running" }.to_owned()),
            ("on disk", format!("{}, format {}", size(status.disk_bytes), status.format)),
            ("users", status.users.to_string()),
            ("versions", format!("{}, and {} deleted", status.versions, status.deleted_versions)),
            ("keys", format!("{}, {}", status.keys, size(status.bytes))),
            (
                "kept",
                format!(
                    "{} deleted and replaced keys, {}",
                    outlook.kept_keys,
                    size(outlook.kept_bytes)
                ),
            ),
            ("purged next", next),
            ("retention", format!("{}, journal {}", span(retention.kept), span(retention.journal))),
            ("in service", span(status.in_service)),
            ("last change", time_or(status.changed_at, "none")),
        ]))?;
        Ok(Exit::Clean)
    }
}
