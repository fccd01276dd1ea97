//! What cargo knows of the workspace.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::step::cargo;

/// All packages, with every feature, and how they depend on each other.
pub(crate) fn metadata() -> Result<Value> {
    metadata_of("Cargo.toml")
}

/// Those of the workspace that this manifest stands in.
pub(crate) fn metadata_of(manifest: &str) -> Result<Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version=1", "--all-features", "--manifest-path", manifest]);
    let output = command.output().context("cannot run cargo metadata")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo metadata failed: {said}");
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

/// The members of an array; none if there is no such array.
pub(crate) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A string; empty if there is no such string.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
