//! `strongroom admin snapshot`.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    Context,
    output::{count, print, print_json, shown, size},
    progress::{Progress, Unit},
    stop,
};
use crate::commands::Exit;

/// Write a consistent copy to a new file, while the server goes on
///
/// It is looked at before it gets its name, holds what was deleted as well, and is put back by laying it
/// into an empty directory as strongroom.db.
#[derive(clap::Args)]
pub(super) struct Snapshot {
    /// The file to write, which must not exist
    file: PathBuf,
}

#[derive(Serialize)]
struct SnapshotJson {
    file: String,
    bytes: u64,
    users: u64,
    versions: u64,
    keys: u64,
}

impl Snapshot {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let mut operator = context.open()?;
        stop::on_signals(&mut operator)?;
        let snapshot = {
            let mut progress = Progress::new("Copying", Unit::Bytes);
            operator.snapshot(&self.file, &mut |done, total| progress.set(done, total))
        };
        let snapshot = stop::explain(snapshot, "no snapshot was written")?;
        let file = self.file.display().to_string();
        if context.json {
            print_json(&SnapshotJson {
                file,
                bytes: snapshot.bytes,
                users: snapshot.users,
                versions: snapshot.versions,
                keys: snapshot.keys,
            })?;
            return Ok(Exit::Clean);
        }
        print(&format!(
            "{}: {}, {}, {}, {}\n",
            shown(file),
            size(snapshot.bytes),
            count(snapshot.users, "user", "users"),
            count(snapshot.versions, "version", "versions"),
            count(snapshot.keys, "key", "keys"),
        ))?;
        Ok(Exit::Clean)
    }
}
