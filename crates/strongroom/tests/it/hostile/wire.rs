//! HTTP written by hand, where a client is too well-behaved; and what every test here begins with.

use std::{fmt, io, net::SocketAddr, process::Command, time::Duration};

use serde_json::Value;
use strongroom_testing::{DEADLINE, Homeserver, Server, User};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::client::{self, BINARY};

/// Where the operations live, for requests that are written from the root.
pub(crate) const ROOT: &str = "/_matrix/client/v3/room_keys";

/// So much of a body is shown when an assertion fails.
const SHOWN_BYTES_MAX: usize = 500;

/// So little is taken from the kernel at once that a reader that stops is soon noticed.
const RECEIVE_BUFFER_BYTES: u32 = 4096;

/// A server beside a homeserver, and Alice, who has an empty backup.
pub(crate) struct Alice {
    pub(crate) server: Server,
    pub(crate) user: User,
    pub(crate) version: String,
    /// Asked by the server whose token it is.
    _homeserver: Homeserver,
}

impl Alice {
    pub(crate) async fn new(environment: &[(&str, &str)]) -> Self {
        let (homeserver, server, user) = client::start_with(environment).await;
        let version = client::create_backup(&server, &user).await;
        Self { server, user, version, _homeserver: homeserver }
    }

    pub(crate) async fn wire(&self) -> Wire {
        Wire::open(self.server.address()).await
    }

    /// The target of a request below `keys`, with the version.
    pub(crate) fn keys(&self, path: &str) -> String {
        format!("{ROOT}/keys{path}?version={}", self.version)
    }

    /// The beginning of a request in her name, without the empty line at the end.
    pub(crate) fn head(&self, method: &str, target: &str) -> String {
        head(&self.user, method, target)
    }

    /// A whole request in her name.
    pub(crate) fn request(&self, method: &str, target: &str, body: &str) -> String {
        format!("{}content-length: {}\r\n\r\n{body}", self.head(method, target), body.len())
    }

    /// Fails unless somebody who does nothing wrong is served now: a key is put, read, counted.
    pub(crate) async fn is_served(&self) {
        let path = format!("/room_keys/keys/!honest:x/session?version={}", self.version);
        let put = self.server.put(&path, &self.user, room_key(0)).await;
        assert_eq!(put.status, 200, "{put:?}");
        let got = self.server.get(&path, &self.user).await;
        assert_eq!((got.status, &got.json), (200, &room_key(0)), "{got:?}");
    }

    /// The rooms of the whole backup, which a strict reader reads to the end.
    pub(crate) async fn restored(&self) -> Value {
        let path = format!("/room_keys/keys?version={}", self.version);
        let got = self.server.get(&path, &self.user).await;
        assert_eq!(got.status, 200, "{got:?}");
        let document: Value = serde_json::from_slice(&got.body).expect("strict JSON");
        document["rooms"].clone()
    }
}

/// The program with this environment, and nothing else that is meant for it.
pub(crate) fn program(environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"STRONGROOM_") || name == "COLUMNS" {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().copied());
    command
}

pub(crate) fn room_key(first_message_index: u32) -> Value {
    client::room_key(false, first_message_index, 0, "c")
}

pub(crate) fn head(user: &User, method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", user.token)
}

/// One chunk of a chunked body.
pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// An answer that came whole.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) json: Value,
}

impl Reply {
    /// The status and the `errcode`.
    pub(crate) fn refusal(&self) -> (u16, &str) {
        (self.status, self.json["errcode"].as_str().unwrap_or_default())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.body.get(..SHOWN_BYTES_MAX).unwrap_or(&self.body);
        write!(f, "{}{}", self.head, String::from_utf8_lossy(shown))
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A connection. Whatever it waits for, it waits no longer than the deadline.
pub(crate) struct Wire {
    stream: TcpStream,
    /// What came and is not yet part of an answer.
    pending: Vec<u8>,
}

impl Wire {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server accepts connections");
        Self { stream, pending: Vec::new() }
    }

    /// A connection from this address, one of this machine's own.
    pub(crate) async fn open_from(source: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(source.parse().expect("an address"), 0)).expect("our own");
        let stream = socket.connect(address).await.expect("the server accepts connections");
        Self { stream, pending: Vec::new() }
    }

