//! `cargo xtask lint`: everything that can be judged without running it.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    arrows, fuzz, licences,
    metadata::{metadata, metadata_of},
    step::{cargo, command, run, step},
};

const WASM: &str = "wasm32-unknown-unknown";

pub(crate) fn lint() -> Result<()> {
    step("formatting", || {
        run(cargo().args(["fmt", "--all", "--check"]))?;
        run(cargo().args(["fmt", "--manifest-path", fuzz::MANIFEST, "--check"]))
    })?;
    step("clippy", || {
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    step("rustdoc", || {
        let mut doc = cargo();
        run(doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    let metadata = step("cargo metadata", metadata)?;
    step("crate arrows", || arrows::check(&metadata))?;
    step("licences", || licences::check(&metadata))?;
    step("the fuzz targets", || {
        let theirs = metadata_of(fuzz::MANIFEST)?;
        licences::check(&theirs)?;
        fuzz::check_versions(&metadata, &theirs)?;
        fuzz::clippy()
    })?;
    step("protocol and crypto for wasm32", pure_for_wasm)
}

/// These do no I/O; what builds for wasm32 cannot have much of it.
const PURE: [&str; 2] = ["strongroom-protocol", "strongroom-crypto"];

fn pure_for_wasm() -> Result<()> {
    let mut rustc = command("rustc");
    rustc.args(["--print", "target-libdir", "--target", WASM]);
    let output = rustc.output().context("cannot run rustc")?;
    let libraries = String::from_utf8_lossy(&output.stdout);
    if !Path::new(libraries.trim()).is_dir() {
        eprintln!("not checked: `rustup target add {WASM}` installs what it needs");
        return Ok(());
    }
    let packages = PURE.iter().flat_map(|package| ["--package", package]);
    run(cargo().arg("build").args(packages).args(["--target", WASM]))
}
