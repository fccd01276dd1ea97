//! The real programs that tests run: nginx, Synapse with its Python, libolm with another, and those that
//! make faults.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    metadata::{metadata, text},
    step::{command, run, succeeds},
};

/// The same for everybody, and so are its dependencies: `xtask/synapse-constraints.txt`.
const SYNAPSE_VERSION: &str = "1.163.2";

/// Ends well if this Python is new enough for that Synapse, and can make a virtual environment:
/// Debian splits `ensurepip` off.
const PYTHON_SUFFICES: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Tools {
    /// A Python that can import Synapse.
    pub(crate) python: PathBuf,
    pub(crate) nginx: PathBuf,
    /// The library that makes a program's clock another, to be preloaded.
    pub(crate) faketime: PathBuf,
    /// A Python that can import libolm.
    pub(crate) olm_python: PathBuf,
}

impl Tools {
    /// Finds them, and installs those that are missing.
    pub(crate) fn prepare() -> Result<Self> {
        strace()?;
        Ok(Self {
            nginx: nginx()?,
            olm_python: olm_python()?,
            python: synapse()?,
            faketime: faketime()?,
        })
    }
}

/// Makes system calls fail; tests find it in their PATH.
fn strace() -> Result<()> {
    if succeeds(command("strace").arg("-V")) {
        return Ok(());
    }
    apt_get_install("strace")
}

fn faketime() -> Result<PathBuf> {
    if let Some(library) = faketime_library() {
        return Ok(library);
    }
    apt_get_install("libfaketime")?;
    faketime_library().context("libfaketime was installed and is still not found")
}

/// It lies in a directory named after the architecture, or, beyond Debian, without one.
fn faketime_library() -> Option<PathBuf> {
    let below = ["/usr/lib", "/usr/lib64"].into_iter().map(PathBuf::from);
    let directories = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let directories = below.chain(directories.map(|entry| entry.path()));
    let mut libraries = directories.map(|path| path.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.is_file())
}

fn nginx() -> Result<PathBuf> {
    // /usr/sbin is not in everybody's PATH.
    let found = || first(&["nginx", "/usr/sbin/nginx"], |nginx| nginx.arg("-v"));
    if let Some(nginx) = found() {
        return Ok(nginx);
    }
    apt_get_install("nginx")?;
    found().context("nginx was installed and is still not found")
}

/// The system's Python with the system's libolm: what is on PyPI needs CMake and a C++ compiler.
fn olm_python() -> Result<PathBuf> {
    let found =
        || first(&["/usr/bin/python3", "python3"], |python| python.args(["-c", "import _libolm"]));
    if let Some(python) = found() {
        return Ok(python);
    }
    apt_get_install("python3-olm")?;
    found().context("python3-olm was installed and no Python can import it")
}

fn python() -> Result<PathBuf> {
    let found =
        || first(&["python3", "/usr/bin/python3"], |python| python.args(["-c", PYTHON_SUFFICES]));
    if let Some(python) = found() {
        return Ok(python);
    }
    apt_get_install("python3-venv")?;
    found().context("no Python of 3.10 or newer that can make virtual environments is found")
}

/// A virtual environment with Synapse, made once: it takes its final name when it is complete.
fn synapse() -> Result<PathBuf> {
    let target = PathBuf::from(text(&metadata()?, "target_directory"));
    let name = format!("synapse-{SYNAPSE_VERSION}");
    let complete = target.join("test-tools").join(&name);
    let python_in = |directory: &Path| directory.join("bin/python");
    // It may have been made with a Python that is gone.
    if succeeds(command(python_in(&complete)).args(["-c", "import synapse"])) {
        return Ok(python_in(&complete));
    }

    eprintln!("installing Synapse {SYNAPSE_VERSION} in {}", complete.display());
    let partial = complete.with_file_name(name + ".partial");
    for directory in [&complete, &partial] {
        if directory.exists() {
            fs::remove_dir_all(directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
    }
    run(command(python()?).args(["-m", "venv"]).arg(&partial))?;
    let requirement = format!("matrix-synapse=={SYNAPSE_VERSION}");
    let mut pip = command(python_in(&partial));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    run(pip.args(["--constraint", "xtask/synapse-constraints.txt", &requirement]))?;
    // Scripts in it now name a Python that is not there; `python -m` needs none of them.
    fs::rename(&partial, &complete)
        .with_context(|| format!("cannot rename {}", partial.display()))?;
    Ok(python_in(&complete))
}

/// The first of these programs that ends well with what `arguments` adds.
fn first(programs: &[&str], arguments: impl Fn(&mut Command) -> &mut Command) -> Option<PathBuf> {
    programs.iter().find(|program| succeeds(arguments(&mut command(program)))).map(PathBuf::from)
}

fn apt_get_install(package: &str) -> Result<()> {
    eprintln!("installing {package} with apt-get");
    apt_get(&["update", "--quiet", "--quiet"])?;
    apt_get(&["install", "--quiet", "--quiet", "--yes", "--no-install-recommends", package])
        .with_context(|| format!("install {package} as your system does it, then try again"))
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let id = command("id").arg("-u").output().context("cannot run id")?;
    let is_root = id.stdout.trim_ascii() == b"0";
    // `env`, because sudo does not hand the environment on.
    let mut command = command(if is_root { "env" } else { "sudo" });
    if !is_root {
        command.arg("env");
    }
    run(command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments))
}
