//! `strongroom`: the server for Matrix key backups, as one program.

mod address;
mod commands;
mod config;
mod listen;
mod log;
mod operate;

use std::{io::Write as _, process::ExitCode};

use clap::Parser;

use self::commands::Exit;

/// It was done, and something is wrong with the data.
const EXIT_FOUND: u8 = 1;
/// It could not be done.
const EXIT_FAILED: u8 = 2;

/// Keeps Matrix room keys safe on a server, and gives them back.
#[derive(Parser)]
#[command(name = "strongroom", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(Exit::Clean) => ExitCode::SUCCESS,
        Ok(Exit::Found) => ExitCode::from(EXIT_FOUND),
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            // If standard error is gone, there is nobody left to tell.
            let _ = writeln!(stderr, "error: {error:#}");
            if let Some(help) = commands::help_for(&error) {
                let _ = writeln!(stderr, "help: {help}");
            }
            ExitCode::from(EXIT_FAILED)
        }
    }
}
