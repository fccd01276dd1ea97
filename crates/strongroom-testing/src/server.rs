//! The real `strongroom serve`, in a process of its own.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::Duration,
};

use bytes::Bytes;
use reqwest::Client;
use serde::Serialize;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    Answer, Homeserver, Process, SECRET, User,
    answer::{Call, ask, new_client},
};

/// Paths in the methods below begin here; see [`Server::raw`] for others.
const PREFIX: &str = "/_matrix/client/v3";

/// Environment variables that begin so are ours; those of the person who runs the tests stay out.
const ENVIRONMENT_PREFIX: &str = "STRONGROOM_";

/// A running server, and its data, which are deleted when this is dropped.
///
/// Dropping it also fails the test if a token that this crate handed out is in its output, or in
/// its data.
#[derive(Debug)]
pub struct Server {
    launcher: Vec<OsString>,
    binary: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    directory: TempDir,
    process: Process,
    address: SocketAddr,
    client: Client,
    /// What earlier processes on the same data have said.
    output_before: String,
}

impl Server {
    /// Starts it beside `homeserver`, and waits until it listens.
    pub async fn spawn(binary: impl AsRef<Path>, homeserver: &Homeserver) -> Self {
        Self::spawn_with(binary, homeserver.arguments(), &[]).await
    }

    /// Starts it with more arguments and environment than its address and its data directory.
    ///
    /// [`Homeserver::arguments`] are among those that it will need.
    pub async fn spawn_with(
        binary: impl AsRef<Path>,
        arguments: impl IntoIterator<Item: Into<OsString>>,
        environment: &[(&str, &str)],
    ) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self::spawn_in(directory, binary.as_ref(), arguments, environment).await
    }

    /// Starts it beside `homeserver` with a configuration file of this content.
    pub async fn spawn_configured(
        binary: impl AsRef<Path>,
        homeserver: &Homeserver,
        configuration: &str,
    ) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let file = directory.path().join("strongroom.toml");
        fs::write(&file, configuration).expect("the directory is ours");
        let mut arguments: Vec<_> = homeserver.arguments().into_iter().map(Into::into).collect();
        arguments.extend(["--config".into(), file.into_os_string()]);
        Self::spawn_in(directory, binary.as_ref(), arguments, &[]).await
    }

    async fn spawn_in(
        directory: TempDir,
        binary: &Path,
        arguments: Vec<OsString>,
        environment: &[(&str, &str)],
    ) -> Self {
        let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        let environment: Vec<_> = environment.iter().map(owned).collect();
        let mut command = command(&[], binary, directory.path(), &arguments, &environment);
        let mut process = Process::spawn("strongroom", &mut command);
        let address = process.wait_for("its address", listening_address).await;
        Self {
            launcher: Vec::new(),
            binary: binary.to_owned(),
            arguments,
            environment,
            directory,
            process,
            address,
            client: new_client(),
            output_before: String::new(),
        }
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory that it was given for its data.
    pub fn data(&self) -> PathBuf {
        data(self.directory.path())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// All that it has said so far, restarts included.
    pub fn output(&self) -> String {
        self.output_before.clone() + &self.process.output()
    }

    /// `GET`, in the name of `user`; `path` begins below `/_matrix/client/v3`.
    pub async fn get(&self, path: &str, user: &User) -> Answer {
        self.request("GET", path, user, NO_BODY).await
    }

    /// `PUT` of a JSON body.
    pub async fn put(&self, path: &str, user: &User, body: impl Serialize) -> Answer {
        self.request("PUT", path, user, Some(&body)).await
    }

    /// `POST` of a JSON body.
    pub async fn post(&self, path: &str, user: &User, body: impl Serialize) -> Answer {
        self.request("POST", path, user, Some(&body)).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str, user: &User) -> Answer {
        self.request("DELETE", path, user, NO_BODY).await
    }

    /// Any method, with or without a JSON body.
    ///
    /// # Panics
    ///
    /// If no whole answer comes; see [`Server::try_raw`] where that is what a test expects.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        user: &User,
        body: Option<&(impl Serialize + ?Sized)>,
    ) -> Answer {
        ask(&self.client, method, format!("{}{PREFIX}{path}", self.url()), user, body).await
    }

    /// Any method, any path from the root, any headers, any bytes; no token but in `headers`.
    ///
    /// # Panics
    ///
    /// If no whole answer comes.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let answer = self.try_raw(method, path, headers, body).await;
        answer.unwrap_or_else(|error| {
            panic!("{method} {path} got no answer: {error:?}\n{}", self.output())
        })
    }

    /// As [`Server::raw`].
    ///
    /// # Errors
    ///
    /// If the connection is refused, or breaks before the answer is whole.
    pub async fn try_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> reqwest::Result<Answer> {
        let url = format!("{}{path}", self.url());
        Call { method, url, headers, body: body.into() }.send(&self.client).await
    }

    /// A connection for bytes written by hand, where an HTTP client is too well-behaved.
    pub async fn raw_tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server accepts connections")
    }

    /// SIGKILL, as a power cut.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, as `systemctl stop`. Returns at once; see [`Server::wait`].
    pub fn terminate(&self) {
        self.process.terminate();
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        self.process.wait().await
    }

    /// Starts it anew on the same data, after it has ended. Its address may be another.
    pub async fn start(&mut self) {
        self.replace_process();
        self.address = self.process.wait_for("its address", listening_address).await;
        self.client = new_client();
    }

    /// Puts words before the server's command line from the next start on: a program that runs it in
    /// surroundings of its own, and ends by becoming it.
    pub fn set_launcher(&mut self, launcher: Vec<OsString>) {
        self.launcher = launcher;
    }

    /// What [`Server::start`] runs, where a test expects that it does not come to listen.
    pub fn command(&self) -> Command {
        let directory = self.directory.path();
        command(&self.launcher, &self.binary, directory, &self.arguments, &self.environment)
    }

    /// SIGKILL, and a new process on the same data. Its address may be another.
    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.start().await;
    }

    /// A new process on the same data, after the last one has ended, and SIGKILL `later`, whether it
    /// listens by then or not.
    pub fn start_and_kill(&mut self, later: Duration) {
        self.replace_process();
        thread::sleep(later);
        self.kill();
    }

    fn replace_process(&mut self) {
        self.output_before = self.output();
        self.process = Process::spawn("strongroom", &mut self.command());
    }

    /// The memory that it occupies now (`VmRSS`).
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most memory that it ever occupied (`VmHWM`).
    pub fn memory_peak_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("Linux, and a running server");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a size in kB") * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill();
        let output = self.output();
        // Two panics at once would abort the other tests as well.
        if !thread::panicking() {
            assert!(!output.contains(SECRET), "an access token is in the output:\n{output}");
            assert_no_secret_in(&self.data());
        }
    }
}

