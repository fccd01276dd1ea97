//! `strongroom admin log`.

use serde::Serialize;
use strongroom_store::JournalLine;

use super::{
    Context, User,
    output::{ChangeJson, Table, print, print_json, shown, time},
};
use crate::commands::Exit;

/// Say who changed a user's backups, when, and from which device
///
/// The time is that of the second in which it happened, so `undelete --as-of` with it goes back to just
/// before. Keys that were only added have no line.
#[derive(clap::Args)]
pub(super) struct Log {
    #[command(flatten)]
    user: User,
}

#[derive(Serialize)]
struct LogJson {
    user_id: String,
    lines: Vec<LineJson>,
}

#[derive(Serialize)]
struct LineJson {
    #[serde(flatten)]
    change: ChangeJson,
    version: String,
    keys: u64,
}

impl From<&JournalLine> for LineJson {
    fn from(line: &JournalLine) -> Self {
        let change = ChangeJson::from(&line.change);
        Self { change, version: line.version.to_string(), keys: line.keys }
    }
}

impl Log {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let user_id = self.user.user_id;
        let lines = context.open()?.journal(&user_id)?;
        if context.json {
            let lines = lines.iter().map(LineJson::from).collect();
            print_json(&LogJson { user_id: user_id.to_string(), lines })?;
            return Ok(Exit::Clean);
        }
        let mut table = Table::new(&["TIME", "STAMP", "ACTION", "VERSION", ">KEYS", "DEVICE"]);
        for JournalLine { change, version, keys } in &lines {
            table.row([
                time(change.at),
                change.at.as_micros().to_string(),
                change.action.as_deref().map_or_else(String::new, shown),
                version.to_string(),
                keys.to_string(),
                change.device_id.as_ref().map_or_else(|| "-".to_owned(), shown),
            ]);
        }
        if lines.is_empty() {
            print("no changes on record\n")?
        } else {
            print(&table.to_string())?
        }
        Ok(Exit::Clean)
    }
}
