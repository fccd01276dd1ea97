//! `strongroom admin`.

mod check;
mod log;
mod moment;
mod output;
mod progress;
mod purge;
mod retain;
mod show;
mod snapshot;
mod status;
mod stop;
mod undelete;
mod users;

use std::path::{Path, PathBuf};

use strongroom_protocol::UserId;
use strongroom_store::SqliteOperator;

pub(crate) use self::purge::NotConfirmed;
use super::Exit;
use crate::config::{Config, ConfigError};

/// Look after the data, whether the server is running or not
///
/// Clients notice nothing of a command that only looks. What undelete, purge and check --repair change
/// is there for them with the next request.
#[derive(clap::Args)]
pub(crate) struct Admin {
    #[command(flatten)]
    context: Context,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Status(status::Status),
    Users(users::Users),
    Show(show::Show),
    Log(log::Log),
    Undelete(undelete::Undelete),
    Retain(retain::Retain),
    Purge(purge::Purge),
    Check(check::Check),
    Snapshot(snapshot::Snapshot),
}

impl Admin {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let Self { context, command } = self;
        match command {
            Command::Status(status) => status.run(&context),
            Command::Users(users) => users.run(&context),
            Command::Show(show) => show.run(&context),
            Command::Log(log) => log.run(&context),
            Command::Undelete(undelete) => undelete.run(&context),
            Command::Retain(retain) => retain.run(&context),
            Command::Purge(purge) => purge.run(&context),
            Command::Check(check) => check.run(&context),
            Command::Snapshot(snapshot) => snapshot.run(&context),
        }
    }
}

/// Where the data are, and how to tell about them.
#[derive(clap::Args)]
struct Context {
    /// The directory that `strongroom serve` keeps the data in
    #[arg(
        long,
        global = true,
        env = "STRONGROOM_DATA",
        value_name = "DIR",
        help_heading = "Data and output"
    )]
    data: Option<PathBuf>,
    /// The configuration file of the server, to take the directory from
    #[arg(
        long,
        global = true,
        env = "STRONGROOM_CONFIG",
        value_name = "FILE",
        help_heading = "Data and output"
    )]
    config: Option<PathBuf>,
    /// Print the result as one JSON object
    #[arg(long, global = true, help_heading = "Data and output")]
    json: bool,
}

/// A place for data that this release does not know.
#[derive(Debug, thiserror::Error)]
#[error("this release keeps data only in a directory, and not in PostgreSQL")]
pub(crate) struct NotADirectory;

impl Context {
    fn open(&self) -> anyhow::Result<SqliteOperator> {
        let data = match (&self.data, &self.config) {
            (Some(data), _) => Some(data.clone()),
            (None, Some(config)) => Config::load(Some(config), std::env::vars_os())?.data,
            (None, None) => None,
        };
        let data = data.ok_or(ConfigError::NoData)?;
        if is_postgres(&data) {
            return Err(NotADirectory.into());
        }
        Ok(SqliteOperator::open(data)?)
    }
}

fn is_postgres(data: &Path) -> bool {
    let bytes = data.as_os_str().as_encoded_bytes();
    bytes.starts_with(b"postgres://") || bytes.starts_with(b"postgresql://")
}

/// Whose backups it is about.
#[derive(clap::Args)]
struct User {
    /// The user, such as @alice:example.org
    #[arg(value_name = "USER", value_parser = user_id)]
    user_id: UserId,
}

fn user_id(text: &str) -> Result<UserId, String> {
    UserId::parse(text).map_err(|error| format!("it {error}"))
}
