//! What a checkout needs done: `cargo xtask test`, `lint`, `ci`, `fuzz`.

mod arrows;
mod fuzz;
mod licences;
mod lint;
mod metadata;
mod step;
mod test;
mod tools;

use std::{
    env,
    ffi::{OsStr, OsString},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use crate::step::{command, step};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [-- ARGUMENT...]  prepare what the tests need, and run them all, or `cargo test ARGUMENT...`
  lint                   formatting, clippy, rustdoc, the crate arrows, licences, wasm32
  ci                     lint, test, and nothing in the checkout has changed
  fuzz TARGET [SECONDS]  one of fuzz/corpus, guided by coverage, until it is stopped
";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(OsString::as_os_str).map(OsStr::to_str).collect();
    let outcome = match (words.as_slice(), arguments.get(2..)) {
        ([Some("test")], _) => test::all(),
        ([Some("test"), Some("--"), ..], Some(chosen)) => test::chosen(chosen),
        ([Some("lint")], _) => lint::lint(),
        ([Some("ci")], _) => ci(),
        ([Some("fuzz"), Some(target)], _) => fuzz::guided(target, None),
        ([Some("fuzz"), Some(target), Some(seconds)], _) => fuzz::guided(target, Some(seconds)),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// All that CI runs.
fn ci() -> Result<()> {
    lint::lint()?;
    test::all()?;
    // At home, work in progress is no failure.
    if env::var_os("CI").is_some() {
        step("the checkout is clean", is_clean)?;
    }
    Ok(())
}

/// Fails if something that ran has changed a file that git tracks, `Cargo.lock` say, or left one.
fn is_clean() -> Result<()> {
    let status = command("git").args(["status", "--porcelain"]).output().context("git")?;
    // Outside a checkout, as in a source archive, there is nothing to compare with.
    if status.status.success() && !status.stdout.is_empty() {
        bail!("not as committed:\n{}", String::from_utf8_lossy(&status.stdout).trim_end());
    }
    Ok(())
}
