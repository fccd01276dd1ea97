//! Sockets, connections, and how they end.

mod connection;
mod metrics;
mod places;

use std::{
    io,
    net::IpAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::PathBuf,
    time::Duration,
};

use axum::Router;
use strongroom_server::{Peer, TrustedProxies};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream, lookup_host},
    sync::watch,
};

pub(crate) use self::metrics::ConnectionMetrics;
use self::{metrics::Reason, places::Places};
use crate::address::Address;

/// Connections that wait to be accepted, as far as the system allows. When a proxy starts again, it
/// opens many at once, and the next one would wait for a second or, on a Unix socket, fail.
const BACKLOG: u32 = 4096;
/// After the system ran out of files, until the next connection is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
            Address::Tcp(host) => bind_tcp(host).await.map(Self::Tcp),
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
                Ok(Stream::Tcp(stream, peer.ip()))
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

async fn bind_tcp(host: &str) -> io::Result<TcpListener> {
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    for address in lookup_host(host).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
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
    let socket = UnixSocket::new_stream()?;
    socket.bind(&path)?;
    let listener = socket.listen(BACKLOG)?;
    // As open as a port on the loopback interface: the proxy runs as another user.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(Listener::Unix(listener, path))
}

enum Stream {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections_max: usize,
    pub(crate) connections_per_address_max: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) header_finish_timeout: Duration,
    pub(crate) write_timeout: Duration,
}

/// Serves connections until `stop` is done; then finishes the requests in flight, for no longer
/// than `shutdown_timeout`, and says whether all of them were finished.
pub(crate) async fn serve(
    listener: Listener,
    router: Router,
    limits: ConnectionLimits,
    trusted_proxies: TrustedProxies,
    metrics: ConnectionMetrics,
    stop: impl Future<Output = ()>,
    shutdown_timeout: Duration,
) -> bool {
    let (max, per_address_max) = (limits.connections_max, limits.connections_per_address_max);
    let places = Places::new(max, per_address_max, metrics);
    let (stopping, stopped) = watch::channel(());
    let mut is_told = false;
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "can't accept a connection"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = match &stream {
            Stream::Tcp(_, address) => Peer::Ip(*address),
            Stream::Unix(_) => Peer::Local,
        };
        let address = match peer {
            Peer::Ip(address) if !trusted_proxies.contains(peer) => Some(address.into()),
            Peer::Ip(_) | Peer::Local => None,
        };
        // Further ones wait in the system's queue.
        let place = tokio::select! {
            place = places.take(address) => place,
            () = &mut stop => break,
        };
        let Some(place) = place else {
            places.metrics().closed(Reason::AddressHasAll);
            if !std::mem::replace(&mut is_told, true) {
                tracing::warn!(
                    max = per_address_max,
                    "a connection from an address that has all it may have was closed, as others \
                     will be; if it is your proxy, it belongs into trusted_proxies"
                );
            }
            continue;
        };
        let (router, stopped) = (router.clone(), stopped.clone());
        match stream {
            Stream::Tcp(stream, _) => {
                tokio::spawn(connection::serve(stream, peer, router, limits, place, stopped));
            }
            Stream::Unix(stream) => {
                tokio::spawn(connection::serve(stream, peer, router, limits, place, stopped));
            }
        }
    }
    drop((listener, stopped));
    // Each connection has a receiver until its end.
    let _ = stopping.send(());
    tokio::time::timeout(shutdown_timeout, stopping.closed()).await.is_ok()
}
