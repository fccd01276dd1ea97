//! `strongroom admin users`.

use clap::ValueEnum;
use serde::Serialize;
use strongroom_store::{SortUsers, UserSummary};

use super::{
    Context,
    output::{Table, print, print_json, shown, size, span, time_or},
};
use crate::commands::Exit;

/// List the users of whom anything is stored
#[derive(clap::Args)]
pub(super) struct Users {
    /// The order
    #[arg(long, value_enum, default_value = "name")]
    sort: Sort,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sort {
    /// By their ids
    Name,
    /// Those with the most keys first, deleted and replaced ones included
    Keys,
    /// Those with the most bytes first, deleted and replaced keys included
    Bytes,
    /// Those whose backup changed last first
    Recent,
}

impl From<Sort> for SortUsers {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Name => Self::Name,
            Sort::Keys => Self::Keys,
            Sort::Bytes => Self::Bytes,
            Sort::Recent => Self::Recent,
        }
    }
}

#[derive(Serialize)]
struct UsersJson {
    users: Vec<UserJson>,
}

/// A user in a line.
#[derive(Serialize)]
pub(super) struct UserJson {
    user_id: String,
    versions: u64,
    keys: u64,
    bytes: u64,
    kept_keys: u64,
    kept_bytes: u64,
    changed_at: Option<String>,
    retention_seconds: Option<u64>,
}

impl From<&UserSummary> for UserJson {
    fn from(user: &UserSummary) -> Self {
        Self {
            user_id: user.user_id.to_string(),
            versions: user.versions,
            keys: user.keys,
            bytes: user.bytes,
            kept_keys: user.kept_keys,
            kept_bytes: user.kept_bytes,
            changed_at: user.changed_at.map(|at| at.to_string()),
            retention_seconds: user.retention.map(|retention| retention.as_secs()),
        }
    }
}

impl Users {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let users = context.open()?.users(self.sort.into())?;
        if context.json {
            print_json(&UsersJson { users: users.iter().map(UserJson::from).collect() })?;
            return Ok(Exit::Clean);
        }
        let heading =
            ["USER", ">VERSIONS", ">KEYS", ">SIZE", ">KEPT", ">SIZE", "LAST CHANGE", "RETENTION"];
        let mut table = Table::new(&heading);
        for user in &users {
            table.row([
                shown(&user.user_id),
                user.versions.to_string(),
                user.keys.to_string(),
                size(user.bytes),
                user.kept_keys.to_string(),
                size(user.kept_bytes),
                time_or(user.changed_at, "-"),
                user.retention.map_or_else(String::new, span),
            ]);
        }
        if users.is_empty() {
            print("no users\n")?
        } else {
            print(&table.to_string())?
        }
        Ok(Exit::Clean)
    }
}
