//! `cargo xtask test`: all tests, with the real programs that they need, and the fuzz targets.

use std::{ffi::OsString, process::Command};

use anyhow::Result;

use crate::{
    fuzz,
    step::{cargo, run, step},
    tools::Tools,
};

/// Every test of the workspace.
pub(crate) fn all() -> Result<()> {
    let tools = step("what the tests need", Tools::prepare)?;
    step("tests", || run(cargo_test(&tools).args(["--workspace", "--all-targets"])))?;
    step("examples in the documentation", || {
        run(cargo_test(&tools).args(["--workspace", "--doc"]))
    })?;
    step("fuzz targets", fuzz::briefly)
}

/// `cargo test` with the arguments of whoever runs it.
pub(crate) fn chosen(arguments: &[OsString]) -> Result<()> {
    let tools = step("what the tests need", Tools::prepare)?;
    let mut command = cargo_test(&tools);
    // By default cargo would test the default members only.
    if !arguments.iter().any(|argument| argument == "-p" || argument == "--package") {
        command.arg("--workspace");
    }
    step("tests", || run(command.args(arguments)))
}

fn cargo_test(tools: &Tools) -> Command {
    let mut command = cargo();
    command.arg("test");
    command.env("STRONGROOM_TEST_PYTHON", &tools.python);
    command.env("STRONGROOM_TEST_NGINX", &tools.nginx);
    command.env("STRONGROOM_TEST_FAKETIME", &tools.faketime);
    command.env("STRONGROOM_TEST_OLM_PYTHON", &tools.olm_python);
    command
}