/// Fails if a file in this directory, or below, contains an access token.
fn assert_no_secret_in(directory: &Path) {
    // A server that did not get as far as to make it has written nothing.
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.expect("the directory is ours").path();
        if path.is_dir() {
            assert_no_secret_in(&path);
        } else if path.is_file() {
            let content = fs::read(&path).expect("the directory is ours");
            let found = memchr::memmem::find(&content, SECRET.as_bytes());
            assert!(found.is_none(), "an access token is in {}", path.display());
        }
    }
}

const NO_BODY: Option<&()> = None;

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

fn command(
    launcher: &[OsString],
    binary: &Path,
    directory: &Path,
    arguments: &[OsString],
    environment: &[(String, String)],
) -> Command {
    let mut words = launcher.iter().map(OsString::as_os_str).chain([binary.as_os_str()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    let inherited = std::env::vars_os().map(|(name, _)| name);
    for name in
        inherited.filter(|name| name.as_encoded_bytes().starts_with(ENVIRONMENT_PREFIX.as_bytes()))
    {
        command.env_remove(name);
    }
    command.envs(environment.iter().cloned());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data(directory));
    command.args(arguments);
    command
}

/// Out of a line as `… listening address=http://127.0.0.1:8018`, quoted or not, or the same in JSON.
fn listening_address(output: &str) -> Option<SocketAddr> {
    // Of the last line perhaps only half has come.
    let whole = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let lines = whole.filter(|line| line.contains("listening"));
    lines.flat_map(|line| line.split_once("address")).find_map(|(_, address)| {
        let address = address.trim_start_matches(['=', ':', '"']).strip_prefix("http://")?;
        let end = address.find(|c: char| c != '.' && c != ':' && !c.is_ascii_digit());
        address.get(..end.unwrap_or(address.len()))?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_quoted_or_not() {
        let expected = Some(SocketAddr::from(([127, 0, 0, 1], 4711)));
        for output in [
            "INFO starting\nINFO listening address=http://127.0.0.1:4711\n",
            "INFO listening address=\"http://127.0.0.1:4711\" data=/tmp/x\n",
            "{\"message\":\"listening\",\"address\":\"http://127.0.0.1:4711\",\"data\":\"/tmp/x\"}\n",
        ] {
            assert_eq!(listening_address(output), expected, "{output}");
        }
        assert_eq!(listening_address("INFO connecting address=http://127.0.0.1:4711\n"), None);
    }

    #[test]
    fn half_a_line_is_not_read() {
        assert_eq!(listening_address("INFO listening address=http://127.0.0.1:47"), None);
    }
}
