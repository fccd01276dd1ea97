//! `strongroom admin undelete`.

use serde::Serialize;
use strongroom_protocol::{UserId, Version};
use strongroom_store::{
    Fate, OperatorError, SqliteOperator, Timestamp, Undeleted, UndeletedVersion,
};

use super::{
    Context, User,
    moment::Moment,
    output::{Table, print, print_json, quoted, shown},
    progress::{Progress, Unit},
    stop,
};
use crate::commands::Exit;

/// Bring back a deleted version, or put everything back to what it was at a moment
///
/// Nothing is destroyed by it: what it puts aside is kept like everything that is deleted, and it can be
/// undone in the same way. Begin with --dry-run, which says what would change.
#[derive(clap::Args)]
pub(super) struct Undelete {
    #[command(flatten)]
    user: User,
    #[command(flatten)]
    what: What,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The deleted version to bring back
    #[arg(long, value_name = "VERSION", value_parser = version)]
    version: Option<Version>,
    /// The moment to go back to: 2026-11-25T10:00:00Z (UTC), "10 minutes ago", or a stamp of the log
    #[arg(long, value_name = "TIME")]
    as_of: Option<Moment>,
}

fn version(text: &str) -> Result<Version, String> {
    text.parse().map_err(|error| format!("it {error}"))
}

#[derive(Serialize)]
struct UndeleteJson {
    user_id: String,
    is_dry_run: bool,
    as_of: Option<String>,
    versions: Vec<VersionJson>,
    current: Option<String>,
    undo_as_of: Option<String>,
}

#[derive(Serialize)]
struct VersionJson {
    version: String,
    fate: &'static str,
    keys_before: u64,
    keys_after: u64,
    auth_data: bool,
}

impl From<&UndeletedVersion> for VersionJson {
    fn from(version: &UndeletedVersion) -> Self {
        Self {
            version: version.version.to_string(),
            fate: match version.fate {
                Fate::ComesBack => "comes_back",
                Fate::IsPutAside => "is_put_aside",
                Fate::IsPutBack => "is_put_back",
            },
            keys_before: version.keys_before,
            keys_after: version.keys_after,
            auth_data: version.auth_data,
        }
    }
}

impl Undelete {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self { user: User { user_id }, what, dry_run } = self;
        let mut operator = context.open()?;
        stop::on_signals(&mut operator)?;
        let now = Timestamp::now();
        let as_of = what.as_of.map(|moment| moment.resolve(now));
        let outcome = match (what.version, as_of) {
            (Some(version), _) if dry_run => operator.plan_undelete_version(&user_id, version),
            (Some(version), _) => operator.undelete_version(&user_id, version, now),
            (None, as_of) => {
                let as_of = as_of.unwrap_or(now);
                if dry_run {
                    operator.plan_undelete_as_of(&user_id, as_of, now)
                } else {
                    let mut progress = Progress::new("Putting back", Unit::Keys);
                    let mut progress = |done, total| progress.set(done, total);
                    operator.undelete_as_of(&user_id, as_of, now, &mut progress)
                }
            }
        };
        let done = match outcome {
            // It is what was asked for.
            Err(OperatorError::NotDeleted(_)) => Undeleted::default(),
            outcome => stop::explain(outcome, "nothing has changed")?,
        };
        let is_done = !dry_run && !done.versions.is_empty();
        let before = if is_done { moment_before(&mut operator, &user_id)? } else { None };
        let told = Told { user_id, version: what.version, as_of, dry_run, done, before };
        if context.json {
            print_json(&told.json())?
        } else {
            print(&told.text())?
        }
        Ok(Exit::Clean)
    }
}

/// The moment before the last change by an operator, to which one can go back.
fn moment_before(
    operator: &mut SqliteOperator,
    user_id: &UserId,
) -> Result<Option<Timestamp>, OperatorError> {
    let lines = operator.journal(user_id)?;
    let is_ours = |action: &Option<String>| {
        action.as_deref().is_some_and(|action| action.starts_with("undelete"))
    };
    let last = lines.iter().rev().find(|line| is_ours(&line.change.action));
    Ok(last.map(|line| Timestamp::from_micros(line.change.at.as_micros() - 1)))
}

/// What was done, or would be.
struct Told {
    user_id: UserId,
    version: Option<Version>,
    as_of: Option<Timestamp>,
    dry_run: bool,
    done: Undeleted,
    before: Option<Timestamp>,
}

impl Told {
    fn json(&self) -> UndeleteJson {
        UndeleteJson {
            user_id: self.user_id.to_string(),
            is_dry_run: self.dry_run,
            as_of: self.as_of.map(|as_of| as_of.to_string()),
            versions: self.done.versions.iter().map(VersionJson::from).collect(),
            current: self.done.current.map(|current| current.to_string()),
            undo_as_of: self.before.map(|before| before.to_string()),
        }
    }

    fn text(&self) -> String {
        let user_id = shown(&self.user_id);
        if self.done.versions.is_empty() {
            return match (self.version, self.as_of) {
                (Some(version), _) => {
                    format!("Nothing to do: version {version} of {user_id} is not deleted.\n")
                }
                (None, Some(as_of)) => {
                    format!(
                        "Nothing to do: the backups of {user_id} are as they were at {as_of}.\n"
                    )
                }
                (None, None) => format!("Nothing to do for {user_id}.\n"),
            };
        }
        let mut table =
            Table::new(&["VERSION", "FATE", ">KEYS BEFORE", ">KEYS AFTER", "AUTH_DATA"]);
        for version in &self.done.versions {
            let fate = match version.fate {
                Fate::ComesBack => "comes back",
                Fate::IsPutAside => "is put aside",
                Fate::IsPutBack => "is put back",
            };
            let auth_data = if version.auth_data { "is put back" } else { "the same" };
            table.row([
                version.version.to_string(),
                fate.to_owned(),
                version.keys_before.to_string(),
                version.keys_after.to_string(),
                auth_data.to_owned(),
            ]);
        }
        let current = match self.done.current {
            Some(current) => format!("the current version is {current}"),
            None => "there is no backup".to_owned(),
        };
        let mut text = match self.as_of {
            Some(as_of) => format!("{user_id}, as of {as_of}\n\n{table}\n"),
            None => format!("{user_id}\n\n{table}\n"),
        };
        if self.dry_run {
            text += &format!("Afterwards {current}.\nNothing was changed: this was a dry run.\n");
            return text;
        }
        text += &format!("It is done. Clients see it with their next request: {current}.\n");
        if let Some(before) = self.before {
            let user_id = quoted(&self.user_id);
            text += &format!("To undo it: strongroom admin undelete {user_id} --as-of {before}\n");
        }
        text
    }
}
