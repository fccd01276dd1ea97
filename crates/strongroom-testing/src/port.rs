//! Ports for servers that are told by number where to listen, and may stop and start again.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of this machine that the kernel gives to nobody who asks for any.
///
/// It is held by a socket that is bound and does not listen. Connections to it are refused, and a
/// server that asks for it by number, with `SO_REUSEADDR` as all do, has it.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _held: TcpSocket,
}

impl Port {
    /// Any that is free.
    pub(crate) fn reserve() -> Self {
        let held = TcpSocket::new_v4().expect("a socket");
        held.set_reuseaddr(true).expect("a TCP socket can share its address");
        held.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let number = held.local_addr().expect("a bound socket has an address").port();
        Self { number, _held: held }
    }

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_reserved_port_refuses_until_a_server_listens_on_it_and_after() {
        let port = Port::reserve();
        let address = (Ipv4Addr::LOCALHOST, port.number());
        for _ in 0..2 {
            TcpStream::connect(address).expect_err("nobody listens");
            let listener = TcpListener::bind(address).expect("reserved for it");
            TcpStream::connect(address).expect("it listens");
            drop(listener);
        }
    }
}
