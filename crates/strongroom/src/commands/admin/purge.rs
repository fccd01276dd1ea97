//! `strongroom admin purge`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use serde::Serialize;
use strongroom_protocol::UserId;
use strongroom_store::{Removed, SqliteOperator};

use super::{
    Context,
    output::{count, facts, print, print_json, shown, size},
    progress::{Progress, Unit},
    stop, user_id,
};
use crate::commands::Exit;

/// Remove everything of a user for good, or what has outlived its retention
///
/// With USER: all backups, their history and the journal are removed and overwritten, now, and nothing
/// but a snapshot brings them back. With --expired: the server does the same by itself, a little later.
#[derive(clap::Args)]
pub(super) struct Purge {
    #[command(flatten)]
    what: What,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The user to forget, such as @alice:example.org
    #[arg(value_name = "USER", value_parser = user_id)]
    user_id: Option<UserId>,
    /// What was deleted or replaced longer ago than the retention
    #[arg(long)]
    expired: bool,
}

/// Nobody has said yes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotConfirmed {
    /// There is nobody to be asked.
    #[error("this removes everything of a user for good, and nobody can be asked")]
    NobodyThere,
    /// Somebody was, and said no.
    #[error("nothing was removed")]
    No,
}

#[derive(Serialize)]
struct PurgeJson {
    user_id: String,
    is_dry_run: bool,
    versions: u64,
    keys: u64,
    bytes: u64,
    auth_data: u64,
    journal_lines: u64,
    left: Option<u64>,
    is_overwritten: Option<bool>,
}

#[derive(Serialize)]
struct ExpiredJson {
    is_dry_run: bool,
    keys: u64,
}

impl Purge {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self { what, dry_run, yes } = self;
        let mut operator = context.open()?;
        match what.user_id {
            Some(user_id) => user(&mut operator, &user_id, dry_run, yes, context.json),
            None => expired(&mut operator, dry_run, context.json),
        }
    }
}

fn user(
    operator: &mut SqliteOperator,
    user_id: &UserId,
    dry_run: bool,
    yes: bool,
    json: bool,
) -> anyhow::Result<Exit> {
    let name = shown(user_id);
    let plan = plan(operator, user_id)?;
    if dry_run {
        if json {
            print_json(&to_json(user_id, plan, true))?;
        } else {
            print(&format!("{name}\n\n{}\n", kinds(plan)))?;
            print("Nothing was removed: this was a dry run.\n")?;
        }
        return Ok(Exit::Clean);
    }
    if !yes {
        confirm(&format!("{name}\n\n{}\nRemove all of it for good?", kinds(plan)))?;
    }
    stop::on_signals(operator)?;
    let removed = {
        let mut progress = Progress::new("Removing", Unit::Keys);
        operator.purge_user(user_id, &mut |done, total| progress.set(done, total))
    };
    let removed = stop::explain(
        removed,
        "the purge is not complete: what it came to is removed, and clients see none of the rest",
    )?;
    let exit = if removed.left == 0 { Exit::Clean } else { Exit::Found };
    if json {
        print_json(&to_json(user_id, removed, false))?;
        return Ok(exit);
    }
    let left = match removed.left {
        0 => format!("Nothing of {name} is left in the database.\n"),
        left => format!(
            "There is something of {name} in the database: {}. A client of theirs has made a new backup \
             meanwhile.\n",
            count(left, "row", "rows")
        ),
    };
    let log = if removed.is_overwritten {
        "What was removed is overwritten in its files. Snapshots and other copies still have it.\n"
    } else {
        "Somebody was reading: its log holds some of it until the server has written over it. \
         Snapshots and other copies still have it.\n"
    };
    print(&format!("{name}: removed\n\n{}\n{left}{log}", kinds(removed)))?;
    Ok(exit)
}

/// What there is to be removed.
fn plan(operator: &mut SqliteOperator, user_id: &UserId) -> anyhow::Result<Removed> {
    let history = operator.show(user_id)?;
    let user = &history.summary;
    let length = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    Ok(Removed {
        versions: length(history.versions.len()),
        keys: user.keys + user.kept_keys,
        bytes: user.bytes + user.kept_bytes,
        auth_data: history.versions.iter().map(|it| length(it.auth_data_changes.len())).sum(),
        journal_lines: length(operator.journal(user_id)?.len()),
        ..Removed::default()
    })
}

fn kinds(removed: Removed) -> String {
    let text = facts(&[
        ("versions", removed.versions.to_string()),
        ("keys", format!("{}, deleted and replaced ones included", removed.keys)),
        ("replaced auth_data", removed.auth_data.to_string()),
        ("lines of the journal", removed.journal_lines.to_string()),
        ("size", size(removed.bytes)),
    ]);
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn to_json(user_id: &UserId, removed: Removed, is_dry_run: bool) -> PurgeJson {
    PurgeJson {
        user_id: user_id.to_string(),
        is_dry_run,
        versions: removed.versions,
        keys: removed.keys,
        bytes: removed.bytes,
        auth_data: removed.auth_data,
        journal_lines: removed.journal_lines,
        left: (!is_dry_run).then_some(removed.left),
        is_overwritten: (!is_dry_run).then_some(removed.is_overwritten),
    }
}

fn confirm(question: &str) -> anyhow::Result<()> {
    let (stdin, mut stderr) = (io::stdin(), io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return Err(NotConfirmed::NobodyThere.into());
    }
    write!(stderr, "{question} [y/N] ")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    let is_yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if is_yes { Ok(()) } else { Err(NotConfirmed::No.into()) }
}

fn expired(operator: &mut SqliteOperator, dry_run: bool, json: bool) -> anyhow::Result<Exit> {
    let keys = if dry_run {
        operator.status()?.outlook.due_keys
    } else {
        stop::on_signals(operator)?;
        let mut progress = Progress::new("Removing", Unit::Keys);
        let removed = operator.purge_expired(&mut |done, total| progress.set(done, total));
        stop::explain(removed, "the purge is not complete: what it came to is removed")?
    };
    if json {
        print_json(&ExpiredJson { is_dry_run: dry_run, keys })?;
        return Ok(Exit::Clean);
    }
    let keys = count(keys, "key", "keys");
    let removed = if dry_run { "Would remove" } else { "Removed" };
    print(&format!("{removed} {keys} that had outlived the retention.\n"))?;
    Ok(Exit::Clean)
}
