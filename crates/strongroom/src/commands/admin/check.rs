//! `strongroom admin check`.

use std::fmt::Write as _;

use serde::Serialize;
use strongroom_store::{Checked, Finding, Timestamp};

use super::{
    Context,
    output::{count, print, print_json, shown},
    progress::{Progress, Unit},
    stop,
};
use crate::commands::Exit;

/// Read everything, and say what is wrong
///
/// Every key is compared with its checksum, and every count, etag and id with what it stands for. Exit
/// code 1 means that something is wrong and was not repaired.
#[derive(clap::Args)]
pub(super) struct Check {
    /// Put right what can be; nothing is deleted by it
    #[arg(long)]
    repair: bool,
}

#[derive(Serialize)]
struct CheckJson {
    is_well: bool,
    users: u64,
    versions: u64,
    keys: u64,
    without_checksum: u64,
    marked: u64,
    findings: Vec<FindingJson>,
    unlisted: u64,
}

#[derive(Serialize)]
struct FindingJson {
    user_id: Option<String>,
    version: Option<String>,
    what: String,
    repair: Option<&'static str>,
    is_repaired: bool,
}

impl From<&Finding> for FindingJson {
    fn from(finding: &Finding) -> Self {
        Self {
            user_id: finding.user_id.as_ref().map(ToString::to_string),
            version: finding.version.map(|version| version.to_string()),
            what: finding.what.clone(),
            repair: finding.repair,
            is_repaired: finding.is_repaired,
        }
    }
}

impl Check {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let mut operator = context.open()?;
        stop::on_signals(&mut operator)?;
        let checked = {
            let mut progress = Progress::new("Checking", Unit::Keys);
            let mut progress = |done, total| progress.set(done, total);
            if self.repair {
                operator.repair(Timestamp::now(), &mut progress)
            } else {
                operator.check(&mut progress)
            }
        };
        let checked = stop::explain(checked, "the check is not complete; each repair is whole")?;
        let is_well = checked.unlisted == 0 && checked.findings.iter().all(|it| it.is_repaired);
        if context.json {
            print_json(&CheckJson {
                is_well,
                users: checked.users,
                versions: checked.versions,
                keys: checked.keys,
                without_checksum: checked.without_checksum,
                marked: checked.marked,
                findings: checked.findings.iter().map(FindingJson::from).collect(),
                unlisted: checked.unlisted,
            })?;
        } else {
            print(&text(&checked, self.repair))?;
        }
        Ok(if is_well { Exit::Clean } else { Exit::Found })
    }
}

fn text(checked: &Checked, is_repairing: bool) -> String {
    let (users, versions) =
        (count(checked.users, "user", "users"), count(checked.versions, "version", "versions"));
    let mut text = format!("Read {users}, {versions}, {}.\n", count(checked.keys, "key", "keys"));
    // Writing to a String does not fail.
    if checked.without_checksum > 0 {
        let rows = count(checked.without_checksum, "row has", "rows have");
        let _ = writeln!(
            text,
            "{rows} no checksum, since an older release wrote them; --repair adds it."
        );
    }
    if checked.marked > 0 {
        let rows = count(checked.marked, "damaged row", "damaged rows");
        let _ = writeln!(text, "{rows} out of view, put aside by an earlier repair.");
    }
    for finding in &checked.findings {
        let _ = writeln!(text, "{}", line(finding, is_repairing));
    }
    if checked.unlisted > 0 {
        let _ = writeln!(text, "And more: {}.", count(checked.unlisted, "finding", "findings"));
    }
    let is_left = |finding: &&Finding| !finding.is_repaired;
    let left: Vec<_> = checked.findings.iter().filter(is_left).collect();
    if left.is_empty() && checked.unlisted == 0 {
        text += if checked.findings.is_empty() { "All is well.\n" } else { "All is well now.\n" };
        return text;
    }
    if !is_repairing && left.iter().any(|finding| finding.repair.is_some()) {
        text += "`strongroom admin check --repair` puts right what can be.\n";
    }
    if is_repairing || left.iter().any(|finding| finding.repair.is_none()) {
        text += "What can't be repaired is in a snapshot, if one was taken before.\n";
    }
    text
}

fn line(finding: &Finding, is_repairing: bool) -> String {
    let mut place = finding.user_id.as_ref().map(shown).unwrap_or_default();
    if let Some(version) = finding.version {
        let _ = write!(place, " version {version}");
    }
    if !place.is_empty() {
        place += ": ";
    }
    let what = shown(&finding.what);
    match (finding.is_repaired, finding.repair) {
        (true, repair) => format!("repaired  {place}{what} ({})", repair.unwrap_or("gone")),
        (false, Some(repair)) if !is_repairing => {
            format!("wrong     {place}{what} (with --repair: {repair})")
        }
        (false, _) => format!("wrong     {place}{what} (can't be repaired)"),
    }
}