    /// A connection through which little comes that is not read.
    pub(crate) async fn open_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).expect("a plain socket");
        let stream = socket.connect(address).await.expect("the server accepts connections");
        Self { stream, pending: Vec::new() }
    }

    /// Writes all of it.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the server reads");
    }

    /// Writes, unless the server hangs up first.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        in_time("to write", self.stream.write_all(bytes.as_ref())).await
    }

    /// Says that nothing more will be written.
    pub(crate) async fn finish_writing(&mut self) {
        self.stream.shutdown().await.expect("the server has not hung up");
    }

    /// Reads one whole answer.
    pub(crate) async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("a whole answer")
    }

    /// Writes a request and reads one whole answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Reply {
        self.send(request).await;
        self.reply().await
    }

    /// Reads one answer, or an error if the connection ends before or within it.
    pub(crate) async fn try_reply(&mut self) -> io::Result<Reply> {
        let head = self.reply_head().await?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        let body = match (length, header(&head, "transfer-encoding")) {
            (Some(length), None) => self.take(length).await?,
            (None, Some("chunked")) => self.chunks().await?,
            (None, None) if matches!(status, 100 | 204) => Vec::new(),
            (None, None) => self.rest().await?,
            (length, encoding) => panic!("a length of {length:?} and an encoding {encoding:?}"),
        };
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Reply { status, head, body, json })
    }

    /// Reads the status line and the headers of an answer, and leaves the body where it is.
    pub(crate) async fn reply_head(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.pending.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.pending.drain(..end + 4).collect();
                return String::from_utf8(head).map_err(io::Error::other);
            }
            if self.read_some().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Waits until so many bytes have come, and leaves them where they are.
    pub(crate) async fn have(&mut self, length: usize) -> io::Result<()> {
        while self.pending.len() < length {
            if self.read_some().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Reads so many bytes of a body, and no more than it must.
    pub(crate) async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        self.have(length).await?;
        Ok(self.pending.drain(..length).collect())
    }

    /// Reads until the server hangs up; how many bytes came before, if it did so in good order.
    pub(crate) async fn closed(&mut self) -> io::Result<usize> {
        self.rest().await.map(|rest| rest.len())
    }

    /// Reads a chunked body to its last chunk.
    pub(crate) async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.extend(self.take(1).await?);
            }
            let length = std::str::from_utf8(&line).map_err(io::Error::other)?.trim();
            let length = usize::from_str_radix(length, 16).map_err(io::Error::other)?;
            body.extend(self.take(length).await?);
            assert_eq!(self.take(2).await?, b"\r\n", "a chunk of {length} bytes does not end");
            if length == 0 {
                return Ok(body);
            }
        }
    }

    /// Reads what comes next, and says how many bytes of it there were; at the end none.
    pub(crate) async fn some(&mut self) -> io::Result<usize> {
        if self.pending.is_empty() {
            self.pending.reserve(128 * 1024);
            self.read_some().await?;
        }
        let length = self.pending.len();
        self.pending.clear();
        Ok(length)
    }

    async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.read_some().await? > 0 {}
        Ok(std::mem::take(&mut self.pending))
    }

    async fn read_some(&mut self) -> io::Result<usize> {
        in_time("for an answer", self.stream.read_buf(&mut self.pending)).await
    }
}

async fn in_time<T>(what: &str, result: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let result = tokio::time::timeout(DEADLINE, result).await;
    result.unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain {what}"))
}

/// Between two pieces of what a slow client sends.
pub(crate) const SLOWLY: Duration = Duration::from_millis(100);
