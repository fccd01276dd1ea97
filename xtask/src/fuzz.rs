//! The fuzz targets: a workspace of their own in `fuzz/`.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    metadata::{list, text},
    step::{cargo, command, run, step},
};

pub(crate) const MANIFEST: &str = "fuzz/Cargo.toml";

/// For each target, as a part of the tests.
const SECONDS_BRIEFLY: &str = "3";
/// Shared with the other workspace: most of what it has built is used again.
const BUILDS: &str = "target";
/// Builds with coverage, the inputs that reached new code, and what was found.
const GUIDED: &str = "target/fuzz";
/// SanitizerCoverage as libFuzzer wants it, by options that stable Rust has: edges, and what is
/// compared with what.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Every target for some seconds, without coverage guidance.
pub(crate) fn briefly() -> Result<()> {
    run(cargo_fuzz("run", BUILDS).args(["--bin", "briefly", "--", SECONDS_BRIEFLY]))
}

/// One target for as long as one likes, guided by coverage.
pub(crate) fn guided(target: &str, seconds: Option<&str>) -> Result<()> {
    let host = command("rustc").args(["--print", "host-tuple"]).output().context("rustc")?;
    let host = String::from_utf8(host.stdout).context("rustc names no host")?;
    let host = host.trim();
    step("build with coverage", || {
        let mut build = cargo_fuzz("build", GUIDED);
        build.args(["--release", "--features", "guided", "--bin", "guided"]);
        // With a target, what runs at build time goes without.
        run(build.args(["--target", host]).env("RUSTFLAGS", COVERAGE))
    })?;
    let corpus = format!("{GUIDED}/corpus/{target}");
    let findings = format!("{GUIDED}/findings/{target}/");
    run(command("mkdir").args(["-p", &corpus, &findings]))?;
    step(target, || {
        let mut guided = command(format!("{GUIDED}/{host}/release/guided"));
        guided.env("STRONGROOM_FUZZ_TARGET", target);
        // What reaches new code goes into the first; what is kept with the sources is in the second.
        guided.args([&corpus, &format!("fuzz/corpus/{target}")]);
        guided.arg(format!("-artifact_prefix={findings}"));
        guided.arg(format!("-max_total_time={}", seconds.unwrap_or("0")));
        run(guided.args(["-len_control=10", "-timeout=30", "-print_final_stats=1"]))
    })
}

pub(crate) fn clippy() -> Result<()> {
    run(cargo_fuzz("clippy", BUILDS).args(["--", "-D", "warnings"]))
}

fn cargo_fuzz(subcommand: &str, builds: &str) -> Command {
    let mut command = cargo();
    command.args([subcommand, "--manifest-path", MANIFEST, "--target-dir", builds]);
    command
}

/// Fails if the targets are built with another version of something than the program.
pub(crate) fn check_versions(ours: &Value, theirs: &Value) -> Result<()> {
    let wrong = other_versions(ours, theirs);
    if !wrong.is_empty() {
        let wrong = wrong.join("\n");
        bail!("fuzz/Cargo.lock has other versions than Cargo.lock; copy it there:\n{wrong}");
    }
    Ok(())
}

fn other_versions(ours: &Value, theirs: &Value) -> Vec<String> {
    let ours: BTreeSet<_> = list(ours, "packages").iter().map(name_and_version).collect();
    let is_known = |name: &str| ours.iter().any(|(known, _)| *known == name);
    let theirs = list(theirs, "packages").iter().map(name_and_version);
    let wrong = theirs.filter(|it| is_known(it.0) && !ours.contains(it));
    wrong.map(|(name, version)| format!("{name} {version}")).collect()
}

fn name_and_version(package: &Value) -> (&str, &str) {
    (text(package, "name"), text(package, "version"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_both_use_is_of_one_version() {
        let packages = |of: &[(&str, &str)]| {
            let package = |(name, version): &(_, _)| json!({ "name": name, "version": version });
            json!({ "packages": of.iter().map(package).collect::<Vec<Value>>() })
        };
        let ours = packages(&[("a", "1.0.0"), ("b", "1.0.0"), ("b", "2.0.0")]);
        let theirs = [("a", "1.0.0"), ("b", "2.0.0"), ("only-theirs", "3.0.0")];
        assert_eq!(other_versions(&ours, &packages(&theirs)), [""; 0]);
        let theirs = [("a", "1.0.1"), ("b", "1.0.0"), ("b", "3.0.0")];
        assert_eq!(other_versions(&ours, &packages(&theirs)), ["a 1.0.1", "b 3.0.0"]);
    }
}
