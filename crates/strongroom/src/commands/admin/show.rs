//! `strongroom admin show`.

use std::fmt::Write as _;

use serde::Serialize;
use strongroom_store::{DetachedKeys, ReplacedKeys, UserHistory, VersionHistory};

use super::{
    Context, User,
    output::{
        ChangeJson, Table, by, count, facts, print, print_json, shown, size, span, time, time_or,
    },
    users::UserJson,
};
use crate::commands::Exit;

/// Show a user's backup versions, with what was deleted and replaced, when, and by whom
#[derive(clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    user: User,
}

#[derive(Serialize)]
struct ShowJson {
    #[serde(flatten)]
    user: UserJson,
    purged_until: Option<String>,
    versions: Vec<VersionJson>,
}

#[derive(Serialize)]
struct VersionJson {
    version: String,
    algorithm: String,
    is_current: bool,
    deleted: Option<ChangeJson>,
    is_purged: bool,
    etag: String,
    keys: u64,
    bytes: u64,
    detached: Vec<DetachedJson>,
    replaced: Vec<ReplacedJson>,
    auth_data_changes: Vec<ChangeJson>,
}

#[derive(Serialize)]
struct DetachedJson {
    since: String,
    until: ChangeJson,
    keys: u64,
    bytes: u64,
    is_purging: bool,
}

#[derive(Serialize)]
struct ReplacedJson {
    #[serde(flatten)]
    change: ChangeJson,
    keys: u64,
    bytes: u64,
}

impl From<&UserHistory> for ShowJson {
    fn from(history: &UserHistory) -> Self {
        Self {
            user: UserJson::from(&history.summary),
            purged_until: history.purged_until.map(|until| until.to_string()),
            versions: history.versions.iter().map(VersionJson::from).collect(),
        }
    }
}

impl From<&VersionHistory> for VersionJson {
    fn from(version: &VersionHistory) -> Self {
        Self {
            version: version.version.to_string(),
            algorithm: version.algorithm.clone(),
            is_current: version.is_current,
            deleted: version.deleted.as_ref().map(ChangeJson::from),
            is_purged: version.is_purged,
            etag: version.etag.to_string(),
            keys: version.keys,
            bytes: version.bytes,
            detached: version.detached.iter().map(DetachedJson::from).collect(),
            replaced: version.replaced.iter().map(ReplacedJson::from).collect(),
            auth_data_changes: version.auth_data_changes.iter().map(ChangeJson::from).collect(),
        }
    }
}

impl From<&DetachedKeys> for DetachedJson {
    fn from(detached: &DetachedKeys) -> Self {
        Self {
            since: detached.since.to_string(),
            until: ChangeJson::from(&detached.until),
            keys: detached.keys,
            bytes: detached.bytes,
            is_purging: detached.is_purging,
        }
    }
}

impl From<&ReplacedKeys> for ReplacedJson {
    fn from(replaced: &ReplacedKeys) -> Self {
        let change = ChangeJson::from(&replaced.change);
        Self { change, keys: replaced.keys, bytes: replaced.bytes }
    }
}

impl Show {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let history = context.open()?.show(&self.user.user_id)?;
        if context.json {
            print_json(&ShowJson::from(&history))?;
        } else {
            print(&text(&history))?;
        }
        Ok(Exit::Clean)
    }
}

fn text(history: &UserHistory) -> String {
    let user = &history.summary;
    let mut text = facts(&[
        ("user", shown(&user.user_id)),
        ("versions", user.versions.to_string()),
        ("keys", format!("{}, {}", user.keys, size(user.bytes))),
        (
            "kept",
            format!("{} deleted and replaced keys, {}", user.kept_keys, size(user.kept_bytes)),
        ),
        ("retention", user.retention.map_or_else(|| "as everybody's".to_owned(), span)),
        ("back to", time_or(history.purged_until, "any time")),
        ("last change", time_or(user.changed_at, "none")),
    ]);
    for version in &history.versions {
        // Writing to a String does not fail.
        let _ = write!(text, "\n{}", version_text(version));
    }
    text
}

fn version_text(version: &VersionHistory) -> String {
    let state = match (&version.deleted, version.is_purged, version.is_current) {
        (Some(_), true, _) => "purged: only its id is left",
        (Some(_), false, _) => "deleted",
        (None, _, true) => "current",
        (None, _, false) => "older",
    };
    let mut text = format!("version {}, {state}\n", version.version);
    let mut lines = vec![
        ("algorithm", shown(&version.algorithm)),
        ("keys", format!("{}, {}", version.keys, size(version.bytes))),
        ("etag", version.etag.to_string()),
    ];
    if let Some(deleted) = &version.deleted {
        lines.push(("deleted", format!("{}, {}", time(deleted.at), by(deleted))));
    }
    for line in facts(&lines).lines() {
        let _ = writeln!(text, "  {line}");
    }
    let mut table = Table::new(&["WHEN", "WHAT", ">SIZE", "HOW"]);
    for detached in &version.detached {
        // What was detached with the version itself comes back with it.
        if version.deleted.as_ref().is_some_and(|deleted| deleted.at == detached.until.at) {
            continue;
        }
        let purging = if detached.is_purging { " (being purged)" } else { "" };
        table.row([
            time(detached.until.at),
            format!("{}, all there were{purging}", count(detached.keys, "key", "keys")),
            size(detached.bytes),
            by(&detached.until),
        ]);
    }
    for replaced in &version.replaced {
        table.row([
            time(replaced.change.at),
            count(replaced.keys, "key", "keys"),
            size(replaced.bytes),
            by(&replaced.change),
        ]);
    }
    for change in &version.auth_data_changes {
        table.row([time(change.at), "auth_data".to_owned(), String::new(), by(change)]);
    }
    if table.has_rows() {
        text += "  kept\n";
        for line in table.sorted().to_string().lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}
