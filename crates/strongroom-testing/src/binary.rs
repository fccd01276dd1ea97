//! Where the `strongroom` binary is, for tests of packages that cargo does not tell.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

/// Builds the `strongroom` binary, once in a process, and returns where it is.
///
/// Tests in the package `strongroom` itself have `env!("CARGO_BIN_EXE_strongroom")`.
///
/// # Panics
///
/// If it does not build.
pub fn strongroom_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build)
}

fn build() -> PathBuf {
    let cargo = env::var_os("CARGO").expect("tests are run by cargo");
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "strongroom", "--bin", "strongroom"]);
    command.arg("--message-format=json").stderr(Stdio::inherit());
    for (name, _) in env::vars_os() {
        let name_bytes = name.as_encoded_bytes();
        // Said of the package under test. Build scripts that look at them, ring's for one, would
        // be run again here, and then again by the next plain cargo.
        if name_bytes.starts_with(b"CARGO_PKG_") || name_bytes.starts_with(b"CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let built = command.output().expect("cargo starts");
    assert!(built.status.success(), "strongroom does not build ({})", built.status);

    let messages = built.stdout.split(|byte| *byte == b'\n');
    messages
        .filter_map(|message| serde_json::from_slice::<Value>(message).ok())
        .filter(|message| message["target"]["name"] == "strongroom")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the binary that it built")
}
