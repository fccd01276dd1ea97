//! `strongroom config`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::config::{self, Overrides};

/// Look at the configuration
#[derive(clap::Subcommand)]
pub(crate) enum Config {
    /// Say whether a configuration file has mistakes, and in which lines
    Check {
        /// The file to look at
        #[arg(default_value = "strongroom.toml")]
        file: PathBuf,
        #[command(flatten)]
        flags: Overrides,
    },
    /// Print a configuration file with every option, its default and what it is for
    Example,
}

impl Config {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        match self {
            Self::Check { file, flags } => {
                check(&file, flags)?;
                writeln!(stdout, "{} has no mistakes", file.display())?;
            }
            Self::Example => write!(stdout, "{}", config::EXAMPLE)?,
        }
        Ok(())
    }
}

/// The file as it would be used: with the environment and the flags, and whole enough to serve with.
fn check(file: &Path, flags: Overrides) -> anyhow::Result<()> {
    let mut config = config::Config::load(Some(file), std::env::vars_os())?;
    config.apply(flags)?;
    Ok(config.check()?)
}
