//! Steps with names, and the commands that they are made of.

use std::{
    env,
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

/// Runs one step: says its name before and how long it took after.
pub(crate) fn step<T>(name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("== {name}");
    let start = Instant::now();
    let outcome = run().with_context(|| name.to_owned());
    let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
    eprintln!("== {name}: {verdict}, {:.1} s", start.elapsed().as_secs_f32());
    outcome
}

/// A command that will run in the root of the workspace.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    // Asked when it runs: a target directory that checkouts share may hold the xtask of another.
    let xtask = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| "xtask".into());
    let mut command = Command::new(program);
    command.current_dir(Path::new(&xtask).join(".."));
    command.stdin(Stdio::null());
    command
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let name_bytes = name.as_encoded_bytes();
        // Said of xtask. Build scripts that look at them, ring's for one, would be run again
        // whenever cargo runs in xtask and then without it.
        if name_bytes.starts_with(b"CARGO_PKG_") || name_bytes.starts_with(b"CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Runs it to its end, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", line(command)))?;
    ensure!(status.success(), "`{}` ended with {status}", line(command));
    Ok(())
}

/// Whether it can be run, and ends well; its output goes nowhere.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// As a person would type it, without the environment that we set.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words: Vec<_> = [name].into_iter().chain(command.get_args()).collect();
    words.join(OsStr::new(" ")).to_string_lossy().into_owned()
}
