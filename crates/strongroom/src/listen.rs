//! Sockets, connections, and how they end.

use std::{
    fmt, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use serde::{Deserialize, Serialize};
use strongroom_server::Peer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutStream;

/// Bytes of a request's header, and of one piece of its body.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// After the system ran out of files, until the next connection is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to listen.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Address {
    /// A host or address and a port.
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an address to listen on; write ADDRESS:PORT or unix:PATH")]
pub(crate) struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            Some(_) | None => Err(BadAddress(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;

    fn try_from(text: String) -> Result<Self, BadAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Default for Address {
    fn default() -> Self {
        Self::Tcp("127.0.0.1:8018".to_owned())
    }
}

/// Why nobody can reach us.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}")]
pub(crate) struct ListenError {
    address: Address,
    source: io::Error,
}

impl ListenError {
    pub(crate) fn help(&self) -> Option<&'static str> {
        let kind = self.source.kind();
        if kind == io::ErrorKind::AddrInUse {
            Some(match self.address {
                Address::Tcp(_) => {
                    "another program listens there; stop it, or choose another with --listen"
                }
                Address::Unix(_) => {
                    "another program listens there, or a file is in its place; choose another path"
                }
            })
        } else if kind == io::ErrorKind::PermissionDenied {
            Some("choose a port above 1023, or another path")
        } else {
            None
        }
    }
}

/// A socket that accepts connections.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(crate) async fn bind(address: &Address) -> Result<Self, ListenError> {
        let bound = match address {
            Address::Tcp(host) => TcpListener::bind(host).await.map(Self::Tcp),
            Address::Unix(path) => bind_unix(path.clone()).await,
        };
        bound.map_err(|source| ListenError { address: address.clone(), source })
    }

    /// How to reach it, as a URL where that is possible.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(_) => "http://".to_owned(),
            },
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream, Peer::Ip(peer.ip())))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Left behind, it would be taken over at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes over a socket that nobody listens on any more, and no other file.
async fn bind_unix(path: PathBuf) -> io::Result<Listener> {
    let is_socket = std::fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && let Err(error) = UnixStream::connect(&path).await {
        // Anything else may mean that somebody listens and is busy.
        if error.kind() == io::ErrorKind::ConnectionRefused {
            std::fs::remove_file(&path)?;
        }
    }
    let listener = UnixListener::bind(&path)?;
    // As open as a port on the loopback interface: the proxy runs as another user.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(Listener::Unix(listener, path))
}

enum Stream {
    Tcp(TcpStream, Peer),
    Unix(UnixStream),
}

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections_max: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) write_timeout: Duration,
}

/// Serves connections until `stop` is done; then finishes the requests in flight, for no longer
/// than `shutdown_timeout`, and says whether all of them were finished.
pub(crate) async fn serve(
    listener: Listener,
    router: Router,
    limits: ConnectionLimits,
    stop: impl Future<Output = ()>,
    shutdown_timeout: Duration,
) -> bool {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    tokio::pin!(stop);
    loop {
        // Beyond the limit they wait in the system's queue.
        let place = tokio::select! {
            Ok(place) = Arc::clone(&places).acquire_owned() => place,
            () = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok(Stream::Tcp(stream, peer)) => {
                spawn(stream, peer, router.clone(), limits, &graceful, place);
            }
            Ok(Stream::Unix(stream)) => {
                spawn(stream, Peer::Local, router.clone(), limits, &graceful, place);
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "can't accept a connection"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tokio::time::timeout(shutdown_timeout, graceful.shutdown()).await.is_ok()
}

fn spawn<S: AsyncRead + AsyncWrite + Send + 'static>(
    stream: S,
    peer: Peer,
    router: Router,
    limits: ConnectionLimits,
    graceful: &GracefulShutdown,
    place: tokio::sync::OwnedSemaphorePermit,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_timeout));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Clients hang up all the time; what was answered has been logged.
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
        }
        drop(place);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_a_port_or_a_path() {
        for good in ["127.0.0.1:8018", "[::1]:80", "localhost:0", "unix:/run/s.sock"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in ["", "8018", ":8018", "127.0.0.1", "127.0.0.1:99999", "unix:"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
