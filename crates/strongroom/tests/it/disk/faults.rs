//! Faults from outside: system calls that fail, a disk that fills up; and what the operator is told.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use strongroom_testing::{Process, Server, new_client, until};

/// The database, SQLite's log, and SQLite's index of the log.
pub(crate) const DATABASE: &str = "strongroom.db";
pub(crate) const LOG: &str = "strongroom.db-wal";
pub(crate) const INDEX: &str = "strongroom.db-shm";

/// The server's environment: somebody can ask for its health.
pub(crate) const OPERATED: [(&str, &str); 1] = [("STRONGROOM_OPERATOR_LISTEN", "127.0.0.1:0")];

/// What `GET /health` says.
pub(crate) async fn health(server: &Server) -> (u16, String) {
    let output = server.output();
    // The last one, for a process that was started again listens elsewhere.
    let (_, address) = output.rsplit_once("operator=http://").expect("it listens for the operator");
    let address = address.split_whitespace().next().expect("an address");
    let answer = new_client().get(format!("http://{address}/health")).send().await.expect("health");
    let status = answer.status().as_u16();
    (status, answer.text().await.expect("a text"))
}

/// Waits until `GET /health` says that all is well.
pub(crate) async fn well_again(server: &Server) {
    let ok = (200, "ok\n".to_owned());
    until("health", async || (health(server).await == ok).then_some(())).await;
}

/// The lines of the log that say when trouble begins, and when it is over.
pub(crate) fn episodes(server: &Server) -> Vec<String> {
    let output = server.output();
    let lines = output.lines().filter_map(|line| line.split_once("condition: "));
    let told = |line: &str| {
        let words: Vec<_> = line.split(" error=").collect();
        words[0].to_owned()
    };
    lines.map(|(_, line)| told(line)).collect()
}

/// Some system calls of the server, and which of them fail.
///
/// `strace` is told which file, which call, and the how many-th in each thread.
pub(crate) struct Fault<'a> {
    pub(crate) file: &'a str,
    /// As `strace` writes it: `fsync:error=EIO:when=3`.
    pub(crate) inject: &'a str,
    trace: PathBuf,
}

impl<'a> Fault<'a> {
    pub(crate) fn new(server: &Server, file: &'a str, inject: &'a str) -> Self {
        Self { file, inject, trace: server.data().with_extension("trace") }
    }

    /// What the server is to be started under. It keeps its process id.
    pub(crate) fn launcher(&self, server: &Server) -> Vec<OsString> {
        let mut launcher: Vec<OsString> =
            ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o"].map(Into::into).to_vec();
        launcher.push(self.trace.clone().into());
        launcher.extend(["-P".into(), server.data().join(self.file).into()]);
        launcher.extend(["-e".into(), "trace=fsync,pwrite64,statx".into()]);
        launcher.extend(["-e".into(), format!("inject={}", self.inject).into()]);
        launcher
    }

    /// The calls on the file so far, a line each; one that failed says so.
    pub(crate) fn calls(&self) -> Vec<String> {
        let trace = fs::read_to_string(&self.trace).expect("a trace");
        trace.lines().map(str::to_owned).collect()
    }

    /// How many of them failed.
    pub(crate) fn failed(&self) -> usize {
        self.calls().iter().filter(|call| call.ends_with(FAILED)).count()
    }
}

/// The end of the line of a call that failed.
pub(crate) const FAILED: &str = "(INJECTED)";

/// A disk of its own for the data of a server, as large as is said.
///
/// It lives in a namespace that needs no privileges, for as long as this does.
pub(crate) struct SmallDisk {
    process: Process,
    data: PathBuf,
}

impl SmallDisk {
    pub(crate) async fn new(data: &Path, size: &str) -> Self {
        let mount = format!("mount -t tmpfs -o mode=700,size={size} strongroom \"$0\"");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        command.arg(format!("{mount} && echo mounted && exec sleep infinity")).arg(data);
        let mut process = Process::spawn("the small disk", &mut command);
        process.wait_for("mount", |output| output.contains("mounted").then_some(())).await;
        Self { process, data: data.to_owned() }
    }

    /// What a server is to be started under so that it has its data here.
    pub(crate) fn launcher(&self) -> Vec<OsString> {
        let target = self.process.id().to_string();
        let words = ["nsenter", "--user", "--mount", "--preserve-credentials", "--target", &target];
        words.map(Into::into).to_vec()
    }

    /// A path on it, as it is reached from here.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.process.id()));
        let below = self.data.strip_prefix("/").expect("an absolute path");
        root.join(below).join(name)
    }

    /// Leaves no space on it, until [`SmallDisk::make_space`].
    pub(crate) fn fill(&self) {
        let filler = vec![0; 64 * 1024 * 1024];
        fs::write(self.path("filler"), filler).expect_err("it is smaller than that");
    }

    pub(crate) fn make_space(&self) {
        fs::remove_file(self.path("filler")).expect("it was filled");
    }
}
