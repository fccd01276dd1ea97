//! The commands, one file each.

mod config;
mod serve;

use strongroom_server::TokensError;
use strongroom_store::OpenError;

use crate::{config::ConfigError, listen::ListenError};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Serve(serve::Serve),
    #[command(subcommand)]
    Config(config::Config),
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Config(config) => config.run(),
        }
    }
}

/// What to do about an error, where there is something to do.
pub(crate) fn help_for(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<OpenError>() {
        return Some(match error {
            OpenError::InUse(_) => {
                "stop the other one, or give this one a --data directory of its own"
            }
            OpenError::Io { .. } => {
                "give --data a directory that belongs to the user who runs strongroom"
            }
            OpenError::Missing(_) => "give --data the directory that `strongroom serve` was given",
            OpenError::Older(_) => "restart the server with this release first",
            OpenError::Newer { .. } => "install the strongroom that wrote it, or a newer one",
            OpenError::Foreign(_) => "give --data a directory of its own",
            OpenError::OldSqlite(_) => "build strongroom with the SQLite that comes with it",
            OpenError::Orphan { .. } => {
                "put back the database that was there; to use this one as it is, move the other \
                 file away"
            }
            OpenError::Log { .. } | OpenError::Database { .. } => {
                "keep a copy of the directory before you try anything; is its disk full or damaged?"
            }
        });
    }
    if let Some(error) = error.downcast_ref::<TokensError>() {
        return match error {
            TokensError::Mode { .. } => Some("chmod 600 the file"),
            TokensError::Io(_)
            | TokensError::Line { .. }
            | TokensError::Repeated { .. }
            | TokensError::Randomness(_) => None,
        };
    }
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return error.help();
    }
    error.downcast_ref::<ListenError>().and_then(ListenError::help)
}
