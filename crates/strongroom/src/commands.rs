//! The commands, one file each.

mod admin;
mod config;
mod serve;

use strongroom_server::TokensError;
use strongroom_store::{Error, OpenError, OperatorError};

use self::admin::{NotADirectory, NotConfirmed};

use crate::{config::ConfigError, listen::ListenError};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Serve(serve::Serve),
    Admin(admin::Admin),
    #[command(subcommand)]
    Config(config::Config),
}

/// How something ended that could be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    /// All is well.
    Clean,
    /// Something is wrong with the data.
    Found,
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Serve(serve) => serve.run().map(|()| Exit::Clean),
            Self::Admin(admin) => admin.run(),
            Self::Config(config) => config.run().map(|()| Exit::Clean),
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
    if let Some(error) = error.downcast_ref::<OperatorError>() {
        return help_for_operator(error);
    }
    if let Some(NotADirectory) = error.downcast_ref() {
        return Some("give --data the directory that `strongroom serve` was given");
    }
    if let Some(error) = error.downcast_ref::<NotConfirmed>() {
        return match error {
            NotConfirmed::NobodyThere => Some("look at it with --dry-run, then give --yes"),
            NotConfirmed::No => None,
        };
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

fn help_for_operator(error: &OperatorError) -> Option<&'static str> {
    match error {
        OperatorError::NoSuchUser(_) => Some("`strongroom admin users` lists who there is"),
        OperatorError::NoSuchVersion(_) => Some("`strongroom admin show USER` lists them"),
        OperatorError::NotDeleted(_) => Some("--as-of puts its keys back to what they were"),
        OperatorError::Purged(_) => Some("only a snapshot can bring it back"),
        OperatorError::TooEarly { .. } => Some("go back to a later time, or to a snapshot"),
        OperatorError::InFuture => Some("times are in UTC"),
        OperatorError::Busy => Some("try again, or stop the server meanwhile"),
        OperatorError::Io { .. } => Some(
            "give a file that does not exist, in a directory with room for it that you may write to",
        ),
        OperatorError::BadCopy { .. } => {
            Some("`strongroom admin check` tells what is wrong with the database")
        }
        OperatorError::Interrupted => Some("run the same command again"),
        OperatorError::Store(error) => match error {
            Error::Damaged { .. } => Some("`strongroom admin check` tells what else is"),
            Error::Database(_) | Error::Unavailable(_) => {
                Some("is the disk full or damaged? `strongroom admin check` reads all of it")
            }
            Error::NoBackup
            | Error::NoSuchVersion
            | Error::NotCurrent { .. }
            | Error::MayNotReplace(_)
            | Error::OverQuota(_)
            | Error::Purged => None,
        },
    }
}
